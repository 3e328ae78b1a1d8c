"""Proximal Policy Optimization: the policy's and the critic's loss on one rollout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from alignloop.objectives.base import (
    Inputs,
    LossPart,
    Mean,
    Objective,
    Output,
    bounded_ratio,
    extra,
    kl_estimate,
    mean_of,
    required,
    sampler_weight,
    sequence_sum,
)

MEAN_RETURN = "mean_return"
"""Name of the step statistic that explained variance is measured from."""


@dataclass(frozen=True)
class PPO(Objective):
    """−min(ratio·A, clip(ratio, 1 ± ε)·A) + c_V·value loss + c_KL·KL − c_H·entropy, means over tokens.

    Schulman et al. 2017, arXiv 1707.06347, equations 7 and 9. ratio = π/π_old per token, with
    `extras["old_logprobs"]` under the distribution that was sampled from. Value loss:
    ½·max((V − R)², (V_old + clip(V − V_old, ±ε_V) − R)²). `advantages`, `returns` and `old_values` come
    from the rollout (`rl/advantages.py`). A KL here is one in the loss; the usual one of RLHF is in the
    reward. One unit is one counted token, and the same tokens count for policy and critic.

    With `extras["sampler_logprobs"]`, of another engine or precision that sampled, the surrogate is weighted
    with min(π_old/π_sampler, cap), without gradient.
    """

    epsilon: Annotated[float, Field(gt=0, lt=1, description="clipping range of the ratio")] = 0.2
    value_epsilon: Annotated[
        float, Field(gt=0, description="how far the value may move from the rollout's, in reward units")
    ] = 0.2
    value_coefficient: Annotated[float, Field(ge=0, description="weight of the value loss")] = 0.1
    entropy_coefficient: Annotated[float, Field(ge=0, description="weight of the entropy bonus")] = 0.0
    kl_coefficient: Annotated[
        float, Field(ge=0, description="weight of a KL to the reference in the loss, beside the reward's")
    ] = 0.0
    kl_estimator: Annotated[
        Literal["k1", "k2", "k3"],
        Field(description="estimator of that KL; k2 has the KL's gradient, k1's is 0 on average"),
    ] = "k2"

    sampler_ratio_cap: Annotated[
        float, Field(gt=0, description="cap of the weight that corrects for the sampler's log-probs")
    ] = 2.0

    records: ClassVar[tuple[str, ...]] = ("prompt",)
    statistics_need: ClassVar[frozenset[str]] = frozenset()

    @property
    def needs(self) -> frozenset[str]:
        return self.parts[0].needs | self.parts[1].needs

    @property
    def parts(self) -> tuple[LossPart, ...]:
        """The policy's part, then the critic's."""
        entropy = {"entropy"} if self.entropy_coefficient else set()
        reference = {"reference_logprobs"} if self.kl_coefficient else set()
        return (
            LossPart(frozenset({"logprobs"} | entropy | reference), self._policy_part),
            LossPart(frozenset({"values"}), self._value_part),
        )

    def count(self, inputs: Inputs) -> Tensor:
        return inputs.mask.sum().float()

    def step_statistics(self, inputs: Inputs) -> Mapping[str, Mean]:
        """Sum of the returns and number of tokens."""
        return {MEAN_RETURN: mean_of(extra(inputs, "returns"), inputs.mask)}

    def critic_only(self) -> PPO:
        """Without entropy bonus and KL, which would move a policy whose advantages are 0."""
        return replace(self, entropy_coefficient=0.0, kl_coefficient=0.0)

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        policy, critic = (part.loss(inputs, denominator=denominator) for part in self.parts)
        return Output(policy.loss + critic.loss, {**policy.metrics, **critic.metrics})

    def _policy_part(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        """Clipped surrogate, KL and entropy."""
        mask, logprobs = inputs.mask, required(inputs.logprobs, "logprobs")
        per_token, metrics = self._policy_loss(inputs, logprobs)
        if inputs.reference_logprobs is not None or self.kl_coefficient:
            reference = required(inputs.reference_logprobs, "reference_logprobs")
            kl = kl_estimate(logprobs - reference, self.kl_estimator)
            per_token = per_token + self.kl_coefficient * kl
            metrics["kl"] = mean_of(kl, mask)
        if inputs.entropy is not None or self.entropy_coefficient:
            entropy = required(inputs.entropy, "entropy")
            per_token = per_token - self.entropy_coefficient * entropy
            metrics["entropy"] = mean_of(entropy, mask)
        return Output(sequence_sum(per_token, mask).sum() / denominator, metrics)

    def _value_part(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        """The value loss with its weight."""
        per_token, metrics = self._value_loss(inputs)
        loss = self.value_coefficient * sequence_sum(per_token, inputs.mask).sum() / denominator
        return Output(loss, metrics)

    def _policy_loss(self, inputs: Inputs, logprobs: Tensor) -> tuple[Tensor, dict[str, Mean]]:
        """Clipped surrogate per token, (B, T)."""
        advantages = extra(inputs, "advantages")
        old_logprobs = extra(inputs, "old_logprobs")
        log_ratio = logprobs - old_logprobs
        ratio = bounded_ratio(log_ratio)
        surrogate = ratio * advantages
        clipped = ratio.clamp(1 - self.epsilon, 1 + self.epsilon) * advantages
        loss = -torch.minimum(surrogate, clipped)
        weight = sampler_weight(inputs, old_logprobs, self.sampler_ratio_cap)
        if weight is not None:
            loss = weight * loss
        metrics = {
            "policy_loss": mean_of(loss, inputs.mask),
            "ratio": mean_of(ratio, inputs.mask),
            "clip_fraction": mean_of((clipped < surrogate).float(), inputs.mask),
            # KL(π_old‖π): the samples are π_old's
            "approx_kl": mean_of(kl_estimate(-log_ratio, "k3"), inputs.mask),
        }
        if weight is not None:
            metrics["sampler_weight"] = mean_of(weight, inputs.mask)
        return loss, metrics

    def _value_loss(self, inputs: Inputs) -> tuple[Tensor, dict[str, Mean]]:
        """Clipped squared error per token, (B, T)."""
        mask, values = inputs.mask, required(inputs.values, "values")
        returns, old_values = extra(inputs, "returns"), extra(inputs, "old_values")
        moved = (values - old_values).clamp(-self.value_epsilon, self.value_epsilon)
        error, clipped_error = (values - returns).square(), (old_values + moved - returns).square()
        loss = torch.maximum(error, clipped_error) / 2
        # 1 − Σ(V − R)² / Σ(R − mean R)², as a sum and its weight, so that it adds over micro-batches
        spread = mean_of((returns - extra(inputs, MEAN_RETURN)).square(), mask).sum
        metrics = {
            "value_loss": mean_of(loss, mask),
            "value_clip_fraction": mean_of((clipped_error > error).float(), mask),
            "value": mean_of(values, mask),
            "return": mean_of(returns, mask),
            "explained_variance": Mean(spread - mean_of(error, mask).sum, spread),
        }
        return loss, metrics
