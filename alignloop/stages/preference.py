"""Offline preference optimisation: DPO, IPO, KTO, ORPO, SimPO and rankings, one stage for all."""

from __future__ import annotations

from functools import partial
from typing import Any

from alignloop.config import PreferenceConfig
from alignloop.data.packing import Group
from alignloop.data.tokenize import with_mismatched
from alignloop.model.load import load_model
from alignloop.model.packed import PackedModel
from alignloop.objectives.base import Objective
from alignloop.run import Run
from alignloop.stages import common
from alignloop.stages.lint import enforce
from alignloop.stages.lint_settings import lint_reference, lint_settings
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
    enforce(lint_settings(config, objective, num_parameters=0), partial(common.tell, run))
    data, held = common.read_data(config, objective.records[0], run)
    prepared = common.prepare(config)
    result = common.tokenized(config, prepared, run, data)
    groups, held_out = common.hold_out(result.groups, config.eval_fraction, config.seed)
    if held is not None:
        held_out = common.tokenized(config, prepared, run, held).groups
    if objective.records == ("label",):
        groups = with_mismatched(groups, config.seed)
        held_out = with_mismatched(held_out, config.seed) if len(held_out) > 1 else []
    reference = None
    if "reference_logprobs" in objective.needs:
        groups, held_out, reference = _reference(config, run, prepared, groups, held_out)
    summary = common.fit(config, objective, run, prepared, groups, held_out=held_out, reference=reference)
    common.save_policy(prepared, run.path / "model")
    return {**summary, "data": common.data_summary(data, result)}


def _reference(
    config: PreferenceConfig, run: Run, prepared: common.Prepared, groups: list[Group], held_out: list[Group]
) -> tuple[list[Group], list[Group], Reference | None]:
    """Reference log-probs: adapters off under LoRA, else computed once with the reference and cached."""
    if config.reference in ("auto", "start") and prepared.peft is not None:
        return groups, held_out, adapter_reference(prepared.model, prepared.peft)
    model, model_id = prepared.model, prepared.model_id
    if config.reference not in ("auto", "start"):
        other = load_model(config.reference, dtype=config.dtype, device=config.device)
        start = prepared.loaded
        findings = lint_reference(
            (start.model.config, start.tokenizer),
            (other.model.config, other.tokenizer),
            name=config.reference,
        )
        enforce(findings, partial(common.tell, run))
        model, model_id = PackedModel(other.model), config.reference
    everything, cached = with_reference_logprobs(
        [*groups, *held_out],
        model,
        token_budget=config.token_budget,
        cache=common.reference_cache() if config.precompute_ref_log_probs else None,
        model_id=model_id,
        autocast=prepared.autocast,
    )
    run.set_environment(reference_logprobs="from the cache" if cached else "computed once")
    return everything[: len(groups)], everything[len(groups) :], None
