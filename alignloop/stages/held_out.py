"""Which rows are held out for evaluation, and how sure their means are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignloop.data.packing import Group
from alignloop.data.split import drawn_share
from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import resampling_weights, studentised, wilson
from alignloop.objectives.base import Objective
from alignloop.training.held_out import GroupMeans, evaluate
from alignloop.training.loop import Trainer

_NAMED = ("loss", "margin", "accuracy")
"""Means that get an interval."""
_ENOUGH = 5
"""Prompts from which on there is an interval."""


def measure_held_out(
    trainer: Trainer, objective: Objective, groups: Sequence[Group], seed: int
) -> dict[str, float]:
    """Loss and metrics of held-out groups, `eval_NAME`, with the intervals of `held_out_intervals`."""
    each: list[GroupMeans] = []
    return {**evaluate(trainer, objective, groups, each), **held_out_intervals(each, seed)}


def held_out_intervals(each: Sequence[GroupMeans], seed: int) -> dict[str, float]:
    """Ends of 95 % intervals of held-out loss, margin and accuracy, prompts being the sampled unit.

    Args:
        each: what each held-out group gave.
        seed: of the resampling.

    Returns:
        `eval_NAME_low` and `eval_NAME_high` of each mean there is; none of fewer than five prompts.
    """
    found: dict[str, float] = {}
    questions = {
        question: place for place, question in enumerate(dict.fromkeys(one.question for one in each))
    }
    for name in _NAMED:
        sums = np.zeros((len(questions), 2))
        for one in each:
            sums[questions[one.question]] += one.means.get(name, (0.0, 0.0))
        sums = sums[sums[:, 1] > 0]
        if len(sums) < _ENOUGH or not np.isfinite(sums).all():
            continue
        totals, sizes = sums[:, :1], sums[:, 1]
        if name == "accuracy":
            low, high = wilson(totals, sizes)
        else:
            low, high = studentised(totals, sizes, resampling_weights(len(sizes), 2000, seed), 0.95)
        found |= {f"eval_{name}_low": float(low[0]), f"eval_{name}_high": float(high[0])}
    return found


def hold_out(groups: list[Group], fraction: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Split off a share of the prompts for evaluation; equal prompts stay on one side.

    Conversations that begin with the same question count as one prompt. One prompt at least is trained on.

    Raises:
        DataError: all rows have one prompt, so that none would be left to train on.
    """
    if fraction <= 0:
        return groups, []
    prompts = {group.question for group in groups}
    if len(prompts) < 2:
        raise DataError(
            f"eval_fraction {fraction:g}: the {len(groups)} rows have one prompt, and rows of one prompt "
            "stay together: none would be left to train on; set eval_fraction: 0 or give an eval_dataset",
            reason="no_rows",
        )
    chosen = drawn_share(prompts, fraction, seed, most=len(prompts) - 1)
    return (
        [g for g in groups if g.question not in chosen],
        [g for g in groups if g.question in chosen],
    )
