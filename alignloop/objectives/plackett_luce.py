"""Plackett–Luce reward model on rankings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from alignloop.objectives.base import (
    Inputs,
    Mean,
    Objective,
    Output,
    extra,
    group_count,
    mean_of,
    required,
    same_group,
)


@dataclass(frozen=True)
class PlackettLuce(Objective):
    """−Σ_k log( e^{r_k} / Σ_{j: rank j ≥ rank k} e^{r_j} ), completions of a group in rank order.

    Plackett 1975; Luce 1959. For K = 2 it is Bradley–Terry. Tied completions share a position: their
    terms, each against all that are not ranked above, are averaged, so a tied pair costs what
    Bradley–Terry with p = ½ costs. One unit is one group.
    """

    records: ClassVar[tuple[str, ...]] = ("ranking",)
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})

    def count(self, inputs: Inputs) -> Tensor:
        return group_count(inputs)

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        reward, ranks = required(inputs.scores, "scores")[:, 0], extra(inputs, "ranks")
        loss = plackett_luce_terms(reward, ranks, inputs.group)
        return Output(loss.sum() / denominator, ranking_metrics(reward, ranks, inputs.group))


def plackett_luce_terms(utility: Tensor, ranks: Tensor, group: Tensor) -> Tensor:
    """Each completion's share of its group's Plackett–Luce loss; summed over a group, the loss.

    Args:
        utility: (B,), log of Luce's strength.
        ranks: (B,), 1 the best; only their order within a group counts.
        group: int64 (B,), group number of each row.

    Returns:
        (B,), nats.
    """
    same = same_group(group)
    not_above = same & (ranks[None, :] >= ranks[:, None])  # [k, j]: j still in the race at k's position
    tied = same & (ranks[None, :] == ranks[:, None])
    log_total = torch.where(not_above, utility[None, :], -torch.inf).logsumexp(-1)
    return (log_total - utility) / tied.sum(-1)


def ranking_metrics(utility: Tensor, ranks: Tensor, group: Tensor) -> dict[str, Mean]:
    """Reward of the best and of the last completions, and the share of pairs in the right order."""
    same = same_group(group)
    better = same & (ranks[:, None] < ranks[None, :])
    gap = utility[:, None] - utility[None, :]
    first = ~better.any(0)  # none is better than this one
    last = ~better.any(1)
    return {
        "accuracy": mean_of((gap > 0).float(), better),
        "margin": mean_of(gap, better),
        "chosen_reward": mean_of(utility, first),
        "rejected_reward": mean_of(utility, last),
    }
