"""Direct Preference Optimization and its variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from alignloop.objectives.base import (
    Inputs,
    Objective,
    Output,
    UsualRange,
    group_count,
    log_ratios,
    pair_metrics,
    pairs,
    required,
    sequence_mean,
    sequence_sum,
)


@dataclass(frozen=True)
class DPO(Objective):
    """−log σ(βΔ), Δ = log-ratio of chosen − log-ratio of rejected, each summed over tokens.

    Rafailov et al. 2023, arXiv 2305.18290, equation 7. One unit is one pair. At π = ref the loss is
    log 2. With ℓ the loss of a logit, a pair of which chosen is better with probability p costs
    p·ℓ(βΔ) + (1 − p)·ℓ(−βΔ) (`extras["probability"]`, 1 if absent). Both log-probs often fall while
    their difference grows: watch `chosen_logprob`, or add `rpo_alpha`.
    """

    beta: Annotated[float, Field(gt=0, description="strength of the pull towards the reference")] = 0.1
    loss: Annotated[
        Literal["sigmoid", "hinge", "robust"],
        Field(
            description="sigmoid (DPO), hinge (SLiC's max(0, 1 − βΔ)), robust (unbiased for flipped labels)"
        ),
    ] = "sigmoid"
    label_smoothing: Annotated[
        float, Field(ge=0, lt=0.5, description="ε, the share of labels believed flipped (cDPO, robust)")
    ] = 0.0
    rpo_alpha: Annotated[
        float, Field(ge=0, description="weight of the chosen completion's NLL per token (RPO)")
    ] = 0.0
    length_alpha: Annotated[
        float, Field(ge=0, description="nats per token of extra length of chosen added to βΔ (R-DPO)")
    ] = 0.0

    records: ClassVar[tuple[str, ...]] = ("preference",)
    usual: ClassVar[UsualRange | None] = UsualRange("beta", 1e-3, 1.0, "0.1")
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "reference_logprobs"})

    def count(self, inputs: Inputs) -> Tensor:
        return group_count(inputs)

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        logprobs = required(inputs.logprobs, "logprobs")
        rewards = self.beta * log_ratios(inputs)
        chosen, rejected = pairs(rewards)
        chosen_tokens, rejected_tokens = pairs(inputs.mask.sum(-1))
        # R-DPO, arXiv 2403.19159: a longer chosen completion is explained by its length, not its quality
        logit = chosen - rejected + self.length_alpha * (chosen_tokens - rejected_tokens)
        p = inputs.extras.get("probability", 1.0)
        loss = p * self._loss(logit) + (1 - p) * self._loss(-logit)
        # RPO, arXiv 2404.19733, equation 1
        loss = loss - self.rpo_alpha * pairs(sequence_mean(logprobs, inputs.mask))[0]
        return Output(
            loss.sum() / denominator, pair_metrics(inputs, rewards, sequence_sum(logprobs, inputs.mask))
        )

    def _loss(self, logit: Tensor) -> Tensor:
        """ℓ of the chosen completion's logit, its label wrong with probability ε."""
        epsilon = self.label_smoothing
        if self.loss == "hinge":
            return (1 - epsilon) * F.relu(1 - logit) + epsilon * F.relu(1 + logit)
        right, flipped = -F.logsigmoid(logit), -F.logsigmoid(-logit)
        if self.loss == "robust":  # arXiv 2403.00409, equation 12: its mean over flips is the clean loss
            return ((1 - epsilon) * right - epsilon * flipped) / (1 - 2 * epsilon)
        return (1 - epsilon) * right + epsilon * flipped
