"""Bradley–Terry reward model on pairs, or on all pairs of a ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from alignloop.objectives.base import Inputs, Objective, Output, group_count, mean_of, required, same_group


@dataclass(frozen=True)
class BradleyTerry(Objective):
    """−p·log σ(Δ − m) − (1 − p)·log σ(−Δ − m) + c·(r_w + r_l)², Δ = r_w − r_l.

    p is `extras["probability"]` (1 if absent, ½ a tie), m `extras["margin"]` (0 if absent). The
    centring term c (Eisenstein et al. 2023, arXiv 2312.09244, equation 5) pins the reward's offset,
    which differences leave free. One unit is one group: with K ranked completions (`extras["ranks"]`)
    all C(K, 2) pairs weigh 1/C(K, 2), a tied pair counting as p = ½ (InstructGPT, arXiv 2203.02155).
    """

    centring: Annotated[
        float, Field(ge=0, description="c, weight of the squared sum of both rewards; 0.01 is common")
    ] = 0.0

    records: ClassVar[tuple[str, ...]] = ("preference", "ranking")
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})

    def count(self, inputs: Inputs) -> Tensor:
        return group_count(inputs)

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        reward, group = required(inputs.scores, "scores")[:, 0], inputs.group
        # every pair (i, j) of rows i < j in one group; for a preference this is (chosen, rejected)
        i, j = torch.triu(same_group(group), diagonal=1).nonzero(as_tuple=True)
        weight = 1 / group[i].bincount()[group[i]].to(reward.dtype)
        delta = reward[i] - reward[j]
        p = _probability(inputs, i, j).to(reward.dtype)
        margin = inputs.extras["margin"][group[i]] if "margin" in inputs.extras else 0.0
        loss = -p * F.logsigmoid(delta - margin) - (1 - p) * F.logsigmoid(-delta - margin)
        loss = weight * (loss + self.centring * (reward[i] + reward[j]).square())
        better = torch.where(p >= 0.5, 1.0, -1.0)  # +1 where row i is the preferred one
        mean = (reward[i] + reward[j]) / 2
        metrics = {
            "accuracy": mean_of((better * delta > 0).float(), p != 0.5),
            "margin": mean_of(better * delta),
            "chosen_reward": mean_of(mean + better * delta / 2),
            "rejected_reward": mean_of(mean - better * delta / 2),
        }
        return Output(loss.sum() / denominator, metrics)


def _probability(inputs: Inputs, i: Tensor, j: Tensor) -> Tensor:
    """Probability that row i is better than row j, from ranks, else the pair's, else 1. (pairs,)."""
    if "ranks" in inputs.extras:
        ranks = inputs.extras["ranks"]
        return (1 + (ranks[j] - ranks[i]).sign()) / 2
    if "probability" in inputs.extras:
        return inputs.extras["probability"][inputs.group[i]]
    return torch.ones_like(i)
