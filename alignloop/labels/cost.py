"""What labels cost, and what a budget buys.

The held-out accuracy of a reward model after n labels is fitted as acc(n) = c − a·n^(−b), a power law as
learning curves follow it (Hestness et al. 2017, arXiv 1712.00409).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignloop.errors import UserError
from alignloop.labels.project import Project, Settings

DEMONSTRATIONS_PER_PAIR = 0.4
"""Default mix, InstructGPT's: 13 000 demonstrations and 33 000 compared prompts (arXiv 2203.02155)."""

MIN_POINTS = 3
NORMAL_975 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """acc(n) = ceiling − scale·n^(−exponent).

    `residual` is the standard deviation of the points around it, `half_width` the 95 % interval that follows
    for one further point; both are NaN where there are no more points than the curve has parameters, since
    any three points lie on such a curve.
    """

    ceiling: float
    scale: float
    exponent: float
    residual: float
    half_width: float

    def accuracy(self, num_labels: float) -> float:
        """Expected held-out accuracy after `num_labels` labels."""
        return self.ceiling - self.scale * num_labels**-self.exponent


@dataclass(frozen=True, slots=True)
class CostPlan:
    """What a budget buys.

    Attributes:
        demonstrations: answers to write.
        pairs: items to compare.
        overlap_items: of those, judged by `overlap` annotators.
        judgements: comparisons paid for, checks and repetitions included.
        cost: of all of it.
        kappa_half_width: half the width of Cohen's κ 95 % interval that the overlap gives.
        accuracy: expected reward-model accuracy with all pairs, None without a learning curve.
    """

    demonstrations: int
    pairs: int
    overlap_items: int
    judgements: int
    cost: float
    kappa_half_width: float
    accuracy: float | None


def price_of(project: Project, num_answers: int) -> float:
    """Price of one judgement: a ranking of K answers counts as K − 1 comparisons, others as one."""
    if project.task == "edit":
        return project.settings.price_demonstration
    return project.settings.price_pair * (max(num_answers - 1, 1) if project.task == "ranking" else 1)


def fit_learning_curve(points: Sequence[tuple[float, float]]) -> LearningCurve:
    """Least squares over (labels, accuracy); the exponent on a grid, the rest linear, ceiling ≤ 1.

    Raises:
        UserError: fewer than three different numbers of labels, or values out of range.
    """
    if len({n for n, _ in points}) < MIN_POINTS:
        raise UserError(f"a learning curve needs at least {MIN_POINTS} different numbers of labels")
    if any(n < 1 or not 0.0 <= accuracy <= 1.0 for n, accuracy in points):
        raise UserError("a learning curve needs labels ≥ 1 and accuracies between 0 and 1")
    counts = np.array([n for n, _ in points], dtype=np.float64)
    accuracies = np.array([accuracy for _, accuracy in points])
    best: tuple[float, LearningCurve] | None = None
    for exponent in np.linspace(0.05, 1.5, 146):
        falling = counts**-exponent
        ceiling, scale = _line(falling, accuracies)
        residuals = accuracies - (ceiling - scale * falling)
        error = float(residuals @ residuals)
        if best is None or error < best[0]:
            free = len(points) - MIN_POINTS
            spread = math.sqrt(error / free) if free else math.nan
            width = spread * _T_QUANTILES[min(free, len(_T_QUANTILES)) - 1] if free else math.nan
            best = (error, LearningCurve(ceiling, scale, float(exponent), spread, width))
    assert best is not None
    return best[1]


_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % quantiles of Student's t with 1, 2, … degrees of freedom; the last one for more."""


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares y = ceiling − scale·x with ceiling ≤ 1 and scale ≥ 0."""
    centred = x - x.mean()
    scale = max(0.0, -float(centred @ y) / float(centred @ centred))
    ceiling = float(y.mean() + scale * x.mean())
    if ceiling > 1.0:
        ceiling, scale = 1.0, max(0.0, float(x @ (1.0 - y)) / float(x @ x))
    return ceiling, scale


def plan(
    budget: float,
    settings: Settings,
    *,
    demonstrations_per_pair: float = DEMONSTRATIONS_PER_PAIR,
    kappa_half_width: float = 0.1,
    curve: LearningCurve | None = None,
    labels_so_far: int = 0,
) -> CostPlan:
    """Split a budget into demonstrations, pairs, and pairs judged more than once.

    A second judgement of a pair teaches the reward model less than a new pair, so overlap is bought only
    to know the agreement: as many pairs as bring Cohen's κ to ± `kappa_half_width`, at most 20 % of
    them. At an observed agreement of ¾ with two equally frequent sides, the standard error of κ is
    2·√(¾·¼/n), so n = ¾·¼·(2·1.96/half width)².

    Args:
        budget: in the project's currency.
        settings: prices, overlap, shares of checks and repetitions.
        demonstrations_per_pair: 0 for pairs only.
        kappa_half_width: wanted precision of κ.
        curve: fitted learning curve, for the expected accuracy.
        labels_so_far: pairs already judged, which the curve counts as well.

    Returns:
        The plan.

    Raises:
        UserError: a budget that buys no pair.
    """
    if not (math.isfinite(budget) and budget > 0) or demonstrations_per_pair < 0 or kappa_half_width <= 0:
        raise UserError("budget and precision must be positive, demonstrations per pair not negative")
    _check_prices(settings, demonstrations_per_pair)
    wanted = math.ceil(0.1875 * (2 * NORMAL_975 / kappa_half_width) ** 2)

    def bought(pairs: int) -> CostPlan:
        demonstrations, overlapped = int(demonstrations_per_pair * pairs), min(wanted, int(0.2 * pairs))
        paid_twice = overlapped * (max(settings.overlap, 2) - 1)
        judgements = math.ceil((pairs + paid_twice) / (1 - settings.gold_share - settings.repeat_share))
        return CostPlan(
            demonstrations=demonstrations,
            pairs=pairs,
            overlap_items=overlapped,
            judgements=judgements,
            cost=demonstrations * settings.price_demonstration + judgements * settings.price_pair,
            kappa_half_width=2 * NORMAL_975 * math.sqrt(0.1875 / overlapped) if overlapped else math.inf,
            accuracy=None if curve is None else curve.accuracy(labels_so_far + pairs),
        )

    # The cost rises with the pairs, so the most that the budget buys is found by halving.
    low, high = 0, int(budget / settings.price_pair) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bought(middle).cost <= budget else (low, middle)
    if low < 1:
        raise UserError(f"{settings.currency}{budget:g} does not buy one pair")
    return bought(low)


def _check_prices(settings: Settings, demonstrations_per_pair: float) -> None:
    if settings.price_pair <= 0:
        raise UserError("a plan needs the price of a comparison: --price-pair, or the project's settings")
    if demonstrations_per_pair > 0 and settings.price_demonstration <= 0:
        raise UserError(
            "a plan needs the price of a demonstration: --price-demonstration, or the project's settings "
            "(without demonstrations: --demonstrations-per-pair 0)"
        )
