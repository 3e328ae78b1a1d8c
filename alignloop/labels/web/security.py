"""Between the network and the pages: headers, hosts, sizes, sessions, forged requests, guesses."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alignloop.labels.faults import Rejected

SESSION_COOKIE = "alignloop_label"
SESSION_S = 30 * 24 * 3600
MAX_BODY = 512 * 1024
"""Largest request body, in bytes: an edited answer of MAX_TEXT Korean characters fits."""

MAX_UPLOAD = 64 * 1024 * 1024
"""Largest body with which the owner imports a data file, in bytes."""
_UPLOAD = re.compile(r"/owner/[0-9]+/import")

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
        most = max(self.max_body, MAX_UPLOAD) if _UPLOAD.fullmatch(scope["path"]) else self.max_body
        refusal = self._refusal(headers, most)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise Rejected("the request is too large", status=413, reason="size")
            return message

        await self.app(scope, receive_bounded, send_guarded)

    def _refusal(self, headers: Headers, most: int) -> PlainTextResponse | JSONResponse | None:
        if "*" not in self.allowed_hosts and host_name(headers.get("host", "")) not in self.allowed_hosts:
            return PlainTextResponse("unknown host name; start the server with --host", status_code=400)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > most:
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
            cookie = request.cookies.get(SESSION_COOKIE, "")
            (annotator_id, epoch, csrf), issued = self._signer.loads(cookie, return_timestamp=True)
        except (BadData, ValueError, TypeError):
            return None
        # A clock that was put back does not end sessions; one that ran far ahead gives no long ones.
        if abs(time.time() - issued.timestamp()) > SESSION_S:
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
    """At most `burst` failures per key, regained at one per `refill_s` seconds; bounded memory.

    Failures beyond it, of attempts sent at the same moment, are a debt that is regained as slowly. A right
    attempt costs nothing and is never refused: a whole class may sign in from one address, also one from
    which somebody guesses.
    """

    def __init__(self, *, burst: int = 10, refill_s: float = 6.0, max_keys: int = 10_000) -> None:
        self.burst, self.refill_s, self.max_keys = burst, refill_s, max_keys
        self._keys: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def _left(self, key: str, now: float) -> float:
        left, since = self._keys.get(key, (float(self.burst), now))
        return min(float(self.burst), left + (now - since) / self.refill_s)

    def failed(self, key: str) -> bool:
        """Count a failure; True if there were too many before it."""
        now = time.monotonic()
        left = self._left(key, now)
        self._keys[key] = (left - 1.0, now)
        self._keys.move_to_end(key)
        if len(self._keys) > self.max_keys:
            self._keys.popitem(last=False)
        return left < 1.0


class Guesses:
    """Failed sign-ins: by address and the token's beginning, and by address alone.

    The first tells a person's own mistakes from another's behind the same proxy; the second bounds what one
    address can make the server write down.

    Attributes:
        attempts: limit of one address's guesses of tokens that begin alike.
        addresses: limit of one address's guesses.
    """

    PREFIX = 6

    def __init__(self, attempts: RateLimit | None = None, addresses: RateLimit | None = None) -> None:
        self.attempts = attempts or RateLimit()
        self.addresses = addresses or RateLimit(burst=50)

    def failed(self, address: str, token: str) -> bool:
        """Count a wrong token; whether it is to be written down.

        Raises:
            Rejected: 429, too many of this kind.
        """
        often = self.addresses.failed(address)
        if self.attempts.failed(f"{address} {token[: self.PREFIX]}"):
            raise Rejected("too many attempts; wait a minute", status=429, reason="rate")
        return not often
