"""Who won against whom, counted by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from alignloop.labels.improvement import TrainedModel, answering_models, learned
from alignloop.labels.votes import Vote


def vote(item: int, answer: dict, kind: str = "item") -> Vote:
    return Vote(1, item, 1, "a", "annotator", kind, answer, (0, 1), 1.0, 0.0, False, "", 1)


def pair(preference: int, *, both_bad: bool = False) -> dict:
    return {"preference": preference, "both_bad": both_bad}


def item(*models: str) -> Any:
    return SimpleNamespace(answers=[{"model": model} for model in models])


def test_a_newer_model_against_the_older_one():
    rows = {1: item("new", "old"), 2: item("old", "new"), 3: item("old", "old"), 4: item("", "new")}
    votes = [
        vote(1, pair(2)),  # new won
        vote(2, pair(1)),  # old won
        vote(2, pair(0)),  # tie
        vote(3, pair(0, both_bad=True)),  # says something of old alone
        vote(4, pair(1)),  # against nobody known
        vote(1, pair(-1), kind="repeat"),
    ]
    made = [TrainedModel("dpo", "new", 3, "1–3", None, 0.0)]
    answering, (duel,) = answering_models("pair", votes, rows, made)
    assert (duel.newer, duel.older, duel.won.value, duel.won.n) == ("new", "old", 0.5, 3)
    assert [(a.name, a.num_votes, a.good.value) for a in answering] == [("old", 4, 0.75), ("new", 4, 1.0)]
    # without a record of who was made when, the first to appear is the older one
    _, (other,) = answering_models("pair", votes[:1], rows, [])
    assert (other.newer, other.won.value) == ("old", 0.0)


@pytest.mark.parametrize(
    ("task", "answer", "good"),
    [
        ("thumbs", {"thumbs": [True, False]}, [1.0, 0.0]),
        ("scores", {"scores": {"h": [5, 0], "x": [4, 1]}}, [0.9, 0.1]),
    ],
)
def test_thumbs_and_scores(task, answer, good):
    answering, (duel,) = answering_models(task, [vote(1, answer)], {1: item("a", "b")}, [])
    assert [a.good.value for a in answering] == pytest.approx(good)
    assert (duel.newer, duel.won.value) == ("b", 0.0)


def test_a_ranking_is_all_its_comparisons():
    rows = {1: item("new", "old", "new")}
    _, (duel,) = answering_models("ranking", [vote(1, {"ranks": [1, 2, 2]})], rows, [])
    assert (duel.newer, duel.older, duel.won.value, duel.won.n) == ("old", "new", 0.25, 2)


def test_edits_compare_nothing():
    answering, duels = answering_models("edit", [vote(1, {"text": "x", "base": 0})], {1: item("a", "b")}, [])
    assert (duels, [a.good for a in answering]) == ([], [None, None])


def test_the_line_for_annotators(store, make_project):
    project = make_project(store, count=1)

    def line():
        with store.reading() as connection:
            return learned(connection, project.id)

    assert line() is None
    store.record_model(project, kind="dpo", path="p", judgement_ids=[1], accuracy=None)
    assert (line().judgements, line().first, line().last) == (1, None, None)
    store.record_model(project, kind="reward", path="r", judgement_ids=[1, 2], accuracy=0.5)
    store.record_model(project, kind="reward", path="s", judgement_ids=[1, 2, 3], accuracy=0.75)
    assert (line().judgements, line().first, line().last) == (3, 0.5, 0.75)
