import math

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from alignloop.errors import DataError
from alignloop.evaluation.agreement import cohen_kappa, gwet_ac1, krippendorff_alpha, percent_agreement

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", example C: 4 observers, 12 units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
UNITS = [list(unit) for unit in zip(*OBSERVERS, strict=True)]


def table(*cells):
    """Two annotators' ratings from (first, second, count) cells."""
    first = [a for a, _, count in cells for _ in range(count)]
    second = [b for _, b, count in cells for _ in range(count)]
    return first, second


def random_ratings(seed, items=40, annotators=4, missing=0.3):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, items)
    ratings = np.where(rng.random((items, annotators)) < 0.6, truth[:, None], rng.integers(0, 5, (items, 4)))
    absent = rng.random(ratings.shape) < missing
    absent[0] = False
    return [[None if absent[i, j] else int(ratings[i, j]) for j in range(4)] for i in range(items)]


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_published_example(level, alpha):
    assert round(krippendorff_alpha(UNITS, measurement=level).value, 3) == alpha


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_equals_the_reference_library(level, seed):
    ratings = random_ratings(seed)
    reliability = [[math.nan if r is None else float(r) for r in row] for row in zip(*ratings, strict=True)]
    expected = krippendorff.alpha(np.array(reliability), level_of_measurement=level)
    assert krippendorff_alpha(ratings, measurement=level).value == pytest.approx(expected, abs=1e-12)


def test_cohens_kappa_by_hand():
    # p_o = (20 + 15)/50 = 0.7; p_e = 0.5·0.6 + 0.5·0.4 = 0.5; κ = 0.2/0.5
    first, second = table(("yes", "yes", 20), ("yes", "no", 5), ("no", "yes", 10), ("no", "no", 15))
    assert cohen_kappa(first, second).value == pytest.approx(0.4, abs=1e-12)


@pytest.mark.parametrize(
    ("weighting", "sklearn_weights"), [("none", None), ("linear", "linear"), ("quadratic", "quadratic")]
)
@pytest.mark.parametrize("seed", range(3))
def test_kappa_equals_the_reference_library(weighting, sklearn_weights, seed):
    complete = random_ratings(seed, items=60, missing=0.0)
    first, second = [r[0] for r in complete], [r[1] for r in complete]
    expected = cohen_kappa_score(first, second, weights=sklearn_weights)
    assert cohen_kappa(first, second, weighting=weighting).value == pytest.approx(expected, abs=1e-12)
    # An item that one annotator skipped is left out.
    found = cohen_kappa([*first, 3, None], [*second, None, 2], weighting=weighting)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.num_items == 60


def test_gwets_published_example_of_the_kappa_paradox():
    # Gwet 2008, table of 125 subjects: p_a = 118/125, π = (123 + 120)/250, p_e = 2π(1 − π).
    first, second = table((1, 1, 118), (1, 0, 5), (0, 1, 2))
    pa, pi = 118 / 125, (123 + 120) / 250
    pe = 2 * pi * (1 - pi)
    found = gwet_ac1(list(zip(first, second, strict=True)))
    assert found.value == pytest.approx((pa - pe) / (1 - pe), abs=1e-12)
    assert round(found.value, 2) == 0.94
    assert round(cohen_kappa(first, second).value, 3) == -0.023


def test_gwets_published_example_with_missing_ratings():
    # irrCAC's documentation, cac.raw4raters: 0.77544; its Python package gives the digits below.
    assert gwet_ac1(UNITS).value == pytest.approx(0.775444068126995, abs=1e-12)
    # With a sixth category that nobody used, p_e falls by 4/5.
    pe = 0.8 * (0.775444068126995 - 9 / 11) / (0.775444068126995 - 1)
    assert gwet_ac1(UNITS, categories=range(1, 7)).value == pytest.approx((9 / 11 - pe) / (1 - pe), abs=1e-12)


def test_percent_agreement_counts_pairs_of_annotators():
    # 3 of 3 pairs, 1 of 3 pairs, 0 of 1, one rating only: (1 + 1/3 + 0)/3
    ratings = [["가", "가", "가"], ["가", "가", "나"], ["가", None, "나"], [None, "가", None]]
    found = percent_agreement(ratings)
    assert found.value == pytest.approx(4 / 9, abs=1e-12)
    assert found.num_items == 3


def test_interval_is_seeded_contains_the_value_and_shrinks_with_items():
    small, large = random_ratings(1, items=40), random_ratings(1, items=640)
    first = krippendorff_alpha(small, seed=1)
    assert first == krippendorff_alpha(small, seed=1)
    assert first != krippendorff_alpha(small, seed=2)
    wide, narrow = first, krippendorff_alpha(large, replicates=300)
    assert wide.low < wide.value < wide.high
    assert 2.5 < (wide.high - wide.low) / (narrow.high - narrow.low) < 6.5  # √16 = 4


def test_undefined_coefficients_are_nan_and_not_an_error():
    same = [["a", "a"]] * 5
    assert math.isnan(krippendorff_alpha(same).value)
    assert math.isnan(cohen_kappa(["a"] * 5, ["a"] * 5).value)
    assert math.isnan(gwet_ac1(same).value)
    assert gwet_ac1(same, categories=["a", "b"]).value == 1.0
    once = [["a", None], [None, "b"]]
    assert math.isnan(percent_agreement(once).value)
    assert math.isnan(krippendorff_alpha(once).value)


def test_perfect_agreement_does_not_claim_certainty():
    # Wilson's upper limit of 0 disagreements in 20 items, divided by the chance of one, ½.
    lost = 1.959964**2 / (20 + 1.959964**2)
    same = [["a", "a"]] * 10 + [["b", "b"]] * 10
    found = percent_agreement(same)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - lost, abs=1e-6)
    assert krippendorff_alpha(same).low == pytest.approx(1 - 2 * lost, abs=1e-6)
    assert cohen_kappa(["a"] * 10 + ["b"] * 10, ["a"] * 10 + ["b"] * 10).low == pytest.approx(1 - 2 * lost)


@pytest.mark.parametrize(
    ("statistic", "items", "prevalence", "error", "truth"),
    [
        # Two annotators who err independently: agree with (1 − e)² + e².
        (percent_agreement, 60, 0.5, 0.1, "agreement"),
        (krippendorff_alpha, 60, 0.5, 0.1, "kappa"),
        (gwet_ac1, 100, 0.9, 0.05, "ac1"),
    ],
)
def test_intervals_cover(statistic, items, prevalence, error, truth):
    agree = (1 - error) ** 2 + error**2
    share = prevalence * (1 - error) + (1 - prevalence) * error
    chance = {"agreement": 0.0, "kappa": share**2 + (1 - share) ** 2, "ac1": 2 * share * (1 - share)}[truth]
    expected = (agree - chance) / (1 - chance)
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        true = rng.random(items) < prevalence
        ratings = [(true ^ (rng.random(items) < error)).astype(int).tolist() for _ in range(2)]
        found = statistic(list(zip(*ratings, strict=True)), replicates=100)
        hits += found.low <= expected <= found.high
    assert 0.92 <= hits / 300 <= 0.98  # 95 % ± 2.4 standard errors of 300 draws


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: percent_agreement([]), "at least one item"),
        (lambda: percent_agreement([["a", "b"], ["a"]]), "one entry per annotator"),
        (lambda: cohen_kappa([1], [1, 2]), "1 ratings against 2"),
        (lambda: cohen_kappa([None], [1]), "at least one item"),
        (lambda: krippendorff_alpha([[1, "a"]], measurement="ordinal"), "all numbers or all text"),
        (lambda: krippendorff_alpha([["a", "b"]], measurement="interval"), "finite numbers"),
        (lambda: gwet_ac1([["a", "c"]], categories=["a", "b"]), "not among the categories"),
    ],
)
def test_wrong_ratings(call, message):
    with pytest.raises(DataError, match=message):
        call()
