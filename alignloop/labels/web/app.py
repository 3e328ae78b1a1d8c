"""The labelling application: routes, guards, the writer's life."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from alignloop.errors import UserError
from alignloop.labels.faults import StoreUnavailable
from alignloop.labels.judging import Desk
from alignloop.labels.store import Store
from alignloop.labels.web import annotate, manage, owner
from alignloop.labels.web.addresses import LOCAL_HOSTS
from alignloop.labels.web.security import Guard, Guesses, Sessions
from alignloop.labels.web.site import Site, make_templates, on_fault, static_files
from alignloop.labels.writer import Writer


def create_app(
    store: Store,
    *,
    secret: bytes,
    allowed_hosts: Sequence[str] = LOCAL_HOSTS,
    guesses: Guesses | None = None,
    addresses: Sequence[str] = (),
) -> Guard:
    """The application over an open store.

    Args:
        store: where everything is kept; the application is its one writer of judgements.
        secret: key of the session cookies, at least 32 random bytes.
        allowed_hosts: host names under which the server answers; `*` for any.
        guesses: limits of failed sign-ins.
        addresses: where the page is reached (`http://HOST:PORT`), for the links of invitations.

    Returns:
        An ASGI application.
    """
    if len(secret) < 32:
        raise ValueError("the session key needs 32 bytes")
    files = static_files()

    async def static(request: Request) -> Response:
        if request.path_params["name"] not in files:
            return PlainTextResponse("not found", 404)
        content, kind = files[request.path_params["name"]]
        # KaTeX lies in a folder that names its version, so that its content never changes.
        lasting = request.path_params["name"].startswith("katex-")
        cache = "public, max-age=31536000, immutable" if lasting else "no-cache"
        return Response(content, media_type=kind, headers={"Cache-Control": cache})

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        desk = Desk(store)
        with suppress(StoreUnavailable):  # queues are read when they are needed first
            desk.warm()
        writer = Writer(desk)
        app.state.site = Site(
            store, desk, writer, Sessions(secret), guesses or Guesses(), make_templates(), tuple(addresses)
        )
        yield
        await writer.close()

    fixed = [Route("/static/{name:path}", static), Route("/health", health)]
    app = Starlette(
        routes=[*annotate.ROUTES, *owner.ROUTES, *manage.ROUTES, *fixed],
        lifespan=lifespan,
        exception_handlers={
            UserError: on_fault,
            StoreUnavailable: on_fault,
            HTTPException: on_fault,
            ClientDisconnect: _gone,
        },
    )
    return Guard(app, allowed_hosts=allowed_hosts)


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody reads the answer to a request that was broken off; it is no defect to be logged."""
    return Response(status_code=499)
