"""One HTTP request and the engine: events come over from its thread, the client's leaving goes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from alignloop.errors import AlignLoopError, UserError
from alignloop.model.scheduler import Event, Request
from alignloop.serve.answer import Chunk, CompletionAnswer
from alignloop.serve.engine import Busy
from alignloop.serve.metrics import Metrics
from alignloop.serve.protocol import ApiError
from alignloop.serve.served import ServedModel
from alignloop.web.shell import CLIENT_GONE

Item = tuple[int, Event | AlignLoopError | None]
"""Number of the engine request and what came of it; None: the client has gone."""


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request under way.

    Attributes:
        served: the model and its engine.
        requests: what the engine is to do.
        answer: takes what comes.
        metrics: counts the times.
    """

    served: ServedModel
    requests: Sequence[Request]
    answer: CompletionAnswer
    metrics: Metrics

    @asynccontextmanager
    async def chunks(self, receive: Receive) -> AsyncIterator[AsyncIterator[Chunk]]:
        """The pieces of the answer. On leaving, what is still running is cancelled.

        Raises:
            ApiError: the engine refused or failed.
            ClientGone: the client disconnected.
        """
        loop, items = asyncio.get_running_loop(), asyncio.Queue[Item]()
        tickets = []
        watch = asyncio.create_task(_watch(receive, items))
        try:
            for place, request in enumerate(self.requests):

                def deliver(item: Event | AlignLoopError, place: int = place) -> None:
                    loop.call_soon_threadsafe(items.put_nowait, (place, item))

                try:
                    tickets.append(self.served.engine.submit(request, deliver))
                except AlignLoopError as error:
                    raise as_api_error(error) from error
            yield self._read(items)
        finally:
            watch.cancel()
            for ticket in tickets:
                self.served.engine.cancel(ticket)

    async def _read(self, items: asyncio.Queue[Item]) -> AsyncIterator[Chunk]:
        began, n = time.perf_counter(), len(self.answer.choices) // len(self.requests)
        first = True
        while not self.answer.done:
            place, item = await items.get()
            if item is None:
                raise ClientGone
            if isinstance(item, AlignLoopError):
                raise as_api_error(item) from item
            if first:
                self.metrics.first_token.observe(time.perf_counter() - began)
                first = False
            yield self.answer.add(place * n + item.index, item)
        self.metrics.duration.observe(time.perf_counter() - began)

    def time_is_up(self) -> ApiError:
        """The error of a request that took too long."""
        return ApiError(504, f"the answer took longer than {self.served.limits.seconds:g} s", code="timeout")


async def _watch(receive: Receive, items: asyncio.Queue[Item]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    items.put_nowait((0, None))


def as_api_error(error: AlignLoopError) -> ApiError:
    """An error of the engine as an answer."""
    if isinstance(error, Busy):
        return ApiError(429, str(error), code="overloaded")
    return ApiError(400 if isinstance(error, UserError) else 500, str(error))


class Whole(Response):
    """The answer in one piece.

    Arguments:
        exchange: the request.
    """

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self.exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for every completion, then send them."""
        exchange = self.exchange
        try:
            async with (
                asyncio.timeout(exchange.served.limits.seconds),
                exchange.chunks(receive) as chunks,
            ):
                async for _ in chunks:
                    pass
        except ClientGone:
            exchange.metrics.disconnects += 1
            await Response(status_code=CLIENT_GONE)(scope, receive, send)
            return
        except TimeoutError:
            raise exchange.time_is_up() from None
        await JSONResponse(exchange.answer.whole())(scope, receive, send)


class EventStream(Response):
    """The answer as server-sent events, its status sent with the first token.

    Arguments:
        exchange: the request.
        usage: whether the last event tells the usage.
    """

    def __init__(self, exchange: Exchange, *, usage: bool) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self.exchange, self.usage = exchange, usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces as they come; an error after the first is an event of its own."""
        begun = False

        async def say(*events: Mapping[str, Any]) -> None:
            nonlocal begun
            if not begun:
                begun = True
                start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(start)
            data = "".join(f"data: {_json(event)}\n\n" for event in events).encode("utf-8")
            await send({"type": "http.response.body", "body": data, "more_body": True})

        try:
            await self._stream(receive, say)
        except ClientGone:
            self.exchange.metrics.disconnects += 1
            if not begun:
                await Response(status_code=CLIENT_GONE)(scope, receive, send)
                return
        except ApiError as error:
            if not begun:
                raise
            await say(error.body)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _stream(self, receive: Receive, say: Any) -> None:
        exchange, answer = self.exchange, self.exchange.answer
        opening = answer.opening()
        try:
            async with (
                asyncio.timeout(exchange.served.limits.seconds),
                exchange.chunks(receive) as chunks,
            ):
                async for chunk in chunks:
                    events = [*opening, *answer.chunks(chunk)]
                    opening = []
                    if events:
                        await say(*events)
        except TimeoutError:
            raise exchange.time_is_up() from None
        if self.usage:
            await say(answer.closing())


def _json(content: Any) -> str:
    # A lone surrogate cannot come from a tokenizer's decoder, so the text is always valid UTF-8.
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
