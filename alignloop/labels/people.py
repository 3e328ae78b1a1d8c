"""Annotators and owners: invitations, their end, the reader's language, one link for every project.

A person has a row of annotators in each project, so that a judgement's annotator and project belong
together. Rows of one person carry the id of the first of them, whose link opens all of them.
"""

from __future__ import annotations

import hashlib
import secrets
import time

from sqlalchemy import Connection, Row, Select, insert, or_, select, update

from alignloop.labels.faults import Rejected
from alignloop.labels.project import Annotator, Project, clean
from alignloop.labels.schema import annotators, assignments, projects
from alignloop.labels.store import Store, log, touch


def hash_token(token: str) -> str:
    """What is stored of an invitation token; the token itself is shown once and never kept."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def invite(
    store: Store,
    project: Project | None,
    name: str,
    *,
    role: str = "annotator",
    language: str = "",
    everywhere: bool = False,
) -> tuple[Annotator, str]:
    """Invite somebody; returns the annotator and the token of the link, which is not stored.

    Without a language the page follows the browser's. Somebody whose access was ended comes back under
    the same name, with the judgements of before. With `everywhere` the link opens every project of the
    store, those made later included (see `spread`).

    Raises:
        Rejected: 409 when the name is taken in this project, 422 when it is empty or too long.
    """
    name, token = clean(name).strip(), secrets.token_urlsafe(32)
    if not 0 < len(name) <= 200:
        raise Rejected("a name has 1 to 200 characters", status=422, reason="name")
    if len(language) > 8:
        raise Rejected("unknown language", status=422, reason="language")
    project_id = None if project is None else project.id
    with store.writing() as connection:
        same = (annotators.c.project_id.is_not_distinct_from(project_id), annotators.c.name == name)
        known = connection.execute(select(annotators).where(*same)).one_or_none()
        if name_taken(connection, project_id, name):
            raise Rejected(f"there is already an annotator named '{name}'", status=409, reason="taken")
        access = {"role": role, "token_hash": hash_token(token), "language": language, "person": None}
        if known is None:
            values = {"project_id": project_id, "name": name, "created": time.time(), **access}
            query = insert(annotators).values(values).returning(annotators.c.id)
            home_id = connection.scalars(query).one()
        else:
            home_id = known.id
            again = update(annotators).where(annotators.c.id == home_id)
            connection.execute(again.values(removed=None, epoch=known.epoch + 1, **access))
        if everywhere:
            spread(connection, home_id)
        details = {"name": name, "role": role, "everywhere": everywhere}
        log(connection, "annotator invited", actor="owner", project_id=project_id, **details)
    found = by_token(store, token)
    assert found is not None
    return found, token


def link_for(store: Store, name: str, *, project: Project | None = None, language: str = "") -> str:
    """Token of a link for somebody, invited now or before; an earlier link ends.

    Args:
        store: an open store.
        name: whom.
        project: the only one that the link opens; None for every project of the store.
        language: of the page, where somebody is invited now.

    Returns:
        The token, which is not stored.

    Raises:
        Rejected: 404 when there is no project yet, 422 as `invite`.
    """
    actor, name = "command line", clean(name).strip()
    if project is not None:
        known = [a for a in list_annotators(store, project) if a.name == name and a.removed is None]
        if known:
            return new_link(store, known[0].id, actor=actor)
        return invite(store, project, name, language=language)[1]
    with store.reading() as connection:
        person = person_named(connection, name)
    if person is not None:
        return new_link(store, person.id, actor=actor)
    alone = [a for a in list_annotators(store) if (a.name, a.role, a.removed) == (name, "annotator", None)]
    if alone:
        with store.writing() as connection:
            spread(connection, alone[0].id)
            log(connection, "invited to every project", actor=actor, name=name)
        return new_link(store, alone[0].id, actor=actor)
    if not store.projects():
        raise Rejected("there is no project yet; import items first", status=404, reason="project")
    return invite(store, store.projects()[0], name, language=language, everywhere=True)[1]


def list_annotators(store: Store, project: Project | None = None) -> list[Annotator]:
    """Annotators of a project, or all, owners included."""
    query = select(annotators).order_by(annotators.c.id)
    if project is not None:
        query = query.where(annotators.c.project_id == project.id)
    return _read(store, query)


def find(store: Store, annotator_id: int) -> Annotator | None:
    """One annotator, or None."""
    return next(iter(_read(store, select(annotators).where(annotators.c.id == annotator_id))), None)


def by_token(store: Store, token: str) -> Annotator | None:
    """Whose invitation this is; None if nobody's or if the annotator was removed."""
    query = select(annotators).where(
        annotators.c.token_hash == hash_token(token), annotators.c.removed.is_(None)
    )
    return next(iter(_read(store, query)), None)


def _read(store: Store, query: Select) -> list[Annotator]:
    with store.reading() as connection:
        return [annotator_of(row) for row in connection.execute(query)]


def new_link(store: Store, annotator_id: int, *, actor: str = "owner") -> str:
    """Replace an invitation: the old link and its sessions end, in every project it opened.

    Returns:
        The new token.
    """
    token = secrets.token_urlsafe(32)
    with store.writing() as connection:
        row = connection.execute(select(annotators).where(annotators.c.id == annotator_id)).one()
        ids = ids_of_person(connection, row)
        raised = update(annotators).where(annotators.c.id.in_(ids)).values(epoch=annotators.c.epoch + 1)
        connection.execute(raised)
        home = annotators.c.id == (row.person or row.id)
        connection.execute(update(annotators).where(home).values(token_hash=hash_token(token)))
        log(connection, "new link", actor=actor, annotator=annotator_id)
    return token


def remove(store: Store, annotator_id: int, *, actor: str = "owner") -> None:
    """End somebody's access, in every project; open items go back to the others, judgements stay."""
    with store.writing() as connection:
        query = select(annotators).where(annotators.c.id == annotator_id)
        row = connection.execute(query).one_or_none()
        if row is None:
            raise Rejected("there is no such annotator", status=404, reason="annotator")
        ids = ids_of_person(connection, row)
        who = annotators.c.id.in_(ids)
        connection.execute(
            update(annotators).where(who).values(removed=time.time(), epoch=annotators.c.epoch + 1)
        )
        connection.execute(
            update(assignments)
            .where(assignments.c.annotator_id.in_(ids), assignments.c.state == "open")
            .values(state="released")
        )
        for project_id in connection.scalars(select(annotators.c.project_id).where(who)).all():
            if project_id is not None:
                touch(connection, project_id)
        log(connection, "annotator removed", actor=actor, project_id=row.project_id, name=row.name)


def set_language(store: Store, annotator_id: int, language: str) -> None:
    """Remember in which language somebody reads the page."""
    with store.writing() as connection:
        row = connection.execute(select(annotators).where(annotators.c.id == annotator_id)).one()
        ids = ids_of_person(connection, row)
        connection.execute(update(annotators).where(annotators.c.id.in_(ids)).values(language=language))


def ids_of_person(connection: Connection, row: Row) -> list[int]:
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


def name_taken(connection: Connection, project_id: int | None, name: str) -> bool:
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
