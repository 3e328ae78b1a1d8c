"""Direct Preference Optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from alignloop.objectives.base import (
    Inputs,
    Output,
    group_count,
    mean_of,
    pairs,
    required,
    sequence_sum,
)


@dataclass(frozen=True)
class DPO:
    """Sigmoid DPO: −log σ(βΔ), Δ = log-ratio of chosen − log-ratio of rejected, sums over tokens.

    Rafailov et al. 2023, arXiv 2305.18290, equation 7. One unit is one pair. At π = ref the loss
    is log 2. `reference_logprobs` must not carry a gradient.
    """

    beta: Annotated[float, Field(gt=0, description="strength of the pull towards the reference")] = 0.1

    records: ClassVar[tuple[str, ...]] = ("preference",)
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "reference_logprobs"})

    def count(self, inputs: Inputs) -> Tensor:
        return group_count(inputs)

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        logprob = sequence_sum(required(inputs.logprobs, "logprobs"), inputs.mask)
        reference = sequence_sum(required(inputs.reference_logprobs, "reference_logprobs"), inputs.mask)
        chosen, rejected = pairs(logprob - reference)
        delta = chosen - rejected
        loss = -F.logsigmoid(self.beta * delta)
        chosen_logprob, rejected_logprob = pairs(logprob)
        metrics = {
            "chosen_reward": mean_of(self.beta * chosen),
            "rejected_reward": mean_of(self.beta * rejected),
            "margin": mean_of(self.beta * delta),
            "accuracy": mean_of((delta > 0).float()),
            "chosen_logprob": mean_of(chosen_logprob),
            "rejected_logprob": mean_of(rejected_logprob),
        }
        return Output(loss.sum() / denominator, metrics)
