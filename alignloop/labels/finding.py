"""Items of a project by words and by what became of them, for its owner."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, Row, select

from alignloop.labels import quality
from alignloop.labels.faults import Rejected
from alignloop.labels.project import Project
from alignloop.labels.schema import annotators, assignments, items, judgements
from alignloop.labels.store import Store
from alignloop.labels.votes import live_votes

STATES = (
    "any",
    "unjudged",
    "judged",
    "shared",
    "disagreed",
    "decided",
    "commented",
    "flagged",
    "fast",
    "skipped",
    "gold",
    "withdrawn",
)
"""What a search can be narrowed to; each but `any` is also a mark of an item."""
MAX_START = 160
"""Characters of a prompt that a search shows."""


@dataclass(frozen=True, slots=True)
class FoundItem:
    """An item that a search found.

    Attributes:
        id: the item's.
        start: beginning of its prompt, on one line.
        num_votes: judgements in force.
        marks: the STATES that hold.
        comments: (annotator, text) of every comment on it, skips included.
        arm: by which strategy it was chosen.
    """

    id: int
    start: str
    num_votes: int
    marks: tuple[str, ...]
    comments: tuple[tuple[str, str], ...]
    arm: str


@dataclass(slots=True)
class _History:
    """What was said of one item."""

    marks: set[str] = field(default_factory=set)
    people: set[int] = field(default_factory=set)
    voters: set[int] = field(default_factory=set)
    num_votes: int = 0
    comments: list[tuple[str, str]] = field(default_factory=list)


def find_items(
    store: Store,
    project: Project,
    *,
    words: str = "",
    state: str = "any",
    person: int | None = None,
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[FoundItem], int]:
    """Search a project's items, oldest first.

    Args:
        store: an open store.
        project: whose items.
        words: all of them must occur in prompt, answers, names of models or comments, in any case; a number
            with `#` is an item's.
        state: one of STATES.
        person: only items on which this annotator said something.
        offset: how many to pass over.
        limit: how many to return at most.

    Returns:
        The items, and how many there are in all.

    Raises:
        Rejected: 422 for an unknown state.
    """
    if state not in STATES:
        raise Rejected(
            f"unknown state '{state}'; it is one of {', '.join(STATES)}", status=422, reason="search"
        )
    wanted = [_folded(word) for word in words.split()]
    found: list[FoundItem] = []
    total = 0
    with store.reading() as connection:
        histories = _histories(connection, project)
        for row in _rows(connection, project):
            history = histories.get(row.id) or _History()
            marks = _marks(row, history)
            if state != "any" and state not in marks:
                continue
            if person is not None and person not in history.people:
                continue
            if wanted and not _holds(row, history, wanted):
                continue
            total += 1
            if offset < total <= offset + limit:
                shown = tuple(name for name in STATES if name in marks)
                comments = tuple(history.comments)
                found.append(
                    FoundItem(row.id, _start(row.prompt), history.num_votes, shown, comments, row.arm)
                )
    return found, total


def _rows(connection: Connection, project: Project) -> Iterator[Row]:
    columns = (items.c.id, items.c.prompt, items.c.answers, items.c.arm, items.c.withdrawn, items.c.gold)
    query = select(*columns).where(items.c.project_id == project.id).order_by(items.c.id)
    yield from connection.execute(query, execution_options={"yield_per": 500})


def _histories(connection: Connection, project: Project) -> Mapping[int, _History]:
    said = select(
        judgements.c.item_id,
        judgements.c.annotator_id,
        judgements.c.note,
        judgements.c.flagged,
        judgements.c.skip_reason,
        annotators.c.name,
        annotators.c.role,
        assignments.c.kind,
        judgements.c.seconds,
    )
    current = (
        said.join(assignments, assignments.c.current_id == judgements.c.id)
        .join(annotators, annotators.c.id == judgements.c.annotator_id)
        .where(judgements.c.project_id == project.id, assignments.c.state.in_(("done", "skipped")))
        .order_by(judgements.c.id)
    )
    found: dict[int, _History] = defaultdict(_History)
    for row in connection.execute(current):
        history = found[row.item_id]
        history.people.add(row.annotator_id)
        if row.note:
            history.comments.append((row.name, row.note))
        answered = row.skip_reason is None
        history.num_votes += answered
        marks = {
            "judged": answered,
            "skipped": not answered,
            "commented": bool(row.note),
            "flagged": row.flagged,
            "decided": row.kind == "adjudication",
            "fast": answered and row.role != "simulated" and row.seconds < project.settings.fast_s,
        }
        history.marks.update(name for name, holds in marks.items() if holds)
        if answered:
            history.voters.add(row.annotator_id)
        if len(history.voters) > 1:
            history.marks.add("shared")
    for entry in quality.disagreements(project.task, live_votes(connection, project.id)):
        found[entry.item_id].marks.add("disagreed")
    return found


def _marks(row: Row, history: _History) -> set[str]:
    more = {
        "unjudged": "judged" not in history.marks,
        "gold": row.gold is not None,
        "withdrawn": row.withdrawn is not None,
    }
    return history.marks | {name for name, holds in more.items() if holds}


def _holds(row: Row, history: _History, wanted: list[str]) -> bool:
    texts = [_content(message) for message in row.prompt]
    texts += [f"{answer['text']}\n{answer['model']}" for answer in row.answers]
    texts += [text for _, text in history.comments]
    whole = _folded("\n".join(texts))
    return all(word == f"#{row.id}" or word in whole for word in wanted)


def _content(message: Mapping) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _folded(text: str) -> str:
    # Composed and decomposed Hangul are the same words.
    return unicodedata.normalize("NFC", text).casefold()


def _start(prompt: list[Mapping]) -> str:
    """Beginning of the last thing the user said, or of the last message with text."""
    said = [m for m in prompt if _content(m).strip()]
    asked = [m for m in said if m.get("role") == "user"] or said
    text = " ".join(_content(asked[-1]).split()) if asked else ""
    return text if len(text) <= MAX_START else text[:MAX_START] + "…"
