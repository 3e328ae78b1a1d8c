"""Judgements on sampled answers by a simulated annotator."""

from __future__ import annotations

from typing import Any

from alignloop.config import FeedbackConfig
from alignloop.data.columns import write_records
from alignloop.errors import DataError
from alignloop.judges.simulated import (
    SimulatedAnnotator,
    simulate_edits,
    simulate_labels,
    simulate_preferences,
    simulate_rankings,
    simulate_ratings,
)
from alignloop.runs import Run
from alignloop.runs.results import JudgementsMade
from alignloop.stages.answers import ANSWERS_FILE, read_answers


def feedback(config: FeedbackConfig, run: Run) -> dict[str, Any]:
    """Let a simulated annotator judge: the verifiable gold reward with seeded mistakes.

    Every record says `"origin": "simulated"`. Prompts whose answers are all equally good are skipped
    for pairs and rankings.

    Args:
        config: the recipe; `dataset` is a `sample` run or its rows.
        run: the run folder; receives `data/rows.jsonl` with the judged records.

    Returns:
        Results for run.json.

    Raises:
        DataError: no judgement came out (every answer equally good or bad).
    """
    rows = read_answers(config.dataset)
    annotator = SimulatedAnnotator(flip=config.noise, seed=config.seed)
    if config.kind == "pair":
        records: list[Any] = list(simulate_preferences(rows, annotator, max_pairs=config.max_pairs))
    elif config.kind == "edit":
        records = list(simulate_edits(rows, annotator))
    elif config.kind == "ranking":
        records = list(simulate_rankings(rows, annotator))
    elif config.kind == "score":
        records = list(simulate_ratings(rows, annotator))
    else:
        records = list(simulate_labels(rows, annotator))
    if not records:
        raise DataError(
            f"none of {len(rows)} prompts has answers of different quality, so there is nothing to compare; "
            "sample more answers or at a higher temperature",
            file=str(config.dataset),
            reason="no_rows",
        )
    (run.path / "data").mkdir(exist_ok=True)
    write_records(run.path / ANSWERS_FILE, records)
    found = JudgementsMade(
        num_prompts=len(rows), num_judgements=len(records), kind=config.kind, origin="simulated"
    )
    return found.row()
