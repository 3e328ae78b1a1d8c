"""Judging: open the next item, submit, undo, redo, save a draft.

Each operation is a function of a connection inside a transaction that `run` opens, so that a server
can put many annotators' operations into one commit. All checks of an operation come before its first
write; a Rejected operation therefore leaves nothing behind while its neighbours are committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from alignloop.labels import judgements
from alignloop.labels.assign import Queue, display_order
from alignloop.labels.database import unavailable
from alignloop.labels.faults import Rejected
from alignloop.labels.messages import AnnotatorProgress, LabelTask, Opened, Receipt, Session, Submission
from alignloop.labels.project import Project, Settings, item_keys
from alignloop.labels.schema import assignments, drafts, items
from alignloop.labels.store import Store, log

LOCK_ATTEMPTS = 3
RELOAD_S = 60.0
"""An annotator without work makes the queue look for expired leases this often, in seconds."""

_T = TypeVar("_T")
Job = Callable[[Connection], _T]


class Desk:
    """The one writer of judgements; owns the queues of every project. Not for several threads at once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.queues: dict[int, Queue] = {}

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Carry out operations in one transaction.

        Returns:
            For each job its result, or the exception that is its answer: Rejected for this job alone,
            StoreUnavailable when the database could not commit (then nothing of the batch was written).
        """
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                return self._transaction(jobs)
            except DBAPIError as error:
                fault = unavailable(error)
                if fault is None:
                    return [error] if len(jobs) == 1 else [self.run([job])[0] for job in jobs]
                if fault.reason != "locked" or attempt == LOCK_ATTEMPTS:
                    return [fault] * len(jobs)
        raise AssertionError("the loop returns")

    def _transaction(self, jobs: Sequence[Job]) -> list[Any]:
        committed = False
        try:
            with self.store.writes.begin() as connection:
                results = [_outcome(job, connection) for job in jobs]
            committed = True
            return results
        finally:
            if not committed:
                # What the queues reserved in this transaction did not happen.
                self.queues.clear()

    def call(self, job: Job[_T]) -> _T:
        """One operation in its own transaction; raises what `run` would return."""
        (result,) = self.run([job])
        if isinstance(result, Exception):
            raise result
        return result

    def warm(self) -> None:
        """Load every project's queue now, so that the first annotator does not wait for it."""
        with self.store.reading() as connection:
            for project in self.store.projects():
                self.queues[project.id] = Queue.load(connection, project)

    def next(self, connection: Connection, session: Session) -> Receipt:
        """The task to do now; the same one until it is judged."""
        queue = self._queue(connection, judgements.authorised(connection, session))
        return self._receipt(connection, queue, session.annotator_id)

    def open(
        self, connection: Connection, session: Session, prompt: list[dict[str, Any]], answers: Sequence[str]
    ) -> Opened:
        """Open the item with this prompt and these answers, for a judgement that was made elsewhere.

        Args:
            connection: in a transaction.
            session: who judges.
            prompt: message rows.
            answers: in any order.

        Returns:
            The task, and whether this annotator has judged it already.

        Raises:
            Rejected: 403 access ended, 404 the project has no such item, 410 withdrawn.
        """
        queue = self._queue(connection, judgements.authorised(connection, session))
        columns = (items.c.id, items.c.answers, items.c.withdrawn, items.c.gold.is_not(None).label("check"))
        mine = (items.c.project_id == queue.project.id, items.c.key.in_(item_keys(prompt, answers)))
        item = connection.execute(select(*columns).where(*mine)).first()
        if item is None:
            raise Rejected(
                "the project has no item with this prompt and these answers", status=404, reason="item"
            )
        if item.withdrawn is not None:
            raise Rejected("the owner has withdrawn this item", status=410, reason="withdrawn")
        same = (assignments.c.annotator_id == session.annotator_id, assignments.c.item_id == item.id)
        assignment_id = connection.scalar(
            select(assignments.c.id).where(
                *same, assignments.c.round == 0, assignments.c.kind != "adjudication"
            )
        )
        if assignment_id is None:
            kind = queue.claim(connection, session.annotator_id, item.id, check=item.check)
            assignment_id = self._assign(
                connection, queue, session.annotator_id, item.id, kind, len(item.answers)
            )
        row = connection.execute(judgements.SHOWN_BY_ID, {"assignment_id": assignment_id}).one()
        return Opened(judgements.shown(connection, row), row.state in ("done", "skipped"))

    def submit(self, connection: Connection, session: Session, sent: Submission) -> Receipt:
        """Store a judgement or a skip, and open the next task.

        Raises:
            Rejected: 403 access ended, 404 no such task of one's own, 409 the task was judged meanwhile
                elsewhere, 410 withdrawn, 422 the answer does not fit the task.
        """
        who = judgements.authorised(connection, session)
        row = judgements.own_assignment(connection, session, sent.assignment_id)
        queue = None if row.kind == "adjudication" else self._queue(connection, who)
        # Read before the first write: a state read afterwards would count this judgement twice.
        state = None if queue is None else queue.state(connection, session.annotator_id)
        stored = connection.execute(judgements.BY_KEY, {"key": sent.key}).one_or_none()
        if stored is not None:
            judgements.check_replay(stored, row, sent)
            return self._receipt(connection, queue, session.annotator_id, stored.id, advance=sent.advance)
        if row.withdrawn is not None or row.state == "released":
            raise Rejected("the owner has withdrawn this item", status=410, reason="withdrawn")
        decided = row.kind == "adjudication" and row.state in ("done", "skipped")
        if row.current_id != sent.expected or not (row.state == "open" or decided):
            raise Rejected("this item was judged in another window", status=409, reason="conflict")
        fields = judgements.checked(row, sent)
        judgement_id = judgements.append(connection, row, key=sent.key, **fields)
        if row.draft_updated is not None:
            connection.execute(delete(drafts).where(drafts.c.assignment_id == row.id))
        if queue is None or state is None:
            log(connection, "adjudicated", actor=who.name, project_id=row.project_id, item=row.item_id)
            return Receipt(judgement_id, None, AnnotatorProgress())
        if row.kind == "item" and row.version is None and fields["action"] == "judge":
            state.history.append(row.item_id)
        _count(queue, connection, row, skipped=fields["action"] == "skip", sign=1)
        state.redo = 0
        return self._receipt(connection, queue, session.annotator_id, judgement_id, advance=sent.advance)

    def undo(self, connection: Connection, session: Session, key: str) -> Receipt:
        """Take the last judgement back (a new row says so) and show its item again."""
        who = judgements.authorised(connection, session)
        queue = self._queue(connection, who)
        state = queue.state(connection, session.annotator_id)
        if not _known(connection, key, "undo"):
            row = connection.execute(
                judgements.LAST_JUDGED, {"annotator_id": session.annotator_id}
            ).one_or_none()
            if row is None:
                raise Rejected("there is nothing to undo", status=409, reason="undo")
            _count(queue, connection, row, skipped=row.state == "skipped", sign=-1)
            state.redo += 1
            judgements.append(connection, row, key=key, action="undo")
        return self._receipt(connection, queue, session.annotator_id)

    def redo(self, connection: Connection, session: Session, key: str) -> Receipt:
        """Put the judgement back that was undone last; not after a new judgement."""
        who = judgements.authorised(connection, session)
        queue = self._queue(connection, who)
        state = queue.state(connection, session.annotator_id)
        if not _known(connection, key, "redo"):
            row = connection.execute(
                judgements.LAST_RETRACTED, {"annotator_id": session.annotator_id}
            ).one_or_none()
            if row is None or state.redo == 0:
                raise Rejected("there is nothing to redo", status=409, reason="redo")
            before = judgements.superseded(connection, row.current_id)
            judgements.append(
                connection,
                row,
                key=key,
                action="redo",
                answer=before.answer,
                skip_reason=before.skip_reason,
                flagged=before.flagged,
                note=before.note,
                seconds=before.seconds,
                guidelines=before.guideline_version,
            )
            _count(queue, connection, row, skipped=before.answer is None, sign=1)
            state.redo -= 1
        return self._receipt(connection, queue, session.annotator_id)

    def save_draft(self, connection: Connection, session: Session, assignment_id: int, body: dict) -> None:
        """Keep what was typed and not submitted; a draft of a task no longer open is dropped."""
        judgements.authorised(connection, session)
        row = judgements.own_assignment(connection, session, assignment_id)
        if row.state != "open":
            return
        values = {"body": body, "updated": time.time()}
        if row.draft_updated is None:
            connection.execute(insert(drafts).values(assignment_id=row.id, **values))
        else:
            connection.execute(update(drafts).where(drafts.c.assignment_id == row.id).values(values))

    def adjudicate(self, connection: Connection, session: Session, item_id: int) -> LabelTask:
        """Open an item for the owner's deciding judgement; one already made is shown as `previous`.

        It stays in force until another one is submitted.
        """
        who = judgements.authorised(connection, session)
        item = connection.execute(select(items).where(items.c.id == item_id)).one_or_none()
        if who.role != "owner" or item is None:
            raise Rejected("there is no such item", status=404, reason="item")
        mine = (assignments.c.annotator_id == who.id, assignments.c.item_id == item_id)
        assignment_id = connection.scalar(select(assignments.c.id).where(*mine))
        if assignment_id is None:
            order = display_order(len(item.answers), seed=0, annotator_id=who.id, item_id=item_id)
            assignment_id = judgements.open_assignment(
                connection, item.project_id, who.id, item_id, "adjudication", 0, 0, order
            )
        return judgements.shown(
            connection, connection.execute(judgements.SHOWN_BY_ID, {"assignment_id": assignment_id}).one()
        )

    def _queue(self, connection: Connection, who: Row) -> Queue:
        if who.project_id is None:
            raise Rejected("owners have no tasks of their own", status=403, reason="role")
        queue = self.queues.get(who.project_id)
        if queue is None or queue.project.revision != who.revision:
            settings = Settings.from_json(who.settings)
            project = Project(
                who.project_id, who.project_name, who.task, settings, who.guideline_version, who.revision
            )
            queue = self.queues[who.project_id] = Queue.load(connection, project)
        return queue

    def _receipt(
        self,
        connection: Connection,
        queue: Queue | None,
        annotator_id: int,
        judgement_id: int | None = None,
        *,
        advance: bool = True,
    ) -> Receipt:
        if queue is None:
            return Receipt(judgement_id, None, AnnotatorProgress())
        row = None
        if advance:
            row = connection.execute(judgements.OPEN_TASK, {"annotator_id": annotator_id}).one_or_none()
        if advance and row is None:
            row = self._open_next(connection, queue, annotator_id)
        if advance and row is None and time.monotonic() - queue.loaded > RELOAD_S:
            queue = self.queues[queue.project.id] = Queue.load(connection, queue.project)
            row = self._open_next(connection, queue, annotator_id)
        state = queue.state(connection, annotator_id)
        progress = AnnotatorProgress(
            state.done, state.skipped, queue.remaining, state.done + state.skipped > 0, state.redo > 0
        )
        task = None if row is None else judgements.shown(connection, row)
        return Receipt(judgement_id, task, progress, queue.project.guideline_version)

    def _open_next(self, connection: Connection, queue: Queue, annotator_id: int) -> Row | None:
        drawn = queue.draw(connection, annotator_id)
        if drawn is None:
            return None
        item_id, kind = drawn
        answers = connection.scalar(
            select(func.json_array_length(items.c.answers)).where(items.c.id == item_id)
        )
        new_id = self._assign(connection, queue, annotator_id, item_id, kind, answers or 0)
        return connection.execute(judgements.SHOWN_BY_ID, {"assignment_id": new_id}).one()

    def _assign(
        self,
        connection: Connection,
        queue: Queue,
        annotator_id: int,
        item_id: int,
        kind: str,
        num_answers: int,
    ) -> int:
        round_ = int(kind == "repeat")
        order = display_order(
            num_answers,
            seed=queue.project.settings.seed,
            annotator_id=annotator_id,
            item_id=item_id,
            round=round_,
        )
        seq = queue.state(connection, annotator_id).seq
        return judgements.open_assignment(
            connection, queue.project.id, annotator_id, item_id, kind, round_, seq, order
        )


def _outcome(job: Job, connection: Connection) -> object:
    try:
        return job(connection)
    except Rejected as error:
        return error


def _count(queue: Queue, connection: Connection, row: Row, *, skipped: bool, sign: int) -> None:
    """Keep the queue in step with a judgement made (sign 1) or taken back (−1)."""
    state = queue.state(connection, row.annotator_id)
    if skipped:
        state.skipped += sign
        if row.kind == "item":
            queue.take(row.item_id, -sign)
    else:
        state.done += sign


def _known(connection: Connection, key: str, action: str) -> bool:
    """Whether a request of this kind was done already.

    Raises:
        Rejected: 409, the key was used for something else.
    """
    stored = connection.execute(judgements.BY_KEY, {"key": key}).one_or_none()
    if stored is not None and stored.action != action:
        raise Rejected("this key was used for another request", status=409, reason="conflict")
    return stored is not None
