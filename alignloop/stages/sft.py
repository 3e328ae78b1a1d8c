"""Supervised fine-tuning on demonstrations, and pre-training on documents (step 0)."""

from __future__ import annotations

from typing import Any

from alignloop.config import PretrainConfig, SFTConfig
from alignloop.objectives.registry import load
from alignloop.runs import Run
from alignloop.runs.results import Trained
from alignloop.stages import common
from alignloop.stages.rows import read_rows, tokenized_rows, training_encoder
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
    return _train(config, run)


def pretrain(config: PretrainConfig, run: Run) -> dict[str, Any]:
    """Language modelling on raw documents: mean NLL over every token but a document's first.

    Args:
        config: the recipe; `dataset` holds documents.
        run: the run folder; receives metrics, checkpoints and `model/`.

    Returns:
        Results for run.json.
    """
    return _train(config, run)


def _train(config: SFTConfig | PretrainConfig, run: Run) -> dict[str, Any]:
    objective = load("sft")()
    records = read_rows(config, run=run)
    prepared = common.prepare(config)
    rows = tokenized_rows(config, records, training_encoder(config, prepared.loaded, prepared.template), run)
    common.check_rows(config, objective, run, prepared, rows.groups, rows.held_out)
    summary = common.fit(config, objective, run, prepared, rows.groups, held_out=rows.held_out)
    common.save_policy(prepared, run.path / "model")
    return {**summary, **Trained(data=data_summary(rows.data, rows.tokenized)).row()}
