"""The labelling application: routes, guards, the writer's life."""

from __future__ import annotations

import re
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
from alignloop.labels.web.sessions import Guesses, Sessions
from alignloop.labels.web.site import PACKAGE, Site, on_fault
from alignloop.labels.writer import Writer
from alignloop.web.pages import page_templates, static_route
from alignloop.web.server import LOCAL_HOSTS
from alignloop.web.shell import CLIENT_GONE, Shell

MAX_BODY = 512 * 1024
"""Largest request body, in bytes: an edited answer of MAX_TEXT Korean characters fits."""

MAX_UPLOAD = 64 * 1024 * 1024
"""Largest body with which the owner imports a data file, in bytes."""
_UPLOAD = re.compile(r"/owner/[0-9]+/import")


def create_app(
    store: Store,
    *,
    secret: bytes,
    allowed_hosts: Sequence[str] = LOCAL_HOSTS,
    guesses: Guesses | None = None,
    addresses: Sequence[str] = (),
) -> Shell:
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

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        desk = Desk(store)
        with suppress(StoreUnavailable):  # queues are read when they are needed first
            desk.warm()
        writer = Writer(desk)
        app.state.site = Site(
            store,
            desk,
            writer,
            Sessions(secret),
            guesses or Guesses(),
            page_templates(PACKAGE),
            tuple(addresses),
        )
        yield
        await writer.close()

    fixed = [static_route(PACKAGE), Route("/health", health)]
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
    return Shell(app, allowed_hosts=allowed_hosts, refuse=on_fault, max_body=_max_body)


def _max_body(path: str) -> int:
    return MAX_UPLOAD if _UPLOAD.fullmatch(path) else MAX_BODY


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody reads the answer to a request that was broken off; it is no defect to be logged."""
    return Response(status_code=CLIENT_GONE)
