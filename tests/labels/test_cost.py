"""Prices, learning curves, plans."""

from __future__ import annotations

import math

import pytest

from alignloop.errors import UserError
from alignloop.labels import cost
from alignloop.labels.project import Project, Settings

PLAIN = Settings(gold_share=0.0, repeat_share=0.0, price_pair=1.0, price_demonstration=5.0)


def test_prices():
    def price(task: str, num_answers: int) -> float:
        return cost.price_of(Project(1, "p", task, PLAIN, 1, 0), num_answers)

    assert (price("edit", 1), price("pair", 2), price("ranking", 5), price("thumbs", 3)) == (
        5.0,
        1.0,
        4.0,
        1.0,
    )


def test_an_exact_power_law_is_found_again():
    points = [(n, 0.80 - 0.6 * n**-0.4) for n in (50, 100, 200, 400, 800)]
    curve = cost.fit_learning_curve(points)
    assert curve.exponent == pytest.approx(0.4)
    assert curve.ceiling == pytest.approx(0.80)
    assert curve.scale == pytest.approx(0.6)
    assert curve.accuracy(3200) == pytest.approx(0.80 - 0.6 * 3200**-0.4)
    assert curve.residual < 1e-9


def test_three_points_tell_no_error():
    """Three points lie on such a curve exactly, which is no certainty."""
    three = cost.fit_learning_curve([(50, 0.6), (100, 0.65), (200, 0.68)])
    assert math.isnan(three.residual)
    assert math.isnan(three.half_width)
    four = cost.fit_learning_curve([(50, 0.6), (100, 0.66), (200, 0.66), (400, 0.72)])
    assert four.half_width == pytest.approx(12.706 * four.residual)  # t with one degree of freedom
    assert four.residual > 0.001


def test_a_ceiling_never_passes_one_and_a_falling_curve_is_flat():
    rising = cost.fit_learning_curve([(10, 0.5), (20, 0.7), (40, 0.9), (80, 0.99)])
    assert rising.ceiling <= 1.0
    assert rising.accuracy(10**9) <= 1.0
    falling = cost.fit_learning_curve([(10, 0.6), (20, 0.55), (40, 0.5)])
    assert falling.accuracy(10) == falling.accuracy(10**6) == pytest.approx(0.55)


def test_too_few_or_impossible_points():
    with pytest.raises(UserError, match="3 different"):
        cost.fit_learning_curve([(10, 0.5), (10, 0.6), (20, 0.7)])
    with pytest.raises(UserError, match="between 0 and 1"):
        cost.fit_learning_curve([(10, 0.5), (20, 60.0), (30, 0.7)])


def test_a_plan_spends_the_budget_and_no_more():
    # Pair with 0.4 demonstrations: $1 + 0.4·$5 = $3; a fifth of the pairs twice while below 289: $3.20.
    made = cost.plan(3000.0, PLAIN)
    assert made.cost <= 3000.0 < made.cost + 6.0
    assert made.overlap_items == min(289, made.pairs // 5)
    assert made.demonstrations == int(0.4 * made.pairs)
    assert made.judgements == made.pairs + made.overlap_items
    # n = ¾·¼·(2·1.96/0.1)² = 288.1 → 289.
    large = cost.plan(30_000.0, PLAIN)
    assert large.overlap_items == 289
    assert large.kappa_half_width == pytest.approx(2 * 1.959964 * math.sqrt(0.1875 / 289), rel=1e-6)


def test_pairs_only_checks_and_prices():
    # Nine tenths of the judgements are pairs, the rest hidden checks: 900 + overlap fills $1000.
    settings = Settings(gold_share=0.1, repeat_share=0.0, price_pair=1.0)
    made = cost.plan(1000.0, settings, demonstrations_per_pair=0.0)
    assert made.demonstrations == 0
    assert made.cost == pytest.approx(made.judgements)
    assert made.judgements == math.ceil((made.pairs + made.overlap_items) / 0.9)


def test_the_expected_accuracy_counts_labels_there_are():
    curve = cost.LearningCurve(0.8, 0.6, 0.4, 0.0, 0.0)
    made = cost.plan(1000.0, PLAIN, curve=curve, labels_so_far=500)
    assert made.accuracy == pytest.approx(0.8 - 0.6 * (500 + made.pairs) ** -0.4)


@pytest.mark.parametrize("budget", [0.0, -5.0, 0.5, float("nan")])
def test_a_budget_that_buys_nothing(budget):
    with pytest.raises(UserError):
        cost.plan(budget, PLAIN)


def test_nothing_has_a_price_until_somebody_says_it():
    unpriced = Settings()
    assert (unpriced.price_pair, unpriced.price_demonstration) == (0.0, 0.0)
    with pytest.raises(UserError, match="--price-pair"):
        cost.plan(100.0, unpriced)
    with pytest.raises(UserError, match="--price-demonstration"):
        cost.plan(100.0, Settings(price_pair=1.0))
    assert cost.plan(100.0, Settings(price_pair=1.0), demonstrations_per_pair=0.0).pairs > 50
