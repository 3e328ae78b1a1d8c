"""PPO-ptx: demonstrations mixed into the RL step against forgetting (Ouyang et al. 2022, 2203.02155).

loss = RL loss + γ_ptx · mean NLL over the demonstrations' tokens of the optimizer step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from alignloop.data.packing import Group
from alignloop.objectives.base import (
    Inputs,
    LossPart,
    Mean,
    Objective,
    Output,
    mean_of,
    required,
    sequence_sum,
)

WEIGHT = "ptx_weight"
"""Per-token value: 0 for sampled tokens, γ_ptx / (demonstration tokens of the step) for the others."""


def mixed_in(
    groups: Sequence[Group], demonstrations: Sequence[Group], *, coefficient: float, seed: Sequence[int]
) -> list[Group]:
    """The groups of a step with as many demonstrations, drawn by the seed; unchanged without any.

    Args:
        groups: sampled groups with the values the objective reads.
        demonstrations: tokenized, one completion each.
        coefficient: γ_ptx.
        seed: what the draw depends on, such as (seed of the run, step).

    Returns:
        All groups, each token with `ptx_weight`.
    """
    if not demonstrations:
        return list(groups)
    count = min(len(groups), len(demonstrations))
    drawn = np.random.default_rng(list(seed)).choice(len(demonstrations), count, replace=False)
    chosen = [demonstrations[i] for i in drawn]
    tokens = sum(int(item.mask.sum()) for group in chosen for item in group.completions)
    names = list(groups[0].completions[0].values)
    return [
        *(_with(group, {WEIGHT: 0.0}) for group in groups),
        *(_with(group, {**dict.fromkeys(names, 0.0), WEIGHT: coefficient / tokens}) for group in chosen),
    ]


@dataclass(frozen=True)
class WithPretraining(Objective):
    """An objective on the sampled rows, and the weighted NLL of the demonstrations among them."""

    objective: Objective

    @property
    def records(self) -> tuple[str, ...]:
        return self.objective.records

    @property
    def needs(self) -> frozenset[str]:
        return self.objective.needs

    @property
    def statistics_need(self) -> frozenset[str] | None:
        return self.objective.statistics_need

    def step_statistics(self, inputs: Inputs) -> Mapping[str, Mean]:
        """The objective's, of the sampled rows."""
        return self.objective.step_statistics(sampled(inputs))

    def count(self, inputs: Inputs) -> Tensor:
        return self.objective.count(sampled(inputs))

    @property
    def parts(self) -> tuple[LossPart, ...]:
        """The objective's; the NLL is part of the policy's."""
        return tuple(LossPart(part.needs, partial(self._part, part)) for part in self.objective.parts)

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        whole = LossPart(self.needs, self.objective)
        return self._part(whole, inputs, denominator=denominator)

    def _part(self, part: LossPart, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        output = part.loss(sampled(inputs), denominator=denominator)
        if "logprobs" not in part.needs:
            return output
        logprobs, weight = required(inputs.logprobs, "logprobs"), inputs.extras[WEIGHT]
        nll = -sequence_sum(weight * logprobs, inputs.mask).sum()
        metrics = {**output.metrics, "ptx_nll": mean_of(-logprobs, inputs.mask & (weight > 0))}
        return Output(output.loss + nll, metrics)


def sampled(inputs: Inputs) -> Inputs:
    """The same inputs with the demonstrations' tokens not counted."""
    return replace(inputs, mask=inputs.mask & (inputs.extras[WEIGHT] == 0))


def _with(group: Group, constants: Mapping[str, float]) -> Group:
    items = []
    for item in group.completions:
        more = {name: np.full(len(item.ids), value, np.float32) for name, value in constants.items()}
        items.append(replace(item, values={**item.values, **more}))
    return replace(group, completions=tuple(items), values={})
