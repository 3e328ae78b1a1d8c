import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import (
    cluster_sums,
    holm,
    max_t,
    mean_interval,
    paired_interval,
    permutation_test,
    rate_interval,
    resampled_errors,
    resampling_weights,
    sign_test,
    simultaneous_intervals,
    standard_error,
    studentised,
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


def test_paired_interval_uses_the_pairing():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=100)
    first, second = hard + 0.2 + 0.1 * rng.normal(size=100), hard + 0.1 * rng.normal(size=100)
    found = paired_interval(first, second)
    assert 0.15 < found.low < found.value < found.high < 0.25


def test_sign_test_is_exact():
    # 9 wins, 1 loss, 3 ties: 2·(C(10,0) + C(10,1))/2¹⁰
    first = [1] * 9 + [0] + [1, 0, 0]
    second = [0] * 9 + [1] + [1, 0, 0]
    assert sign_test(first, second) == 22 / 1024
    assert sign_test(second, first) == 22 / 1024
    assert sign_test([1, 0], [1, 0]) == 1.0
    assert sign_test(np.r_[np.ones(60), np.zeros(40)], np.r_[np.zeros(60), np.ones(40)]) == pytest.approx(
        stats.binomtest(40, 100).pvalue, rel=1e-12
    )
    # Thousands of prompts: no overflow.
    assert 0 < sign_test(np.r_[np.ones(2600), np.zeros(2400)], np.r_[np.zeros(2600), np.ones(2400)]) < 0.01


def test_permutation_test_small_is_exact_and_large_agrees_with_the_reference():
    # All 2³ sign patterns; |sum| ≥ 6 only for +++ and −−−.
    assert permutation_test([1, 2, 3], [0, 0, 0]) == 2 / 8
    assert permutation_test([1, 2], [1, 2]) == 1.0
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.25, 1, 60), rng.normal(size=60)
    found = permutation_test(first, second)
    assert found == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=0.02)
    assert found == permutation_test(first, second)


def test_permutation_test_keeps_its_level_with_clusters():
    rng = np.random.default_rng(7)
    prompts = [p for p in range(30) for _ in range(4)]
    clustered = plain = 0
    for _ in range(400):
        difference = np.repeat(rng.normal(size=30), 4) + 0.3 * rng.normal(size=120)
        clustered += permutation_test(difference, np.zeros(120), prompts, permutations=500) <= 0.05
        plain += permutation_test(difference, np.zeros(120), permutations=500) <= 0.05
    assert clustered / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert plain / 400 > 0.2


def test_holm_by_hand_and_against_the_reference():
    # sorted 0.01·3, 0.02·2, 0.03·1 → 0.03, 0.04, max(0.04, 0.03)
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    p = np.random.default_rng(0).random(20) ** 3
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert holm([]) == []


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
        (lambda: paired_interval([1.0], [1.0, 2.0]), "1 values against 2"),
        (lambda: sign_test([1.0], [1.0, 2.0]), "1 values against 2"),
        (lambda: holm([0.1, 1.1]), "between 0 and 1"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(DataError, match=message):
        call()
