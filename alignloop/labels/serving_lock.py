"""One server for one PostgreSQL database: an advisory lock, taken again when its connection is lost.

PostgreSQL gives the lock back when the connection ends: that of a killed server, but also that of a living
one whose backend was killed or whose PostgreSQL was started again. A thread looks after it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from alignloop.errors import UserError

SERVING_LOCK = 727275
"""Number of the lock."""
LOCK_S = 5.0
"""A server that was killed lets go of its lock within this time, in seconds."""
CHECK_S = 2.0
"""How often the connection that holds the lock is looked at, in seconds."""


def stop_server() -> None:
    """End this process's server in order, as Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def advisory_lock(
    engine: Engine, message: str, *, check_s: float = CHECK_S, lost: Callable[[], object] = stop_server
) -> Iterator[None]:
    """Hold the database for this server.

    Args:
        engine: of the database.
        message: what is said when another server holds it.
        check_s: how often the lock's connection is looked at, in seconds.
        lost: called once if another server has taken the lock meanwhile.

    Raises:
        UserError: another server holds the lock, at the start or later.
    """
    connection = _taken(engine)
    if connection is None:
        raise UserError(message)
    keeper = _Keeper(engine, connection, check_s, lost)
    keeper.start()
    try:
        yield
    finally:
        keeper.end()
    if keeper.is_lost:
        raise UserError(message)


def _taken(engine: Engine) -> Connection | None:
    """A connection that holds the lock, None if another's does."""
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    since = time.monotonic()
    try:
        while not connection.scalar(select(func.pg_try_advisory_lock(SERVING_LOCK))):
            if time.monotonic() - since > LOCK_S:
                connection.close()
                return None
            time.sleep(0.1)
    except DBAPIError:
        connection.close()
        raise
    return connection


class _Keeper(threading.Thread):
    """Looks whether the connection lives and takes the lock again where it does not."""

    def __init__(
        self, engine: Engine, connection: Connection, check_s: float, lost: Callable[[], object]
    ) -> None:
        super().__init__(name="serving-lock", daemon=True)
        self._engine, self._check_s, self._lost = engine, check_s, lost
        self._connection: Connection | None = connection
        self._ending = threading.Event()
        self.is_lost = False

    def run(self) -> None:
        """Until `end`."""
        while not self._ending.wait(self._check_s):
            try:
                if self._connection is not None:
                    self._connection.scalar(select(1))
                    continue
                self._connection = _taken(self._engine)
            except DBAPIError:  # not reachable: nobody else can serve either
                self._let_go()
                continue
            if self._connection is None:
                self.is_lost = True
                self._lost()
                return

    def end(self) -> None:
        """Give the lock back."""
        self._ending.set()
        self.join()
        if self._connection is not None:
            with suppress(DBAPIError):
                self._connection.scalar(select(func.pg_advisory_unlock(SERVING_LOCK)))
        self._let_go()

    def _let_go(self) -> None:
        if self._connection is not None:
            with suppress(DBAPIError):
                self._connection.close()
            self._connection = None
