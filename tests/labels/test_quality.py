"""Bias, checks, disagreement: numbers by hand."""

from __future__ import annotations

import pytest

from alignloop.labels import quality
from alignloop.labels.votes import Vote


def vote(answer, *, order=(0, 1), item=1, who=1, kind="item", number=1) -> Vote:
    return Vote(number, item, who, f"a{who}", "annotator", kind, answer, order, 1.0, 0.0, False, "", 1)


def pair(preference: int) -> dict:
    return {"preference": preference, "both_bad": False}


def test_wilson_interval_of_seven_out_of_ten():
    # Wilson 1927 with z = 1.96: (0.3968, 0.8922) for 7/10.
    share = quality.share([1.0] * 7 + [0.0] * 3)
    assert (share.value, share.n) == (0.7, 10)
    assert share.low == pytest.approx(0.396781, abs=1e-5)
    assert share.high == pytest.approx(0.892209, abs=1e-5)
    assert quality.share([]) is None
    assert quality.share([1.0, 1.0]).high == 1.0


def test_first_shown_wins():
    assert quality.first_shown_wins("pair", vote(pair(1), order=(0, 1))) == 1.0
    assert quality.first_shown_wins("pair", vote(pair(1), order=(1, 0))) == 0.0
    assert quality.first_shown_wins("pair", vote(pair(0))) is None
    # Shown 2, 0, 1 and ranked 0 best, 2 next, 1 last: of (0,1) (0,2) (1,2) the earlier wins 1st and 3rd.
    ranked = vote({"ranks": [1, 3, 2]}, order=(2, 0, 1))
    assert quality.first_shown_wins("ranking", ranked) == pytest.approx(2 / 3)


def test_longer_wins():
    assert quality.longer_wins("pair", vote(pair(-2)), [10, 20]) == 1.0
    assert quality.longer_wins("pair", vote(pair(-2)), [20, 10]) == 0.0
    assert quality.longer_wins("pair", vote(pair(-2)), [10, 10]) is None


def test_agreement_of_two_answers():
    assert quality.agrees("pair", pair(2), pair(1)) == 1.0
    assert quality.agrees("pair", pair(1), pair(0)) == 0.5
    assert quality.agrees("pair", pair(1), pair(-1)) == 0.0
    scores = ({"scores": {"h": [5, 0]}}, {"scores": {"h": [4, 4]}})
    assert quality.agrees("scores", *scores) == pytest.approx(1 - (1 + 4) / (2 * 5))
    assert quality.agrees("edit", {"text": "a", "base": None}, {"text": "a", "base": None}) is None


def test_gold_counts_direction_and_for_scores_one_point():
    golds = {1: pair(2)}
    votes = [vote(pair(1)), vote(pair(-1)), vote(pair(1), item=2)]
    assert quality.gold_hits("pair", votes, golds) == [1.0, 0.0]
    scored = [vote({"scores": {"h": [4]}}), vote({"scores": {"h": [3]}})]
    assert quality.gold_hits("scores", scored, {1: {"scores": {"h": [5]}}}) == [1.0, 0.0]


def test_repetitions_are_compared_with_the_same_persons_first():
    votes = [
        vote(pair(1), who=1),
        vote(pair(-1), who=2),
        vote(pair(2), who=1, kind="repeat"),
        vote(pair(1), who=2, kind="repeat"),
        vote(pair(1), who=3, kind="repeat"),
    ]
    assert quality.repeat_agreement("pair", votes) == [1.0, 0.0]


def test_disagreements_are_queued_by_severity_until_decided():
    votes = [
        vote(pair(1), item=1, who=1),
        vote(pair(-1), item=1, who=2),
        vote(pair(1), item=2, who=1),
        vote(pair(0), item=2, who=2),
        vote(pair(1), item=3, who=1),
        vote(pair(2), item=3, who=2),
        vote(pair(1), item=4, who=1),
        vote(pair(-1), item=4, who=2),
        vote(pair(1), item=4, who=9, kind="adjudication"),
        vote(pair(1), item=5, who=1),
    ]
    found = quality.disagreements("pair", votes)
    assert [(d.item_id, d.severity, d.num_votes) for d in found] == [(1, 1.0, 2), (2, 0.5, 2)]


def test_thumbs_on_one_answer_can_disagree():
    votes = [vote({"thumbs": [True]}, order=(0,), who=1), vote({"thumbs": [False]}, order=(0,), who=2)]
    assert [d.item_id for d in quality.disagreements("thumbs", votes)] == [1]
