"""Answers between the order shown and the item's order."""

from __future__ import annotations

from itertools import permutations

import pytest

from alignloop.labels.faults import Rejected
from alignloop.labels.tasks import canonical, comparisons, displayed, units

ATTRIBUTES = ("help", "정확성")


@pytest.mark.parametrize(
    ("verdict", "order", "stored"),
    [
        ("a_much", (0, 1), 2),
        ("a_much", (1, 0), -2),
        ("a", (1, 0), -1),
        ("tie", (1, 0), 0),
        ("b", (0, 1), -1),
        ("b_much", (1, 0), 2),
    ],
)
def test_a_verdict_is_turned_to_the_items_order(verdict, order, stored):
    answer = canonical("pair", {"verdict": verdict}, order=order)
    assert answer == {"preference": stored, "both_bad": False}


def test_both_bad_is_no_preference():
    assert canonical("pair", {"verdict": "both_bad"}, order=(1, 0)) == {"preference": 0, "both_bad": True}


def test_ranks_are_made_dense_and_turned():
    # Shown: item 2 first (rank 5), item 0 (rank 1), item 1 (rank 5).
    assert canonical("ranking", {"ranks": [5, 1, 5]}, order=(2, 0, 1)) == {"ranks": [1, 2, 2]}


def test_scores_and_thumbs_are_turned():
    scores = {"help": [5, 0], "정확성": [3, 4]}
    assert canonical("scores", {"scores": scores}, order=(1, 0), attributes=ATTRIBUTES) == {
        "scores": {"help": [0, 5], "정확성": [4, 3]}
    }
    assert canonical("thumbs", {"thumbs": [True, False, False]}, order=(2, 0, 1)) == {
        "thumbs": [False, False, True]
    }


def test_an_edit_names_the_items_answer():
    assert canonical("edit", {"text": " 고침 ", "base": 0}, order=(1, 0)) == {"text": " 고침 ", "base": 1}
    assert canonical("edit", {"text": "new", "base": None}, order=()) == {"text": "new", "base": None}


@pytest.mark.parametrize(
    ("task", "body"),
    [
        *(("pair", {"verdict": v}) for v in ("a_much", "a", "tie", "b", "b_much", "both_bad")),
        ("ranking", {"ranks": [2, 1, 2]}),
        ("scores", {"scores": {"help": [1, 2, 3], "정확성": [0, 5, 4]}}),
        ("thumbs", {"thumbs": [True, False, True]}),
        ("edit", {"text": "t", "base": 2}),
    ],
)
def test_displayed_undoes_canonical_in_every_order(task, body):
    for order in permutations(range(2 if task == "pair" else 3)):
        stored = canonical(task, body, order=order, attributes=ATTRIBUTES)
        assert displayed(task, stored, order=order) == body


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("pair", {}),
        ("pair", {"verdict": "A"}),
        ("pair", {"verdict": ["a"]}),
        ("ranking", {"ranks": [1]}),
        ("ranking", {"ranks": [1, 6]}),
        ("ranking", {"ranks": [1, True]}),
        ("ranking", {"ranks": "12"}),
        ("scores", {"scores": {"help": [1, 2]}}),
        ("scores", {"scores": {"help": [1, 2], "정확성": [1, 6]}}),
        ("scores", {"scores": {"help": [1, 2], "정확성": [1, 2.5]}}),
        ("scores", {"scores": {"help": [1, 2], "정확성": [1, 2], "more": [1, 2]}}),
        ("thumbs", {"thumbs": [1, 0]}),
        ("thumbs", {"thumbs": [True]}),
        ("edit", {"text": "  "}),
        ("edit", {"text": "x" * 100_001}),
        ("edit", {"text": "x", "base": 2}),
        ("edit", {"text": "x", "base": -1}),
    ],
)
def test_what_does_not_fit_is_refused(task, body):
    with pytest.raises(Rejected) as caught:
        canonical(task, body, order=(0, 1), attributes=ATTRIBUTES)
    assert caught.value.status == 422


def test_units_and_comparisons():
    assert units("pair", {"preference": -2, "both_bad": False}) == {(0, 1): -1.0}
    assert units("ranking", {"ranks": [2, 1, 2]}) == {(0, 1): -1.0, (0, 2): 0.0, (1, 2): 1.0}
    assert units("scores", {"scores": {"h": [4, 1]}}) == {("h", 0): 4.0, ("h", 1): 1.0}
    assert units("thumbs", {"thumbs": [True, False]}) == {(0,): 1.0, (1,): 0.0}
    assert units("edit", {"text": "x", "base": 0}) == {}
    # Totals 5 and 6: the second is better although the first wins one attribute.
    assert comparisons("scores", {"scores": {"h": [4, 1], "t": [1, 5]}}) == {(0, 1): -1}
    assert comparisons("thumbs", {"thumbs": [True, False, True]}) == {(0, 1): 1, (0, 2): 0, (1, 2): -1}
    assert comparisons("edit", {"text": "x", "base": None}) == {}


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("pair", {"verdict": "a", "preference": 3}),
        ("ranking", {"ranks": [1, 2], "verdict": "a"}),
        ("thumbs", {"thumbs": [True, False], "note": ""}),
        ("scores", {"scores": {"x": [1, 2]}, "score": 1}),
        ("edit", {"text": "a", "base": None, "html": "b"}),
    ],
)
def test_a_key_that_would_have_no_effect_is_refused(task, body):
    with pytest.raises(Rejected, match=f"unknown key '{list(body)[-1]}'; a {task} answer has"):
        canonical(task, body, order=[0, 1], attributes=["x"])
