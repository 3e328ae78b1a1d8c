"""Intervals for means over prompts, and the p-values that belong to them.

N values in C clusters (prompts), S series (models) measured on the same prompts, R bootstrap replicates.
Values of one prompt are correlated (two orders, several samples), so prompts are drawn, never values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignloop.errors import DataError

Array = NDArray[np.float64]
Method = Literal["studentised", "wilson"]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
        level: nominal coverage, 0.95 for a 95 % interval.
        num_clusters: prompts it rests on.
        method: how the interval was made.
    """

    value: float
    low: float
    high: float
    level: float
    num_clusters: int
    method: str


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[object] | None = None,
    *,
    method: Method = "studentised",
    bounds: tuple[float, float] | None = None,
    level: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of the values with an interval that treats prompts as the sampled unit.

    The mean is Σ values / N: a prompt with more values weighs more. Two methods, both clustered:
    "studentised", the bootstrap-t (Efron & Tibshirani 1993, section 12.5) for scores of any shape, and
    "wilson", the score interval with an effective sample size, for rates. In simulation percentile and
    BCa bootstraps cover skewed scores and rates near 0 or 1 too rarely, so they are not offered.

    Args:
        values: (N,) float.
        clusters: (N,) prompt of each value; every value its own prompt if not given.
        method: see above.
        bounds: smallest and largest possible value, needed by "wilson"; the interval is cut there.
        level: nominal coverage.
        replicates: R, at least 1 000 for a report.
        seed: of the bootstrap.

    Returns:
        The mean with its interval.

    Raises:
        DataError: no value, a value that is not finite or outside `bounds`, or fewer than 2 prompts.
    """
    totals, sizes = cluster_sums(values, clusters)
    if bounds is not None and (np.min(values) < bounds[0] or np.max(values) > bounds[1]):
        raise DataError(f"values must lie between {bounds[0]:g} and {bounds[1]:g}", field="values")
    if method == "wilson":
        if bounds is None:
            raise DataError("the Wilson interval needs the bounds of the values", field="bounds")
        low, high = wilson(totals[:, None], sizes, bounds=bounds, level=level)
    else:
        weights = resampling_weights(len(sizes), replicates, seed)
        low, high = studentised(totals[:, None], sizes, weights, level)
    low, high = float(low[0]), float(high[0])
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Interval(float(totals.sum() / sizes.sum()), low, high, level, len(sizes), method)


def rate_interval(
    values: ArrayLike, clusters: Sequence[object] | None = None, *, level: float = 0.95
) -> Interval:
    """Mean of values between 0 and 1 (passes, wins with ties ½): the clustered Wilson interval.

    It keeps its coverage where the bootstrap loses it: few prompts, rates near 0 or 1.

    Args:
        values: (N,) between 0 and 1.
        clusters: (N,) prompt of each value; every value its own prompt if not given.
        level: nominal coverage.

    Returns:
        The mean with its interval.

    Raises:
        DataError: as `mean_interval`.
    """
    return mean_interval(values, clusters, method="wilson", bounds=(0.0, 1.0), level=level)


def cluster_sums(values: ArrayLike, clusters: Sequence[object] | None = None) -> tuple[Array, Array]:
    """Sum and number of the values of each prompt: (N,) → (C,), (C,).

    Args:
        values: (N,) float.
        clusters: (N,) prompt of each value; every value its own prompt if not given.

    Returns:
        Sums (C,) and numbers (C,), in order of appearance.

    Raises:
        DataError: as `mean_interval`.
    """
    flat = np.asarray(values, dtype=np.float64)
    if flat.ndim != 1 or not len(flat):
        raise DataError("a mean needs a list of at least one value", field="values")
    if not np.isfinite(flat).all():
        raise DataError("values must be finite numbers", field="values")
    if clusters is None:
        totals, sizes = flat, np.ones(len(flat), dtype=np.float64)
    else:
        if len(clusters) != len(flat):
            raise DataError(f"{len(flat)} values but {len(clusters)} prompts", field="clusters")
        number: dict[object, int] = {}
        index = [number.setdefault(c, len(number)) for c in clusters]
        totals, sizes = np.zeros(len(number)), np.zeros(len(number))
        np.add.at(totals, index, flat)
        np.add.at(sizes, index, 1.0)
    if len(sizes) < 2:
        raise DataError("an interval needs at least 2 prompts", field="clusters", value=len(sizes))
    return totals, sizes


def resampling_weights(num_clusters: int, replicates: int, seed: int) -> Array:
    """How often each prompt is drawn in each replicate: (R, C), rows sum to C."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=replicates).astype(
        float
    )


def standard_error(totals: Array, sizes: Array) -> Array:
    """Standard error of Σ totals / Σ sizes by linearisation over prompts: (C, S), (C,) → (S,)."""
    mean = totals.sum(0) / sizes.sum()
    residuals = totals - sizes[:, None] * mean
    return np.sqrt(len(sizes) / (len(sizes) - 1) * (residuals**2).sum(0)) / sizes.sum()


def resampled_errors(totals: Array, sizes: Array, weights: Array) -> tuple[Array, Array]:
    """Mean and standard error in each replicate: (C, S), (C,), (R, C) → (R, S), (R, S)."""
    count = len(sizes)
    mass = (weights @ sizes)[:, None]
    means = weights @ totals / mass
    # Σ w (t − z·m)² = Σ w t² − 2m Σ w t z + m² Σ w z²
    squares = weights @ totals**2 - 2 * means * (weights @ (totals * sizes[:, None]))
    squares = squares + means**2 * (weights @ sizes**2)[:, None]
    return means, np.sqrt(count / (count - 1) * np.clip(squares, 0, None)) / mass


def studentised(totals: Array, sizes: Array, weights: Array, level: float) -> tuple[Array, Array]:
    """Bootstrap-t interval of each series: (C, S), (C,), (R, C) → (S,), (S,)."""
    mean, error = totals.sum(0) / sizes.sum(), standard_error(totals, sizes)
    t = _replicates_of_t(totals, sizes, weights)
    low_t, high_t = np.quantile(t, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return mean - high_t * error, mean - low_t * error


def _replicates_of_t(totals: Array, sizes: Array, weights: Array) -> Array:
    """(mean* − mean) / error* of each replicate and series: (C, S), (C,), (R, C) → (R, S)."""
    mean, error = totals.sum(0) / sizes.sum(), standard_error(totals, sizes)
    means, errors = resampled_errors(totals, sizes, weights)
    # A replicate without spread has no t; it stands for an arbitrarily large one on its side.
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (means - mean) / errors
    return np.where(errors > 1e-12 * (np.abs(mean) + error), t, np.sign(means - mean) * 1e3)


def studentised_p(totals: Array, sizes: Array, weights: Array) -> Array:
    """Level at which the bootstrap-t interval of each series touches 0: (C, S), (C,), (R, C) → (S,).

    (1 + hits) / (1 + R) of the replicates' t beyond mean / error, doubled.
    """
    mean, error = totals.sum(0) / sizes.sum(), standard_error(totals, sizes)
    t = _replicates_of_t(totals, sizes, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(mean == 0, 0.0, mean / error)
    hits = np.where(own > 0, (t >= own).sum(0), (t <= own).sum(0))
    return np.where(own == 0, 1.0, np.minimum(1.0, 2 * (1 + hits) / (1 + len(weights))))


def wilson(
    totals: Array, sizes: Array, *, bounds: tuple[float, float] = (0.0, 1.0), level: float = 0.95
) -> tuple[Array, Array]:
    """Wilson's score interval with an effective sample size: (C, S), (C,) → (S,), (S,).

    With rate p and clustered standard error e, n* = p(1 − p)/e² independent yes/no values would have
    the same error. Without spread (p = 0 or 1) n* is the number of prompts.
    """
    width = bounds[1] - bounds[0]
    rate = (totals.sum(0) / sizes.sum() - bounds[0]) / width
    spread, effective = rate * (1 - rate), _effective(totals, sizes, rate, width)
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (rate + z2 / (2 * effective)) / (1 + z2 / effective)
    half = np.sqrt(z2 * (spread / effective + z2 / (4 * effective**2))) / (1 + z2 / effective)
    return bounds[0] + width * (centre - half), bounds[0] + width * (centre + half)


def score_z(totals: Array, sizes: Array, *, rate: float = 0.5) -> float:
    """(p − rate)/√(rate(1 − rate)/n*): the normal quantile at which Wilson's interval touches `rate`.

    (C,), (C,) → one number; n* as in `wilson`.
    """
    found = totals[:, None].sum(0) / sizes.sum()
    effective = _effective(totals[:, None], sizes, found, 1.0)
    return float(((found - rate) / np.sqrt(rate * (1 - rate) / effective))[0])


def _effective(totals: Array, sizes: Array, rate: Array, width: float) -> Array:
    """n* of `wilson`, (S,)."""
    error = standard_error(totals, sizes) / width
    many = np.full_like(rate, len(sizes))
    return np.divide(rate * (1 - rate), error**2, out=many, where=error**2 > 1e-18)


def simultaneous_intervals(
    values: ArrayLike, *, level: float = 0.95, replicates: int = 2000, seed: int = 0
) -> list[Interval]:
    """Intervals for the means of S models on the same prompts that all hold at once with `level`.

    max-t: the critical value is the `level` quantile over replicates of max_s |m*_s − m_s| / e*_s
    (Romano & Wolf 2005), so that the correlation between models is used.

    Args:
        values: (C, S) mean value of each model on each prompt.
        level: nominal coverage of all intervals together.
        replicates: R.
        seed: of the bootstrap.

    Returns:
        One interval per model.

    Raises:
        DataError: not a table of finite numbers with at least 2 prompts.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or not table.shape[1] or not np.isfinite(table).all():
        raise DataError(
            "wants a table prompts × models of finite numbers with 2 prompts or more", field="values"
        )
    sizes = np.ones(len(table))
    weights = resampling_weights(len(table), replicates, seed)
    critical = max_t(table, weights, level)
    mean, error = table.mean(0), standard_error(table, sizes)
    return [
        Interval(float(m), float(m - critical * e), float(m + critical * e), level, len(table), "max-t")
        for m, e in zip(mean, error, strict=True)
    ]


def max_t(table: Array, weights: Array, level: float) -> float:
    """The critical value of `simultaneous_intervals`: (C, S), (R, C) → one number."""
    largest = largest_t(table, weights)
    return float(np.quantile(largest, level)) if len(largest) else 0.0


def largest_t(table: Array, weights: Array) -> Array:
    """max_s |m*_s − m_s| / e*_s of each replicate: (C, S), (R, C) → (R,), or (0,) where no series varies."""
    means, errors = resampled_errors(table, np.ones(len(table)), weights)
    varied = standard_error(table, np.ones(len(table))) > 0
    if not varied.any():
        return np.empty(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(means - table.mean(0))[:, varied] / errors[:, varied]
    return np.nan_to_num(t, nan=0.0, posinf=1e3).max(1)


def simultaneous_p(table: Array, weights: Array) -> Array:
    """Level at which each interval of `simultaneous_intervals` touches 0: (C, S), (R, C) → (S,)."""
    mean, error = table.mean(0), standard_error(table, np.ones(len(table)))
    largest = largest_t(table, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(mean == 0, 0.0, np.abs(mean) / error)
    return (1 + (largest[:, None] >= own).sum(0)) / (1 + len(largest))
