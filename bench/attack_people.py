"""Clocks that go back, and sessions that somebody else chose, copied or forged."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from starlette.testclient import TestClient

from alignloop.labels import people
from alignloop.labels.judging import Desk
from alignloop.labels.messages import Receipt, Session, Submission
from alignloop.labels.project import ItemAnswer, NewItem, Project, Settings
from alignloop.labels.store import Store
from alignloop.labels.web.app import create_app
from alignloop.labels.web.sessions import SESSION_COOKIE, RateLimit
from alignloop.records import Message
from bench.attack_tools import Found

HOUR, YEAR = 3600.0, 365 * 24 * 3600.0


@contextmanager
def _project(**settings: float) -> Iterator[tuple[Store, Project]]:
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name) / "labels.sqlite")
        plain = {"overlap_share": 0.0, "gold_share": 0.0, "repeat_share": 0.0}
        project = store.create_project("p", task="pair", settings=Settings(**(plain | settings)))  # pyright: ignore
        store.add_items(
            project,
            [
                NewItem((Message("user", f"q{k}"),), (ItemAnswer(f"a{k}"), ItemAnswer(f"b{k}")))
                for k in range(4)
            ],
        )
        yield store, store.project(project.id)
        store.close()


@contextmanager
def _moved(seconds: float) -> Iterator[None]:
    real = time.time
    with patch("time.time", lambda: real() + seconds):
        yield


def clock(quick: bool) -> list[Found]:
    """The wall clock is put back, or was years ahead."""
    rows = []
    with _project(lease_h=1.0) as (store, project):
        desk = Desk(store)
        one = _seat(store, project, "one")
        first = _open(desk, one).task
        assert first is not None
        with _moved(-2 * HOUR):
            second = _judge(desk, one, first.id, "k1").task
            assert second is not None
            _judge(desk, one, second.id, "k2")
        ids, seconds = _votes(store)
        rows += [
            Found("clock put back by 2 h", "a vote between two votes", "the order is that of the numbers",
                  f"keys {', '.join(ids)}", ids == ["k1", "k2"]),
            Found("clock put back by 2 h", "time spent on an item", "what the page measured is kept (was 0)",
                  f"{seconds[0]:.0f} s of 9 s", seconds[0] == 9.0),
        ]  # fmt: skip
    rows += [_lease(), _session_clock(), _limits()]
    return rows


def _lease() -> Found:
    with _project(lease_h=1.0) as (store, project):
        with _moved(10 * YEAR):
            ahead = Desk(store)
            for number in range(4):
                _open(ahead, _seat(store, project, f"ahead {number}"))
        task = _open(Desk(store), _seat(store, project, "here")).task
    return Found(
        "clock 10 years ahead, then put right", "leases of items opened meanwhile",
        "they end at once (they held for 10 years)", "lease 1 h", task is not None,
    )  # fmt: skip


def _session_clock() -> Found:
    with _site() as (client, token):
        client.post("/login", data={"token": token})
        with _moved(-3 * HOUR):
            still = client.get("/").text
        with _moved(31 * 24 * HOUR):
            later = client.get("/").text
    signed_in = ['name="csrf" content' in page for page in (still, later)]
    return Found(
        "clock put back by 3 h", "sessions", "people stay signed in (were signed out); 31 days later not",
        "30 days", signed_in == [True, False],
    )  # fmt: skip


def _limits() -> Found:
    limit = RateLimit(burst=3, refill_s=60)
    for _ in range(4):
        limit.failed("a")
    with _moved(-HOUR):
        back = limit.failed("a")
    with _moved(YEAR):
        ahead = limit.failed("a")
    return Found(
        "clock moved by 1 h and 1 year", "limits of guesses", "they go by a clock that only rises",
        "3 guesses, 1 more each 60 s", back and ahead,
    )  # fmt: skip


def _seat(store: Store, project: Project, name: str) -> Session:
    who = people.invite(store, project, name)[0]
    return Session(who.id, who.epoch)


def _open(desk: Desk, session: Session) -> Receipt:
    return desk.call(lambda c: desk.next(c, session))


def _judge(desk: Desk, session: Session, task_id: int, key: str) -> Receipt:
    sent = Submission(task_id, key, None, {"verdict": "a"}, seconds=9.0)
    return desk.call(lambda c: desk.submit(c, session, sent))


def _votes(store: Store) -> tuple[list[str], list[float]]:
    from sqlalchemy import select

    from alignloop.labels.schema import judgements

    with store.reading() as connection:
        rows = connection.execute(select(judgements).order_by(judgements.c.id)).all()
    return [row.key for row in rows], [row.seconds for row in rows]


@contextmanager
def _site(secret: bytes = b"k" * 32) -> Iterator[tuple[TestClient, str]]:
    with _project() as (store, project):
        token = people.invite(store, project, "one")[1]
        app = create_app(store, secret=secret)
        with TestClient(app, base_url="http://localhost") as client:
            yield client, token


def sessions(quick: bool) -> list[Found]:
    """Cookies that were there before signing in, forged ones, ones of another server, ones after the end."""
    with _site() as (client, token):
        planted = client.post("/login", data={"token": token}, follow_redirects=False).cookies[SESSION_COOKIE]
        client.cookies.set(SESSION_COOKIE, planted)
        again = client.post("/login", data={"token": token}, follow_redirects=False)
        fresh = again.cookies[SESSION_COOKIE]
        fixed = planted == fresh or _csrf(client, planted) == _csrf(client, fresh)
        forged = [planted[:-2] + "xx", planted.split(".")[0] + ".x.y", "x" * 4000, '{"a":1}', ""]
        taken = sum(_csrf(client, value) is not None for value in forged)
    with _site(secret=b"other" * 8) as (other, _):
        foreign = _csrf(other, fresh)
    with _project() as (store, project):
        who, token = people.invite(store, project, "one")
        with TestClient(create_app(store, secret=b"k" * 32), base_url="http://localhost") as client:
            held = client.post("/login", data={"token": token}, follow_redirects=False).cookies[
                SESSION_COOKIE
            ]
            people.new_link(store, who.id)
            ended = _csrf(client, held) is None
    return [
        Found("session fixation", "a cookie is there before signing in", "signing in gives another one",
              "cookie and form token differ", not fixed),
        Found("forged sessions", f"{len(forged)} changed cookies, one of another server", "all refused",
              f"{taken} accepted", taken == 0 and foreign is None),
        Found("copied session", "the owner makes a new link", "the old one's sessions end", "at once", ended),
    ]  # fmt: skip


def _csrf(client: TestClient, cookie: str) -> str | None:
    """The form token of the page that a cookie opens, None if it opens none."""
    client.cookies.clear()
    client.cookies.set(SESSION_COOKIE, cookie)
    found = re.search(r'name="csrf" content="([^"]+)"', client.get("/").text)
    return found[1] if found else None
