"""Databases of other versions, of other programs, and damaged ones."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import inspect, text

from alignloop.errors import UserError
from alignloop.labels.faults import StoreUnavailable
from alignloop.labels.store import Store


def structure(store: Store) -> dict[str, list[tuple[str, str]]]:
    found = inspect(store.engine)
    return {
        table: sorted((column["name"], str(column["type"])) for column in found.get_columns(table))
        for table in sorted(found.get_table_names())
    }


def downgrade(store: Store) -> None:
    """Make a database what schema 1 was: without models, scores of items and persons."""
    with store.writing() as connection:
        connection.execute(text("DROP TABLE models"))
        connection.execute(text("ALTER TABLE items DROP COLUMN scores"))
        connection.execute(text("ALTER TABLE annotators DROP COLUMN person"))
        connection.execute(text("UPDATE meta SET value = '1' WHERE key = 'schema_version'"))


def test_an_old_database_becomes_the_same_as_a_new_one(url, make_project, tmp_path):
    store = Store(url)
    project = make_project(store, count=3)
    new = structure(store)
    downgrade(store)
    store.close()
    migrated = Store(url)
    assert structure(migrated) == new
    assert [row.arm for row in migrated.unjudged_items(project)] == ["random"] * 3
    migrated.record_model(project, kind="reward", path="p", judgement_ids=[1], accuracy=None)
    migrated.close()
    if url.startswith("sqlite"):
        (backup,) = tmp_path.glob("*.schema1-*.bak")
        connection = sqlite3.connect(backup)
        assert connection.execute("SELECT value FROM meta").fetchone() == ("1",)
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (3,)
        connection.close()


def test_a_newer_database_is_refused_in_one_sentence(url):
    store = Store(url)
    with store.writing() as connection:
        connection.execute(text("UPDATE meta SET value = '4' WHERE key = 'schema_version'"))
    store.close()
    with pytest.raises(UserError, match=r"newer AlignLoop \(schema 4, this one reads up to 3\)"):
        Store(url)


def test_another_programs_database_is_left_alone(url):
    store = Store(url)
    with store.writing() as connection:
        connection.execute(text("DROP TABLE meta"))
    store.close()
    with pytest.raises(UserError, match="no AlignLoop labels"):
        Store(url)


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "labels.sqlite"
    path.write_bytes(b"not a database at all, only text " * 100)
    with pytest.raises(StoreUnavailable) as caught:
        Store(path)
    assert caught.value.reason == "damaged"
    assert path.read_bytes().startswith(b"not a database")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(StoreUnavailable) as caught:
        Store(tmp_path / "nowhere" / "labels.sqlite")
    assert caught.value.reason == "lost"


def test_unknown_urls(tmp_path):
    with pytest.raises(UserError, match="mysql"):
        Store("mysql://host/labels")


def test_a_server_that_is_not_there():
    with pytest.raises(StoreUnavailable) as caught:
        Store("postgresql://label@127.0.0.1:1/none")
    assert caught.value.reason == "lost"
