"""Public suites through EleutherAI's lm-eval: its tasks, its prompts and its scoring, our statistics.

lm-eval reports means; the values of single documents are taken here, so that models are compared
document by document as on every other set. Its data sets come from the hub, so this needs a network.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from alignloop.errors import EngineError, UserError
from alignloop.model.endings import without_stop_strings
from alignloop.model.load import LoadedModel

METRICS = ("acc_norm", "acc", "exact_match", "prompt_level_strict_acc")
"""Metrics between 0 and 1, the one that a task is usually reported by first."""


def run_tasks(
    loaded: LoadedModel, tasks: Sequence[str], *, limit: int | None = None, seed: int = 0
) -> dict[str, list[float]]:
    """Scores of every document by task.

    Args:
        loaded: the model.
        tasks: names of lm-eval's tasks.
        limit: documents of each task, None for all.
        seed: of the choice of few-shot examples.

    Returns:
        Values between 0 and 1 by task, in the order of the documents.

    Raises:
        UserError: lm-eval is not installed.
        EngineError: a task without a metric per document that is known here.
    """
    model = _module("lm_eval.models.huggingface").HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer)
    with without_stop_strings(loaded.model):  # a task has its own
        found = _module("lm_eval").simple_evaluate(
            model=model,
            tasks=list(tasks),
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    return {task: _scores(task, rows) for task, rows in found["samples"].items()}


def _scores(task: str, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """A document appears once for each of the task's filters; the first filter's row counts."""
    first: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(int(row["doc_id"]), row)
    metric = next((name for name in METRICS if all(name in row for row in first.values())), None)
    if metric is None or not first:
        raise EngineError(f"lm-eval task '{task}' has none of {', '.join(METRICS)} for each document")
    return [float(first[number][metric]) for number in sorted(first)]


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError("sets of kind lm_eval need: pip install 'alignloop[suites]'") from error
