"""Group commit: one thread carries out all writes, many of them per transaction.

A commit waits for the disk. While it waits, other annotators' operations gather, and the next commit
takes them all; each is answered only after its commit. So the disk's speed bounds commits, not
judgements per second.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from queue import Empty, Full, Queue
from typing import TypeVar

from alignloop.feedback.desk import Desk, Job
from alignloop.feedback.faults import StoreUnavailable

_T = TypeVar("_T")


class Writer:
    """The thread that owns a Desk.

    Args:
        desk: what carries the operations out.
        max_batch: operations per commit at most.
        max_waiting: operations that may wait; more are refused at once.
    """

    def __init__(self, desk: Desk, *, max_batch: int = 128, max_waiting: int = 2000) -> None:
        self._desk, self._max_batch = desk, max_batch
        self._waiting: Queue[tuple[Job, Future] | None] = Queue(max_waiting)
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="label-writer", daemon=True)
        self._thread.start()

    async def do(self, job: Job[_T]) -> _T:
        """Carry out an operation; returns after it is on disk.

        Raises:
            Rejected: the operation was refused.
            StoreUnavailable: the database could not commit, or too much is waiting.
        """
        future: Future[_T] = Future()
        if self._closed:
            raise StoreUnavailable("the server is stopping", reason="stopping")
        try:
            self._waiting.put_nowait((job, future))
        except Full as error:
            raise StoreUnavailable("the server has too much to do; try again", reason="busy") from error
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what waits, then stop."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            first = self._waiting.get()
            if first is None:
                return
            batch, last = [first], False
            while len(batch) < self._max_batch and not last:
                try:
                    entry = self._waiting.get_nowait()
                except Empty:
                    break
                if entry is None:
                    last = True
                else:
                    batch.append(entry)
            self._carry_out(batch)
            if last:
                return

    def _carry_out(self, batch: list[tuple[Job, Future]]) -> None:
        # A caller that gave up (browser gone) no longer waits; its operation is still carried out.
        for _, future in batch:
            future.set_running_or_notify_cancel()
        try:
            results = self._desk.run([job for job, _ in batch])
        except Exception as error:  # noqa: BLE001 - the thread must outlive a defect in one operation
            self._desk.queues.clear()
            results = [error] if len(batch) == 1 else [self._alone(job) for job, _ in batch]
        for (_, future), result in zip(batch, results, strict=True):
            if future.cancelled():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _alone(self, job: Job) -> object:
        """A defect in one operation must not fail its neighbours."""
        try:
            return self._desk.run([job])[0]
        except Exception as error:  # noqa: BLE001 - as above
            self._desk.queues.clear()
            return error
