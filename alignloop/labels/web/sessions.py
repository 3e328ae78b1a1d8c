"""Who sends a request: sessions in signed cookies, forged forms, guessed invitations."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.requests import Request

from alignloop.labels.faults import Rejected

SESSION_COOKIE = "alignloop_label"
SESSION_S = 30 * 24 * 3600


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


def check_csrf(request: Request, visitor: Visitor, token: str | None = None) -> None:
    """Refuse a writing request without the session's own token (header X-CSRF-Token, or a form's field).

    Raises:
        Rejected: 403.
    """
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
