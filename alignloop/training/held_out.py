"""What held-out groups give, as means and group by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignloop.data.packing import Group
from alignloop.objectives.base import Inputs, Mean, Objective, add_means, with_statistics
from alignloop.training.loop import (
    Trainer,
    divide,
    fill_inputs,
    means_of,
    micro_batches_of,
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
    division = divide(objective, groups)
    passes = micro_batches_of(trainer, division.learning)
    denominator = sum((objective.count(one.known).float() for one in passes), torch.zeros(()))
    others = passes if division.together else micro_batches_of(trainer, division.informing)
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


def only_group(inputs: Inputs, number: int) -> Inputs:
    """The rows of one group, and what belongs to it alone.

    A tensor's first dimension is rows (B) or groups (P); where both are equal, each group has one row.

    Args:
        inputs: of several groups.
        number: the group, counted as in `inputs.group`.

    Returns:
        The same fields; the group's number is 0.
    """
    rows, groups = inputs.group == number, int(inputs.group.max()) + 1

    def part(value: Tensor | None) -> Tensor | None:
        if value is None or value.dim() == 0:
            return value
        return value[number : number + 1] if len(value) == groups else value[rows]

    return Inputs(
        mask=inputs.mask[rows],
        group=torch.zeros_like(inputs.group[rows]),
        logprobs=part(inputs.logprobs),
        reference_logprobs=part(inputs.reference_logprobs),
        scores=part(inputs.scores),
        values=part(inputs.values),
        entropy=part(inputs.entropy),
        prompt_logprob=part(inputs.prompt_logprob),
        extras={name: found for name, value in inputs.extras.items() if (found := part(value)) is not None},
    )
