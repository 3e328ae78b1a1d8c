"""The owner's numbers from judgements made for the purpose."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest

from alignloop.labels import quality
from alignloop.labels.judging import Desk
from alignloop.labels.messages import Submission
from alignloop.labels.overview import overview


def judge_all(desk: Desk, session, choose, limit: int = 10_000, seconds: float = 0.0) -> None:
    """Judge with `choose(answers) -> verdict` until nothing is left."""
    receipt = desk.call(lambda c: desk.next(c, session))
    while receipt.task is not None and limit:
        limit -= 1
        sent = Submission(
            receipt.task.id,
            f"{session.annotator_id}-{receipt.task.id}",
            answer={"verdict": choose(receipt.task.answers)},
            seconds=seconds,
        )
        receipt = desk.call(lambda c, sent=sent: desk.submit(c, session, sent))


def longer(answers: list[str]) -> str:
    return "a" if len(answers[0]) > len(answers[1]) else "b"


def test_bias_agreement_and_cost_of_two_very_different_people(lite, make_project, sit_down):
    project = make_project(lite, count=60, overlap=2, overlap_share=1.0, price_pair=2.0)
    desk, first = sit_down(lite, project, "always first")
    _, second = sit_down(lite, project, "always longer", desk)
    judge_all(desk, first, lambda answers: "a")
    judge_all(desk, second, longer)
    o = overview(lite, project)
    assert (o.num_items, o.num_judged_items, o.num_judgements, o.remaining) == (60, 60, 120, 0)
    assert (o.num_overlap_items, o.num_overlapped) == (60, 60)
    assert (o.money.spent, o.money.forecast) == (240.0, 240.0)
    assert o.arms == {"random": 60}
    one, two = o.people
    assert (one.name, one.judged, one.first_shown.value, one.first_shown.n) == ("always first", 60, 1.0, 60)
    assert one.first_shown.low > 0.9
    assert (two.longer.value, two.longer.n) == (1.0, 60)
    # The order shown is random, so each one's other bias is near ½ and they agree by chance only.
    assert one.longer.low < 0.5 < one.longer.high
    assert two.first_shown.low < 0.5 < two.first_shown.high
    assert abs(o.alpha.value) < 0.4
    assert one.kappa.value == pytest.approx(two.kappa.value)
    assert len(o.disagreements) == sum(d.severity == 1.0 for d in o.disagreements)
    assert 15 < len(o.disagreements) < 45


def test_people_who_say_the_same_agree(lite, make_project, sit_down):
    project = make_project(lite, count=20, overlap=2, overlap_share=1.0)
    desk, first = sit_down(lite, project, "one")
    _, second = sit_down(lite, project, "two", desk)
    for session in (first, second):
        judge_all(desk, session, lambda answers: "a" if answers[0] < answers[1] else "b")
    o = overview(lite, project)
    # Everybody always prefers the same answer of the item: no variation, so α and κ are undefined.
    assert o.alpha is None
    assert o.ac1.value == 1.0
    assert o.disagreements == []


def test_nothing_judged_yet(lite, make_project):
    project = make_project(lite, count=5)
    o = overview(lite, project)
    assert (o.num_judgements, o.remaining, o.alpha, o.ac1, o.people) == (0, 5, None, None, [])
    assert (o.money.spent, o.money.forecast, o.money.hours_left) == (0.0, 0.0, None)


def test_withdrawn_items_and_skips_are_counted_apart(lite, make_project, sit_down):
    project = make_project(lite, count=5)
    desk, session = sit_down(lite, project)
    task = desk.call(lambda c: desk.next(c, session)).task
    desk.call(lambda c: desk.submit(c, session, Submission(task.id, "s", skip_reason="unclear")))
    judge_all(desk, session, longer, limit=2)
    (done, *_) = [row for row in range(1, 6) if row not in [r.id for r in lite.unjudged_items(project)]]
    lite.withdraw(project, [done], reason="x")
    o = overview(lite, project)
    assert o.num_withdrawn == 1
    assert o.people[0].skipped == 1
    assert o.num_judgements <= 2


def test_a_pace_of_less_than_half_a_second_is_marked(lite, make_project, sit_down, monkeypatch):
    project = make_project(lite, count=30, overlap=2, overlap_share=1.0)
    desk, careful = sit_down(lite, project, "careful")
    _, hasty = sit_down(lite, project, "hasty", desk)
    clock = itertools.count(time.time(), 10.0)  # every look at the clock is ten seconds later
    monkeypatch.setattr("alignloop.labels.judgements.time.time", lambda: next(clock))
    judge_all(desk, careful, lambda answers: "a" if answers[0] < answers[1] else "b", seconds=8.0)
    judge_all(desk, hasty, lambda answers: "a", seconds=0.4)
    o = overview(lite, project)
    one, two = o.people
    assert (one.num_fast, one.hasty, one.seconds) == (0, False, 8.0)
    assert (two.num_fast, two.hasty, two.seconds) == (30, True, 0.4)
    assert o.num_fast == 30
    assert o.alpha is not None
    assert o.alpha_unhurried is None  # without them nothing is judged twice
    lite.change_settings(project, replace(project.settings, fast_s=0.3))
    assert overview(lite, lite.project()).num_fast == 0


def test_slips_are_no_habit():
    assert [quality.is_hasty(n, 100) for n in (4, 19, 20)] == [False, False, True]
    assert [quality.is_hasty(n, 6) for n in (2, 4, 5)] == [False, False, True]
