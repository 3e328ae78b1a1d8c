"""Win rates: ties ½, prompts as the sampled unit, with and without length control.

N judged comparisons of a model against a baseline; a score is 1 for a win, ½ for a tie, 0 for a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import Interval, Method, mean_interval

Array = NDArray[np.float64]


def win_rate(
    scores: ArrayLike,
    prompts: Sequence[object] | None = None,
    *,
    method: Method = "wilson",
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean score with a prompt-clustered interval.

    Args:
        scores: (N,) 1, ½, 0; several per prompt are allowed (samples, judges, the two orders).
        prompts: (N,) prompt of each score; each its own if not given.
        method: "wilson", which also holds near 0 and 1, or the "studentised" bootstrap.
        level: nominal coverage.
        seed: of the bootstrap.

    Returns:
        The win rate with its interval.

    Raises:
        DataError: a score outside 0…1, or fewer than 2 prompts.
    """
    return mean_interval(scores, prompts, method=method, bounds=(0.0, 1.0), level=level, seed=seed)


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A win rate at equal length.

    Attributes:
        win_rate: the predicted win rate at a length difference of 0.
        length_effect: logit gained by tanh(Δ/sd) = 1; positive when longer answers win.
        raw: the win rate without length control.
    """

    win_rate: Interval
    length_effect: float
    raw: Interval


def length_controlled_win_rate(
    scores: ArrayLike,
    length_differences: ArrayLike,
    prompts: Sequence[object] | None = None,
    *,
    level: float = 0.95,
) -> LengthControlled:
    """Win rate predicted at equal length: P(win) = σ(b₀ + b₁·tanh(Δ/sd)), value σ(b₀).

    Dubois et al. 2024, arXiv 2404.04475, without their per-prompt difficulty term. Fitted with Firth's
    penalty (finite when every comparison is won); the interval is made on the logit scale from the
    prompt-clustered sandwich covariance.

    Args:
        scores: (N,) 1, ½, 0.
        length_differences: (N,) length of the model's answer minus the baseline's, any unit.
        prompts: (N,) prompt of each score; each its own if not given.
        level: nominal coverage.

    Returns:
        The win rates with and without length control.

    Raises:
        DataError: unequal lengths, scores outside 0…1, or fewer than 3 prompts.
    """
    raw = win_rate(scores, prompts, level=level)
    y, delta = np.asarray(scores, dtype=np.float64), np.asarray(length_differences, dtype=np.float64)
    if y.shape != delta.shape or not np.isfinite(delta).all():
        raise DataError("each score needs a finite length difference", field="length_differences")
    if raw.num_clusters < 3:
        raise DataError("length control needs at least 3 prompts", field="prompts")
    spread = delta.std()
    columns = [np.ones_like(y), np.tanh(delta / spread)] if spread > 0 else [np.ones_like(y)]
    x = np.stack(columns, axis=1)
    coefficients = _firth(x, y)
    labels = list(range(len(y))) if prompts is None else list(prompts)
    error = float(np.sqrt(_sandwich(x, y, coefficients, labels)[0, 0]))
    z = NormalDist().inv_cdf((1 + level) / 2)
    b0 = float(coefficients[0])
    ends = [float(_sigmoid(np.array(b0 + side * z * error))) for side in (-1, 0, 1)]
    interval = Interval(ends[1], ends[0], ends[2], level, raw.num_clusters, "length-controlled")
    return LengthControlled(interval, float(coefficients[1]) if spread > 0 else 0.0, raw)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _firth(x: Array, y: Array) -> Array:
    """Logistic regression with Jeffreys prior: solves Σ x·(y − p + h·(½ − p)) = 0 (Firth 1993)."""
    b = np.zeros(x.shape[1])
    for _ in range(100):
        p = _sigmoid(x @ b)
        w = np.maximum(p * (1 - p), 1e-12)
        inverse = np.linalg.inv(x.T @ (w[:, None] * x))
        leverage = w * np.einsum("ni,ij,nj->n", x, inverse, x)
        step = inverse @ (x.T @ (y - p + leverage * (0.5 - p)))
        b = b + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            return b
    raise DataError("the length-controlled fit did not converge: scores and lengths are degenerate")


def _sandwich(x: Array, y: Array, b: Array, labels: Sequence[object]) -> Array:
    """Cluster-robust covariance of the coefficients, residuals inflated by leverage (HC2-like)."""
    p = _sigmoid(x @ b)
    w = np.maximum(p * (1 - p), 1e-12)
    bread = np.linalg.inv(x.T @ (w[:, None] * x))
    leverage = w * np.einsum("ni,ij,nj->n", x, bread, x)
    scores = x * ((y - p) / np.sqrt(np.maximum(1 - leverage, 0.1)))[:, None]
    number: dict[object, int] = {}
    index = [number.setdefault(label, len(number)) for label in labels]
    sums = np.zeros((len(number), x.shape[1]))
    np.add.at(sums, index, scores)
    return bread @ (len(number) / (len(number) - 1) * sums.T @ sums) @ bread
