"""What stands between the network and the routes of both servers: hosts, sites, sizes, headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_GONE = 499
"""Status of an answer that nobody reads, because the client has gone."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "font-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # An invitation's address holds its token and must not travel to other sites. (`no-referrer` would
    # also make browsers send `Origin: null` with this site's own forms.)
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Refused(HTTPException):
    """A request that no route shall see, or see the rest of.

    Args:
        status: HTTP status.
        message: one sentence for a person.
        reason: short stable key: `host`, `forged` or `size`.
    """

    def __init__(self, status: int, message: str, reason: str) -> None:
        super().__init__(status, message)
        self.reason = reason


class Shell:
    """ASGI middleware: known hosts, no writing for other sites, bounded bodies, security headers.

    A page of another site can make a browser post here (no answer reaches it, but the work is done and a
    vote would count), and one whose name was pointed at this address can even read (DNS rebinding).

    Args:
        app: what is guarded.
        allowed_hosts: names under which the server answers; `*` for any.
        refuse: makes the answer to a request that is refused before the application sees it. A body that
            grows too large later raises `Refused` where the application reads it.
        max_body: largest body in bytes, by path.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Sequence[str],
        refuse: Callable[[Request, Refused], Awaitable[Response]],
        max_body: Callable[[str], int],
    ) -> None:
        self.app, self.refuse, self.max_body = app, refuse, max_body
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on; every answer gets the headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        most, received = self.max_body(scope["path"]), 0
        refused = self._check(scope["method"], Headers(scope=scope), most)
        if refused is not None:
            scope.setdefault("app", self.app)
            answer = await self.refuse(Request(scope), refused)
            await answer(scope, receive, send_with_headers)
            return

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        await self.app(scope, receive_bounded, send_with_headers)

    def _check(self, method: str, headers: Headers, most: int) -> Refused | None:
        host = headers.get("host", "")
        if "*" not in self.allowed_hosts and host_name(host) not in self.allowed_hosts:
            return Refused(400, "this server does not answer to that host name; see --allow-host", "host")
        if method not in ("GET", "HEAD"):
            origin = headers.get("origin")
            foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
            if foreign or (origin is not None and urlsplit(origin).netloc != host):
                return Refused(403, "this request came from a page of another site", "forged")
        length = headers.get("content-length", "0")
        return _too_large(most) if not length.isdigit() or int(length) > most else None


def _too_large(most: int) -> Refused:
    return Refused(413, f"the request's body is larger than {most} bytes", "size")


def host_name(host: str) -> str:
    """Host header without its port: `127.0.0.1:80` → `127.0.0.1`, `[::1]:80` → `::1`."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
