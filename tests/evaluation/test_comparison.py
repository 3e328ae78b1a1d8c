import math

import numpy as np
import pytest
from scipy import stats

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import Interval, resampling_weights, studentised
from alignloop.evaluation.comparison import (
    alignment_tax,
    compare,
    correlation_of,
    differences,
    largest_normal,
    linearised,
    measurement,
)


def rows(rng, count, start, *others, shared=0.6):
    """Correlated yes/no results of several models on the same prompts."""
    common = rng.normal(size=count) * math.sqrt(shared)
    found = []
    for rate in (start, *others):
        latent = common + rng.normal(size=count) * math.sqrt(1 - shared)
        found.append((latent < stats.norm.ppf(rate)).astype(float))
    return np.stack(found, axis=1)


def test_one_rate_difference_is_bonett_and_price():
    # 40 prompts: 9 won, 3 lost. p₁₂ = 10/42, p₂₁ = 4/42.
    table = np.array([1.0] * 9 + [-1.0] * 3 + [0.0] * 28)[:, None]
    ((found, _),) = differences(table, np.ones(40), "rate")
    gap, both = 6 / 42, 14 / 42
    half = 1.959964 * math.sqrt((both - gap**2) / 42)
    assert found.value == pytest.approx(6 / 40)
    assert (found.low, found.high) == pytest.approx((gap - half, gap + half), abs=1e-6)


def test_models_that_never_differ_are_not_proven_equal():
    found = compare(measurement("exact", {"a": np.ones(50), "b": np.ones(50)}, scale="rate"), "a")["b"]
    assert found.difference.low < 0 < found.difference.high
    assert found.verdict == "no difference shown"
    assert found.p == 1.0


@pytest.mark.parametrize(("start", "other"), [(0.5, 0.5), (0.3, 0.45), (0.85, 0.8), (0.95, 0.93)])
def test_rate_difference_covers(start, other):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1500):
        pair = rows(rng, 150, start, other)
        ((found, _),) = differences((pair[:, 1] - pair[:, 0])[:, None], np.ones(150), "rate")
        hits += found.low <= other - start <= found.high
    assert 0.93 <= hits / 1500 <= 0.97


def test_rate_differences_cover_all_models_at_once():
    rng = np.random.default_rng(1)
    truth = np.array([0.0, 0.05, 0.1, -0.1])
    hits = alone = 0
    for _ in range(600):
        found = rows(rng, 200, 0.5, *(0.5 + truth))
        intervals = [i for i, _ in differences(found[:, 1:] - found[:, :1], np.ones(200), "rate")]
        inside = [i.low <= t <= i.high for i, t in zip(intervals, truth, strict=True)]
        hits += all(inside)
        shrunk = [
            abs((i.low + i.high) / 2 - t) <= 1.96 * (i.high - i.low) / 2 / 2.4
            for i, t in zip(intervals, truth, strict=True)
        ]
        alone += all(shrunk)
    assert 0.93 <= hits / 600 <= 0.97
    assert alone / 600 < 0.92


def covers(table, sizes, truth):
    """Coverage of the ratio of sums; every column of (C, S) is a simulation of its own."""
    weights = resampling_weights(len(table), 1000, 0)
    low, high = studentised(linearised(table, sizes), np.ones(len(table)), weights, 0.95)
    return float(np.mean((low <= truth) & (truth <= high)))


def test_score_difference_covers_with_heavy_tails_and_unequal_sizes():
    rng = np.random.default_rng(2)
    sizes = rng.integers(5, 40, 120).astype(float)
    table = sizes[:, None] * (0.1 + 0.5 * rng.standard_t(5, (120, 3000)))
    assert 0.93 <= covers(table, sizes, 0.1) <= 0.97
    ((found, _),) = differences(table[:, :1], sizes, "mean", replicates=1000)
    low, high = studentised(
        linearised(table[:, :1], sizes), np.ones(120), resampling_weights(120, 1000, 0), 0.95
    )
    assert (found.low, found.high) == (low[0], high[0])
    assert found.value == pytest.approx(table[:, 0].sum() / sizes.sum(), abs=1e-12)


def test_perplexity_covers_and_its_change_is_relative():
    rng = np.random.default_rng(3)
    sizes = rng.integers(20, 200, 120).astype(float)
    hard = rng.normal(2.0, 0.4, (120, 3000))
    start = sizes[:, None] * hard
    assert 0.93 <= covers(start, sizes, 2.0) <= 0.97
    change = sizes[:, None] * (0.05 + 0.05 * rng.normal(size=hard.shape))
    assert 0.93 <= covers(change, sizes, 0.05) <= 0.97
    values = {"a": start[:, 0], "b": start[:, 0] + change[:, 0]}
    cells = compare(measurement("ppl", values, scale="log", sizes=sizes, higher_is_better=False), "a")
    first, second = (math.exp(values[name].sum() / sizes.sum()) for name in "ab")
    assert cells["b"].value.value == pytest.approx(second)
    assert cells["b"].difference.value == pytest.approx(second / first - 1)
    assert cells["b"].verdict == "worse"


def test_largest_normal_by_its_limits():
    one = stats.norm.ppf(0.975)
    assert largest_normal(np.eye(1), 0.95) == pytest.approx(one, abs=1e-9)
    assert largest_normal(np.ones((5, 5)), 0.95) == pytest.approx(one, abs=0.03)
    # independent: Φ-quantile of (1 + 0.95^{1/5})/2
    independent = stats.norm.ppf((1 + 0.95 ** (1 / 5)) / 2)
    assert largest_normal(np.eye(5), 0.95) == pytest.approx(independent, abs=0.03)


def test_correlation_equals_numpy_and_a_constant_column_is_alone():
    table = np.random.default_rng(0).normal(size=(30, 3))
    assert correlation_of(table) == pytest.approx(np.corrcoef(table.T), abs=1e-12)
    table[:, 1] = 2.0
    assert correlation_of(table)[1].tolist() == [0.0, 1.0, 0.0]


def test_verdicts_follow_the_direction():
    rng = np.random.default_rng(0)
    start = rng.normal(size=80)
    values = {
        "start": start,
        "up": start + 0.5 + 0.3 * rng.normal(size=80),
        "same": start + 0.1 * rng.normal(size=80),
    }
    cells = compare(measurement("reward", values), "start")
    assert (cells["up"].verdict, cells["same"].verdict) == ("better", "no difference shown")
    assert cells["start"].difference is None
    assert cells["up"].p == pytest.approx(1 / 2001, rel=1e-9)  # no replicate of 2000 is as far
    lower = compare(measurement("perplexity", values, higher_is_better=False), "start")
    assert lower["up"].verdict == "worse"
    neither = compare(measurement("length", values, higher_is_better=None), "start")
    assert neither["up"].verdict == ""


def test_the_alignment_tax_is_judged_by_the_whole_interval():
    def gap(low, high):
        return Interval((low + high) / 2, low, high, 0.95, 100, "")

    assert alignment_tax(gap(-0.01, 0.03), 0.02, higher_is_better=True) == "within the margin"
    assert alignment_tax(gap(-0.08, -0.03), 0.02, higher_is_better=True) == "beyond the margin"
    assert alignment_tax(gap(-0.05, 0.01), 0.02, higher_is_better=True) == "undecided"
    assert alignment_tax(gap(-0.05, 0.01), 0.02, higher_is_better=False) == "within the margin"
    assert alignment_tax(gap(0.03, 0.04), 0.02, higher_is_better=False) == "beyond the margin"


def test_a_true_loss_beyond_the_margin_is_rarely_called_within_it():
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(1500):
        pair = rows(rng, 150, 0.6, 0.57)
        m = measurement("mmlu", {"a": pair[:, 0], "b": pair[:, 1]}, scale="rate", margin=0.03)
        ((gap, _),) = differences((pair[:, 1] - pair[:, 0])[:, None], np.ones(150), "rate")
        wrong += alignment_tax(gap, m.margin, higher_is_better=True) == "within the margin"
    # one side of a 95 % interval
    assert wrong / 1500 <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 1500)


def test_an_undecided_tax_says_how_many_prompts_would_decide_it():
    rng = np.random.default_rng(5)
    pair = rows(rng, 40, 0.6, 0.6)
    cell = compare(measurement("x", {"a": pair[:, 0], "b": pair[:, 1]}, scale="rate", margin=0.02), "a")["b"]
    assert cell.tax == "undecided"
    deviation = np.std(pair[:, 1] - pair[:, 0], ddof=1)
    assert cell.more_prompts == math.ceil(((1.959964 + 0.841621) * deviation / 0.02) ** 2)


def test_unequal_prompts_and_odd_values_are_named():
    with pytest.raises(DataError, match=r"unequal prompts \(start 3, dpo 2\)"):
        measurement("exact", {"start": [1, 0, 1], "dpo": [1, 0]})
    with pytest.raises(DataError, match="dpo has values that are no finite numbers"):
        measurement("reward", {"start": [1.0], "dpo": [math.nan]})
    assert compare(measurement("exact", {"only": [1, 0, 1]}, scale="rate"), "only")["only"].difference is None


def test_perplexity_of_a_few_odd_texts_stays_finite():
    values = {"a": [5.0, 60_000.0, 20.0], "b": [5.0, 60_000.0, 21.0]}  # 2 000 nats per token on average
    cells = compare(measurement("ppl", values, scale="log", sizes=[10, 10, 10], higher_is_better=False), "a")
    assert all(math.isfinite(cell.value.high) for cell in cells.values())


SHAPES = {
    "rate": lambda rng, n: (rng.random(n) < 0.4).astype(float),
    "probability": lambda rng, n: rng.beta(2, 3, n),
    "score": lambda rng, n: rng.exponential(size=n),
    "log": lambda rng, n: 40 * rng.normal(2, 0.3, n),
}


@pytest.mark.parametrize("num_models", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_p_and_verdict_agree_for_every_kind_of_metric(shape, num_models):
    """Of many differences around the border, p is below 0.05 exactly where the interval leaves 0 out."""
    rng = np.random.default_rng(5)
    scale = {"rate": "rate", "log": "log"}.get(shape, "mean")
    sizes = np.full(60, 40.0) if shape == "log" else np.ones(60)
    found = []
    for _ in range(60):
        start = SHAPES[shape](rng, 60)
        values = {"start": start}
        for k in range(num_models):
            other = SHAPES[shape](rng, 60)
            kept = rng.random(60) < 0.5
            better = start + 0.6 * rng.random() * start.std()
            values[f"m{k}"] = (
                np.where(kept, start, other) if shape == "rate" else np.where(kept, better, other)
            )
        measured = measurement("m", values, scale=scale, sizes=sizes)
        cells = compare(measured, "start", replicates=400)
        found += [
            (cell.p < 0.05, cell.verdict != "no difference shown")
            for cell in cells.values()
            if cell.difference
        ]
    assert all(p == verdict for p, verdict in found)
    assert len(set(found)) == 2  # both happen


def test_probabilities_are_no_rate():
    """MC2 is a mean of probabilities: with the interval of a rate a sure difference was not shown."""
    rng = np.random.default_rng(0)
    start = rng.beta(20, 20, 60)
    values = {"start": start, "dpo": start + rng.normal(0.04, 0.05, 60)}
    measured = measurement("mc2", values, unit="share", scale="rate")
    assert measured.scale == "mean"
    cell = compare(measured, "start")["dpo"]
    assert cell.verdict == "better"
    assert cell.p < 0.01
    assert measurement("mc1", {"a": [0, 1, 1]}, scale="rate").scale == "rate"
