"""Bring a label database to this version's schema, or say why not.

A migration is a function of a connection and is frozen once released: it writes out what it changes
and never looks at schema.py, which describes the newest version only.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    select,
    text,
    update,
)

from alignloop.errors import UserError
from alignloop.labels import schema


def _to_2(connection: Connection) -> None:
    """Reward-model scores on items; models with the judgements they were made from."""
    connection.execute(text("ALTER TABLE items ADD COLUMN scores JSON"))
    frozen = MetaData()
    Table("projects", frozen, Column("id", Integer, primary_key=True))
    Table(
        "models",
        frozen,
        Column("id", Integer, primary_key=True),
        Column("project_id", ForeignKey("projects.id"), nullable=False),
        Column("kind", String(16), nullable=False),
        Column("path", Text, nullable=False),
        Column("judgement_ids", JSON, nullable=False),
        Column("accuracy", Float),
        Column("created", Float, nullable=False),
    ).create(connection)


def _to_3(connection: Connection) -> None:
    """One link of a person for every project."""
    connection.execute(text("ALTER TABLE annotators ADD COLUMN person INTEGER"))


MIGRATIONS: dict[int, Callable[[Connection], None]] = {2: _to_2, 3: _to_3}
"""Target version → the step from the version before it."""


def prepare(engine: Engine) -> str:
    """Create the tables in an empty database, or migrate an older one in one transaction.

    Args:
        engine: an engine whose transactions take the write lock at once (see database.connect).

    Returns:
        The database's identity, random and the same for its whole life.

    Raises:
        UserError: the database belongs to something else or to a newer AlignLoop.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(727274)"))
        tables = set(inspect(connection).get_table_names())
        if not tables:
            schema.metadata.create_all(connection)
            connection.execute(
                schema.meta.insert().values(key="schema_version", value=str(schema.SCHEMA_VERSION))
            )
        else:
            _migrate(connection, engine, tables)
        return _identity(connection)


def _migrate(connection: Connection, engine: Engine, tables: set[str]) -> None:
    found = stored_version(connection, tables)
    if found == schema.SCHEMA_VERSION:
        return
    _backup(engine, found)
    for version in range(found + 1, schema.SCHEMA_VERSION + 1):
        MIGRATIONS[version](connection)
    connection.execute(
        update(schema.meta)
        .where(schema.meta.c.key == "schema_version")
        .values(value=str(schema.SCHEMA_VERSION))
    )


def _identity(connection: Connection) -> str:
    known = connection.scalar(select(schema.meta.c.value).where(schema.meta.c.key == "identity"))
    if known is None:
        known = secrets.token_hex(16)
        connection.execute(schema.meta.insert().values(key="identity", value=known))
    return known


def stored_version(connection: Connection, tables: set[str]) -> int:
    """Schema version of the database; refuses what this version cannot read."""
    if not {"meta", "projects", "judgements"} <= tables:
        raise UserError("this database holds other tables and no AlignLoop labels; give another file or URL")
    value = connection.scalar(select(schema.meta.c.value).where(schema.meta.c.key == "schema_version"))
    if value is None or not value.isdigit():
        raise UserError("this label database has no schema version; it is damaged or was made by hand")
    if int(value) > schema.SCHEMA_VERSION:
        raise UserError(
            f"this label database was made by a newer AlignLoop (schema {value}, "
            f"this one reads up to {schema.SCHEMA_VERSION}); upgrade AlignLoop to open it"
        )
    return int(value)


def _backup(engine: Engine, version: int) -> None:
    """Copy a SQLite file beside itself before it is changed; PostgreSQL migrates in one transaction."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return
    path = Path(engine.url.database)
    target = path.with_name(f"{path.name}.schema{version}-{time.strftime('%Y%m%d%H%M%S')}.bak")
    source = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    copy = sqlite3.connect(target)
    try:
        source.backup(copy)
    finally:
        copy.close()
        source.close()
