"""Identity Preference Optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from alignloop.objectives.base import (
    Inputs,
    Objective,
    Output,
    UsualRange,
    group_count,
    pair_metrics,
    pairs,
    required,
    sequence_mean,
    sequence_sum,
)


@dataclass(frozen=True)
class IPO(Objective):
    """(Δ − 1/(2β))², Δ = log-ratio of chosen − log-ratio of rejected.

    Azar et al. 2023, arXiv 2310.12036, equation 17; β is the paper's τ. A bounded target instead of
    DPO's growing margin. `reduction` says whether a log-ratio is the mean or the sum over tokens; β
    does not carry over from one to the other. With probability p that chosen is better
    (`extras["probability"]`): p·(Δ − 1/(2β))² + (1 − p)·(Δ + 1/(2β))². One unit is one pair.
    """

    beta: Annotated[float, Field(gt=0, description="τ of the paper: the target margin is 1/(2β)")] = 0.1
    reduction: Annotated[
        Literal["mean", "sum"],
        Field(description="log-ratios per token (as TRL and HALOs) or per completion (as the paper's text)"),
    ] = "mean"

    records: ClassVar[tuple[str, ...]] = ("preference",)
    usual: ClassVar[UsualRange | None] = UsualRange("beta", 1e-3, 2.0, "0.1")
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "reference_logprobs"})

    def count(self, inputs: Inputs) -> Tensor:
        return group_count(inputs)

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        logprobs = required(inputs.logprobs, "logprobs")
        log_ratio = logprobs - required(inputs.reference_logprobs, "reference_logprobs")
        reduce = sequence_mean if self.reduction == "mean" else sequence_sum
        mean_or_sum = reduce(log_ratio, inputs.mask)
        chosen, rejected = pairs(mean_or_sum)
        delta, target = chosen - rejected, 1 / (2 * self.beta)
        p = inputs.extras.get("probability", 1.0)
        loss = p * (delta - target).square() + (1 - p) * (delta + target).square()
        metrics = pair_metrics(inputs, self.beta * mean_or_sum, sequence_sum(logprobs, inputs.mask))
        return Output(loss.sum() / denominator, metrics)
