"""Group Relative Policy Optimization and its family: policy gradients without a critic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from alignloop.data.packing import Group
from alignloop.errors import ConfigError
from alignloop.objectives.base import (
    Inputs,
    Mean,
    Objective,
    Output,
    Passes,
    UsualRange,
    bounded_ratio,
    extra,
    kl_estimate,
    mean_of,
    required,
    sampler_weight,
    sequence_mean,
    sequence_sum,
)


@dataclass(frozen=True)
class GRPO(Objective):
    """−min(ratio·A, clip(ratio, 1 − ε_low, 1 + ε_high)·A) + β·KL(π‖ref), with its reductions as fields.

    Shao et al. 2024, arXiv 2402.03300, equation 3. A is `extras["advantages"]`, made by
    `rl/advantages.py`; `preset` gives the family's members. Departures by field:

    loss_aggregation: sequence_mean: mean over a completion's tokens, then over completions (GRPO);
        token_mean: over all tokens of the step (DAPO, arXiv 2503.14476); constant: a completion's
        sum / `constant_length`, then over completions (Dr. GRPO, arXiv 2503.20783).
    ratio_level: token, or sequence: (π(y)/π_old(y))^(1/|y|) (GSPO, arXiv 2507.18071).
    clip: ppo, or cispo: −sg(clip(ratio))·A·log π, so that clipped tokens still have a gradient
        (arXiv 2506.13585).
    unbiased_kl: the KL is weighted with π/π_old, with gradient, token by token. The samples are π_old's, and
        k3's value and gradient then are those of KL(π‖ref) in expectation (DeepSeek-V3.2, arXiv 2512.02556,
        section 3.1); False is equation 3 as printed, whose k3 has another gradient.
    delta: two-sided clip: where A < 0 the ratio is bounded by this too, so that a token the policy has come
        to like cannot take an unbounded loss (INTELLECT-2, arXiv 2505.07291, equation 1).
    entropy_coefficient: c of a bonus c·H(π) per token.

    With `extras["sampler_logprobs"]`, of another engine or precision that sampled, the surrogate is weighted
    with min(π_old/π_sampler, cap), without gradient. One unit is a completion, or a token in token_mean.
    """

    loss_aggregation: Annotated[
        Literal["sequence_mean", "token_mean", "constant"], Field(description="how tokens are averaged")
    ] = "sequence_mean"
    ratio_level: Annotated[
        Literal["token", "sequence"], Field(description="importance ratio of a token or of the completion")
    ] = "token"
    clip: Annotated[
        Literal["ppo", "cispo"], Field(description="clip the objective (ppo) or only its weight (cispo)")
    ] = "ppo"
    epsilon_low: Annotated[float, Field(gt=0, le=1, description="the ratio is clipped below 1 − this")] = 0.2
    epsilon_high: Annotated[float, Field(gt=0, description="the ratio is clipped above 1 + this")] = 0.2
    delta: Annotated[
        float, Field(ge=0, description="bound of the ratio where A < 0, if above 1 + epsilon_high; 0: none")
    ] = 0.0
    entropy_coefficient: Annotated[float, Field(ge=0, description="weight of the entropy bonus")] = 0.0
    beta: Annotated[float, Field(ge=0, description="weight of the KL; 0 needs no reference")] = 0.04
    kl_estimator: Annotated[
        Literal["k1", "k2", "k3"],
        Field(description="estimator of the KL; k2 has the KL's gradient, k3 is GRPO's, biased"),
    ] = "k3"
    unbiased_kl: Annotated[
        bool, Field(description="weight the KL with π/π_old, so that k3 has the gradient of the KL")
    ] = True
    constant_length: Annotated[
        int, Field(gt=0, description="tokens that constant divides by: the generation budget")
    ] = 256
    sampler_ratio_cap: Annotated[
        float, Field(gt=0, description="cap of the weight that corrects for another sampling engine")
    ] = 2.0

    records: ClassVar[tuple[str, ...]] = ("prompt",)
    usual: ClassVar[UsualRange | None] = UsualRange("beta", 0.0, 0.5, "0.04")

    @property
    def needs(self) -> frozenset[str]:
        entropy = {"entropy"} if self.entropy_coefficient else set()
        return frozenset({"logprobs"} | entropy | ({"reference_logprobs"} if self.beta else set()))

    def count(self, inputs: Inputs) -> Tensor:
        if self.loss_aggregation == "token_mean":
            return inputs.mask.sum().float()
        return torch.tensor(float(inputs.mask.shape[0]), device=inputs.mask.device)

    def passes(self, group: Group) -> Passes | None:
        """Without KL and entropy a completion whose advantages are all 0 has neither loss nor gradient."""
        if self.beta or self.entropy_coefficient or "advantages" not in group.completions[0].values:
            return None
        return Passes(np.array([item.values["advantages"][item.mask].any() for item in group.completions]))

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        logprobs = required(inputs.logprobs, "logprobs")
        per_token, metrics = self._surrogate(inputs, logprobs)
        if inputs.reference_logprobs is not None or self.beta:
            reference = required(inputs.reference_logprobs, "reference_logprobs")
            kl = kl_estimate(logprobs - reference, self.kl_estimator)
            if self.unbiased_kl:
                kl = kl * bounded_ratio(logprobs - extra(inputs, "old_logprobs"))
            per_token = per_token + self.beta * kl
            metrics["kl"] = mean_of(kl, inputs.mask)
        if inputs.entropy is not None or self.entropy_coefficient:
            entropy = required(inputs.entropy, "entropy")
            per_token = per_token - self.entropy_coefficient * entropy
            metrics["entropy"] = mean_of(entropy, inputs.mask)
        return Output(self._aggregate(per_token, inputs.mask).sum() / denominator, metrics)

    def _surrogate(self, inputs: Inputs, logprobs: Tensor) -> tuple[Tensor, dict[str, Mean]]:
        """Clipped surrogate loss per token, (B, T)."""
        mask, advantages = inputs.mask, extra(inputs, "advantages")
        old_logprobs = extra(inputs, "old_logprobs")
        log_ratio = logprobs - old_logprobs
        if self.ratio_level == "sequence":
            log_ratio = sequence_mean(log_ratio, mask)[:, None].expand_as(logprobs)
        ratio = bounded_ratio(log_ratio)
        clipped = ratio.clamp(1 - self.epsilon_low, 1 + self.epsilon_high)
        bounded = ratio.clamp(max=self.delta) if self.delta else ratio
        if self.clip == "ppo":
            loss = -torch.minimum(bounded * advantages, clipped * advantages)
            binding = -loss != ratio * advantages
        else:
            binding, loss = clipped != ratio, -clipped.detach() * advantages * logprobs
        metrics = {
            "ratio": mean_of(ratio, mask),
            "clip_fraction": mean_of(binding.float(), mask),
            # KL(π_old‖π): the samples are π_old's
            "approx_kl": mean_of(kl_estimate(old_logprobs - logprobs, "k3"), mask),
        }
        weight = sampler_weight(inputs, old_logprobs, self.sampler_ratio_cap)
        if weight is not None:
            loss = weight * loss
            metrics["sampler_weight"] = mean_of(weight, mask)
        return loss, metrics

    def _aggregate(self, per_token: Tensor, mask: Tensor) -> Tensor:
        """Each completion's sum over its units, (B,)."""
        if self.loss_aggregation == "sequence_mean":
            return sequence_mean(per_token, mask)
        if self.loss_aggregation == "constant":
            return sequence_sum(per_token, mask) / self.constant_length
        return sequence_sum(per_token, mask)


class Preset(NamedTuple):
    """A published method: its loss, and the key `advantage` of the stage it goes with."""

    objective: GRPO
    advantage: Literal["group_std", "group_mean", "group_mean_batch_std", "leave_one_out", "batch", "token"]


PRESETS: dict[str, Preset] = {
    "grpo": Preset(GRPO(), "group_std"),
    "dr_grpo": Preset(GRPO(loss_aggregation="constant", beta=0.0), "group_mean"),
    "dapo": Preset(GRPO(loss_aggregation="token_mean", epsilon_high=0.28, beta=0.0), "group_std"),
    "gspo": Preset(GRPO(ratio_level="sequence", epsilon_low=3e-4, epsilon_high=4e-4, beta=0.0), "group_std"),
    # no lower bound; the cap of 5 is ScaleRL's (arXiv 2510.13786), the CISPO paper does not give its own
    "cispo": Preset(
        GRPO(loss_aggregation="token_mean", clip="cispo", epsilon_low=1.0, epsilon_high=4.0, beta=0.0),
        "group_std",
    ),
    # a completion is one action (arXiv 2402.14740): Σ log π, so a constant length of 1
    "rloo": Preset(GRPO(loss_aggregation="constant", constant_length=1, beta=0.0), "leave_one_out"),
    "reinforce_pp": Preset(GRPO(loss_aggregation="token_mean", beta=0.0), "token"),
}
"""By name. rloo and reinforce_pp have their KL in the reward, dapo and its heirs none."""


def preset(name: str) -> Preset:
    """A member of the family by name; change fields with `dataclasses.replace`.

    Args:
        name: a key of `PRESETS`.

    Returns:
        Its objective and its kind of advantage.

    Raises:
        ConfigError: no such member.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown member of the GRPO family '{name}'; one of: {', '.join(PRESETS)}")
    return PRESETS[name]
