"""One metric of several models on the same prompts: values, differences from a baseline, alignment tax.

C prompts, S models other than the baseline. A value of a prompt is total/size: size 1 for a score, the
number of tokens for a log-probability. Differences are paired and their intervals hold for all S models
at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import (
    Interval,
    mean_interval,
    rate_interval,
    resampling_weights,
    simultaneous_intervals,
    simultaneous_p,
    studentised_p,
)
from alignloop.evaluation.normals import agreeing, correlation_of, largest_normal, p_of_largest
from alignloop.evaluation.planner import prompts_for_difference

Array = NDArray[np.float64]
Scale = Literal["rate", "mean", "log"]
Tax = Literal["within the margin", "beyond the margin", "undecided"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of every model, prompt by prompt.

    Attributes:
        name: of the metric.
        unit: of its values.
        higher_is_better: None where neither is.
        totals: (C,) by model; every model has the same prompts in the same order.
        sizes: (C,), ones for scores; the same for all models, or prompts could not be paired.
        scale: "rate" for totals that are 0 or 1, "mean" for others (probabilities too), "log" if exp of
            the mean is shown (perplexity); differences on the log scale are relative: exp(difference) − 1.
        margin: largest loss against the baseline that is acceptable, in the unit of differences; None if
            the metric is no capability.
        missing: by model, why it was not measured.
        note: what the number cannot tell, for beside it; "" for nothing.
    """

    name: str
    unit: str
    higher_is_better: bool | None
    totals: Mapping[str, Array]
    sizes: Array
    scale: Scale = "mean"
    margin: float | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelCell:
    """One model on one metric.

    Attributes:
        value: with an interval of its own.
        difference: from the baseline, intervals of all models holding at once; None for the baseline.
        p: of no difference, for all models at once; below 1 − level where `difference` excludes 0.
        verdict: better, worse, or no difference shown; "" for the baseline and where nothing is better.
        tax: of a capability; None otherwise.
        more_prompts: prompts that would decide an undecided tax, had the model lost nothing.
    """

    value: Interval
    difference: Interval | None = None
    p: float | None = None
    verdict: str = ""
    tax: Tax | None = None
    more_prompts: int | None = None


def measurement(
    name: str,
    values: Mapping[str, ArrayLike],
    *,
    unit: str = "",
    higher_is_better: bool | None = True,
    scale: Scale = "mean",
    sizes: ArrayLike | None = None,
    margin: float | None = None,
    missing: Mapping[str, str] | None = None,
    note: str = "",
) -> Measurement:
    """A checked `Measurement`.

    Args:
        name: of the metric.
        values: (C,) total of each prompt by model.
        unit: of the values.
        higher_is_better: None where neither is.
        scale: rate, mean or log; rate becomes mean where a total is neither 0 nor 1.
        sizes: (C,), ones if not given.
        margin: acceptable loss, None for no capability.
        missing: by model, why it was not measured.
        note: what the number cannot tell.

    Returns:
        The measurement.

    Raises:
        DataError: models with unequal numbers of prompts, or values that are not finite.
    """
    totals = {model: np.asarray(v, dtype=np.float64) for model, v in values.items()}
    counts = {model: len(v) for model, v in totals.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{model} {count}" for model, count in counts.items())
        raise DataError(f"the models were measured on unequal prompts ({shown})", field=name)
    for model, v in totals.items():
        if v.ndim != 1 or not np.isfinite(v).all():
            raise DataError(f"{model} has values that are no finite numbers", field=name)
    if scale == "rate" and any(((v != 0) & (v != 1)).any() for v in totals.values()):
        scale = "mean"  # the interval of a rate is too wide for probabilities, whose spread is smaller
    count = next(iter(counts.values()), 0)
    known = np.ones(count) if sizes is None else np.asarray(sizes, dtype=np.float64)
    return Measurement(name, unit, higher_is_better, totals, known, scale, margin, missing or {}, note)


def compare(
    measured: Measurement, baseline: str, *, level: float = 0.95, replicates: int = 2000, seed: int = 0
) -> dict[str, ModelCell]:
    """Values of all models and their differences from the baseline.

    Args:
        measured: one metric.
        baseline: name of the model the others are compared with; without it there are values only.
        level: of the intervals.
        replicates: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        A cell for every model that was measured.

    Raises:
        DataError: fewer than 2 prompts.
    """
    cells = {
        model: ModelCell(_value(measured, totals, level, replicates, seed))
        for model, totals in measured.totals.items()
    }
    others = [model for model in cells if model != baseline]
    if baseline not in cells or not others:
        return cells
    table = np.stack([measured.totals[m] - measured.totals[baseline] for m in others], axis=1)
    found = differences(table, measured.sizes, measured.scale, level, replicates, seed)
    for model, (interval, p), column in zip(others, found, table.T, strict=True):
        cell = replace(
            cells[model],
            difference=interval,
            p=p,
            verdict=_verdict(interval, measured.higher_is_better),
        )
        if measured.margin is not None and measured.higher_is_better is not None:
            tax = alignment_tax(interval, measured.margin, higher_is_better=measured.higher_is_better)
            more = _more_prompts(column, measured, level) if tax == "undecided" else None
            cell = replace(cell, tax=tax, more_prompts=more)
        cells[model] = cell
    return cells


def differences(
    table: Array, sizes: Array, scale: Scale, level: float = 0.95, replicates: int = 2000, seed: int = 0
) -> list[tuple[Interval, float]]:
    """Mean differences from the baseline with intervals and p-values that hold for all models at once.

    A p-value is the level at which its own interval touches 0, so the two never contradict each other.

    Rates: Bonett & Price (2012), made simultaneous: two prompts, one won and one lost, are added, so that
    models without a discordant prompt do not get an interval of width 0; the critical value is that of
    the largest of S correlated normals (Hothorn, Bretz & Westfall 2008). Others: max-t bootstrap, for one
    model the bootstrap-t, on values linearised at the ratio of sums.

    Args:
        table: (C, S) difference of each prompt's totals.
        sizes: (C,).
        scale: as in `Measurement`; "log" gives exp(difference) − 1.
        level: nominal coverage of all intervals together.
        replicates: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        One interval and p-value per model.

    Raises:
        DataError: fewer than 2 prompts.
    """
    if len(table) < 2:
        raise DataError("an interval needs at least 2 prompts", field="values", value=len(table))
    if scale == "rate":
        found, p = _rate_differences(table, level, seed)
    else:
        found, p = _mean_differences(linearised(table, sizes), level, replicates, seed)
    if scale == "log":
        found = [
            replace(i, value=math.expm1(i.value), low=math.expm1(i.low), high=math.expm1(i.high))
            for i in found
        ]
    excludes = np.array([not i.low <= 0 <= i.high for i in found])
    return list(zip(found, agreeing(p, excludes, level), strict=True))


def linearised(table: Array, sizes: Array) -> Array:
    """One value per prompt whose mean and standard error are those of the ratio Σ totals / Σ sizes.

    (C, S), (C,) → (C, S).
    """
    mean = table.sum(0) / sizes.sum()
    return mean + (table - sizes[:, None] * mean) / sizes.mean()


def alignment_tax(difference: Interval, margin: float, *, higher_is_better: bool) -> Tax:
    """Whether a capability lost at most `margin`, by the whole interval (a non-inferiority test).

    Args:
        difference: model minus baseline.
        margin: largest acceptable loss, 0 or more.
        higher_is_better: direction of the metric.

    Returns:
        "within the margin" if the whole interval is, "beyond the margin" if the whole is not.
    """
    losses = (-difference.low, -difference.high) if higher_is_better else (difference.high, difference.low)
    if losses[0] <= margin:
        return "within the margin"
    return "beyond the margin" if losses[1] > margin else "undecided"


def _rate_differences(table: Array, level: float, seed: int) -> tuple[list[Interval], Array]:
    count = len(table) + 2
    mean = table.sum(0) / count
    error = np.sqrt(np.clip(((table**2).sum(0) + 2) / count - mean**2, 0, None) / count)
    correlation = correlation_of(table)
    critical = largest_normal(correlation, level, seed=seed)
    low, high = np.clip(mean - critical * error, -1, 1), np.clip(mean + critical * error, -1, 1)
    intervals = [
        Interval(float(v), float(a), float(b), level, len(table), "Bonett-Price")
        for v, a, b in zip(table.mean(0), low, high, strict=True)
    ]
    return intervals, p_of_largest(correlation, mean / error, seed=seed)


def _mean_differences(
    linear: Array, level: float, replicates: int, seed: int
) -> tuple[list[Interval], Array]:
    weights = resampling_weights(len(linear), replicates, seed)
    if linear.shape[1] == 1:
        interval = mean_interval(linear[:, 0], level=level, replicates=replicates, seed=seed)
        return [interval], studentised_p(linear, np.ones(len(linear)), weights)
    intervals = simultaneous_intervals(linear, level=level, replicates=replicates, seed=seed)
    return intervals, simultaneous_p(linear, weights)


def _value(measured: Measurement, totals: Array, level: float, replicates: int, seed: int) -> Interval:
    if measured.scale == "rate":
        return rate_interval(totals, level=level)
    linear = linearised(totals[:, None], measured.sizes)[:, 0]
    found = mean_interval(linear, level=level, replicates=replicates, seed=seed)
    if measured.scale == "mean":
        return found
    # a few texts tell so little that the upper end is beyond the largest float
    value, low, high = (math.exp(min(end, 700.0)) for end in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high)


def _verdict(difference: Interval, higher_is_better: bool | None) -> str:
    if higher_is_better is None:
        return ""
    if difference.low <= 0 <= difference.high:
        return "no difference shown"
    return "better" if (difference.low > 0) == higher_is_better else "worse"


def _more_prompts(column: Array, measured: Measurement, level: float) -> int | None:
    """Prompts with which a model that lost nothing would be shown to lose less than the margin."""
    margin = measured.margin or 0.0
    deviation = float(np.std(column, ddof=1) / measured.sizes.mean())
    if margin <= 0 or deviation == 0:
        return None
    return prompts_for_difference(margin, standard_deviation=deviation, level=level)
