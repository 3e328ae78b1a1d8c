"""A clock that is put back, or that ran far ahead: leases, sessions, the time spent, the order of votes."""

from __future__ import annotations

import time

import pytest
from starlette.requests import Request

from alignloop.labels import export
from alignloop.labels.web.sessions import SESSION_COOKIE, SESSION_S, RateLimit, Sessions
from tests.labels.test_judging import judge, open_next, rows

HOUR = 3600.0


@pytest.fixture
def clock(monkeypatch):
    """The wall clock, moved by its only element in seconds."""
    shift, real = [0.0], time.time
    monkeypatch.setattr("time.time", lambda: real() + shift[0])
    return shift


def seen(sessions: Sessions, cookie: str) -> bool:
    headers = [(b"cookie", f"{SESSION_COOKIE}={cookie}".encode())]
    return sessions.read(Request({"type": "http", "headers": headers})) is not None


def test_sessions_outlive_a_clock_that_is_put_back_and_no_session_is_for_ever(clock):
    sessions = Sessions(b"k" * 32)
    cookie = sessions.issue(1, 0)
    clock[0] = -3 * HOUR
    assert seen(sessions, cookie)
    clock[0] = SESSION_S + 60
    assert not seen(sessions, cookie)
    clock[0] = 10 * 365 * 24 * HOUR
    ahead = sessions.issue(1, 0)
    assert seen(sessions, ahead)
    clock[0] = 0.0
    assert not seen(sessions, ahead)


def test_a_lease_ends_though_the_clock_was_ahead_when_it_began(lite, make_project, sit_down, clock):
    """A machine that started with a clock years ahead would hold its items for years."""
    project = make_project(lite, count=1, lease_h=1.0)
    clock[0] = 10 * 365 * 24 * HOUR
    desk, gone = sit_down(lite, project, "gone")
    assert open_next(desk, gone).task is not None
    clock[0] = 0.0
    other, here = sit_down(lite, project, "here")
    assert open_next(other, here).task is not None


def test_a_lease_holds_when_the_clock_is_put_back_a_little(lite, make_project, sit_down, clock):
    project = make_project(lite, count=1, lease_h=1.0)
    desk, one = sit_down(lite, project, "one")
    open_next(desk, one)
    clock[0] = -0.5 * HOUR
    other, two = sit_down(lite, project, "two")
    assert open_next(other, two).task is None


def test_the_queue_looks_for_expired_leases_by_a_clock_that_only_rises(
    lite, make_project, sit_down, clock, monkeypatch
):
    project = make_project(lite, count=1, lease_h=1.0)
    desk, gone = sit_down(lite, project, "gone")
    open_next(desk, gone)
    _, here = sit_down(lite, project, "here", desk)
    assert open_next(desk, here).task is None
    clock[0] = 2 * HOUR  # the lease has ended
    real = time.monotonic
    monkeypatch.setattr("time.monotonic", lambda: real() + 61)
    assert open_next(desk, here).task is not None
    monkeypatch.setattr("time.monotonic", lambda: real() + 10)


def test_the_time_spent_and_the_order_of_votes_stay(lite, make_project, sit_down, clock):
    desk, session = sit_down(lite, make_project(lite))
    first = open_next(desk, session).task
    clock[0] = -2 * HOUR
    second = judge(desk, session, first, "a", key="k1", seconds=12.5).task
    judge(desk, session, second, "b", key="k2", seconds=3.0)
    assert [row.key for row in rows(lite)] == ["k1", "k2"]
    assert rows(lite)[0].seconds == 12.5  # it was 0, and a filter by seconds left the vote out
    assert rows(lite)[0].created > 0
    made = export.records(lite, lite.project(), filters=export.Filters(min_seconds=1.0))
    assert "too fast" not in {k for k, v in made.left_out.items() if v > 1}
    desk.call(lambda c: desk.undo(c, session, "u1"))  # the last one by number, not by time
    again = open_next(desk, session).task
    assert again is not None
    assert again.id == second.id


def test_rate_limits_do_not_know_the_wall_clock(clock):
    limit = RateLimit(burst=2, refill_s=60.0)
    assert [limit.failed("a") for _ in range(3)] == [False, False, True]
    clock[0] = -HOUR
    assert limit.failed("a")
    clock[0] = HOUR
    assert limit.failed("a")
