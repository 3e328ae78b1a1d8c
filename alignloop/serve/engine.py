"""One thread that runs a model's scheduler for all requests of a server.

Requests and cancellations reach it through a queue between steps, so that no lock guards the model;
what it finds goes back through a callback of the request, called in the engine's thread.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignloop.errors import AlignLoopError, EngineError
from alignloop.model.scheduler import TOKEN_BUDGET, Event, Request, Scheduler

Deliver = Callable[[Event | AlignLoopError], object]


class Busy(EngineError):
    """More requests are open than the server takes."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request under way; `number` is the scheduler's, `open` the completions that have not ended."""

    request: Request
    deliver: Deliver
    open: int
    number: int | None = None


@dataclass(slots=True)
class Counts:
    """What an engine did since it started; written by its thread, read by anybody."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    busy_s: float = 0.0
    cancelled: int = 0


@dataclass(frozen=True, slots=True)
class _Add:
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class _Cancel:
    ticket: Ticket


class EngineThread:
    """Continuous batching for requests that come from other threads. Use as a context.

    Arguments:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        token_budget: tokens whose keys and values may be stored at once.
        max_open: requests that may be running or waiting.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        token_budget: int = TOKEN_BUDGET,
        max_open: int = 256,
    ) -> None:
        self.counts = Counts()
        self.max_open = max_open
        self._scheduler = Scheduler(model, tokenizer, token_budget=token_budget, text=True)
        self._inbox: queue.SimpleQueue[_Add | _Cancel | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: set[Ticket] = set()
        self._stopped = False
        self._by_number: dict[int, Ticket] = {}
        self._thread = threading.Thread(target=self._run, name="alignloop-engine", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._inbox.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the engine takes requests."""
        return self._thread.is_alive() and not self._stopped

    @property
    def num_open(self) -> int:
        """Requests that are running or waiting."""
        return len(self._open)

    @property
    def num_running(self) -> int:
        """Completions in the batch."""
        return len(self._scheduler.running)

    @property
    def stored_tokens(self) -> int:
        """Tokens of the budget that are spoken for."""
        return self._scheduler.reserved

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Hand in a request; `deliver` gets its events, or one error in place of what is missing.

        Raises:
            Busy: `max_open` requests are open.
            EngineError: the engine has stopped.
        """
        ticket = Ticket(request, deliver, len(request.seeds))
        with self._lock:
            if self._stopped:
                raise EngineError("the engine has stopped")
            if len(self._open) >= self.max_open:
                raise Busy(f"{self.max_open} requests are open already; try again later")
            self._open.add(ticket)
        self._inbox.put(_Add(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Drop what is left of a request; nothing more is delivered once the engine has seen this."""
        self._inbox.put(_Cancel(ticket))

    def _run(self) -> None:
        try:
            with self._scheduler:
                while self._read_inbox():
                    self._step()
        finally:
            with self._lock:
                self._stopped = True
            self._fail_all(EngineError("the engine has stopped"))

    def _read_inbox(self) -> bool:
        """Take what has come in, waiting for it if there is nothing else to do; False at the end."""
        wait = self._scheduler.idle
        while True:
            try:
                message = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            if message is None:
                return False
            if isinstance(message, _Add):
                self._add(message.ticket)
            elif message.ticket in self._open:
                self.counts.cancelled += 1
                self._close(message.ticket)
            wait = self._scheduler.idle

    def _add(self, ticket: Ticket) -> None:
        try:
            ticket.number = self._scheduler.add(ticket.request)
        except AlignLoopError as error:
            self._close(ticket)
            ticket.deliver(error)
            return
        self._by_number[ticket.number] = ticket
        self.counts.prompt_tokens += len(ticket.request.prompt)

    def _step(self) -> None:
        began = time.perf_counter()
        try:
            events = self._scheduler.step()
        except AlignLoopError as error:
            self._fail_all(error)
            return
        self.counts.busy_s += time.perf_counter() - began
        self.counts.steps += 1
        self.counts.completion_tokens += len(events)
        for event in events:
            ticket = self._by_number[event.request]
            if event.finish is not None:
                ticket.open -= 1
                if not ticket.open:
                    self._close(ticket)
            ticket.deliver(event)

    def _close(self, ticket: Ticket) -> None:
        if ticket.number is not None:
            self._scheduler.cancel(ticket.number)
            self._by_number.pop(ticket.number, None)
        with self._lock:
            self._open.discard(ticket)

    def _fail_all(self, error: AlignLoopError) -> None:
        """End every open request with an error; one that is still in the inbox is among them."""
        for ticket in list(self._open):
            self._close(ticket)
            ticket.deliver(error)
