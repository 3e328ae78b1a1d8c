"""Needless refusals and boilerplate of a model, before and after training, on harmless prompts."""

from __future__ import annotations

from typing import Any

from alignloop.config.ai import RefusalsConfig
from alignloop.data.columns import read_records
from alignloop.errors import DataError
from alignloop.judges.constitution.principles import benign_prompts
from alignloop.model.load import load_model
from alignloop.records import Message, Prompt, message_rows
from alignloop.runs import Run
from alignloop.runs.evaluation_results import MetricsCompared
from alignloop.stages import common
from alignloop.stages.answers import answer_all
from alignloop.stages.constitution import manners
from alignloop.stages.rows import note_dropped
from alignloop.stages.sample import sampling_params


def refusals(config: RefusalsConfig, run: Run) -> dict[str, Any]:
    """Answer harmless prompts with both models and count refusals, stock phrases and shared sentences.

    Args:
        config: the recipe.
        run: the run folder; receives samples with both answers.

    Returns:
        Results for run.json: `metrics` with intervals, `num_prompts`.

    Raises:
        DataError: fewer than two prompts.
    """
    common.set_threads(config.num_threads)
    prompts = _prompts(config, run)[: config.num_prompts]
    if len(prompts) < 2:
        raise DataError("at least two prompts are needed", file=str(config.dataset), reason="no_rows")
    answers = {side: _answers(config, model, prompts) for side, model in _sides(config).items()}
    run.rewind(-1)
    for k, prompt in enumerate(prompts):
        run.sample(
            step=0,
            prompt=message_rows(prompt.prompt),
            completion=answers["after"][k],
            completion_before=answers["before"][k],
            model=config.after,
        )
    metrics = manners(answers["before"], answers["after"])
    return MetricsCompared(num_prompts=len(prompts), metrics=metrics).row()


def _prompts(config: RefusalsConfig, run: Run) -> list[Prompt]:
    """The recipe's prompts, or those that come with AlignLoop."""
    if config.dataset is None:
        return [Prompt((Message("user", text),)) for text in benign_prompts()]
    data = read_records(config.dataset, kind="prompt", columns=config.columns)
    note_dropped(run, "dataset", data.dropped)
    return [record for record in data.records if isinstance(record, Prompt)]


def _sides(config: RefusalsConfig) -> dict[str, str]:
    return {"before": config.before, "after": config.after}


def _answers(config: RefusalsConfig, model: str, prompts: list[Prompt]) -> list[str]:
    loaded = load_model(model, dtype=config.dtype, device=config.device, seed=config.seed)
    encoder = common.inference_encoder(loaded, config.template)
    params = sampling_params(config, config.seed)
    rows = answer_all(
        loaded, encoder, prompts, params, n=1, token_budget=config.token_budget, title="refusals"
    )
    return [row[0] for row in rows]
