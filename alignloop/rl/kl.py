"""KL to the reference: the coefficient's controllers, and how far sampler and trainer differ.

The per-token estimators k1, k2, k3 are `objectives.base.kl_estimate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from alignloop.objectives.base import bounded_ratio, kl_estimate, sequence_sum

FLOAT32_GAP = 0.5
"""Nats that one token's log-prob may differ between trainer and sampler in float32; 1e-5 to 1e-3 are seen."""
BFLOAT16_GAP = 0.2
"""Nats that log-probs may differ on average in bfloat16. Single tokens say little there: rounding alone moves
an improbable one by several tenths, and a layer of experts may choose another expert."""


class KLController(Protocol):
    """Gives the coefficient β of the KL in the reward, and is told what KL it led to."""

    beta: float

    def update(self, kl: float, *, num_completions: int) -> float: ...

    def state_dict(self) -> dict[str, float]: ...

    def load_state_dict(self, state: Mapping[str, float]) -> None: ...


@dataclass
class FixedKL:
    """The same β throughout."""

    beta: float = 0.05

    def update(self, kl: float, *, num_completions: int) -> float:
        return self.beta

    def state_dict(self) -> dict[str, float]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.beta = state["beta"]


@dataclass
class AdaptiveKL:
    """β ← β·(1 + clip(KL/target − 1, ±0.2)·n/horizon).

    Ziegler et al. 2019, arXiv 1909.08593, section 2.2.

    Attributes:
        beta: coefficient now; the initial one when made.
        target: KL per completion in nats to aim at.
        horizon: number of completions over which β may change by at most about 20 %.
    """

    beta: float = 0.05
    target: float = 6.0
    horizon: int = 10_000

    def update(self, kl: float, *, num_completions: int) -> float:
        """New β after a rollout of `num_completions` whose mean KL per completion was `kl` nats."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.beta *= 1 + error * num_completions / self.horizon
        return self.beta

    def state_dict(self) -> dict[str, float]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.beta = state["beta"]


def sequence_kl(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Σ k1 over each completion's counted tokens: its estimate of KL(π‖ref) in nats, (B,)."""
    return sequence_sum(logprobs - reference_logprobs, mask)


class Mismatch(NamedTuple):
    """How much the trainer's log-probs differ from the sampler's, over all counted tokens.

    Attributes:
        mean_abs: mean |Δlogp| in nats.
        max_abs: largest |Δlogp| in nats.
        kl: k3 estimate of KL(sampler‖trainer) per token in nats.
        mean_ratio: mean of trainer/sampler; 1 where the sampled distribution is the assumed one, and
            below it where top-p or top-k cut mass away that the trainer still counts.
        effective: effective sample share (Σw)²/(n·Σw²) of the ratios w, 1 if they are equal.
        capped: share of tokens whose ratio is above `cap`.
    """

    mean_abs: float
    max_abs: float
    kl: float
    mean_ratio: float
    effective: float
    capped: float


def mismatch(logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, *, cap: float = 2.0) -> Mismatch:
    """Compare log-probs of the same tokens by the trainer and by the engine that sampled them.

    Args:
        logprobs: (B, T), nats, under the trainer's policy with the weights that sampled.
        sampler_logprobs: (B, T), nats, as the engine reported them.
        mask: bool (B, T); without a True nothing differs.
        cap: bound of the truncated importance weight.

    Returns:
        Plain numbers, computed in float64.
    """
    if not mask.any():
        return Mismatch(0.0, 0.0, 0.0, 1.0, 1.0, 0.0)
    difference = (logprobs - sampler_logprobs)[mask].double()
    ratio = bounded_ratio(difference)
    return Mismatch(
        mean_abs=float(difference.abs().mean()),
        max_abs=float(difference.abs().max()),
        kl=float(kl_estimate(-difference, "k3").mean()),
        mean_ratio=float(ratio.mean()),
        effective=float(ratio.sum().square() / (ratio.numel() * ratio.square().sum())),
        capped=float((ratio > cap).double().mean()),
    )


def beyond_rounding(gap: Mismatch, *, bfloat16: bool) -> str | None:
    """How far trainer and sampler differ, in words, if it is further than rounding explains.

    Args:
        gap: of a mini-batch that the trainer's present weights sampled.
        bfloat16: whether matrix products run in bfloat16; float32 otherwise.

    Returns:
        Both numbers in nats and what would be rounding; None for rounding.
    """
    seen = f"by up to {gap.max_abs:.3g} nats, {gap.mean_abs:.3g} on average"
    if bfloat16:
        wrong = not gap.mean_abs <= BFLOAT16_GAP
        return f"{seen}, where rounding in bfloat16 explains {BFLOAT16_GAP} on average" if wrong else None
    wrong = not gap.max_abs <= FLOAT32_GAP
    return f"{seen}, where rounding in float32 explains less than {FLOAT32_GAP}" if wrong else None
