"""Between the network and the routes: known hosts only, no requests from other sites' pages, headers."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alignloop.labels.web.security import host_name
from alignloop.serve.protocol import ApiError

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI wrapper that refuses before anything is read.

    A page of another site can make a browser post here (no answer reaches it, but the work is done and
    a vote would count), and one whose name was pointed at this address can even read (DNS rebinding).

    Arguments:
        app: what is guarded.
        allowed_hosts: names under which the server answers; `*` for any.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str]) -> None:
        self.app, self.allowed_hosts = app, frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on and add the headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        error = self._refusal(scope["method"], Headers(scope=scope))
        if error is not None:
            refusal = JSONResponse(error.body, status_code=error.status)
            await refusal(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)

    def _refusal(self, method: str, headers: Headers) -> ApiError | None:
        host = headers.get("host", "")
        if "*" not in self.allowed_hosts and host_name(host).lower() not in self.allowed_hosts:
            return ApiError(400, "this server does not answer to that host name; see --allow-host")
        if method in ("GET", "HEAD"):
            return None
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        if foreign or (origin is not None and urlsplit(origin).netloc != host):
            return ApiError(403, "this request came from a page of another site", code="foreign_origin")
        return None
