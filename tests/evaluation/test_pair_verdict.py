"""Rates on held-out pairs by hand, and the verdict that each combination gives."""

from __future__ import annotations

import pytest

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import Interval
from alignloop.evaluation.pair_verdict import PairRate, pair_rate, pairs_needed, sentences, wins_of
from alignloop.runs.evaluation_results import AnswersWon, WinRow


def test_accuracy_counts_equal_scores_half() -> None:
    found = pair_rate([1.0, 0.2, -3.0, 0.0], [5, -5, 2, 0], ["a", "b", "c", "d"])
    assert found.accuracy.value == (1 + 1 + 0 + 0.5) / 4
    assert (found.num_pairs, found.accuracy.num_clusters) == (4, 4)
    assert pair_rate([1.0, -1.0, 1.0], [1, -1, 1], ["a", "a", "b"]).accuracy.num_clusters == 2


def test_a_model_that_counts_length_is_at_chance_at_equal_length() -> None:
    """Right on all pairs whose chosen answer is longer, on none of the others: b₀ = 0 by symmetry."""
    found = pair_rate([1.0] * 20 + [-1.0] * 20, [10] * 20 + [-10] * 20, list(range(40)))
    assert found.at_equal_length is not None
    assert found.at_equal_length.value == pytest.approx(0.5, abs=1e-9)
    right = pair_rate([1.0] * 40, [10] * 20 + [-10] * 20, list(range(40)))
    assert right.at_equal_length is not None
    assert right.at_equal_length.low > 0.5
    assert right.learned
    assert not right.only_length
    assert rate(0.65, 0.55, equal_low=0.45).only_length


def test_length_is_not_controlled_where_one_side_is_always_longer() -> None:
    assert pair_rate([1.0] * 5, [3, 4, 5, 3, 4], list(range(5))).at_equal_length is None
    assert pair_rate([1.0, -1.0], [3, -4], [0, 1]).at_equal_length is None  # 2 prompts


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        pair_rate([1.0, float("nan")], [1, 1], [0, 1])


def test_pairs_needed_by_hand() -> None:
    """(1.96 · 0.5 / 0.1)² = 96.04, so 97; (1.96 · 0.5 / 0.25)² = 15.4, so 16."""
    assert pairs_needed(0.6) == 97
    assert pairs_needed(0.75) == 16
    assert pairs_needed(0.5) is None


def rate(value: float, low: float, equal_low: float = 0.55) -> PairRate:
    one = Interval(value, low, 2 * value - low, 0.95, 100, "wilson")
    two = Interval(value, equal_low, 0.9, 0.95, 100, "length-controlled")
    return PairRate(one, two, 100)


GOOD, BAD = rate(0.65, 0.55), rate(0.55, 0.45)


def wins(low: float, high: float) -> AnswersWon | None:
    row = WinRow(value=(low + high) / 2, interval=(low, high), length_controlled=0.52, num_prompts=80)
    return wins_of(row)


@pytest.mark.parametrize(
    ("policy", "reward", "won", "said"),
    [
        (BAD, BAD, None, "nothing is shown to be learned"),
        (BAD, BAD, wins(0.6, 0.8), "about 385 held-out pairs would decide"),  # (1.96 · 0.5 / 0.05)²
        (GOOD, BAD, None, "its opinion of the new answers says nothing"),
        (BAD, GOOD, None, "train longer or at a higher rate"),
        (GOOD, GOOD, None, "whether the new answers are better is undecided"),
        (GOOD, GOOD, wins(0.4, 0.6), "whether the new answers are better is undecided"),
        (GOOD, GOOD, wins(0.51, 0.7), "show in the answers"),
        (GOOD, GOOD, wins(0.2, 0.4), "finds the new answers worse"),
    ],
)
def test_the_verdict_comes_first(
    policy: PairRate, reward: PairRate, won: AnswersWon | None, said: str
) -> None:
    found = sentences(policy, reward, won, chosen_longer=0.5)
    assert found[0].startswith("Verdict: ")
    assert said in found[0]
    assert len(found) == (5 if won else 4)


def test_what_the_verdict_rests_on() -> None:
    found = sentences(GOOD, rate(0.65, 0.55, equal_low=0.4), wins(0.51, 0.7), chosen_longer=0.463)
    assert found[1] == (
        "The reward model agrees with 65.0 % [55.0, 75.0] of 100 held-out judgements; at equal length "
        "65.0 % [40.0, 90.0]."
    )
    assert "Always preferring the longer answer would get 46.3 %." in found
    assert (
        "The reward model may have learned length: at equal length it is not told apart from chance." in found
    )
    assert "60.5 % [51.0, 70.0] of 80 held-out prompts, 52.0 % at equal length: better" in found[-1]


def test_a_comparison_without_a_reward_model_has_no_wins() -> None:
    assert wins_of(None) is None
    assert wins_of(WinRow(judge="reward")) is None
    row = WinRow(value=0.6, interval=(0.5, 0.7), length_controlled=None, num_prompts=9)
    assert wins_of(row) == AnswersWon(
        value=0.6, low=0.5, high=0.7, at_equal_length=None, num_prompts=9, verdict="undecided"
    )
