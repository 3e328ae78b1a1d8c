"""Between the network and the pages: headers, hosts, sizes, sessions, forged requests, guesses."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alignloop.feedback.faults import Rejected

SESSION_COOKIE = "alignloop_label"
SESSION_S = 30 * 24 * 3600
MAX_BODY = 512 * 1024
"""Largest request body, in bytes: an edited answer of MAX_TEXT Korean characters fits."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
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


class Guard:
    """ASGI wrapper: known hosts only (DNS rebinding), bounded bodies, security headers on every answer."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: Sequence[str], max_body: int = MAX_BODY) -> None:
        self.app, self.allowed_hosts, self.max_body = app, frozenset(allowed_hosts), max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(headers)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body:
                raise Rejected("the request is too large", status=413, reason="size")
            return message

        await self.app(scope, receive_bounded, send_guarded)

    def _refusal(self, headers: Headers) -> PlainTextResponse | JSONResponse | None:
        if "*" not in self.allowed_hosts and host_name(headers.get("host", "")) not in self.allowed_hosts:
            return PlainTextResponse("unknown host name; start the server with --host", status_code=400)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.max_body:
            message = {"error": "the request is too large", "reason": "size"}
            return JSONResponse(message, status_code=413)
        return None


def host_name(host: str) -> str:
    """Host header without its port: `127.0.0.1:80` → `127.0.0.1`, `[::1]:80` → `::1`."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A signed-in browser: annotator, epoch of the invitation, and the token that forms must carry."""

    annotator_id: int
    epoch: int
    csrf: str


class Sessions:
    """Sessions in signed cookies; the server keeps none.

    Args:
        secret: at least 32 random bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._signer = URLSafeTimedSerializer(secret, salt="label-session")

    def issue(self, annotator_id: int, epoch: int) -> str:
        """Cookie value of a new session."""
        return self._signer.dumps([annotator_id, epoch, secrets.token_urlsafe(24)])

    def read(self, request: Request) -> Visitor | None:
        """Who sends this request; None without a valid, fresh cookie."""
        try:
            annotator_id, epoch, csrf = self._signer.loads(
                request.cookies.get(SESSION_COOKIE, ""), max_age=SESSION_S
            )
        except (BadData, ValueError, TypeError):
            return None
        return Visitor(annotator_id, epoch, csrf)


def check_same_origin(request: Request) -> None:
    """Refuse a writing request that another site made the browser send.

    Raises:
        Rejected: 403.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    foreign = site is not None and site not in ("same-origin", "none")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        foreign = True
    if foreign:
        raise Rejected("this request came from another site", status=403, reason="forged")


def check_csrf(request: Request, visitor: Visitor, token: str | None = None) -> None:
    """Refuse a writing request without the session's own token (header X-CSRF-Token, or a form's field).

    Raises:
        Rejected: 403.
    """
    check_same_origin(request)
    sent = token if token is not None else request.headers.get("x-csrf-token", "")
    if not hmac.compare_digest(sent.encode("utf-8", "replace"), visitor.csrf.encode()):
        raise Rejected("the form has expired; reload the page", status=403, reason="forged")


class RateLimit:
    """At most `burst` failures per client, regained at one per `refill_s` seconds; bounded memory.

    Failures beyond it, of attempts sent at the same moment, are a debt that is regained as slowly. Right
    attempts cost nothing: a whole class may sign in from one address.
    """

    def __init__(self, *, burst: int = 10, refill_s: float = 6.0, max_clients: int = 10_000) -> None:
        self.burst, self.refill_s, self.max_clients = burst, refill_s, max_clients
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def _left(self, client: str, now: float) -> float:
        left, since = self._clients.get(client, (float(self.burst), now))
        return min(float(self.burst), left + (now - since) / self.refill_s)

    def check(self, client: str) -> None:
        """Refuse a client that failed too often.

        Raises:
            Rejected: 429.
        """
        if self._left(client, time.monotonic()) < 1.0:
            raise Rejected("too many attempts; wait a minute", status=429, reason="rate")

    def failed(self, client: str) -> None:
        """Count a failure."""
        now = time.monotonic()
        self._clients[client] = (self._left(client, now) - 1.0, now)
        self._clients.move_to_end(client)
        if len(self._clients) > self.max_clients:
            self._clients.popitem(last=False)


def network_of(host: str) -> str:
    """By what attempts are counted: an IPv4 address, or the /64 of an IPv6 one, which one client owns."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, 64), strict=False))
