"""Supervised fine-tuning on demonstrations, and pre-training on documents (step 0)."""

from __future__ import annotations

from typing import Any

from alignloop.config import PretrainConfig, SFTConfig
from alignloop.config.fields import fixed
from alignloop.objectives.sft import SFT
from alignloop.runs import Run
from alignloop.runs.results import Trained
from alignloop.stages import common
from alignloop.stages.held_out import hold_out
from alignloop.stages.summaries import data_summary


def sft(config: SFTConfig, run: Run) -> dict[str, Any]:
    """Train a model to imitate demonstrations: mean NLL over the assistant's tokens, ends of turns included.

    All turns of the assistant count that the rows do not except, or with `train_on: last` the last one.

    Args:
        config: the recipe; `dataset` holds demonstrations.
        run: the run folder; receives metrics, checkpoints and `model/`.

    Returns:
        Results for run.json.
    """
    data, held = common.read_data(config, "demonstration", run)
    prepared = common.prepare(config)
    turns: dict[str, Any] = {"train_on": config.train_on, "train_on_prompt": not config.completion_only}
    result = common.tokenized(config, prepared, run, data, **turns)
    held_out = None if held is None else common.tokenized(config, prepared, run, held, **turns).groups
    return _train(config, run, prepared, data, held_out, result)


def pretrain(config: PretrainConfig, run: Run) -> dict[str, Any]:
    """Language modelling on raw documents: mean NLL over every token but a document's first.

    Args:
        config: the recipe; `dataset` holds documents.
        run: the run folder; receives metrics, checkpoints and `model/`.

    Returns:
        Results for run.json.
    """
    data, held = common.read_data(config, "document", run)
    prepared = common.prepare(config)
    result = common.tokenized(config, prepared, run, data)
    held_out = None if held is None else common.tokenized(config, prepared, run, held).groups
    return _train(config, run, prepared, data, held_out, result)


def _train(config: Any, run: Run, prepared: Any, data: Any, held: Any, result: Any) -> dict[str, Any]:
    groups, held_out = hold_out(result.groups, fixed(config.eval_fraction), config.seed)
    held_out = held_out if held is None else held
    objective: Any = SFT()
    common.check_rows(config, objective, run, prepared, groups, held_out)
    summary = common.fit(config, objective, run, prepared, groups, held_out=held_out)
    common.save_policy(prepared, run.path / "model")
    return {**summary, **Trained(data=data_summary(data, result)).row()}
