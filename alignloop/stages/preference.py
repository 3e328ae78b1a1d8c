"""Offline preference optimisation: DPO, IPO, KTO, ORPO, SimPO and rankings, one stage for all."""

from __future__ import annotations

from typing import Any

from alignloop.config import PreferenceConfig
from alignloop.data.packing import Group
from alignloop.model.load import load_model, load_skeleton
from alignloop.model.packed import PackedModel
from alignloop.objectives.base import Objective
from alignloop.runs import Run
from alignloop.runs.results import Trained
from alignloop.stages import common
from alignloop.stages.labels import label_table
from alignloop.stages.lint import enforce
from alignloop.stages.lint_model import lint_weights
from alignloop.stages.lint_settings import lint_reference
from alignloop.stages.rows import arranged, read_rows, tokenized_rows, training_encoder
from alignloop.stages.summaries import data_summary
from alignloop.training.loop import Reference
from alignloop.training.reference import adapter_reference, with_reference_logprobs


def preference(config: PreferenceConfig, run: Run, objective: Objective) -> dict[str, Any]:
    """Train a policy on comparisons, labels or rankings with the objective given.

    Args:
        config: the recipe; `dataset` holds the kind of record the objective trains on.
        run: the run folder; receives metrics, checkpoints and `model/`.
        objective: for example `DPO(beta=0.1)`.

    Returns:
        Results for run.json.

    Raises:
        ConfigError: the objective needs a reference and the recipe says there is none, the reference
            does not fit the policy, or a silent trap was found (docs/lint.md).
    """
    common.check_settings(config, objective)
    records = read_rows(config, objective, run)
    prepared = common.prepare(config)
    rows = tokenized_rows(config, records, training_encoder(config, prepared.loaded, prepared.template), run)
    common.check_rows(config, objective, run, prepared, rows.groups, rows.held_out)
    groups, held_out = arranged(rows, objective, config.seed)
    reference = None
    if "reference_logprobs" in objective.needs:
        groups, held_out, reference = _reference(config, run, prepared, groups, held_out)
    if objective.needs_old_logprobs:
        groups, held_out, cached = _logprobs(
            config, prepared, prepared.model, groups, held_out, name="old_logprobs"
        )
        run.set_environment(old_logprobs=f"of the starting policy, {_FROM[cached]}")
    summary = common.fit(config, objective, run, prepared, groups, held_out=held_out, reference=reference)
    common.save_policy(prepared, run.path / "model")
    read = Trained(data=data_summary(rows.data, rows.tokenized)).row()
    return {**summary, **read, **label_table(rows.data.records)}


def _reference(
    config: PreferenceConfig, run: Run, prepared: common.Prepared, groups: list[Group], held_out: list[Group]
) -> tuple[list[Group], list[Group], Reference | None]:
    """Reference log-probs: adapters off under LoRA, else computed once with the reference and cached."""
    own = config.reference in ("auto", "start")
    if own and prepared.peft is not None:
        return groups, held_out, adapter_reference(prepared.model, prepared.peft)
    model = prepared.model if own else _other_reference(config, prepared)
    groups, held_out, cached = _logprobs(config, prepared, model, groups, held_out, name="reference_logprobs")
    run.set_environment(reference_logprobs=_FROM[cached])
    return groups, held_out, None


def _other_reference(config: PreferenceConfig, prepared: common.Prepared) -> PackedModel:
    """The model that `reference` names, if its log-probs can be compared with the policy's."""
    start = prepared.loaded
    skeleton = load_skeleton(config.reference)
    its = (skeleton.model.config, skeleton.tokenizer)
    enforce(lint_reference((start.model.config, start.tokenizer), its, name=config.reference), str)
    kind = common.base_precision(config)
    other = load_model(config.reference, dtype=kind.weights_name, device=config.device, seed=config.seed)
    enforce(lint_weights(other.model), str)
    return PackedModel(other.model, autocast=kind.autocast)


_FROM = {True: "from the cache", False: "computed once"}


def _logprobs(
    config: PreferenceConfig,
    prepared: common.Prepared,
    model: PackedModel,
    groups: list[Group],
    held_out: list[Group],
    *,
    name: str,
) -> tuple[list[Group], list[Group], bool]:
    """Groups whose completions hold `model`'s log-probs, and whether they came from the cache."""
    everything, cached = with_reference_logprobs(
        [*groups, *held_out],
        model,
        token_budget=config.tokens_per_pass(model.device.type),
        cache=common.reference_cache() if config.precompute_ref_log_probs else None,
        name=name,
    )
    return everything[: len(groups)], everything[len(groups) :], cached
