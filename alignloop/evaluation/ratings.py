"""Bradley–Terry ratings of models from pairwise comparisons, on the Elo scale.

K models, C prompts. P(i beats j) = σ(θ_i − θ_j); rating = centre + θ·400/ln 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from alignloop.errors import DataError

Array = NDArray[np.float64]

ELO_PER_LOGIT = 400 / math.log(10)
"""400 rating points are odds of 10 to 1."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A judged comparison: `score` is 1 if `first` won, ½ for a tie, 0 if `second` won.

    Comparisons with the same `prompt` are not independent.
    """

    first: str
    second: str
    score: float
    prompt: object


@dataclass(frozen=True, slots=True)
class ModelRating:
    """Rating of a model with its interval, and the number of comparisons it took part in."""

    model: str
    rating: float
    low: float
    high: float
    num_comparisons: int


def bradley_terry(
    comparisons: Sequence[Comparison],
    *,
    level: float = 0.95,
    centre: float = 1000.0,
    anchor: str | None = None,
    virtual_ties: float = 0.0,
) -> list[ModelRating]:
    """Maximum-likelihood ratings, best first, with intervals from the prompt-clustered sandwich covariance.

    Ties count as half a win for each side. Without `anchor` the mean rating is `centre`; with it that
    model has exactly `centre` and the intervals are those of differences from it.

    Args:
        comparisons: at least one; every model must be connected to every other through comparisons.
        level: nominal coverage of each interval.
        centre: rating of the mean or the anchor.
        anchor: name of the model to fix.
        virtual_ties: ties added to every pair that was compared; above 0 also a model that won or lost
            everything gets a finite rating (pulled towards its opponents').

    Returns:
        One rating per model, best first.

    Raises:
        DataError: a score outside 0…1, a model against itself, an unknown anchor, models that were never
            compared (directly or through others), or a group that lost nothing to the others.
    """
    models = sorted({name for c in comparisons for name in (c.first, c.second)})
    index = {name: i for i, name in enumerate(models)}
    _check(comparisons, models, anchor, virtual_ties)
    wins = np.zeros((len(models), len(models)))
    for c in comparisons:
        wins[index[c.first], index[c.second]] += c.score
        wins[index[c.second], index[c.first]] += 1 - c.score
    compared = (wins + wins.T) > 0
    wins = wins + 0.5 * virtual_ties * compared
    _check_connected(wins, models)
    theta, hessian = _fit(wins)
    covariance = _covariance(comparisons, index, theta, hessian)
    if anchor is not None:
        shift = np.eye(len(models))
        shift[:, index[anchor]] -= 1
        theta, covariance = shift @ theta, shift @ covariance @ shift.T
    z = NormalDist().inv_cdf((1 + level) / 2) * ELO_PER_LOGIT
    errors = np.sqrt(np.clip(np.diag(covariance), 0, None))
    counts = {m: sum(m in (c.first, c.second) for c in comparisons) for m in models}
    rated = [
        ModelRating(m, centre + ELO_PER_LOGIT * t, centre + ELO_PER_LOGIT * t - z * e,
                    centre + ELO_PER_LOGIT * t + z * e, counts[m])
        for m, t, e in zip(models, theta.tolist(), errors.tolist(), strict=True)
    ]  # fmt: skip
    return sorted(rated, key=lambda r: (-r.rating, r.model))


def expected_score(rating: float, other: float) -> float:
    """Predicted win rate of one rating against another: 1 / (1 + 10^((other − rating)/400))."""
    return 1 / (1 + 10 ** ((other - rating) / 400))


def _check(comparisons: Sequence[Comparison], models: list[str], anchor: str | None, ties: float) -> None:
    if not comparisons:
        raise DataError("ratings need at least one comparison", field="comparisons")
    for c in comparisons:
        if c.first == c.second:
            raise DataError("a model was compared with itself", field="first", value=c.first)
        if not 0 <= c.score <= 1:
            raise DataError("a score is 1 (first won), 0.5 (tie) or 0", field="score", value=c.score)
    if anchor is not None and anchor not in models:
        raise DataError(f"accepted are {', '.join(models)}", field="anchor", value=anchor)
    if ties < 0:
        raise DataError("must be 0 or more", field="virtual_ties", value=ties)


def _check_connected(wins: Array, models: list[str]) -> None:
    """Finite ratings need a chain of wins from every model to every other (Ford 1957)."""
    apart = [m for m, reached in zip(models, _reached(wins + wins.T), strict=True) if not reached]
    if apart:
        linked = [m for m in models if m not in apart]
        raise DataError(
            f"no comparison links {', '.join(linked)} with {', '.join(apart)}, so they have no common scale"
        )
    for direction, word in ((wins, "lost"), (wins.T, "won")):
        # Models that cannot be reached along wins have never been beaten by those that can.
        outside = [m for m, reached in zip(models, _reached(direction), strict=True) if not reached]
        if outside:
            raise DataError(
                f"{', '.join(outside)} {word} no comparison against the others, so the rating would be"
                " infinite; set virtual_ties above 0 for finite ratings"
            )


def _reached(edges: Array) -> NDArray[np.bool_]:
    """Models that can be reached from the first along positive entries."""
    seen = np.zeros(len(edges), dtype=bool)
    seen[0] = True
    for _ in range(len(edges)):
        seen = seen | (edges[seen] > 0).any(0)
    return seen


def _fit(wins: Array) -> tuple[Array, Array]:
    """Newton's method on the log-likelihood, θ summing to 0: (K, K) → (K,), (K, K)."""
    games = wins + wins.T
    theta = np.zeros(len(wins))
    for _ in range(200):
        p = 0.5 * (1 + np.tanh(0.5 * (theta[:, None] - theta[None, :])))
        gradient = wins.sum(1) - (games * p).sum(1)
        weight = games * p * (1 - p)
        hessian = np.diag(weight.sum(1)) - weight
        step = np.linalg.pinv(hessian) @ gradient
        theta = theta + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-11:
            return theta - theta.mean(), hessian
    raise DataError("the ratings did not converge: some model won or lost nearly everything")


def _covariance(
    comparisons: Sequence[Comparison], index: dict[str, int], theta: Array, hessian: Array
) -> Array:
    """Sandwich covariance with the scores summed per prompt, of θ centred on its mean."""
    prompts: dict[object, int] = {}
    rows = np.array([prompts.setdefault(c.prompt, len(prompts)) for c in comparisons])
    if len(prompts) < 2:
        raise DataError("intervals need comparisons on at least 2 prompts", field="prompt")
    first = np.array([index[c.first] for c in comparisons])
    second = np.array([index[c.second] for c in comparisons])
    residual = np.array([c.score for c in comparisons])
    residual = residual - 0.5 * (1 + np.tanh(0.5 * (theta[first] - theta[second])))
    scores = np.zeros((len(prompts), len(theta)))
    np.add.at(scores, (rows, first), residual)
    np.add.at(scores, (rows, second), -residual)
    bread = np.linalg.pinv(hessian)
    return bread @ (len(prompts) / (len(prompts) - 1) * scores.T @ scores) @ bread
