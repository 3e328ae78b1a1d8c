"""Open the label database so that nothing acknowledged is lost, and name its faults.

SQLite runs in WAL mode with synchronous=FULL: a commit returns after fsync, so it survives kill -9
and power cut. PostgreSQL does the same, whatever its server's or database's settings say.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from alignloop.errors import UserError
from alignloop.labels.faults import StoreUnavailable

_SQLITE_REASONS = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "full",
    sqlite3.SQLITE_READONLY: "readonly",
    sqlite3.SQLITE_CANTOPEN: "lost",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
}
_SENTENCES = {
    "locked": "the label database is locked by another program; try again in a moment",
    "full": "the disk of the label database is full or failing; free some space and try again",
    "readonly": "the label database may not be written to; check the rights of its file and folder",
    "lost": "the label database cannot be reached",
    "damaged": "the label database is damaged or not a database; restore a backup",
}


def connect(url: str, *, busy_timeout_s: float = 2.0) -> Engine:
    """Engine for a `postgresql://…` or `sqlite:///…` URL.

    Transactions of `engine.execution_options(immediate=True)` take SQLite's write lock at once, so that
    two writers wait for each other instead of failing half-way.

    Args:
        url: database URL.
        busy_timeout_s: how long a statement waits for a lock, in seconds.

    Returns:
        The engine; nothing is connected yet.

    Raises:
        UserError: the URL is not understood or its driver is not installed.
    """
    driver_url = url
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            driver_url = "postgresql+psycopg://" + url.removeprefix(prefix)
    milliseconds = int(busy_timeout_s * 1000)
    arguments: dict[str, object] = {}
    if driver_url.startswith("postgresql"):
        # A server may be set to acknowledge before it has written; judgements may not.
        options = f"-c lock_timeout={milliseconds} -c synchronous_commit=on"
        arguments = {"options": options, "connect_timeout": 5}
    elif not driver_url.startswith("sqlite:"):
        raise UserError(f"database URL '{url.split(':', 1)[0]}:…' is not sqlite:///FILE or postgresql://…")
    try:
        engine = create_engine(
            driver_url,
            connect_args=arguments,
            pool_pre_ping=driver_url.startswith("postgresql"),
            json_serializer=lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
        )
    except (ImportError, NoSuchModuleError) as error:
        raise UserError("PostgreSQL needs the driver psycopg: pip install 'alignloop[postgresql]'") from error
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine, milliseconds)
    return engine


def sqlite_url(path: Path) -> str:
    """URL of an SQLite file."""
    return f"sqlite:///{path}"


def _configure_sqlite(engine: Engine, busy_timeout_ms: int) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # The driver's own transaction handling is off; BEGIN is sent below.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={busy_timeout_ms}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def insert_new(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """INSERT that leaves rows alone that break a unique constraint."""
    module = sqlite if connection.dialect.name == "sqlite" else postgresql
    return module.insert(table).on_conflict_do_nothing()


def unavailable(error: DBAPIError) -> StoreUnavailable | None:
    """The fault as a person would name it, or None if the statement itself was wrong."""
    reason = None
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", None)
        reason = None if code is None else _SQLITE_REASONS.get(code & 0xFF)
    elif error.orig is not None:
        state = getattr(error.orig, "sqlstate", None) or ""
        if state in {"55P03", "40P01", "40001", "57014"}:
            reason = "locked"
        elif state.startswith("53"):
            reason = "full"
        elif state == "25006":
            reason = "readonly"
        elif isinstance(error, OperationalError) or error.connection_invalidated:
            reason = "lost"
    return StoreUnavailable(_SENTENCES[reason], reason=reason) if reason else None
