"""What people say about answers while they chat, kept as training rows or in a label store.

A folder gets `preferences.jsonl` and `labels.jsonl`, files that every command reads as a data set.
A label store gets items and judgements of an annotator `chat`, beside those of its other people.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sqlalchemy import Connection, Row, select

from alignloop.data.columns import record_to_row
from alignloop.errors import DataError, EngineError, UserError
from alignloop.labels import judgements
from alignloop.labels.database import insert_new
from alignloop.labels.label_folder import DATABASE, opened
from alignloop.labels.messages import Submission
from alignloop.labels.people import invite, list_annotators
from alignloop.labels.project import ItemAnswer, NewItem, Project, clean, item_row
from alignloop.labels.schema import assignments, items
from alignloop.labels.store import Store, touch
from alignloop.labels.web.server import project_for
from alignloop.records import Conversation, Label, Message, Preference, Provenance, Record

Verdict = Literal["a", "b", "tie", "both_bad"]
ANNOTATOR = "chat"
PREFERENCES, LABELS = "preferences.jsonl", "labels.jsonl"


@dataclass(frozen=True, slots=True)
class PairVote:
    """Two answers of one prompt and which is better; `models` are their models' names."""

    prompt: Conversation
    answers: tuple[str, str]
    models: tuple[str, str]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Thumb:
    """One answer, good or bad."""

    prompt: Conversation
    answer: str
    model: str
    good: bool


Vote = PairVote | Thumb


class VoteBox(Protocol):
    """Where votes go; `place` is for people."""

    place: str

    def add(self, vote: Vote) -> None:
        """Keep a vote; it is on the disk when this returns.

        Raises:
            DataError: nothing can be learned from it: no question, an empty answer, two equal ones.
            EngineError: it cannot be written.
        """
        ...


def open_votes(place: str | Path) -> VoteBox:
    """A place for votes by its name.

    Args:
        place: a label folder (it holds `labels.sqlite`), a database URL, or a folder for JSONL files,
            which is made with the first vote.

    Returns:
        Where votes can be added.

    Raises:
        UserError: the path is a file.
    """
    path = Path(place)
    if "://" in str(place) or (path / DATABASE).exists():
        return VoteStore(place)
    if path.exists() and not path.is_dir():
        raise UserError(f"votes go to a folder or a label store, and {path} is a file")
    return VoteFiles(path)


def checked(vote: Vote) -> Vote:
    """The vote with texts that every file and database can hold, or an error as in `VoteBox.add`."""
    prompt = tuple(Message(m.role, clean(m.content), clean(m.thinking)) for m in vote.prompt)
    if not prompt or prompt[-1].role != "user" or not prompt[-1].content.strip():
        raise DataError("a vote needs a conversation that ends with a question", field="prompt")
    if isinstance(vote, Thumb):
        _check_answers([vote.answer])
        return Thumb(prompt, clean(vote.answer), vote.model, vote.good)
    _check_answers(vote.answers)
    if vote.answers[0] == vote.answers[1]:
        raise DataError("the two answers are the same; nothing can be learned from them", field="answers")
    return PairVote(prompt, (clean(vote.answers[0]), clean(vote.answers[1])), vote.models, vote.verdict)


def _check_answers(texts: Sequence[str]) -> None:
    if not all(text.strip() for text in texts):
        raise DataError("an empty answer cannot be judged", field="answers")


def records(vote: Vote) -> list[Record]:
    """A vote as training rows: a preference, a label, or two bad labels if both answers are bad."""

    def origin(model: str) -> Provenance:
        return Provenance(origin="human", details={"annotator": ANNOTATOR, "model": model})

    if isinstance(vote, Thumb):
        return [Label(vote.prompt, vote.answer, vote.good, origin(vote.model))]
    if vote.verdict == "both_bad":
        pairs = zip(vote.answers, vote.models, strict=True)
        return [Label(vote.prompt, answer, False, origin(model)) for answer, model in pairs]
    (first, second), (model, other) = vote.answers, vote.models
    if vote.verdict == "b":
        first, second, model, other = second, first, other, model
    details = {"annotator": ANNOTATOR, "model_chosen": model, "model_rejected": other}
    where = Provenance(origin="human", details=details)
    return [Preference(vote.prompt, first, second, 0.5 if vote.verdict == "tie" else 1.0, 0.0, where)]


class VoteFiles:
    """Votes as rows of JSONL files in a folder.

    Arguments:
        folder: made with the first vote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, str(folder)

    def add(self, vote: Vote) -> None:
        """See `VoteBox`."""
        for record in records(checked(vote)):
            name = LABELS if isinstance(record, Label) else PREFERENCES
            append_row(self.folder / name, record)


def append_row(file: Path, record: Record) -> None:
    """Add a row to a JSONL file and wait until it is on the disk; several programs may do so at once.

    Raises:
        EngineError: the file cannot be written.
    """
    line = (json.dumps(record_to_row(record), ensure_ascii=False) + "\n").encode("utf-8")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            known = handle.read()
            # A line that a crash cut off was never acknowledged; it would spoil the file.
            handle.truncate(known.rfind(b"\n") + 1)
            handle.write(line)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise EngineError(f"{file} cannot be written: {error.strerror}") from error


class VoteStore:
    """Votes as judgements in a label store, in the projects `chat pairs` and `chat answers`.

    Arguments:
        place: label folder or database URL.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        outside = "://" in self.place
        self._folder = None if outside else Path(place)
        self._database = self.place if outside else None

    def add(self, vote: Vote) -> None:
        """See `VoteBox`. The same answers judged again replace the earlier judgement."""
        vote = checked(vote)
        if isinstance(vote, Thumb):
            task, name, answers = "thumbs", "chat answers", [ItemAnswer(vote.answer, vote.model)]
            said: dict[str, object] = {"thumbs": [vote.good]}
        else:
            task, name = "pair", "chat pairs"
            answers = [ItemAnswer(t, m) for t, m in zip(vote.answers, vote.models, strict=True)]
            said = {"verdict": vote.verdict}
        item = NewItem(vote.prompt, tuple(answers), arm="chat", provenance=Provenance(origin="human"))
        with opened(self._folder, self._database) as store:
            project = project_for(store, name, task=task)
            annotator_id = _annotator(store, project)
            with store.writing() as connection:
                _judge(connection, project, annotator_id, item, said)


def _annotator(store: Store, project: Project) -> int:
    known = next((a for a in list_annotators(store, project) if a.name == ANNOTATOR), None)
    return invite(store, project, ANNOTATOR)[0].id if known is None else known.id


def _judge(
    connection: Connection, project: Project, annotator_id: int, item: NewItem, said: dict[str, object]
) -> None:
    row = item_row(item, project=project, now=time.time())
    connection.execute(insert_new(connection, items), [row])
    same = (items.c.project_id == project.id, items.c.key == row["key"])
    item_id = connection.scalars(select(items.c.id).where(*same)).one()
    mine = (assignments.c.annotator_id == annotator_id, assignments.c.item_id == item_id)
    assignment_id = connection.scalar(select(assignments.c.id).where(*mine))
    if assignment_id is None:
        order = list(range(len(item.answers)))
        number = connection.scalar(
            select(assignments.c.seq).where(mine[0]).order_by(assignments.c.seq.desc())
        )
        assignment_id = judgements.open_assignment(
            connection, project.id, annotator_id, item_id, "item", 0, (number or 0) + 1, order
        )
    found: Row = connection.execute(judgements.ASSIGNMENT_BY_ID, {"assignment_id": assignment_id}).one()
    key = secrets.token_hex(16)
    fields = judgements.checked(found, Submission(assignment_id, key, answer=said))
    judgements.append(connection, found, key=key, **fields)
    touch(connection, project.id)
