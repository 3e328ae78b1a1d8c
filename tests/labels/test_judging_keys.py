"""Idempotency keys: what is sent twice counts once, and other content under an old key is refused."""

from __future__ import annotations

import pytest

from alignloop.labels.faults import Rejected
from tests.labels.test_judging import judge, open_next, rows


def test_a_repeated_key_counts_once(store, make_project, sit_down):
    desk, session = sit_down(store, make_project(store))
    task = open_next(desk, session).task
    first = judge(desk, session, task, key="same")
    again = judge(desk, session, task, key="same")
    assert first.judgement_id == again.judgement_id
    assert first.task == again.task
    assert len(rows(store)) == 1


def test_a_key_with_other_content_is_refused(store, make_project, sit_down):
    """A client that sends a changed judgement under an old key must not be told that it was kept."""
    desk, session = sit_down(store, make_project(store))
    task = open_next(desk, session).task
    judge(desk, session, task, "a", key="same", note="why")
    for verdict, more in (
        ("b", {"note": "why"}),
        ("a", {"note": "else"}),
        ("a", {"note": "why", "flagged": True}),
    ):
        with pytest.raises(Rejected, match="used for another judgement") as caught:
            judge(desk, session, task, verdict, key="same", **more)
        assert caught.value.status == 409
    with pytest.raises(Rejected, match="used for another request"):
        desk.call(lambda c: desk.undo(c, session, "same"))
    judge(desk, session, task, "a", key="same", note="why", seconds=3.0)  # the clock is no content
    assert len(rows(store)) == 1


def test_a_key_of_another_task_is_refused(store, make_project, sit_down):
    desk, session = sit_down(store, make_project(store))
    receipt = judge(desk, session, open_next(desk, session).task, key="same")
    with pytest.raises(Rejected) as caught:
        judge(desk, session, receipt.task, key="same")
    assert caught.value.status == 409
