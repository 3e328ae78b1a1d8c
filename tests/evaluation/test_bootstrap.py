import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import (
    cluster_sums,
    max_t,
    mean_interval,
    rate_interval,
    resampled_errors,
    resampling_weights,
    score_z,
    simultaneous_intervals,
    simultaneous_p,
    standard_error,
    studentised,
    studentised_p,
    wilson,
)


def coverage(low, high, truth):
    return float(np.mean((low <= truth) & (truth <= high)))


def test_wilson_equals_the_reference_for_independent_yes_no_values():
    for wins, total in ((0, 20), (1, 30), (150, 200), (40, 40)):
        values = np.r_[np.ones(wins), np.zeros(total - wins)]
        found = rate_interval(values)
        # n* = p(1 − p)/e² = n − 1 because e² divides by n − 1; without spread n* = n.
        effective = total - 1 if 0 < wins < total else total
        low, high = proportion_confint(wins / total * effective, effective, method="wilson")
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_clusters_count_not_values():
    # Every prompt judged five times alike carries what one judgement carries.
    values = np.array([1.0] * 30 + [0.0] * 20)
    prompts = [f"질문 {i}" for i in range(50)]
    once = rate_interval(values, prompts)
    five = rate_interval(np.repeat(values, 5), [p for p in prompts for _ in range(5)])
    assert (once.low, once.high) == pytest.approx((five.low, five.high), abs=1e-12)
    assert five.num_clusters == 50
    assert five.value == 0.6


def test_standard_error_is_the_plain_one_without_clusters():
    values = np.random.default_rng(0).exponential(size=40)
    totals, sizes = cluster_sums(values)
    assert standard_error(totals[:, None], sizes)[0] == pytest.approx(stats.sem(values), abs=1e-14)


def test_resampled_errors_are_those_of_the_drawn_prompts():
    rng = np.random.default_rng(0)
    totals, sizes = rng.normal(size=(12, 2)), rng.integers(1, 4, 12).astype(float)
    weights = resampling_weights(12, 5, 0)
    means, errors = resampled_errors(totals, sizes, weights)
    for r in range(5):
        drawn = np.repeat(np.arange(12), weights[r].astype(int))
        assert means[r] == pytest.approx(totals[drawn].sum(0) / sizes[drawn].sum(), abs=1e-12)
        assert errors[r] == pytest.approx(standard_error(totals[drawn], sizes[drawn]), abs=1e-12)


@pytest.mark.parametrize("num_prompts", [100, 200])
@pytest.mark.parametrize("rate", [0.5, 0.7, 0.9, 0.95, 0.98])
def test_rate_interval_covers(num_prompts, rate):
    # Averaged over rates near `rate`: at a single one the binomial's steps move coverage by ±2 %.
    rng = np.random.default_rng(0)
    rates = rng.uniform(rate - (1 - rate) / 2, rate + (1 - rate) / 2, 4000)
    values = (rng.random((num_prompts, 4000)) < rates).astype(float)
    low, high = wilson(values, np.ones(num_prompts))
    assert 0.93 <= coverage(low, high, rates) <= 0.97


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
def test_rate_interval_covers_with_two_correlated_orders_and_ties(rate):
    rng = np.random.default_rng(1)
    chance = rng.beta(2 * rate, 2 * (1 - rate), size=(120, 4000))
    wins = (rng.random(chance.shape) < chance).astype(float) + (rng.random(chance.shape) < chance)
    low, high = wilson(wins, np.full(120, 2.0))
    assert 0.93 <= coverage(low, high, rate) <= 0.97


@pytest.mark.parametrize("rate", [0.6, 0.9])
def test_rate_interval_covers_with_unequal_prompts(rate):
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 6, 150).astype(float)
    chance = rng.beta(3 * rate, 3 * (1 - rate), size=(150, 4000))
    totals = rng.binomial(sizes[:, None].astype(int), chance).astype(float)
    low, high = wilson(totals, sizes)
    assert 0.93 <= coverage(low, high, rate) <= 0.97


@pytest.mark.parametrize("num_prompts", [100, 200])
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng, shape: rng.normal(size=shape), 0.0),
        (lambda rng, shape: rng.exponential(size=shape), 1.0),
        (lambda rng, shape: rng.lognormal(sigma=0.8, size=shape), math.exp(0.32)),
        (lambda rng, shape: rng.integers(0, 6, size=shape).astype(float), 2.5),
    ],
)
def test_mean_interval_covers(num_prompts, draw, truth):
    totals = draw(np.random.default_rng(3), (num_prompts, 3000))
    weights = resampling_weights(num_prompts, 1000, 0)
    low, high = studentised(totals, np.ones(num_prompts), weights, 0.95)
    assert 0.93 <= coverage(low, high, truth) <= 0.97


def test_mean_interval_covers_with_correlated_values_of_unequal_prompts():
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 6, 150).astype(float)
    shared = rng.exponential(size=(150, 3000))
    totals = sizes[:, None] * shared + rng.normal(size=shared.shape) * np.sqrt(sizes)[:, None]
    low, high = studentised(totals, sizes, resampling_weights(150, 1000, 0), 0.95)
    assert 0.93 <= coverage(low, high, 1.0) <= 0.97
    # A value has variance 1 + 1; taking all 450 or so as independent would not cover.
    naive = 1.96 * math.sqrt(2 / sizes.sum())
    mean = totals.sum(0) / sizes.sum()
    assert coverage(mean - naive, mean + naive, 1.0) < 0.85


def test_simultaneous_intervals_cover_all_models_at_once():
    rng = np.random.default_rng(5)
    weights = resampling_weights(150, 500, 0)
    hits = alone = 0
    for _ in range(600):
        table = rng.normal(size=(150, 6)) + rng.normal(size=(150, 1)) + rng.exponential(size=(150, 6))
        t = np.abs(table.mean(0) - 1) / standard_error(table, np.ones(150))
        hits += t.max() <= max_t(table, weights, 0.95)
        alone += t.max() <= 1.96
    assert 0.93 <= hits / 600 <= 0.97
    assert alone / 600 < 0.88


def test_simultaneous_intervals_are_wider_than_one_alone_and_narrower_than_bonferroni():
    rng = np.random.default_rng(6)
    table = rng.normal(size=(200, 1)) + 0.3 * rng.normal(size=(200, 8))
    found = simultaneous_intervals(table, seed=1)
    error = standard_error(table, np.ones(200))
    widths = [(i.high - i.low) / (2 * e) for i, e in zip(found, error, strict=True)]
    assert max(widths) == pytest.approx(min(widths))
    assert 2.0 < widths[0] < stats.norm.ppf(1 - 0.025 / 8)
    assert [i.value for i in found] == pytest.approx(table.mean(0).tolist())


def test_a_model_without_spread_has_a_point_interval():
    table = np.stack([np.ones(50), np.random.default_rng(0).normal(size=50)], axis=1)
    constant, varied = simultaneous_intervals(table)
    assert (constant.low, constant.high) == (1.0, 1.0)
    assert varied.low < varied.value < varied.high


def test_mean_interval_is_seeded_and_cut_at_its_bounds():
    values = np.random.default_rng(0).exponential(size=30)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)
    passed = np.r_[np.ones(99), 0.0]
    cut = mean_interval(passed, bounds=(0, 1))
    assert (cut.low >= 0, cut.high) == (True, 1.0)
    assert mean_interval([2.0, 2.0, 2.0]).low == mean_interval([2.0, 2.0, 2.0]).high == 2.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "at least one value"),
        (lambda: mean_interval([1.0]), "at least 2 prompts"),
        (lambda: mean_interval([1.0, 0.0], ["a", "a"]), "at least 2 prompts"),
        (lambda: mean_interval([1.0, 2.0], ["a"]), "2 values but 1 prompts"),
        (lambda: mean_interval([1.0, math.nan]), "finite"),
        (lambda: rate_interval([0.0, 1.2]), "between 0 and 1"),
        (lambda: mean_interval([0.0, 1.0], method="wilson"), "needs the bounds"),
        (lambda: simultaneous_intervals([[1.0, 2.0]]), "2 prompts or more"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(DataError, match=message):
        call()


@pytest.mark.parametrize("num_models", [1, 3])
def test_p_keeps_its_level_and_finds_a_difference(num_models):
    """Under no difference p ≤ 0.05 in about 5 % of the trials; for one normal series p is the t-test's."""
    rng = np.random.default_rng(11)
    weights = resampling_weights(100, 500, 0)
    hits, gaps = 0, []
    for _ in range(400):
        table = rng.normal(size=(100, num_models))
        if num_models == 1:
            p = studentised_p(table, np.ones(100), weights)
            gaps.append(abs(p[0] - stats.ttest_1samp(table[:, 0], 0).pvalue))
        else:
            p = simultaneous_p(table, weights)
        hits += p.min() <= 0.05
    assert 0.02 <= hits / 400 <= 0.08
    if gaps:
        assert np.mean(gaps) < 0.03
    far = simultaneous_p(rng.normal(2, 1, (100, num_models)), weights)
    assert (far == 1 / 501).all()


def test_the_score_z_is_where_wilsons_interval_touches():
    wins = np.r_[np.ones(40), np.zeros(24)]
    z = score_z(wins, np.ones(64))
    assert z == pytest.approx(2.0, rel=1e-9, abs=0.02)  # (0.625 − 0.5)/√(0.25/64), n* = 63
    low, _ = wilson(wins[:, None], np.ones(64), level=2 * stats.norm.cdf(z) - 1)
    assert low[0] == pytest.approx(0.5, abs=1e-9)
