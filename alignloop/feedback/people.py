"""Annotators and owners: invitations, their end, the reader's language."""

from __future__ import annotations

import hashlib
import secrets
import time

from sqlalchemy import Row, Select, insert, select, update

from alignloop.feedback.faults import Rejected
from alignloop.feedback.project import Annotator, Project, clean
from alignloop.feedback.schema import annotators, assignments
from alignloop.feedback.store import Store, log, touch


def hash_token(token: str) -> str:
    """What is stored of an invitation token; the token itself is shown once and never kept."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def invite(
    store: Store, project: Project | None, name: str, *, role: str = "annotator", language: str = ""
) -> tuple[Annotator, str]:
    """Invite somebody; returns the annotator and the token of the link, which is not stored.

    Without a language the page follows the browser's. Somebody whose access was ended comes back under
    the same name, with the judgements of before.

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
        if known is not None and known.removed is None:
            raise Rejected(f"there is already an annotator named '{name}'", status=409, reason="taken")
        access = {"role": role, "token_hash": hash_token(token), "language": language}
        if known is None:
            values = {"project_id": project_id, "name": name, "created": time.time(), **access}
            connection.execute(insert(annotators).values(values))
        else:
            again = update(annotators).where(annotators.c.id == known.id)
            connection.execute(again.values(removed=None, epoch=known.epoch + 1, **access))
        log(connection, "annotator invited", actor="owner", project_id=project_id, name=name, role=role)
    found = by_token(store, token)
    assert found is not None
    return found, token


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
        return [_annotator(row) for row in connection.execute(query)]


def new_link(store: Store, annotator_id: int, *, actor: str = "owner") -> str:
    """Replace an invitation: the old link and its sessions end. Returns the new token."""
    token = secrets.token_urlsafe(32)
    with store.writing() as connection:
        connection.execute(
            update(annotators)
            .where(annotators.c.id == annotator_id)
            .values(token_hash=hash_token(token), epoch=annotators.c.epoch + 1)
        )
        log(connection, "new link", actor=actor, annotator=annotator_id)
    return token


def remove(store: Store, annotator_id: int, *, actor: str = "owner") -> None:
    """End an annotator's access; open items go back to the others, judgements stay."""
    with store.writing() as connection:
        who = annotators.c.id == annotator_id
        row = connection.execute(select(annotators).where(who)).one_or_none()
        if row is None:
            raise Rejected("there is no such annotator", status=404, reason="annotator")
        connection.execute(
            update(annotators).where(who).values(removed=time.time(), epoch=annotators.c.epoch + 1)
        )
        connection.execute(
            update(assignments)
            .where(assignments.c.annotator_id == annotator_id, assignments.c.state == "open")
            .values(state="released")
        )
        if row.project_id is not None:
            touch(connection, row.project_id)
        log(connection, "annotator removed", actor=actor, project_id=row.project_id, name=row.name)


def set_language(store: Store, annotator_id: int, language: str) -> None:
    """Remember in which language an annotator reads the page."""
    with store.writing() as connection:
        connection.execute(
            update(annotators).where(annotators.c.id == annotator_id).values(language=language)
        )


def _annotator(row: Row) -> Annotator:
    return Annotator(row.id, row.project_id, row.name, row.role, row.epoch, row.language, row.removed)
