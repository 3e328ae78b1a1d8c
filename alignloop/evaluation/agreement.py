"""How far annotators agree beyond chance, with bootstrap intervals over items.

I items, A annotators, Q categories. Ratings come as I rows of A entries, None where an annotator has not
judged the item. A coefficient is NaN where it is undefined (nothing rated twice, or no variation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alignloop.errors import DataError

Array = NDArray[np.float64]
Ratings = Sequence[Sequence[Hashable | None]]
Measurement = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """A coefficient with its bootstrap interval and the number of items rated at least twice."""

    value: float
    low: float
    high: float
    level: float
    num_items: int


def percent_agreement(
    ratings: Ratings, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> Agreement:
    """Mean over items of the share of annotator pairs that gave the same category.

    Args:
        ratings: I rows of A entries, None where missing.
        level: nominal coverage of the interval.
        replicates: bootstrap replicates.
        seed: of the bootstrap.

    Returns:
        The mean share with its interval.

    Raises:
        DataError: no item, or rows of different lengths.
    """
    counts = _counts(ratings, _categories(ratings))

    def statistic(weights: Array) -> float:
        return _observed(counts, weights)

    found = _with_interval(statistic, counts, level, replicates, seed, chance_disagreement=1.0)
    return replace(found, low=max(found.low, 0.0))


def cohen_kappa(
    first: Sequence[Hashable | None],
    second: Sequence[Hashable | None],
    *,
    weighting: Literal["none", "linear", "quadratic"] = "none",
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Cohen's κ = (p_o − p_e)/(1 − p_e) of two annotators; items that one has not judged are left out.

    Cohen 1960; weighted: Cohen 1968, with |i − j| or (i − j)² as disagreement between the i-th and j-th
    category in sorted order.

    Args:
        first: (I,) categories given by one annotator, None where missing.
        second: (I,) the other's.
        weighting: how much a disagreement counts: none (all alike), linear or quadratic.
        level: nominal coverage of the interval.
        replicates: bootstrap replicates.
        seed: of the bootstrap.

    Returns:
        κ with its interval.

    Raises:
        DataError: no item or unequal lengths; for weights, categories that cannot be sorted.
    """
    if len(first) != len(second):
        raise DataError(f"{len(first)} ratings against {len(second)}", field="ratings")
    rows = [pair for pair in zip(first, second, strict=True) if None not in pair]
    categories = _categories(rows, ordered=weighting != "none")
    counts = _counts(rows, categories)
    index = {c: k for k, c in enumerate(categories)}
    a, b = (np.array([index[row[side]] for row in rows], dtype=int) for side in (0, 1))
    size = len(categories)
    distance = np.abs(np.arange(size)[:, None] - np.arange(size)[None, :]).astype(float)
    cost = {"none": (distance > 0).astype(float), "linear": distance, "quadratic": distance**2}[weighting]

    def statistic(weights: Array) -> float:
        table = np.bincount(a * size + b, weights=weights, minlength=size * size).reshape(size, size)
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
        return _ratio((cost * table).sum(), (cost * expected).sum())

    return _with_interval(statistic, counts, level, replicates, seed)


def krippendorff_alpha(
    ratings: Ratings,
    *,
    measurement: Measurement = "nominal",
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Krippendorff's α = 1 − D_o/D_e, any number of annotators, missing ratings allowed.

    Krippendorff 2011, "Computing Krippendorff's alpha-reliability". Differences: nominal 0/1, ordinal by
    how many ratings lie between two ranks, interval (a − b)².

    Args:
        ratings: I rows of A entries; sortable for ordinal, numbers for interval.
        measurement: level of measurement.
        level: nominal coverage of the interval.
        replicates: bootstrap replicates.
        seed: of the bootstrap.

    Returns:
        α with its interval.

    Raises:
        DataError: no item, rows of different lengths, or categories that do not fit the measurement.
    """
    categories = _categories(ratings, ordered=measurement != "nominal")
    counts = _counts(ratings, categories)
    counts = np.where(counts.sum(1, keepdims=True) >= 2, counts, 0)
    values = _numbers(categories) if measurement == "interval" else np.arange(len(categories), dtype=float)
    per_item = np.maximum(counts.sum(1) - 1, 1)

    def statistic(weights: Array) -> float:
        scaled = counts * (weights / per_item)[:, None]
        coincidence = scaled.T @ counts - np.diag(scaled.sum(0))
        totals = coincidence.sum(1)
        if measurement == "ordinal":
            # Rank of a category: ratings below it plus half of its own.
            rank = np.cumsum(totals) - totals / 2
            cost = (rank[:, None] - rank[None, :]) ** 2
        elif measurement == "interval":
            cost = (values[:, None] - values[None, :]) ** 2
        else:
            cost = 1.0 - np.eye(len(categories))
        expected = (np.outer(totals, totals) - np.diag(totals)) / max(totals.sum() - 1, 1)
        return _ratio((cost * coincidence).sum(), (cost * expected).sum())

    return _with_interval(statistic, counts, level, replicates, seed)


def gwet_ac1(
    ratings: Ratings,
    *,
    categories: Sequence[Hashable] | None = None,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Gwet's AC1 = (p_a − p_e)/(1 − p_e), p_e = Σ_q π_q(1 − π_q)/(Q − 1): stable under skewed categories.

    Gwet 2008, "Computing inter-rater reliability and its variance in the presence of high agreement".

    Args:
        ratings: I rows of A entries, None where missing; π_q also uses items rated once.
        categories: all Q categories that could have been chosen; those that were, if not given.
        level: nominal coverage of the interval.
        replicates: bootstrap replicates.
        seed: of the bootstrap.

    Returns:
        AC1 with its interval.

    Raises:
        DataError: no item, rows of different lengths, or a rating outside `categories`.
    """
    seen = _categories(ratings)
    if categories is not None:
        unknown = [c for c in seen if c not in categories]
        if unknown:
            raise DataError("this rating is not among the categories", field="ratings", value=unknown[0])
        seen = list(dict.fromkeys(categories))
    counts = _counts(ratings, seen)
    rated = counts.sum(1)
    shares = counts / np.maximum(rated, 1)[:, None]

    def statistic(weights: Array) -> float:
        present = weights * (rated > 0)
        if len(seen) < 2 or present.sum() == 0:
            return math.nan
        pi = present @ shares / present.sum()
        chance = float((pi * (1 - pi)).sum()) / (len(seen) - 1)
        return _ratio(1 - _observed(counts, weights), 1 - chance)

    return _with_interval(statistic, counts, level, replicates, seed)


def _ratio(observed: float, expected: float) -> float:
    """1 − observed/expected disagreement, NaN where chance leaves no disagreement."""
    return 1 - float(observed) / float(expected) if expected > 0 else math.nan


def _observed(counts: Array, weights: Array) -> float:
    """Mean share of agreeing annotator pairs over the items rated at least twice."""
    rated = counts.sum(1)
    pairs = rated * (rated - 1)
    agreeing = (counts * (counts - 1)).sum(1) / np.maximum(pairs, 1)
    used = weights * (pairs > 0)
    return float((used * agreeing).sum() / used.sum()) if used.sum() > 0 else math.nan


def _categories(ratings: Ratings, *, ordered: bool = False) -> list[Hashable]:
    """The categories in use: sorted if their order matters, else in order of appearance."""
    if not ratings:
        raise DataError("agreement needs at least one item rated by both annotators", field="ratings")
    if len({len(row) for row in ratings}) != 1:
        raise DataError("every item needs one entry per annotator, None where missing", field="ratings")
    found = list(dict.fromkeys(entry for row in ratings for entry in row if entry is not None))
    if not ordered:
        return found
    try:
        return sorted(found)  # type: ignore[type-var]
    except TypeError as error:
        raise DataError("ordered categories must be all numbers or all text", field="ratings") from error


def _numbers(categories: Sequence[Hashable]) -> Array:
    if not all(isinstance(c, int | float | np.number) and math.isfinite(c) for c in categories):
        raise DataError("interval measurement needs finite numbers", field="ratings")
    return np.array(categories, dtype=np.float64)


def _counts(ratings: Ratings, categories: Sequence[Hashable]) -> Array:
    """How many annotators put each item into each category: (I, Q)."""
    index = {category: k for k, category in enumerate(categories)}
    counts = np.zeros((len(ratings), len(categories)))
    for i, row in enumerate(ratings):
        for entry in row:
            if entry is not None:
                counts[i, index[entry]] += 1
    return counts


def _with_interval(
    statistic: Callable[[Array], float],
    counts: Array,
    level: float,
    replicates: int,
    seed: int,
    *,
    chance_disagreement: float | None = None,
) -> Agreement:
    """The statistic on all items, and tanh(atanh v ± z·e/(1 − v²)) with e its bootstrap error over items.

    Fisher's transformation keeps the coverage near 1, where percentiles lose it. If every item agrees
    (v = 1) the bootstrap sees no spread; the low end is then where Wilson's upper limit of a rate of 0
    in I items, z²/(I + z²), puts the share of disagreement relative to chance. Replicates in which the
    statistic is undefined are left out.
    """
    items, rated = len(counts), int((counts.sum(1) >= 2).sum())
    value = statistic(np.ones(items))
    z = NormalDist().inv_cdf((1 + level) / 2)
    if math.isnan(value):
        return Agreement(value, math.nan, math.nan, level, rated)
    if value >= 1 - 1e-12:
        if chance_disagreement is None:
            shares = counts.sum(0) / counts.sum()
            chance_disagreement = float(1 - (shares**2).sum())
        lost = z**2 / (rated + z**2) / chance_disagreement if chance_disagreement > 0 else 2.0
        return Agreement(1.0, max(-1.0, 1 - lost), 1.0, level, rated)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(items, np.full(items, 1 / items), size=replicates).astype(float)
    values = np.array([statistic(weights) for weights in draws])
    error = float(np.nanstd(values, ddof=1)) if np.isfinite(values).sum() > 1 else math.nan
    bounded = min(max(value, -1 + 1e-12), 1 - 1e-12)
    half = z * error / (1 - bounded**2)
    low, high = math.tanh(math.atanh(bounded) - half), math.tanh(math.atanh(bounded) + half)
    return Agreement(value, low, high, level, rated)
