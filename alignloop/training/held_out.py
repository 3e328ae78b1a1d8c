"""What held-out groups give, as means and group by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from alignloop.data.packing import Group
from alignloop.objectives.base import Mean, Objective, add_means, only_group, with_statistics
from alignloop.training.loop import (
    Trainer,
    fill_inputs,
    means_of,
    micro_batches_of,
    rows_of_passes,
    statistics_over,
)


class GroupMeans(NamedTuple):
    """One held-out group's metrics and loss as (sum, count), and what it was asked."""

    question: bytes
    means: Mapping[str, tuple[float, float]]


def evaluate(
    trainer: Trainer, objective: Objective, groups: Sequence[Group], each: list[GroupMeans] | None = None
) -> dict[str, float]:
    """Loss and metrics of held-out groups without gradient, names prefixed `eval_`.

    Args:
        trainer: whose model is measured; nothing of it changes.
        objective: gives loss and metrics.
        groups: the held-out rows.
        each: receives the same group by group (names without prefix), for intervals.

    Returns:
        Means over all groups.
    """
    trainer.model.eval()
    learning, informing = rows_of_passes(objective, groups)
    passes = micro_batches_of(trainer, learning)
    denominator = sum((objective.count(one.known).float() for one in passes), torch.zeros(()))
    others = passes if informing is learning else micro_batches_of(trainer, informing)
    statistics = statistics_over(trainer, objective, others)
    total: dict[str, Mean] = {}
    loss = 0.0
    with torch.no_grad():
        for one in passes:
            filled = fill_inputs(trainer, one.batch, one.known, objective.needs)
            output = objective(with_statistics(filled, statistics), denominator=denominator)
            loss += float(output.loss)
            total = add_means(total, output.metrics)
            if each is not None:
                for number, group in enumerate(one.groups):
                    alone = only_group(filled, number)
                    output = objective(with_statistics(alone, statistics), denominator=1.0)
                    means = {**output.metrics, "loss": Mean(output.loss, objective.count(alone))}
                    numbers = {name: (float(mean.sum), float(mean.count)) for name, mean in means.items()}
                    each.append(GroupMeans(group.question, numbers))
    return {"eval_loss": loss, **{f"eval_{name}": value for name, value in means_of(total).items()}}
