"""Connections with limits: time for a request's head and body, and a number for each client.

uvicorn waits for ever for the rest of a request that was begun, so a few thousand half-sent heads shut a
server to everybody (Slowloris). A timer runs from the first byte (at first from the connection) until the
request is complete, and a client whose network holds too many connections gets no further one. Where many
networks together hold all that there are, a new connection takes the place of the oldest unused one of the
network that holds most: whoever has one connection is served.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
"""Seconds a request's head may take to arrive."""

PER_CLIENT = 256
"""Connections that one client's network may hold at once."""

IN_ALL = 2000
"""Connections of all clients together."""

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_MANY = (
    b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\nretry-after: 10\r\ncontent-length: 0\r\n\r\n"
)


def network_of(host: str) -> str:
    """By what a client is counted: an IPv4 address, or the /64 of an IPv6 one, which one client owns."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, 64), strict=False))


def bounded_protocol(
    *,
    head_s: float = HEAD_S,
    body_s: float = 60.0,
    per_client: int = PER_CLIENT,
    in_all: int = IN_ALL,
    exempt: Sequence[str] = (),
) -> type[asyncio.Protocol]:
    """A protocol class for `uvicorn.Config(http=…)`; the connections of one class are counted together.

    Args:
        head_s: seconds for a head, from its first byte or from the connection; then 408 and the end.
        body_s: seconds for a body; then the connection ends.
        per_client: connections of one network at once; a further one is answered 429.
        in_all: connections of all clients at once; for a further one an unused one is closed.
        exempt: addresses that may hold more, such as a reverse proxy's.

    Returns:
        A new class.
    """
    limits = {"head_s": head_s, "body_s": body_s, "per_client": per_client, "in_all": in_all}
    names = frozenset(network_of(address) for address in exempt)
    return type("Bounded", (_Bounded,), {**limits, "exempt": names, "counts": Counter(), "held": {}})


class _Bounded(H11Protocol):
    head_s: float
    body_s: float
    per_client: int
    in_all: int
    exempt: frozenset[str]
    counts: Counter[str]
    held: dict[str, dict[_Bounded, None]]

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._network = ""
        self._timer: asyncio.TimerHandle | None = None
        self._awaited = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, or refuse it."""
        super().connection_made(transport)
        self._network = network_of(self.client[0]) if self.client else ""
        self.counts[self._network] += 1
        if self.counts[self._network] > self.per_client and self._network not in self.exempt:
            self._end(_TOO_MANY)
            return
        if self.counts.total() > self.in_all:
            self._make_room()
        self.held.setdefault(self._network, {})[self] = None
        self._wait_for("head")

    def data_received(self, data: bytes) -> None:
        """Hand on, and see what is awaited next."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._wait_for("body")
        elif state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait_for("head")  # of a further request; between requests the keep-alive time runs
        else:
            self._wait_for("")

    def _make_room(self) -> None:
        """Close the oldest unused connection of the network that holds most."""
        for network in sorted(self.held, key=lambda name: len(self.held[name]), reverse=True):
            unused = next((one for one in self.held[network] if one._unused), None)
            if unused is not None:
                unused._leave()
                unused.transport.abort()
                return

    def _leave(self) -> None:
        """Be held no longer."""
        mine = self.held.get(self._network, {})
        mine.pop(self, None)
        if not mine:
            self.held.pop(self._network, None)

    @property
    def _unused(self) -> bool:
        """Whether no whole request is being answered."""
        return bool(self._awaited) or self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer and count the connection out."""
        self._wait_for("")
        self._leave()
        self.counts[self._network] -= 1
        if not self.counts[self._network]:
            del self.counts[self._network]
        super().connection_lost(exc)

    def _wait_for(self, what: str) -> None:
        """Run the timer of what is awaited; one that runs for it already goes on."""
        if what == self._awaited:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._awaited = what
        if what:
            seconds = self.head_s if what == "head" else self.body_s
            self._timer = self.loop.call_later(seconds, self._end, _TOO_SLOW if what == "head" else b"")

    def _end(self, answer: bytes) -> None:
        """Say why, where nothing was answered yet, and close."""
        if answer:
            self.transport.write(answer)
        self.transport.close()
