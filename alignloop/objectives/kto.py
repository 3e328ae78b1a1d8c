"""Kahneman–Tversky Optimization: learning from good and bad labels without pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from alignloop.data.packing import Group
from alignloop.errors import DataError
from alignloop.objectives.base import (
    Inputs,
    Mean,
    Objective,
    Output,
    Passes,
    UsualRange,
    extra,
    log_ratios,
    mean_of,
    required,
    sequence_sum,
)

REFERENCE_POINT = "mismatched_log_ratio"
"""Name of the step statistic that z is made of."""


@dataclass(frozen=True)
class KTO(Objective):
    """λ_D(1 − σ(β(r − z))) for desirable, λ_U(1 − σ(β(z − r))) for undesirable completions.

    Ethayarajh et al. 2024, arXiv 2402.01306, equation 8. r = log π − log ref summed over tokens;
    z = max(0, mean of log π(y′|x) − log ref(y′|x)), y′ another row's completion under this prompt
    (rows marked in `extras["mismatched"]`), without gradient. z is estimated over the whole optimizer
    step and all ranks (`step_statistics`), as a mean over few rows is too noisy. Mismatched rows
    enter nothing else, so the pass with gradient leaves them out. One unit is one labelled row.
    """

    beta: Annotated[float, Field(gt=0, description="strength of the pull towards the reference")] = 0.1
    desirable_weight: Annotated[float, Field(ge=0, description="λ_D, weight of desirable rows")] = 1.0
    undesirable_weight: Annotated[float, Field(ge=0, description="λ_U, weight of undesirable rows")] = 1.0

    records: ClassVar[tuple[str, ...]] = ("label",)
    usual: ClassVar[UsualRange | None] = UsualRange("beta", 1e-3, 1.0, "0.1")
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "reference_logprobs"})
    statistics_need: ClassVar[frozenset[str]] = frozenset({"logprobs", "reference_logprobs"})
    fewest_rows: ClassVar[int] = 2
    smallest_batch: ClassVar[int] = 8
    mean_over_step: ClassVar[str] = "KTO's reference point"

    def passes(self, group: Group) -> Passes | None:
        """Of the mismatched completions only the statistics are made."""
        mismatched = np.asarray(group.values["mismatched"], dtype=bool)
        return Passes(~mismatched, mismatched)

    def arranged(self, groups: Sequence[Group], seed: int) -> list[Group]:
        """Each row beside another row's completion; see `with_mismatched`."""
        return with_mismatched(groups, seed)

    def data_advice(self, groups: Sequence[Group]) -> str:
        """The class weights against the sizes of the classes; "" if a class is missing."""
        labels = [bool(np.asarray(g.values["desirable"])[0]) for g in groups if "desirable" in g.values]
        if len(set(labels)) < 2:
            return ""
        good = sum(labels)
        advice = weight_advice(self, num_desirable=good, num_undesirable=len(labels) - good)
        return f"the classes are out of balance, {advice}" if advice else ""

    def count(self, inputs: Inputs) -> Tensor:
        return (~extra(inputs, "mismatched")).sum().float()

    def step_statistics(self, inputs: Inputs) -> Mapping[str, Mean]:
        """Log-ratio summed over the mismatched rows, and how many they are."""
        return {REFERENCE_POINT: mean_of(log_ratios(inputs), extra(inputs, "mismatched"))}

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        log_ratio = log_ratios(inputs)
        z = extra(inputs, REFERENCE_POINT).clamp(min=0)
        own, desirable = ~extra(inputs, "mismatched"), extra(inputs, "desirable")
        advantage = self.beta * (log_ratio - z)
        # 1 − σ(a) = σ(−a)
        loss = torch.where(
            desirable,
            self.desirable_weight * torch.sigmoid(-advantage),
            self.undesirable_weight * torch.sigmoid(advantage),
        )
        good, bad = own & desirable, own & ~desirable
        logprob = sequence_sum(required(inputs.logprobs, "logprobs"), inputs.mask)
        metrics = {
            "chosen_reward": mean_of(self.beta * log_ratio, good),
            "rejected_reward": mean_of(self.beta * log_ratio, bad),
            "chosen_logprob": mean_of(logprob, good),
            "rejected_logprob": mean_of(logprob, bad),
            "reference_point": mean_of(z),
        }
        return Output(torch.where(own, loss, 0.0).sum() / denominator, metrics)


def with_mismatched(groups: Sequence[Group], seed: int = 0) -> list[Group]:
    """KTO's form: each group gets another row's completion under its own prompt.

    The partner is the next row of a seeded permutation, so that no row is its own partner and the
    pairing does not depend on batches. Adds `mismatched` to the values.

    Raises:
        DataError: fewer than two rows.
    """
    if len(groups) < 2:
        raise DataError(
            "KTO needs at least two rows: its reference point uses other rows' completions", reason="no_rows"
        )
    order = np.random.default_rng([seed, 7]).permutation(len(groups))
    partner = {int(a): int(b) for a, b in zip(order, np.roll(order, -1), strict=True)}
    result = []
    for number, group in enumerate(groups):
        other = groups[partner[number]].completions[0]
        values = {
            "desirable": np.asarray([group.values["desirable"][0], False]),  # pyright: ignore[reportIndexIssue]
            "mismatched": np.asarray([False, True]),
        }
        result.append(replace(group, completions=(group.completions[0], other), values=values))
    return result


def weight_advice(objective: KTO, *, num_desirable: int, num_undesirable: int) -> str | None:
    """A sentence where the class weights are outside the paper's range, else None.

    The paper (section 4.2) recommends λ_D·n_D / (λ_U·n_U) between 1 and 4/3.
    """
    if not num_desirable or not num_undesirable:
        return "KTO needs both desirable and undesirable rows; only one class is present"
    desirable = objective.desirable_weight * num_desirable
    undesirable = objective.undesirable_weight * num_undesirable
    # compared as products, so that a weight of 0 needs no case of its own
    if undesirable * (1 - 1e-9) <= desirable <= undesirable * 4 / 3 * (1 + 1e-9):
        return None
    low = objective.undesirable_weight * num_undesirable / num_desirable
    return (
        f"desirable_weight·{num_desirable} to undesirable_weight·{num_undesirable} should be between 1 and "
        f"4/3: with undesirable_weight {objective.undesirable_weight:g}, set desirable_weight between "
        f"{low:.3g} and {low * 4 / 3:.3g}"
    )
