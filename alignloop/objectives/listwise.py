"""Offline preference learning from a prompt with K ranked completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from alignloop.objectives.base import (
    Inputs,
    Mean,
    Objective,
    Output,
    UsualRange,
    bounded_ratio,
    extra,
    group_count,
    log_ratios,
    mean_of,
    required,
    same_group,
    sequence_mean,
    sequence_sum,
)
from alignloop.objectives.plackett_luce import plackett_luce_terms, ranking_metrics


@dataclass(frozen=True)
class Listwise(Objective):
    """Three ways to learn from rankings, with s_i = β·(log π − log ref)(y_i), summed over tokens.

    plackett_luce: Plackett–Luce on s (arXiv 2305.18290, appendix A.3); with K = 2 exactly DPO.
    lipo_lambda: Σ_{i better than j} |G_i − G_j|·|1/D_i − 1/D_j|·log(1 + e^{−(s_i − s_j)}), G = 2^gain − 1,
        D = log(1 + position in the order of s) (Liu et al. 2024, arXiv 2402.01878, equation 8); a gain is
        the share of the group that the completion beats (ties ½), so it is in [0, 1] as in the paper.
    group_relative: the gains, normalised over the group as in GRPO, are advantages of a clipped policy
        gradient against the log-probs that the completions had when the data was made
        (`extras["old_logprobs"]`); mean over a completion's tokens, then over the group.

    One unit is one group. A group of one completion has no loss.
    """

    method: Annotated[
        Literal["plackett_luce", "lipo_lambda", "group_relative"],
        Field(description="how the ranking enters the loss"),
    ] = "plackett_luce"
    beta: Annotated[
        float, Field(gt=0, description="scale of the log-ratios (plackett_luce, lipo_lambda)")
    ] = 0.1
    epsilon: Annotated[
        float, Field(gt=0, lt=1, description="clipping range of the ratio (group_relative)")
    ] = 0.2

    records: ClassVar[tuple[str, ...]] = ("ranking",)
    usual: ClassVar[UsualRange | None] = UsualRange("beta", 1e-3, 1.0, "0.1")

    @property
    def needs(self) -> frozenset[str]:
        reference = set() if self.method == "group_relative" else {"reference_logprobs"}
        return frozenset({"logprobs"} | reference)

    @property
    def needs_old_logprobs(self) -> bool:
        return self.method == "group_relative"

    def count(self, inputs: Inputs) -> Tensor:
        return group_count(inputs)

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        logprobs = required(inputs.logprobs, "logprobs")
        ranks, group = extra(inputs, "ranks").to(logprobs.dtype), inputs.group
        logprob = sequence_sum(logprobs, inputs.mask)
        if self.method == "group_relative":
            per_token, metrics = self._group_relative(inputs, logprobs, ranks)
            per_group = same_group(group).sum(-1)
            loss = sequence_mean(per_token, inputs.mask) / per_group
        else:
            s = self.beta * log_ratios(inputs)
            terms = plackett_luce_terms if self.method == "plackett_luce" else lipo_lambda_terms
            loss, metrics = terms(s, ranks, group), ranking_metrics(s, ranks, group)
        better = same_group(group) & (ranks[:, None] < ranks[None, :])
        metrics["chosen_logprob"] = mean_of(logprob, ~better.any(0))
        metrics["rejected_logprob"] = mean_of(logprob, ~better.any(1))
        return Output(loss.sum() / denominator, metrics)

    def _group_relative(
        self, inputs: Inputs, logprobs: Tensor, ranks: Tensor
    ) -> tuple[Tensor, dict[str, Mean]]:
        """Clipped surrogate loss per token, (B, T)."""
        old_logprobs = extra(inputs, "old_logprobs")
        advantages = rank_advantages(ranks, inputs.group)[:, None]
        ratio = bounded_ratio(logprobs - old_logprobs)
        clipped = ratio.clamp(1 - self.epsilon, 1 + self.epsilon)
        active = clipped * advantages < ratio * advantages
        metrics = ranking_metrics(sequence_sum(logprobs - old_logprobs, inputs.mask), ranks, inputs.group)
        metrics["clip_fraction"] = mean_of(active.float(), inputs.mask)
        return -torch.minimum(ratio * advantages, clipped * advantages), metrics


def rank_gains(ranks: Tensor, group: Tensor) -> Tensor:
    """Share of its group's other completions that each beats, ties ½; ½ if there is no other.

    Args:
        ranks: floating point (B,), 1 the best.
        group: int64 (B,).

    Returns:
        (B,) in [0, 1].
    """
    same = same_group(group)
    beats = (1 + (ranks[None, :] - ranks[:, None]).sign()) / 2  # [i, j]: i beats j
    others = same.sum(-1) - 1
    won = torch.where(same, beats, 0.0).sum(-1) - 0.5  # without itself, a tie
    return torch.where(others > 0, won / others.clamp(min=1), 0.5)


def rank_advantages(ranks: Tensor, group: Tensor) -> Tensor:
    """(gain − mean)/(std + 1e-4) over each group, ddof = 1; 0 where all are tied. (B,)."""
    same, gains = same_group(group), rank_gains(ranks, group)
    centred = gains - 0.5  # gains of a group always average ½
    squares = torch.where(same, centred.square()[None, :], 0.0).sum(-1)
    return centred / ((squares / (same.sum(-1) - 1).clamp(min=1)).sqrt() + 1e-4)


def lipo_lambda_terms(s: Tensor, ranks: Tensor, group: Tensor) -> Tensor:
    """Σ_j of each completion's weighted logistic losses against those ranked below it, (B,).

    Equal s are placed in the order of their ranks: at the start all s are 0, and a shared position
    would make every weight, and so the gradient, 0.
    """
    same = same_group(group)
    better = same & (ranks[:, None] < ranks[None, :])  # [i, j]: i better than j
    ahead = same & ((s[:, None] > s[None, :]) | ((s[:, None] == s[None, :]) & better))
    position = 1 + ahead.sum(0)
    gain = rank_gains(ranks, group).exp2() - 1
    discount = 1 / (1 + position).to(s.dtype).log()
    weight = (gain[:, None] - gain[None, :]).abs() * (discount[:, None] - discount[None, :]).abs()
    return torch.where(better, weight * F.softplus(s[None, :] - s[:, None]), 0.0).sum(-1)
