import math
from collections import Counter

import pytest

from alignloop.errors import DataError
from alignloop.judges.simulated import (
    SimulatedAnnotator,
    simulate_labels,
    simulate_preferences,
    simulate_rankings,
    simulate_ratings,
)
from alignloop.records import Message, Prompt, Provenance


def number(completion, prompt):
    """Gold reward for these tests: the number that the answer begins with."""
    return float(completion.split()[0])


def prompt(i=0):
    return Prompt((Message("user", f"질문 {i}"),), provenance=Provenance("p.jsonl", i, details={"kind": "k"}))


def rows(n, answers=("0 a", "1 b")):
    return [(prompt(i), answers) for i in range(n)]


def test_without_noise_the_better_answer_is_chosen_and_the_record_says_how():
    (pair,) = simulate_preferences(rows(1, ("0.2 a", "0.7 b")), SimulatedAnnotator(gold=number, seed=5))
    assert (pair.chosen, pair.rejected, pair.probability) == ("0.7 b", "0.2 a", 1.0)
    assert (pair.provenance.file, pair.provenance.origin) == ("p.jsonl", "simulated")
    assert pair.provenance.details == {
        "kind": "k",
        "annotator": "simulated",
        "seed": 5,
        "flip": 0.0,
        "scale": 0.0,
        "gold_chosen": 0.7,
        "gold_rejected": 0.2,
        "flipped": False,
    }


def test_flips_have_their_frequency_and_are_recorded():
    pairs = simulate_preferences(rows(2000), SimulatedAnnotator(gold=number, flip=0.2, seed=1))
    wrong = [p for p in pairs if p.chosen == "0 a"]
    assert abs(len(wrong) / 2000 - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 2000)
    assert all(p.provenance.details["flipped"] == (p.chosen == "0 a") for p in pairs)


def test_logistic_noise_gives_bradley_terry_probabilities():
    pairs = simulate_preferences(rows(2000), SimulatedAnnotator(gold=number, scale=0.5, seed=1))
    expected = 1 / (1 + math.exp(-1 / 0.5))
    share = sum(p.chosen == "1 b" for p in pairs) / 2000
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 2000)


def test_judgement_depends_on_seed_but_not_on_the_order_of_rows():
    annotator = SimulatedAnnotator(gold=number, flip=0.4, seed=1)
    forward = simulate_preferences(rows(50), annotator)
    assert simulate_preferences(rows(50)[::-1], annotator) == forward[::-1]
    other = simulate_preferences(rows(50), SimulatedAnnotator(gold=number, flip=0.4, seed=2))
    assert [p.chosen for p in other] != [p.chosen for p in forward]


def test_pairs_prefer_unused_answers_and_large_differences():
    answers = ("0 a", "1 b", "3 c", "9 d")
    pairs = simulate_preferences(rows(1, answers), SimulatedAnnotator(gold=number), max_pairs=9)
    found = [(p.chosen, p.rejected) for p in pairs]
    # 9−0 is largest, then the unused pair 3−1; afterwards every remaining pair once, largest first.
    assert found[:2] == [("9 d", "0 a"), ("3 c", "1 b")]
    assert found[2:] == [("9 d", "1 b"), ("3 c", "0 a"), ("9 d", "3 c"), ("1 b", "0 a")]


def test_ties_are_skipped_reported_or_broken_by_length():
    tied = [(prompt(i), ("1 short", "1 of middling length here", "1 " + "long " * 20)) for i in range(200)]
    assert simulate_preferences(tied, SimulatedAnnotator(gold=number)) == []
    reported = simulate_preferences(tied, SimulatedAnnotator(gold=number, ties="tie", flip=0.3))
    assert {p.probability for p in reported} == {0.5}
    assert not any(p.provenance.details["flipped"] for p in reported)
    # Which one is written first carries no information.
    orders = Counter(len(p.chosen) > len(p.rejected) for p in reported)
    assert abs(orders[True] - 100) < 4 * math.sqrt(200 / 4)
    broken = simulate_preferences(tied, SimulatedAnnotator(gold=number, ties="length"), max_pairs=2)
    # 2, 5 and 21 words: the median is 5, and 2 is nearer to it than 21.
    assert {(len(p.chosen.split()), len(p.rejected.split())) for p in broken} == {(5, 2), (5, 21), (2, 21)}
    assert all(p.probability == 1.0 for p in broken)


def test_real_differences_come_before_ties_and_identical_answers_are_never_paired():
    answers = ("1 a", "1 b", "1 a", "0 c")
    pairs = simulate_preferences(rows(1, answers), SimulatedAnnotator(gold=number, ties="tie"), max_pairs=9)
    assert [p.probability for p in pairs] == [1.0, 1.0, 1.0, 0.5, 0.5]
    assert all(p.chosen != p.rejected for p in pairs)


def test_rankings_share_ranks_and_skip_prompts_without_a_difference():
    ranked = simulate_rankings(
        [*rows(1, ("1 a", "3 b", "1 c", "0 d")), *rows(1, ("1 a", "1 b"))], SimulatedAnnotator(gold=number)
    )
    assert [r.ranks for r in ranked] == [(2, 1, 2, 4)]
    assert ranked[0].provenance.details["gold"] == "[1.0, 3.0, 1.0, 0.0]"
    assert ranked[0].provenance.origin == "simulated"
    by_length = simulate_rankings(
        rows(1, ("1 a", "1 two three", "1 " + "x " * 9)), SimulatedAnnotator(gold=number, ties="length")
    )
    assert by_length[0].ranks == (2, 1, 3)  # 2, 3 and 10 words: median 3


def test_ranking_swaps_have_their_frequency():
    ranked = simulate_rankings(rows(2000), SimulatedAnnotator(gold=number, flip=0.3, seed=3))
    swapped = sum(r.ranks == (1, 2) for r in ranked) / 2000
    assert abs(swapped - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 2000)
    assert all(r.provenance.details["swapped"] == (r.ranks == (1, 2)) for r in ranked)
    assert all(sorted(r.ranks) == [1, 2] for r in ranked)


def test_ratings_are_whole_numbers_from_0_to_5():
    clean = simulate_ratings(
        rows(1, ("0 a", "0.5 b", "1 c")), SimulatedAnnotator(gold=number), attribute="도움"
    )
    assert [r.scores for r in clean] == [{"도움": 0.0}, {"도움": 3.0}, {"도움": 5.0}]
    noisy = simulate_ratings(rows(300, ("0.5 b",)), SimulatedAnnotator(gold=number, scale=0.3, flip=0.1))
    assert {r.scores["overall"] for r in noisy} == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    flipped = simulate_ratings(rows(300, ("0 a",)), SimulatedAnnotator(gold=number, flip=0.25))
    assert all(r.scores["overall"] == (5.0 if r.provenance.details["flipped"] else 0.0) for r in flipped)
    assert {r.provenance.details["flipped"] for r in flipped} == {True, False}
    with pytest.raises(DataError, match="between 0 and 1"):
        simulate_ratings(rows(1, ("2 a",)), SimulatedAnnotator(gold=number))


def test_labels_compare_with_the_threshold():
    labels = simulate_labels(
        rows(1, ("0.4 a", "0.5 b", "1 c")), SimulatedAnnotator(gold=number), threshold=0.5
    )
    assert [x.desirable for x in labels] == [False, True, True]
    flipped = simulate_labels(rows(1000, ("1 a",)), SimulatedAnnotator(gold=number, flip=0.15))
    share = sum(not x.desirable for x in flipped) / 1000
    assert abs(share - 0.15) < 4 * math.sqrt(0.15 * 0.85 / 1000)
    assert all(x.provenance.details["flipped"] != x.desirable for x in flipped)


def test_the_default_gold_reward_is_the_prompts_own_constraints():
    asked = Prompt((Message("user", "Tell me about rain."),), constraints=({"kind": "lowercase"},))
    answers = ("Rain falls from the clouds.", "rain falls from the clouds.")
    (pair,) = simulate_preferences([(asked, answers)], SimulatedAnnotator())
    assert pair.chosen == answers[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimulatedAnnotator(flip=0.6), "between 0 and 0.5"),
        (lambda: SimulatedAnnotator(scale=-1), "0 or more"),
        (lambda: SimulatedAnnotator(scale=math.nan), "0 or more"),
        (lambda: SimulatedAnnotator(ties="both"), "skip, tie, length"),  # type: ignore[arg-type]
        (
            lambda: simulate_preferences(rows(1, ("1 a",)), SimulatedAnnotator(gold=number)),
            "at least 2 answers",
        ),
        (lambda: simulate_preferences(rows(1), SimulatedAnnotator(gold=number), max_pairs=0), "1 or more"),
        (lambda: simulate_labels(rows(1, ("nan a",)), SimulatedAnnotator(gold=number)), "finite number"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(DataError, match=message):
        make()
