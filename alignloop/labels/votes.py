"""The judgements that count now, as plain data for statistics and export; their numbers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, select

from alignloop.labels.schema import annotators, assignments, items, judgements
from alignloop.labels.store import CHUNK


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer in force. `kind` is item, gold, repeat or adjudication; `answer` as in tasks.py."""

    judgement_id: int
    item_id: int
    annotator_id: int
    annotator: str
    role: str
    kind: str
    answer: Mapping
    order: tuple[int, ...]
    seconds: float
    created: float
    flagged: bool
    note: str
    guideline_version: int


def live_votes(connection: Connection, project_id: int, *, item_id: int | None = None) -> list[Vote]:
    """Every answer in force, oldest first; skips, judgements taken back and withdrawn items are not there."""
    query = (
        select(judgements, assignments.c.kind, annotators.c.name, annotators.c.role)
        .join(assignments, assignments.c.current_id == judgements.c.id)
        .join(annotators, annotators.c.id == judgements.c.annotator_id)
        .join(items, items.c.id == judgements.c.item_id)
        .where(
            judgements.c.project_id == project_id,
            judgements.c.answer.is_not(None),
            assignments.c.state == "done",
            items.c.withdrawn.is_(None),
        )
        .order_by(judgements.c.id)
    )
    if item_id is not None:
        query = query.where(judgements.c.item_id == item_id)
    return [_vote(row) for row in connection.execute(query)]


def item_rows(connection: Connection, item_ids: Sequence[int]) -> dict[int, Row]:
    """Rows of the items table by id."""
    found: dict[int, Row] = {}
    for start in range(0, len(item_ids), CHUNK):
        chunk = item_ids[start : start + CHUNK]
        for row in connection.execute(select(items).where(items.c.id.in_(chunk))):
            found[row.id] = row
    return found


def _vote(row: Row) -> Vote:
    return Vote(
        judgement_id=row.id,
        item_id=row.item_id,
        annotator_id=row.annotator_id,
        annotator=row.name,
        role=row.role,
        kind=row.kind,
        answer=row.answer,
        order=tuple(row.display_order),
        seconds=row.seconds,
        created=row.created,
        flagged=row.flagged,
        note=row.note,
        guideline_version=row.guideline_version,
    )


def ranges(numbers: Sequence[int]) -> str:
    """Rising whole numbers as text: 1–40, 43."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("–".join(str(end) for end in part) for part in parts)
