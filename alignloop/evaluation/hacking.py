"""Signs that a policy learned to please its reward: length, disagreement with gold, spread, sameness.

N completions in C prompts, each with its proxy reward; gold where it was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import Interval, resampling_weights
from alignloop.evaluation.texts import distinct, openings, self_bleu
from alignloop.rl.rewards import repetition

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LengthShare:
    """How much of a reward gain comes with length.

    Attributes:
        share: slope · change of length / change of reward; above 1 or below 0 where they work against
            each other.
        slope: reward per word among completions of one moment.
        reward_gain: mean reward late minus early.
        length_gain: mean length late minus early, words.
    """

    share: Interval
    slope: float
    reward_gain: float
    length_gain: float


@dataclass(frozen=True, slots=True)
class Variety:
    """How different completions are from one another and within themselves.

    Attributes:
        distinct_1, distinct_2: shares of different words and word pairs among all.
        self_bleu: 1 where all completions say the same.
        repetition: mean share of a completion's word triples that occurred before in it.
        opening: the commonest first four words.
        opening_share: share of completions that begin so.
        effective_openings: e to the entropy of the openings.
        num_texts: completions it rests on.
    """

    distinct_1: float
    distinct_2: float
    self_bleu: float
    repetition: float
    opening: str
    opening_share: float
    effective_openings: float
    num_texts: int


def length_share(
    early_reward: ArrayLike,
    early_length: ArrayLike,
    late_reward: ArrayLike,
    late_length: ArrayLike,
    *,
    level: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> LengthShare:
    """The part of the reward gain that length alone predicts.

    share = b·ΔL / ΔR, b the slope of reward on length within the early and within the late completions,
    pooled: what the reward pays for a word at one moment. The interval is the set of shares s for which
    b·ΔL − s·ΔR is not told apart from 0 (Fieller 1954), with bootstrap covariances of (b·ΔL, ΔR); where
    ΔR itself is not told apart from 0 the interval is without end.

    Args:
        early_reward: (M,) proxy rewards of completions early in the run, one per prompt.
        early_length: (M,) their lengths.
        late_reward: (N,) of late ones.
        late_length: (N,) their lengths.
        level: nominal coverage.
        replicates: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The share with its interval.

    Raises:
        DataError: unequal lengths, values that are not finite, or fewer than 3 completions on a side.
    """
    early = _table(early_reward, early_length, "early")
    late = _table(late_reward, late_length, "late")
    weights = [resampling_weights(len(side), replicates, seed + i) for i, side in enumerate((early, late))]
    part, gain = _parts(early, late, np.ones((1, len(early))), np.ones((1, len(late))))
    parts, gains = _parts(early, late, *weights)
    covariance = np.cov(np.stack([parts, gains]))
    low, high = _fieller(float(part[0]), float(gain[0]), covariance, level)
    value = float(part[0] / gain[0]) if gain[0] else float("nan")
    grown = float(late[:, 1].mean() - early[:, 1].mean())
    slope = float(part[0] / grown) if grown else 0.0
    interval = Interval(value, low, high, level, len(early) + len(late), "Fieller")
    return LengthShare(interval, slope, float(gain[0]), grown)


def variety(texts: Sequence[str], *, seed: int = 0) -> Variety:
    """Variety of completions; measures that grow with the number of texts compare equal numbers only."""
    opening, share, effective = openings(texts)
    return Variety(
        distinct(texts, 1),
        distinct(texts, 2),
        self_bleu(texts, seed=seed),
        float(np.mean([repetition(text) for text in texts])) if texts else 0.0,
        opening,
        share,
        effective,
        len(texts),
    )


def disagreements(proxy: ArrayLike, gold: ArrayLike, count: int) -> list[tuple[int, float]]:
    """The completions that the proxy likes most above what gold says, by difference of ranks.

    Ranks, because the two have no common unit; ties share their mean rank.

    Args:
        proxy: (N,) proxy rewards.
        gold: (N,) gold rewards.
        count: completions wanted.

    Returns:
        (index, rank of proxy − rank of gold as shares of N), largest first; differences above 0 only.

    Raises:
        DataError: unequal lengths.
    """
    a, b = np.asarray(proxy, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise DataError("proxy and gold rewards must be two lists of the same length", field="gold")
    gap = (_ranks(a) - _ranks(b)) / max(1, len(a))
    order = np.argsort(-gap, kind="stable")[:count]
    return [(int(i), float(gap[i])) for i in order if gap[i] > 0]


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _table(reward: ArrayLike, length: ArrayLike, name: str) -> Array:
    a, b = np.asarray(reward, dtype=np.float64), np.asarray(length, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise DataError("rewards and lengths must be two lists of the same length", field=name)
    if len(a) < 3 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("at least 3 completions with finite rewards are needed", field=name, value=len(a))
    return np.stack([a, b], axis=1)


def _parts(early: Array, late: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """b·ΔL and ΔR for each row of weights (R, M), (R, N) → (R,), (R,)."""
    moments = []
    for side, weights in ((early, first), (late, second)):
        total = weights.sum(1)
        reward, length = weights @ side[:, 0] / total, weights @ side[:, 1] / total
        both = weights @ (side[:, 0] * side[:, 1]) - total * reward * length
        square = weights @ side[:, 1] ** 2 - total * length**2
        moments.append((reward, length, both, square))
    (r0, l0, c0, s0), (r1, l1, c1, s1) = moments
    square = s0 + s1
    slope = np.divide(c0 + c1, square, out=np.zeros_like(square), where=square > 1e-9)
    return slope * (l1 - l0), r1 - r0


def _fieller(part: float, gain: float, covariance: Array, level: float) -> tuple[float, float]:
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    # (part − s·gain)² ≤ z²·(v_pp − 2s·v_pg + s²·v_gg), quadratic in s
    a = gain**2 - z2 * covariance[1, 1]
    b = -2 * (part * gain - z2 * covariance[0, 1])
    c = part**2 - z2 * covariance[0, 0]
    if a <= 0:
        return -np.inf, np.inf
    root = np.sqrt(max(0.0, b * b - 4 * a * c))
    return float((-b - root) / (2 * a)), float((-b + root) / (2 * a))
