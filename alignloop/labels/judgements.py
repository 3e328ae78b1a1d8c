"""Rows of judging: find a task, check an answer, append a judgement."""

from __future__ import annotations

import math
import time
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from alignloop.labels.faults import Rejected
from alignloop.labels.messages import LabelTask, Session, Submission
from alignloop.labels.schema import annotators, assignments, drafts, items, judgements, projects
from alignloop.labels.tasks import SKIP_REASONS, canonical, displayed

MAX_NOTE = 2000

# Statements are built once: their text is constant, and building costs as much as running them.
WHO = (
    select(
        annotators,
        projects.c.name.label("project_name"),
        projects.c.task,
        projects.c.settings,
        projects.c.guideline_version,
        projects.c.revision,
    )
    .outerjoin(projects, projects.c.id == annotators.c.project_id)
    .where(annotators.c.id == bindparam("annotator_id"))
)
_ASSIGNMENT = (
    select(
        assignments,
        items.c.withdrawn,
        projects.c.task,
        projects.c.guideline_version,
        projects.c.settings,
        judgements.c.version.label("version"),
        drafts.c.updated.label("draft_updated"),
    )
    .join(items, items.c.id == assignments.c.item_id)
    .join(projects, projects.c.id == assignments.c.project_id)
    .outerjoin(judgements, judgements.c.id == assignments.c.current_id)
    .outerjoin(drafts, drafts.c.assignment_id == assignments.c.id)
)
ASSIGNMENT_BY_ID = _ASSIGNMENT.where(assignments.c.id == bindparam("assignment_id"))
_SAID = ("action", "answer", "skip_reason", "flagged", "note")
"""Columns of a judgement that its sender chose."""
BY_KEY = select(judgements.c.id, judgements.c.assignment_id, *(judgements.c[name] for name in _SAID)).where(
    judgements.c.key == bindparam("key")
)
_SHOWN = (
    select(assignments, items.c.prompt, items.c.answers, projects.c.task, drafts.c.body)
    .join(items, items.c.id == assignments.c.item_id)
    .join(projects, projects.c.id == assignments.c.project_id)
    .outerjoin(drafts, drafts.c.assignment_id == assignments.c.id)
)
SHOWN_BY_ID = _SHOWN.where(assignments.c.id == bindparam("assignment_id"))
OPEN_TASK = (
    _SHOWN.where(
        assignments.c.annotator_id == bindparam("annotator_id"),
        assignments.c.state == "open",
        assignments.c.kind != "adjudication",
    )
    .order_by(assignments.c.seq)
    .limit(1)
)
_MINE = _ASSIGNMENT.where(
    assignments.c.annotator_id == bindparam("annotator_id"), assignments.c.kind != "adjudication"
)
LAST_JUDGED = (
    _MINE.where(assignments.c.state.in_(("done", "skipped")), items.c.withdrawn.is_(None))
    .order_by(assignments.c.current_id.desc())
    .limit(1)
)
LAST_RETRACTED = (
    _MINE.where(assignments.c.state == "open", assignments.c.current_id.is_not(None))
    .order_by(assignments.c.current_id.desc())
    .limit(1)
)
_ADD_JUDGEMENT = insert(judgements).returning(judgements.c.id)
_ADD_ASSIGNMENT = insert(assignments).returning(assignments.c.id)
_SETTLE = (
    update(assignments)
    .where(assignments.c.id == bindparam("assignment_id"))
    .values(state=bindparam("to_state"), current_id=bindparam("to_current"), opened=bindparam("to_opened"))
)


def authorised(connection: Connection, session: Session) -> Row:
    who = connection.execute(WHO, {"annotator_id": session.annotator_id}).one_or_none()
    if who is None or who.removed is not None:
        raise Rejected("your access was ended by the owner", status=403, reason="removed")
    if who.epoch != session.epoch:
        raise Rejected("this session has ended; open your new invitation link", status=403, reason="session")
    return who


def own_assignment(connection: Connection, session: Session, assignment_id: int) -> Row:
    row = connection.execute(ASSIGNMENT_BY_ID, {"assignment_id": assignment_id}).one_or_none()
    # Somebody else's task and one that does not exist look the same from outside.
    if row is None or row.annotator_id != session.annotator_id:
        raise Rejected("there is no such task of yours", status=404, reason="task")
    return row


def checked(row: Row, sent: Submission) -> dict[str, Any]:
    """The columns of the judgement, or Rejected."""
    if (sent.answer is None) == (sent.skip_reason is None):
        raise Rejected("send either an answer or a reason to skip", status=422, reason="answer")
    if len(sent.note) > MAX_NOTE:
        raise Rejected(f"the note is longer than {MAX_NOTE} characters", status=422, reason="answer")
    fields: dict[str, Any] = {"action": "skip", "skip_reason": sent.skip_reason}
    if sent.answer is not None:
        attributes = row.settings["attributes"]
        answer = canonical(row.task, sent.answer, order=row.display_order, attributes=attributes)
        fields = {"action": "judge", "answer": answer}
    elif sent.skip_reason not in SKIP_REASONS:
        raise Rejected(f"skip reason must be one of {', '.join(SKIP_REASONS)}", status=422, reason="answer")
    elapsed = time.time() - row.opened
    # After the clock was put back it bounds nothing.
    longest = elapsed if elapsed >= 0 else math.inf
    return {
        **fields,
        "flagged": sent.flagged,
        "note": sent.note,
        "seconds": min(max(sent.seconds, 0.0), longest),
        # A page opened before a change was judged by what it showed.
        "guidelines": min(sent.guidelines or row.guideline_version, row.guideline_version),
    }


def check_replay(stored: Row, row: Row, sent: Submission) -> None:
    """Refuse a key that was used before with other content; the same content again is the same judgement.

    Raises:
        Rejected: 409.
    """
    said = {"answer": None, "skip_reason": None} | checked(row, sent)
    if stored.assignment_id != row.id or any(getattr(stored, name) != said[name] for name in _SAID):
        raise Rejected("this key was used for another judgement", status=409, reason="conflict")


def append(
    connection: Connection,
    row: Row,
    *,
    key: str,
    action: str,
    answer: dict | None = None,
    skip_reason: str | None = None,
    flagged: bool = False,
    note: str = "",
    seconds: float = 0.0,
    guidelines: int | None = None,
) -> int:
    """Add a judgement that supersedes the assignment's current one, and move the pointer."""
    now = time.time()
    values = {
        "key": key,
        "project_id": row.project_id,
        "annotator_id": row.annotator_id,
        "item_id": row.item_id,
        "assignment_id": row.id,
        "version": (row.version or 0) + 1,
        "supersedes": row.current_id,
        "action": action,
        "answer": answer,
        "skip_reason": skip_reason,
        "flagged": flagged,
        "note": note,
        "display_order": row.display_order,
        "seconds": seconds,
        "guideline_version": guidelines or row.guideline_version,
        "created": now,
    }
    judgement_id = connection.scalars(_ADD_JUDGEMENT, values).one()
    state = "open" if action == "undo" else "skipped" if answer is None else "done"
    opened = now if action == "undo" else row.opened
    connection.execute(
        _SETTLE,
        {"assignment_id": row.id, "to_state": state, "to_current": judgement_id, "to_opened": opened},
    )
    return judgement_id


def open_assignment(
    connection: Connection,
    project_id: int,
    annotator_id: int,
    item_id: int,
    kind: str,
    round_: int,
    seq: int,
    order: list[int],
) -> int:
    values = {
        "project_id": project_id,
        "annotator_id": annotator_id,
        "item_id": item_id,
        "round": round_,
        "seq": seq,
        "kind": kind,
        "display_order": order,
        "state": "open",
        "opened": time.time(),
    }
    return connection.scalars(_ADD_ASSIGNMENT, values).one()


def superseded(connection: Connection, judgement_id: int) -> Row:
    earlier = select(judgements.c.supersedes).where(judgements.c.id == judgement_id).scalar_subquery()
    return connection.execute(select(judgements).where(judgements.c.id == earlier)).one()


def shown(connection: Connection, row: Row) -> LabelTask:
    before, previous = _before(connection, row), None
    if before is not None and before.answer is not None:
        previous = displayed(row.task, before.answer, order=row.display_order)
    return LabelTask(
        id=row.id,
        item_id=row.item_id,
        kind=row.task,
        prompt=row.prompt,
        answers=[row.answers[index]["text"] for index in row.display_order],
        expected=row.current_id,
        draft=row.body,
        previous=previous,
        note="" if before is None else before.note,
        flagged=before is not None and before.flagged,
    )


def _before(connection: Connection, row: Row) -> Row | None:
    """What the annotator said of this task before: taken back, or a decision still in force."""
    if row.current_id is None:
        return None
    if row.state == "open":
        return superseded(connection, row.current_id)
    return connection.execute(select(judgements).where(judgements.c.id == row.current_id)).one()
