"""Judgements made elsewhere, from a file into a label project: a label folder, or a running server.

To a server they go by an invitation link: it signs in, then the page's own calls follow.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from alignloop.data.columns import read_records
from alignloop.errors import DataError, EngineError, UserError
from alignloop.labels import people
from alignloop.labels.faults import Rejected
from alignloop.labels.importing import fit, from_records
from alignloop.labels.judgements import MAX_NOTE
from alignloop.labels.judging import Desk
from alignloop.labels.messages import Session, Submission
from alignloop.labels.project import Annotator, Project, clean
from alignloop.labels.store import Store, touch
from alignloop.labels.tasks import displayed
from alignloop.records import Preference, Provenance, Record, message_rows

TASKS = {"preference": "pair", "ranking": "ranking", "rating": "scores", "label": "thumbs"}
"""Task of which records of a kind are judgements."""
_ELSEWHERE = (404, 409, 410)
"""Faults of one judgement: no such item, judged meanwhile, withdrawn. Any other one ends the work."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a file says of one item; `answer` is as the store keeps it, for answers in the file's order."""

    prompt: list[dict[str, Any]]
    answers: list[str]
    answer: Mapping[str, Any]
    note: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """A task that is open for a judgement; `answers` and `previous` are in the order shown."""

    id: int
    kind: str
    answers: list[str]
    expected: int | None
    previous: Mapping[str, Any] | None
    judged: bool


class Desklike(Protocol):
    """Where judgements go: a store, or a server."""

    def open(self, prompt: list[dict[str, Any]], answers: Sequence[str]) -> Slot:
        """The task with this content; raises Rejected."""
        ...

    def judge(self, slot: Slot, answer: Mapping[str, Any], *, key: str, note: str) -> None:
        """Store a judgement, in the order shown; raises Rejected."""
        ...


@dataclass(slots=True)
class Sent:
    """How many judgements are stored now, how many were there already, the others by reason with places."""

    stored: int = 0
    there: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)


class LocalDesk:
    """The desk of an open store, which may be served meanwhile by another process.

    Args:
        store: an open store.
        project: whose items are judged.
        annotator: who judged them.
    """

    def __init__(self, store: Store, project: Project, annotator: Annotator) -> None:
        self.store, self.project = store, project
        self.desk, self.session = Desk(store), Session(annotator.id, annotator.epoch)

    def open(self, prompt: list[dict[str, Any]], answers: Sequence[str]) -> Slot:
        """The task with this content; raises Rejected."""
        opened = self.desk.call(lambda c: self.desk.open(c, self.session, prompt, answers))
        task = opened.task
        return Slot(task.id, task.kind, task.answers, task.expected, task.previous, opened.judged)

    def judge(self, slot: Slot, answer: Mapping[str, Any], *, key: str, note: str) -> None:
        """Store a judgement, in the order shown; raises Rejected."""
        sent = Submission(slot.id, key, slot.expected, answer=answer, note=note, advance=False)
        self.desk.call(lambda c: self.desk.submit(c, self.session, sent))

    def close(self) -> None:
        """Let a running server read the project again."""
        with self.store.writing() as connection:
            touch(connection, self.project.id)


def annotator_named(store: Store, project: Project, name: str) -> Annotator:
    """The project's annotator of this name, invited if nobody is; nobody's link ends.

    Raises:
        Rejected: 403 when the owner has ended the access of somebody of this name.
    """
    name = clean(name).strip()
    found = next((a for a in people.list_annotators(store, project) if a.name == name), None)
    if found is None:
        return people.invite(store, project, name)[0]
    if found.removed is not None:
        raise Rejected(f"the owner has ended the access of '{name}'", status=403, reason="removed")
    return found


def read_judgements(path: str, *, columns: Mapping[str, str] | None = None) -> tuple[str, list[Judgement]]:
    """The judgements of a file: preferences, rankings, ratings in whole numbers, or labels.

    Args:
        path: data file in any form that `read_records` reads.
        columns: {field: column} where names differ.

    Returns:
        The task that they are judgements of, and the judgements.

    Raises:
        DataError: no usable row, or records that judge nothing.
    """
    data = read_records(path, columns=columns)
    task = TASKS.get(data.kind)
    if task is None:
        raise DataError(
            f"{data.kind} rows say nothing of answers; expected preferences, rankings, ratings or labels",
            file=path,
        )
    found = list(_pairs(data.records) if task == "pair" else _others(data.records, task))
    if not found:
        raise DataError(f"no row is a judgement that a {task} project can hold", file=path)
    return task, found


def _pairs(records: Sequence[Record]) -> Iterator[Judgement]:
    for record in records:
        assert isinstance(record, Preference)
        details = record.provenance.details
        sign = (record.probability > 0.5) - (record.probability < 0.5)
        strength = 2 if details.get("strength") == 2 else 1
        answer = {"preference": sign * strength, "both_bad": sign == 0 and details.get("both_bad") is True}
        answers = [record.chosen, record.rejected]
        yield _judgement(message_rows(record.prompt), answers, answer, record.provenance)


def _others(records: Sequence[Record], task: str) -> Iterator[Judgement]:
    for item in fit(from_records(records, task, gold=True), task=task, pairs="all").items:
        if item.gold is not None:
            answers = [answer.text for answer in item.answers]
            yield _judgement(message_rows(item.prompt), answers, item.gold, item.provenance)


def _judgement(
    prompt: list[dict[str, Any]], answers: list[str], answer: Mapping[str, Any], source: Provenance
) -> Judgement:
    note = str(source.details.get("comment", ""))[:MAX_NOTE]
    return Judgement(prompt, [clean(a) for a in answers], answer, note, f"{source.file}:{source.line}")


def submit(task: str, judgements: Sequence[Judgement], desk: Desklike) -> Sent:
    """Send judgements; the same call again sends what is missing and stores nothing twice.

    Args:
        task: of which they are judgements.
        judgements: what `read_judgements` gives.
        desk: where they go.

    Returns:
        What became of them.

    Raises:
        Rejected: the access has ended, the project has another task, or a judgement does not fit it.
    """
    sent = Sent()
    for judgement in judgements:
        try:
            stored = _send(task, judgement, desk)
        except Rejected as error:
            if error.status not in _ELSEWHERE:
                raise Rejected(
                    f"{judgement.place}: {error}", status=error.status, reason=error.reason
                ) from error
            sent.left_out[str(error)] += 1
            sent.places.setdefault(str(error), []).append(judgement.place)
        else:
            sent.stored += stored
            sent.there += not stored
    return sent


def _send(task: str, judgement: Judgement, desk: Desklike) -> bool:
    """Whether a judgement was stored now; False where it was there."""
    slot = desk.open(judgement.prompt, judgement.answers)
    if slot.kind != task:
        raise Rejected(
            f"the file judges a {task} task, the project asks for {slot.kind}", status=422, reason="task"
        )
    order = [judgement.answers.index(text) for text in slot.answers]
    answer = displayed(task, judgement.answer, order=order)
    if slot.judged:
        if slot.previous == answer:
            return False
        raise Rejected("this annotator has judged the item otherwise", status=409, reason="conflict")
    content = json.dumps([slot.id, slot.expected, answer], ensure_ascii=False, sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()
    desk.judge(slot, answer, key=key, note=judgement.note)
    return True


ATTEMPTS = 5
"""How often a request is sent where the server asks to wait, or does not answer."""
TIMEOUT_S = 30.0
_WAIT = (429, 503)


class RemoteDesk:
    """A project of a running server, through an invitation.

    Args:
        link: `http://HOST:PORT/invite/TOKEN`.
        client: sends the requests; one of its own by default.
        pause_s: wait before a request is sent again, where the server names none, in seconds.

    Raises:
        UserError: no such link, or the server refuses it.
        EngineError: the server does not answer.
    """

    def __init__(self, link: str, *, client: httpx.Client | None = None, pause_s: float = 1.0) -> None:
        base, found, token = link.rpartition("/invite/")
        if not found or not token or not re.match(r"https?://", base):
            raise UserError(f"'{link}' is no invitation link; expected http://HOST:PORT/invite/TOKEN")
        self.base, self.pause_s = base, pause_s
        self.client = client or httpx.Client(follow_redirects=True, timeout=TIMEOUT_S)
        page = self._post("/login", data={"token": token})
        csrf = re.search(r'name="csrf" content="([^"]+)"', page.text)
        if page.status_code != 200 or csrf is None:
            raise UserError(f"{base} refuses the invitation; ask the owner for a new link to a project")
        self.client.headers["X-CSRF-Token"] = csrf[1]

    def open(self, prompt: list[dict[str, Any]], answers: Sequence[str]) -> Slot:
        """The task with this content; raises Rejected."""
        body = self._call("open", {"prompt": prompt, "answers": list(answers)})
        task = body["task"]
        texts = [answer["text"] for answer in task["answers"]]
        return Slot(task["id"], task["kind"], texts, task["expected"], task["previous"], body["judged"])

    def judge(self, slot: Slot, answer: Mapping[str, Any], *, key: str, note: str) -> None:
        """Store a judgement, in the order shown; raises Rejected."""
        body = {"assignment": slot.id, "expected": slot.expected, "key": key, "answer": dict(answer)}
        self._call("judge", {**body, "note": note, "next": False})

    def close(self) -> None:
        """End the connection."""
        self.client.close()

    def _call(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        reply = self._post(f"/api/{name}", json=body)
        try:
            answer = reply.json()
        except ValueError as error:
            raise EngineError(f"{self.base} is no label server: its reply is not JSON") from error
        if reply.status_code != 200:
            sentence, reason = str(answer.get("error", reply.text)), str(answer.get("reason", ""))
            raise Rejected(sentence, status=reply.status_code, reason=reason)
        return answer

    def _post(self, path: str, **content: Any) -> httpx.Response:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                reply = self.client.post(self.base + path, **content)
            except httpx.HTTPError as error:
                if attempt == ATTEMPTS:
                    raise EngineError(f"{self.base} does not answer: {error}") from error
                time.sleep(self.pause_s)
                continue
            if reply.status_code not in _WAIT or attempt == ATTEMPTS:
                return reply
            named = reply.headers.get("Retry-After", "")
            time.sleep(min(float(named), 60.0) if named.isdigit() else self.pause_s)
        raise AssertionError("the loop returns")
