"""Group commit: one thread carries out all writes, many of them per transaction.

A commit waits for the disk. While it waits, other annotators' operations gather, and the next commit
takes them all; each is answered only after its commit. So the disk's speed bounds commits, not
judgements per second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from alignloop.labels.faults import StoreUnavailable
from alignloop.labels.judging import Desk, Job

_T = TypeVar("_T")
Waiting = tuple[Job, asyncio.Future]


class Writer:
    """Hands operations to a Desk, which only this writer's thread uses. For one event loop.

    Args:
        desk: what carries the operations out.
        max_batch: operations per commit at most.
        max_waiting: operations that may wait; more are refused at once.
    """

    def __init__(self, desk: Desk, *, max_batch: int = 128, max_waiting: int = 2000) -> None:
        self._desk, self._max_batch, self._max_waiting = desk, max_batch, max_waiting
        self._waiting: deque[Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "label-writer")
        self._worker: asyncio.Task | None = None
        self._closed = False

    async def do(self, job: Job[_T]) -> _T:
        """Carry out an operation; returns after it is on disk.

        Raises:
            Rejected: the operation was refused.
            StoreUnavailable: the database could not commit, or too much is waiting.
        """
        if self._closed:
            raise StoreUnavailable("the server is stopping", reason="stopping")
        if len(self._waiting) >= self._max_waiting:
            raise StoreUnavailable("the server has too much to do; try again", reason="busy")
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def close(self) -> None:
        """Finish what waits, then stop."""
        self._closed = True
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        while self._waiting:
            size = min(len(self._waiting), self._max_batch)
            batch = [self._waiting.popleft() for _ in range(size)]
            if not await self._carry_out(batch):
                # A defect in one operation must not fail its neighbours.
                for entry in batch:
                    await self._carry_out([entry])

    async def _carry_out(self, batch: Sequence[Waiting]) -> bool:
        """Run and answer a batch; False if it failed as a whole and each has to be run alone."""
        loop = asyncio.get_running_loop()
        run = loop.run_in_executor(self._thread, self._desk.run, [job for job, _ in batch])
        await asyncio.wait([run])
        error = run.exception()
        if error is not None and len(batch) > 1:
            return False
        results: list[Any] = [error] if error is not None else run.result()
        for (_, future), result in zip(batch, results, strict=True):
            # A caller that gave up (browser gone) does not wait for its answer.
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
        return True
