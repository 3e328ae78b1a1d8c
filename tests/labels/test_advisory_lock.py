"""The lock of a server over PostgreSQL, whose connection may be killed under it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from sqlalchemy import text

from alignloop.errors import UserError
from alignloop.labels import label_folder
from alignloop.labels.label_folder import SERVING_LOCK, advisory_lock
from alignloop.labels.store import Store
from bench.postgres import fresh_database

pytestmark = pytest.mark.postgres

HOLDERS = (
    "SELECT pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
    "WHERE locktype = 'advisory' AND granted AND datname = current_database()"
)


def holders(store: Store) -> list[int]:
    with store.reading() as connection:
        return list(connection.scalars(text(HOLDERS)))


def killed(store: Store) -> int:
    (pid,) = holders(store)
    with store.writing() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend({pid})"))
    return pid


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_lock_whose_connection_is_killed_is_taken_again(postgres):
    store = Store(fresh_database(postgres))
    fallen = []
    with advisory_lock(store.engine, "busy", check_s=0.05, lost=lambda: fallen.append(1)):
        before = killed(store)
        wait_for(lambda: len(holders(store)) == 1 and holders(store) != [before])
    assert holders(store) == []
    assert not fallen
    store.close()


def test_a_server_whose_lock_another_has_taken_ends(postgres, monkeypatch):
    monkeypatch.setattr(label_folder, "LOCK_S", 0.1)
    store, other = Store(url := fresh_database(postgres)), Store(url)
    fallen = []
    with other.engine.connect() as rival:

        def serve() -> None:
            with advisory_lock(store.engine, "busy", check_s=1.5, lost=lambda: fallen.append(1)):
                killed(store)  # its lock is free a moment later
                wait_for(lambda: rival.scalar(text(f"SELECT pg_try_advisory_lock({SERVING_LOCK})")))
                wait_for(lambda: bool(fallen))

        with pytest.raises(UserError, match="busy"):
            serve()
        assert len(holders(store)) == 1  # the other's
    other.close()
    store.close()
