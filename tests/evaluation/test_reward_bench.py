import math

import numpy as np
import pytest

from alignloop.data.packing import Group, completion
from alignloop.errors import DataError
from alignloop.evaluation.reward_bench import (
    LENGTH_BINS,
    Comparisons,
    agreement,
    by_length,
    by_subset,
    calibration,
    calibration_error,
    comparisons_of,
    fit_temperature,
    length_correlation,
    longer_wins,
    prompt_shift,
    summarize,
)


def made(margin, probability=None, tokens=None, prompt=None, subset=None) -> Comparisons:
    size = len(margin)
    return Comparisons(
        np.asarray(margin, float),
        np.asarray([1.0] * size if probability is None else probability),
        np.asarray([0.0] * size if tokens is None else tokens, float),
        tuple(range(size) if prompt is None else prompt),
        tuple([""] * size if subset is None else subset),
    )


def group(prompt: int, lengths, **values) -> Group:
    return Group(np.asarray([prompt], np.int32), tuple(completion([1] * n) for n in lengths), 0, values)


def test_comparisons_of_preferences_put_the_better_one_first() -> None:
    groups = [group(1, (3, 5), probability=1.0), group(2, (3, 5), probability=0.2), group(3, (4,))]
    found = comparisons_of(groups, [np.array([2.0, 0.5]), np.array([2.0, 0.5]), np.array([1.0])])
    assert found.margin.tolist() == [1.5, -1.5]
    assert found.probability.tolist() == [1.0, 0.8]
    assert found.tokens.tolist() == [-2, 2]
    assert found.prompt[0] != found.prompt[1]


def test_comparisons_of_a_ranking_are_all_pairs_with_ties() -> None:
    found = comparisons_of([group(1, (1, 2, 3), ranks=[2.0, 1.0, 2.0])], [np.array([0.0, 3.0, 1.0])])
    assert found.margin.tolist() == [3.0, -1.0, 2.0]  # (1, 0), the tie (0, 2), (1, 2)
    assert found.probability.tolist() == [1.0, 0.5, 1.0]
    assert found.tokens.tolist() == [1, -2, -1]
    assert len(set(found.prompt)) == 1


def test_agreement_counts_equal_rewards_half_and_leaves_out_ties() -> None:
    row = agreement(made([1, -1, 0, 2], probability=[1, 1, 1, 0.5]))
    assert row["pairs"] == 3
    assert row["accuracy"] == pytest.approx((1 + 0 + 0.5) / 3)
    # Wilson's interval by hand: spread p(1 − p) = ¼, squared error (¼ + ¼ + 0)/2/3 = 1/12, so n* = 3
    z2 = 1.959963984540054**2
    half = math.sqrt(z2 * (0.25 / 3 + z2 / 36)) / (1 + z2 / 3)
    assert row["accuracy_interval"] == pytest.approx([0.5 - half, 0.5 + half])


def test_comparisons_of_one_prompt_have_no_interval_and_none_no_accuracy() -> None:
    assert agreement(made([1, 2], prompt=["a", "a"])) == {
        "pairs": 2,
        "accuracy": 1.0,
        "accuracy_interval": None,
    }
    assert agreement(made([], [])) == {"pairs": 0, "accuracy": None, "accuracy_interval": None}


def test_length_bins_hold_the_lengths_they_name() -> None:
    tokens = [-41, -40, -11, -10, 10, 11, 40, 41]
    rows = by_length(made([1, 1, -1, 1, 1, 1, 1, -1], tokens=tokens))
    assert [row["chosen − rejected tokens"] for row in rows] == list(LENGTH_BINS)
    assert [row["pairs"] for row in rows] == [1, 2, 2, 2, 1]
    assert [row["accuracy"] for row in rows] == [1.0, 0.5, 1.0, 1.0, 0.0]
    assert rows[0]["low"] is None
    assert rows[2]["low"] < 1.0


def test_longer_wins_is_the_accuracy_of_a_ruler() -> None:
    assert longer_wins(made([1, 1, 1, 1], [1, 1, 1, 0.5], tokens=[5, -5, 0, 9])) == 0.5
    assert longer_wins(made([1], [0.5])) is None


def test_subsets_by_name() -> None:
    rows = by_subset(made([1, -1, 1], subset=["나", "a", "나"]))
    assert [(row["subset"], row["pairs"], row["accuracy"]) for row in rows] == [("a", 1, 0.0), ("나", 2, 1.0)]


def test_length_correlation_ignores_the_offset_of_a_prompt() -> None:
    groups = [group(1, (1, 3)), group(2, (10, 12, 14))]
    assert length_correlation(groups, [np.array([7.0, 8.0]), np.array([-3.0, -2.0, -1.0])]) == pytest.approx(
        1
    )
    assert length_correlation(groups, [np.array([7.0, 7.0]), np.array([1.0, 1.0, 1.0])]) is None
    # within prompts x = (−1, 1 | 1, 0, −1), y = (−1, 1 | −2, 0, 2): Σxy = −2, Σx² = 4, Σy² = 10
    found = length_correlation(groups, [np.array([0.0, 2.0]), np.array([1.0, 0.0, -1.0])])
    assert found == pytest.approx(-2 / math.sqrt(40))


def test_calibration_by_hand() -> None:
    # confidence σ(ln 3) = ¾ and three of four right: calibrated
    right = np.array([1, 1, 1, -1]) * math.log(3)
    one = np.ones(4)
    assert calibration_error(right, one, 1.0) == pytest.approx(0.0)
    assert fit_temperature(right, one) == pytest.approx(1.0, rel=1e-6)
    # twice the margins: confidence 0.9, off by 0.15; temperature 2 mends it
    assert calibration_error(2 * right, one, 1.0) == pytest.approx(0.15)
    assert calibration_error(2 * right, one, 2.0) == pytest.approx(0.0)
    assert fit_temperature(2 * right, one) == pytest.approx(2.0, rel=1e-6)
    # a judgement of ¾ agrees with confidence ¾, whichever side the reward is on by its sign
    assert calibration_error(np.full(2, math.log(3)), np.full(2, 0.75), 1.0) == pytest.approx(0.0)
    # two bins: confidence 0.9 all wrong (|0 − 0.9|), confidence ½ with equal rewards (|½ − ½|)
    assert calibration_error(np.array([-math.log(9), 0.0]), np.ones(2), 1.0) == pytest.approx(0.45)


def test_temperature_is_bounded_where_no_finite_one_fits() -> None:
    assert fit_temperature(np.array([1.0, 2.0]), np.ones(2)) == pytest.approx(1e-3, rel=1e-6)
    assert fit_temperature(np.array([-1.0, -2.0]), np.ones(2)) == pytest.approx(1e3, rel=1e-6)


def test_calibration_is_fitted_on_the_other_half() -> None:
    # prompts alternate between halves; each half has margins 2·ln 3 with 3 of 4 right
    margin = np.repeat([1, 1, 1, -1], 2) * 2 * math.log(3)
    found = calibration(made(margin.tolist()), trained_temperature=1.0)
    assert found is not None
    assert (found.ece, found.temperature) == pytest.approx((0.15, 2.0), rel=1e-5)
    assert found.ece_fitted == pytest.approx(0.0, abs=1e-6)
    assert calibration(made([1, 2], prompt=["a", "a"])) is None


def test_prompt_shift_by_hand() -> None:
    # within: variance 2 each; the means 1 and 5 vary by 8, of which 2/2 is noise
    found = prompt_shift([np.array([0.0, 2.0]), np.array([4.0, 6.0]), np.array([9.0])])
    assert found == pytest.approx({"within_std": 2**0.5, "between_std": 7**0.5, "between_share": 7 / 9})
    assert prompt_shift([np.array([0.0, 1.0])]) is None


def test_summary_holds_numbers_and_tables() -> None:
    groups = [group(n, (30, 5), probability=1.0) for n in range(4)]
    rewards = [np.array([1.0, 0.0])] * 3 + [np.array([0.0, 1.0])]
    results = summarize(groups, rewards, subsets=["x", "x", "y", "y"])
    held = results["held_out"]
    assert (held["pairs"], held["prompts"], held["accuracy"]) == (4, 4, 0.75)
    assert held["accuracy_if_longer_wins"] == 1.0
    assert results["held_out_by_length"][3] == {
        "chosen − rejected tokens": "11 to 40",
        "pairs": 4,
        "accuracy": 0.75,
        "low": held["accuracy_interval"][0],
        "high": held["accuracy_interval"][1],
    }
    assert [row["accuracy"] for row in results["held_out_by_subset"]] == [1.0, 0.5]
    with pytest.raises(DataError, match="not finite"):
        summarize(groups, [np.array([math.nan, 0.0])] * 4)
    with pytest.raises(DataError, match="no row"):
        summarize([group(1, (2,))], [np.array([1.0])])
