"""One person in every project of a store, by one link.

A person has a row of annotators in each project, so that a judgement's annotator and project belong
together. Rows of one person carry the id of the first of them, whose link opens all of them.
"""

from __future__ import annotations

import secrets
import time

from sqlalchemy import Connection, Row, insert, or_, select, update

from alignloop.labels.faults import Rejected
from alignloop.labels.project import Annotator, Project
from alignloop.labels.schema import annotators, projects
from alignloop.labels.store import Store


def group(connection: Connection, row: Row) -> list[int]:
    """Ids of all rows of a person, the row's own among them."""
    if row.person is None:
        return [row.id]
    return list(connection.scalars(select(annotators.c.id).where(annotators.c.person == row.person)))


def person_named(connection: Connection, name: str) -> Row | None:
    """First row of the person of this name with a link to every project; None if there is none."""
    query = select(annotators).where(
        annotators.c.name == name,
        annotators.c.person == annotators.c.id,
        annotators.c.removed.is_(None),
    )
    return connection.execute(query).one_or_none()


def spread(connection: Connection, home_id: int) -> None:
    """Make an annotator a person of every project there is.

    Somebody of the same name with a link to one project alone becomes the same person: that link ends,
    the judgements stay.

    Raises:
        Rejected: 409 when a project has a simulated annotator of that name.
    """
    connection.execute(update(annotators).where(annotators.c.id == home_id).values(person=home_id))
    home = connection.execute(select(annotators).where(annotators.c.id == home_id)).one()
    for project_id in connection.scalars(select(projects.c.id).order_by(projects.c.id)).all():
        if project_id != home.project_id:
            _join(connection, home, project_id)


def _join(connection: Connection, home: Row, project_id: int) -> None:
    same = (annotators.c.project_id == project_id, annotators.c.name == home.name)
    known = connection.execute(select(annotators).where(*same)).one_or_none()
    # Nobody ever knows this token: the way in is the first row's link.
    access = {"token_hash": secrets.token_hex(32), "language": home.language, "person": home.id}
    if known is None:
        values = {"project_id": project_id, "name": home.name, "role": home.role, "created": time.time()}
        connection.execute(insert(annotators).values({**values, **access}))
    elif known.role != home.role:
        raise Rejected(f"there is a {known.role} annotator named '{home.name}'", status=409, reason="taken")
    elif known.person != home.id or known.removed is not None:
        again = update(annotators).where(annotators.c.id == known.id)
        connection.execute(again.values(removed=None, epoch=known.epoch + 1, **access))


def memberships(store: Store, annotator: Annotator) -> list[tuple[Annotator, Project]]:
    """A person's rows and their projects, those made since the invitation included; oldest project first.

    Somebody invited to one project has that one.
    """
    found = store.projects()
    if annotator.person is None:
        return [(annotator, project) for project in found if project.id == annotator.project_id]
    rows = _rows(store, annotator.person)
    if len(rows) < len(found):
        with store.writing() as connection:
            spread(connection, annotator.person)
        rows = _rows(store, annotator.person)
    return [(rows[project.id], project) for project in found if project.id in rows]


def _rows(store: Store, person: int) -> dict[int, Annotator]:
    query = select(annotators).where(annotators.c.person == person, annotators.c.removed.is_(None))
    with store.reading() as connection:
        return {row.project_id: annotator_of(row) for row in connection.execute(query)}


def taken(connection: Connection, project_id: int | None, name: str) -> bool:
    """Whether somebody with access bears this name in the project, or in every project."""
    here = annotators.c.project_id.is_not_distinct_from(project_id)
    everywhere = annotators.c.person.is_not(None) if project_id is not None else here
    query = select(annotators.c.id).where(
        annotators.c.name == name, annotators.c.removed.is_(None), or_(here, everywhere)
    )
    return connection.execute(query).first() is not None


def annotator_of(row: Row) -> Annotator:
    """A row of the annotators table as plain data."""
    return Annotator(
        row.id, row.project_id, row.name, row.role, row.epoch, row.language, row.removed, row.person
    )
