"""The HTTP interface: OpenAI's /v1 routes, health, metrics, and a page to try the models.

Every error is OpenAI's JSON object. A request is read up to a limit, checked, given to its model's
engine, and cancelled there when its client goes or its time is up.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alignloop.data.chat import ChatTemplate
from alignloop.errors import EngineError, UserError
from alignloop.model.scheduler import Request as EngineRequest
from alignloop.serve.answer import CompletionAnswer
from alignloop.serve.engine import EngineThread
from alignloop.serve.metrics import Metrics
from alignloop.serve.protocol import (
    ApiError,
    Body,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    read_body,
)
from alignloop.serve.responses import EventStream, Exchange, Whole
from alignloop.serve.served import Policy, RequestLimits, ServedModel
from alignloop.serve.votes import VoteBox
from alignloop.serve.web.page import PACKAGE, Page, VoteRequest
from alignloop.web.pages import static_route
from alignloop.web.server import LOCAL_HOSTS
from alignloop.web.shell import CLIENT_GONE, Refused, Shell


def create_app(
    policies: Sequence[Policy],
    *,
    limits: RequestLimits | None = None,
    api_key: str | None = None,
    allowed_hosts: Sequence[str] = LOCAL_HOSTS,
    votes: VoteBox | None = None,
) -> Starlette:
    """The application; its engines run as long as it does.

    Args:
        policies: the models, the first being the one of requests that name none.
        limits: what is taken.
        api_key: asked for on /v1 and /metrics if given.
        allowed_hosts: names under which the server answers.
        votes: where the chat page's votes go; it has no vote buttons if None.

    Returns:
        An ASGI application.
    """
    limits, metrics = limits or RequestLimits(), Metrics()
    served = [ServedModel(policy, _engine(policy, limits), limits) for policy in policies]
    api = Api(served, limits, metrics, api_key, votes)

    @asynccontextmanager
    async def engines(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for one in served:
                stack.enter_context(one.engine)
            yield

    routes = _routes(api, Page(None if votes is None else votes.place))
    return Starlette(
        routes=routes,
        lifespan=engines,
        middleware=[
            Middleware(Counting, metrics=metrics, paths=frozenset(route.path for route in routes)),
            Middleware(
                Shell, allowed_hosts=allowed_hosts, refuse=_not_here, max_body=lambda _: limits.body_bytes
            ),
        ],
        exception_handlers={ApiError: _refused, HTTPException: _not_here, Exception: _broken},
    )


def _engine(policy: Policy, limits: RequestLimits) -> EngineThread:
    model, tokenizer = policy.loaded.model, policy.loaded.tokenizer
    return EngineThread(model, tokenizer, token_budget=limits.token_budget, max_open=limits.max_open)


class Api:
    """The routes.

    Arguments:
        served: the models with their engines.
        limits: what is taken.
        metrics: what is counted.
        api_key: the key that /v1, /api and /metrics ask for, or None.
        votes: where votes go, or None.
    """

    def __init__(
        self,
        served: Sequence[ServedModel],
        limits: RequestLimits,
        metrics: Metrics,
        api_key: str | None,
        votes: VoteBox | None,
    ) -> None:
        self.served, self.limits, self.metrics, self.api_key = served, limits, metrics, api_key
        self.votes = votes

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = await self._body(request, ChatRequest)
        served = self._model(body.model)
        # Off the event loop: a megabyte of text takes a second to encode.
        requests = await run_in_threadpool(served.chat_requests, body)
        return self._respond(served, body, requests, served.template(body), logprobs=bool(body.logprobs))

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = await self._body(request, CompletionRequest)
        served = self._model(body.model)
        requests = await run_in_threadpool(served.completion_requests, body)
        return self._respond(served, body, requests, None, logprobs=body.logprobs is not None)

    async def vote(self, request: Request) -> Response:
        """POST /api/vote, from the chat page."""
        body = await self._body(request, VoteRequest)
        if self.votes is None:
            raise ApiError(404, "votes are not kept here; start the server with --votes")
        try:
            await run_in_threadpool(self.votes.add, body.vote())
        except (ValueError, UserError) as error:
            raise ApiError(422, str(error)) from error
        except EngineError as error:
            raise ApiError(503, str(error)) from error
        return JSONResponse({"kept": self.votes.place})

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [_described(one) for one in self.served]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        self._check_key(request)
        return JSONResponse(_described(self._model(request.path_params["name"])))

    async def health(self, _: Request) -> Response:
        """GET /health: 200 while every engine runs."""
        dead = [one.policy.name for one in self.served if not one.engine.alive]
        status = {"status": "ok"} if not dead else {"status": "failed", "engines": dead}
        return JSONResponse(status, status_code=503 if dead else 200)

    async def metrics_page(self, request: Request) -> Response:
        """GET /metrics."""
        self._check_key(request)
        text = self.metrics.text(self.served)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    def _respond(
        self,
        served: ServedModel,
        body: GenerationRequest,
        requests: Sequence[EngineRequest],
        template: ChatTemplate | None,
        *,
        logprobs: bool,
    ) -> Response:
        answer = CompletionAnswer(
            served.policy,
            sum(len(one.seeds) for one in requests),
            sum(len(one.prompt) for one in requests),
            template=template,
            logprobs=logprobs,
        )
        exchange = Exchange(served, requests, answer, self.metrics)
        if not body.stream:
            return Whole(exchange)
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return EventStream(exchange, usage=usage)

    async def _body(self, request: Request, kind: type[Body]) -> Body:
        self._check_key(request)
        try:
            async with asyncio.timeout(self.limits.seconds):
                data = await request.body()
        except ClientDisconnect:
            raise ApiError(CLIENT_GONE, "the client has gone") from None
        except TimeoutError:
            raise ApiError(408, f"the body took longer than {self.limits.seconds:g} s") from None
        return read_body(data, kind)

    def _model(self, name: str | None) -> ServedModel:
        found = next((one for one in self.served if name in (None, one.policy.name)), None)
        if found is None:
            names = ", ".join(one.policy.name for one in self.served)
            raise ApiError(404, f"there is no such model; there is {names}", code="model_not_found")
        return found

    def _check_key(self, request: Request) -> None:
        # A header's bytes reach us read as Latin-1; a key in another script was sent as UTF-8.
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = self.api_key is None or hmac.compare_digest(
            given.strip().encode("latin-1"), self.api_key.encode("utf-8")
        )
        if not right or (self.api_key is not None and scheme.lower() != "bearer"):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")


def _routes(api: Api, chat: Page) -> list[Route]:
    return [
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.complete, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/health", api.health),
        Route("/metrics", api.metrics_page),
        Route("/", chat.page),
        static_route(PACKAGE),
        Route("/api/vote", api.vote, methods=["POST"]),
    ]


class Counting:
    """Counts answers by path and status; paths that are no route count as `other`.

    Arguments:
        app: what is counted.
        metrics: where.
        paths: the routes.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and look at the answer's status."""
        path = scope.get("path", "")

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = path if path in self.paths else "other"
                self.metrics.answers[known, message["status"]] += 1
            await send(message)

        await self.app(scope, receive, counted)


def _described(served: ServedModel) -> dict[str, object]:
    policy = served.policy
    return {"id": policy.name, "object": "model", "created": policy.created, "owned_by": "alignloop"}


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}.get(error.status)
    return JSONResponse(error.body, status_code=error.status, headers=headers)


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refused):
        code = "foreign_origin" if error.reason == "forged" else None
        return await _refused(request, ApiError(error.status_code, error.detail, code=code))
    message = f"{request.method} {request.url.path}: {error.detail}"
    return await _refused(request, ApiError(error.status_code, message))


async def _broken(request: Request, _: Exception) -> Response:
    return await _refused(request, ApiError(500, "the server failed at this request; its log tells why"))
