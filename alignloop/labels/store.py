"""The label store: projects, items, annotators, judgements, audit log.

Every method is one transaction, but for `add_items`. Judging itself (next, submit, undo) is in judging.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from alignloop.errors import UserError
from alignloop.foreign import loads
from alignloop.labels.database import connect, insert_new, sqlite_url, unavailable
from alignloop.labels.faults import Rejected
from alignloop.labels.migrations import prepare
from alignloop.labels.project import NewItem, Project, Settings, clean, item_row
from alignloop.labels.schema import (
    assignments,
    audit,
    guidelines,
    items,
    judgements,
    models,
    projects,
)
from alignloop.labels.tasks import ANSWER_COUNTS

CHUNK = 500
"""Rows per INSERT, and values per IN (…)."""


@dataclass(frozen=True, slots=True)
class Added:
    """What became of rows given to `add_items`; `refused` lists (row number from 0, reason)."""

    added: int
    duplicates: int
    refused: tuple[tuple[int, str], ...]


class Store:
    """An open label database.

    Args:
        url: `sqlite:///…`, `postgresql://…`, or a path of an SQLite file.
        busy_timeout_s: how long to wait for another program's lock, in seconds.

    Attributes:
        identity: of the database, the same for its whole life.

    Raises:
        UserError: wrong URL, another kind of database, or a newer schema.
        StoreUnavailable: the database is locked, damaged or unreachable.
    """

    def __init__(self, url: str | Path, *, busy_timeout_s: float = 2.0) -> None:
        text = str(url)
        self.engine = connect(
            text if "://" in text else sqlite_url(Path(text)), busy_timeout_s=busy_timeout_s
        )
        self.writes = self.engine.execution_options(immediate=True)
        with faults_named():
            self.identity = prepare(self.writes)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection whose reads see one moment."""
        with faults_named(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that holds the write lock; commits at the end, rolls back on any exception."""
        with faults_named(), self.writes.begin() as connection:
            yield connection

    # Projects

    def create_project(
        self, name: str, *, task: str, settings: Settings | None = None, guidelines_text: str = ""
    ) -> Project:
        """Make a project.

        Raises:
            UserError: unknown task, or the name is empty or taken.
        """
        if task not in ANSWER_COUNTS:
            raise UserError(f"unknown task '{task}'; choose one of {', '.join(ANSWER_COUNTS)}")
        if not 0 < len(name.strip()) <= 200:
            raise UserError("a project's name has 1 to 200 characters")
        name, guidelines_text = clean(name), clean(guidelines_text)
        now, settings = time.time(), settings or Settings()
        with self.writing() as connection:
            if connection.scalar(select(projects.c.id).where(projects.c.name == name)) is not None:
                raise UserError(f"there is already a project named '{name}'")
            row = {"name": name, "task": task, "settings": settings.to_json(), "created": now}
            project_id = connection.scalar(insert(projects).values(row).returning(projects.c.id))
            connection.execute(
                insert(guidelines).values(project_id=project_id, version=1, text=guidelines_text, created=now)
            )
            log(connection, "project created", actor="owner", project_id=project_id, name=name, task=task)
        return self.project(project_id)

    def projects(self) -> list[Project]:
        """Every project, oldest first."""
        with self.reading() as connection:
            return [
                project_from_row(row) for row in connection.execute(select(projects).order_by(projects.c.id))
            ]

    def project(self, key: int | str | None = None) -> Project:
        """A project by id or name; without a key the only one there is.

        Raises:
            Rejected: 404 when there is none.
        """
        found = [p for p in self.projects() if key is None or key in (p.id, p.name)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(f"'{p.name}'" for p in self.projects()) or "none"
        what = "choose one project" if key is None else f"there is no project {key!r}"
        raise Rejected(f"{what}; there are: {names}", status=404, reason="project")

    def change_settings(self, project: Project, settings: Settings, *, actor: str = "owner") -> None:
        """Replace a project's settings; items already assigned keep their order."""
        with self.writing() as connection:
            touch(connection, project.id, settings=settings.to_json())
            log(connection, "settings", actor=actor, project_id=project.id, **settings.to_json())

    def guidelines(self, project: Project) -> str:
        """Text of the current guidelines, Markdown."""
        with self.reading() as connection:
            return (
                connection.scalar(
                    select(guidelines.c.text).where(
                        guidelines.c.project_id == project.id,
                        guidelines.c.version == project.guideline_version,
                    )
                )
                or ""
            )

    def change_guidelines(self, project: Project, text: str, *, actor: str = "owner") -> int:
        """Add a version of the guidelines; later judgements carry its number, which is returned."""
        text = clean(text)
        with self.writing() as connection:
            top = select(func.max(guidelines.c.version)).where(guidelines.c.project_id == project.id)
            version = (connection.scalar(top) or 0) + 1
            connection.execute(
                insert(guidelines).values(
                    project_id=project.id, version=version, text=text, created=time.time()
                )
            )
            touch(connection, project.id, guideline_version=version)
            log(connection, "guidelines", actor=actor, project_id=project.id, version=version)
        return version

    # Items

    def add_items(self, project: Project, rows: Iterable[NewItem], *, actor: str = "owner") -> Added:
        """Queue items; one that is already there (same prompt and answers) is left alone.

        Items that were written before a kill stay; the same call adds the rest.

        Returns:
            How many were added, were duplicates, or were refused and why.
        """
        now, numbered = time.time(), enumerate(rows)
        num_good, refused = 0, []
        # A transaction for each chunk: a million items neither fill the memory nor lock a running server out.
        while chunk := list(islice(numbered, CHUNK)):
            good = []
            for number, row in chunk:
                try:
                    good.append(item_row(row, project=project, now=now))
                except Rejected as error:
                    refused.append((number, str(error)))
            if good:
                with self.writing() as connection:
                    connection.execute(insert_new(connection, items), good)
            num_good += len(good)
        mine = (items.c.project_id == project.id, items.c.created == now)
        with self.writing() as connection:
            added = connection.scalar(select(func.count()).where(*mine)) or 0
            touch(connection, project.id)
            log(connection, "items added", actor=actor, project_id=project.id, added=added)
        return Added(added, num_good - added, tuple(refused))

    def prioritise(
        self, project: Project, choices: Mapping[int, tuple[str, float]], *, actor: str = "owner"
    ) -> None:
        """Set arm and priority of items: item id → (arm, priority); higher priority is shown earlier."""
        with self.writing() as connection:
            for item_id, (arm, priority) in choices.items():
                where = (items.c.id == item_id, items.c.project_id == project.id)
                connection.execute(update(items).where(*where).values(arm=arm, priority=priority))
            touch(connection, project.id)
            log(connection, "items chosen", actor=actor, project_id=project.id, num_items=len(choices))

    def set_scores(self, project: Project, scores: Mapping[int, list]) -> None:
        """Keep reward-model scores of items: item id → [answer] or [member][answer]."""
        with self.writing() as connection:
            for item_id, values in scores.items():
                where = (items.c.id == item_id, items.c.project_id == project.id)
                connection.execute(update(items).where(*where).values(scores=values))

    def withdraw(
        self, project: Project, item_ids: Sequence[int], *, reason: str, actor: str = "owner"
    ) -> int:
        """Take items out of labelling; their judgements stay, exports leave them out. Returns how many."""
        with self.writing() as connection:
            mine = (items.c.id.in_(item_ids), items.c.project_id == project.id, items.c.withdrawn.is_(None))
            count = connection.execute(update(items).where(*mine).values(withdrawn=time.time())).rowcount
            connection.execute(
                update(assignments)
                .where(
                    assignments.c.item_id.in_(item_ids),
                    assignments.c.project_id == project.id,
                    assignments.c.state == "open",
                )
                .values(state="released")
            )
            touch(connection, project.id)
            log(
                connection,
                "items withdrawn",
                actor=actor,
                project_id=project.id,
                items=list(item_ids),
                why=reason,
            )
        return count

    def unjudged_items(self, project: Project) -> Iterator[Row]:
        """Items that nobody has been given yet, to be scored and chosen from (see select.py)."""
        given = select(assignments.c.item_id).where(assignments.c.project_id == project.id)
        query = (
            select(items)
            .where(items.c.project_id == project.id, items.c.withdrawn.is_(None), items.c.gold.is_(None))
            .where(items.c.id.not_in(given))
            .order_by(items.c.id)
        )
        with self.reading() as connection:
            yield from connection.execute(query)

    # Labels, models, log

    def new_labels_since(self, project: Project, judgement_id: int = 0) -> list[int]:
        """Ids of judgements that count now and are newer than `judgement_id`, rising."""
        query = (
            select(judgements.c.id)
            .join(assignments, assignments.c.current_id == judgements.c.id)
            .where(
                judgements.c.project_id == project.id,
                judgements.c.id > judgement_id,
                judgements.c.answer.is_not(None),
                assignments.c.state == "done",
            )
            .order_by(judgements.c.id)
        )
        with self.reading() as connection:
            return list(connection.scalars(query))

    def record_model(
        self, project: Project, *, kind: str, path: str, judgement_ids: Sequence[int], accuracy: float | None
    ) -> None:
        """Name the judgements a model was made from; `accuracy` is held out, 0–1 (reward models)."""
        row = {
            "project_id": project.id,
            "kind": kind,
            "path": path,
            "judgement_ids": list(judgement_ids),
            "accuracy": accuracy,
            "created": time.time(),
        }
        with self.writing() as connection:
            connection.execute(insert(models).values(row))
            log(connection, "model made", actor="loop", project_id=project.id, path=path, kind=kind)

    def models(self, project: Project) -> list[Row]:
        """Models made from this project's judgements, oldest first."""
        with self.reading() as connection:
            query = select(models).where(models.c.project_id == project.id).order_by(models.c.id)
            return list(connection.execute(query))

    def log(self, action: str, *, actor: str, project_id: int | None = None, **details: object) -> None:
        """Append to the audit log."""
        with self.writing() as connection:
            log(connection, action, actor=actor, project_id=project_id, **details)

    def audit_log(self, project: Project | None = None, *, limit: int = 500) -> list[Row]:
        """Newest entries of the audit log first; with a project, its own and the global ones."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if project is not None:
            query = query.where((audit.c.project_id == project.id) | audit.c.project_id.is_(None))
        with self.reading() as connection:
            return list(connection.execute(query))


@contextmanager
def faults_named() -> Iterator[None]:
    """Turn the database's own faults into StoreUnavailable."""
    try:
        yield
    except DBAPIError as error:
        named = unavailable(error)
        if named is None:
            raise
        raise named from error


def log(
    connection: Connection, action: str, *, actor: str, project_id: int | None = None, **details: object
) -> None:
    """Append to the audit log within a transaction; details are plain values."""
    # A round trip keeps anything out that JSON cannot hold before the statement is sent.
    plain = loads(json.dumps(details, ensure_ascii=False))
    connection.execute(
        insert(audit).values(
            created=time.time(), project_id=project_id, actor=actor, action=action, details=plain
        )
    )


def touch(connection: Connection, project_id: int, **values: object) -> None:
    """Change a project's row and raise its revision, so that a running server reads it again."""
    connection.execute(
        update(projects).where(projects.c.id == project_id).values(revision=projects.c.revision + 1, **values)
    )


def project_from_row(row: Row) -> Project:
    settings = Settings.from_json(row.settings)
    return Project(row.id, row.name, row.task, settings, row.guideline_version, row.revision)
