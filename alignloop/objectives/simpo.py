"""Simple Preference Optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
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
class SimPO(Objective):
    """−log σ(β·l_w − β·l_l − γ), l the mean log-prob per token. No reference model.

    Meng et al. 2024, arXiv 2405.14734, equation 6. γ is the paper's raw margin, not γ/β. With
    probability p that chosen is better (`extras["probability"]`) the two directions are mixed, each
    with its own margin. One unit is one pair.
    """

    beta: Annotated[float, Field(gt=0, description="scale of the length-normalised rewards")] = 2.0
    gamma: Annotated[
        float, Field(ge=0, description="margin that chosen must win by, in units of β·log-prob")
    ] = 1.0

    records: ClassVar[tuple[str, ...]] = ("preference",)
    usual: ClassVar[UsualRange | None] = UsualRange("beta", 0.5, 20.0, "2.0 to 10")
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def count(self, inputs: Inputs) -> Tensor:
        return group_count(inputs)

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        logprobs = required(inputs.logprobs, "logprobs")
        rewards = self.beta * sequence_mean(logprobs, inputs.mask)
        chosen, rejected = pairs(rewards)
        margin = chosen - rejected
        p = inputs.extras.get("probability", 1.0)
        loss = -p * F.logsigmoid(margin - self.gamma) - (1 - p) * F.logsigmoid(-margin - self.gamma)
        return Output(
            loss.sum() / denominator, pair_metrics(inputs, rewards, sequence_sum(logprobs, inputs.mask))
        )
