"""A listening socket, and uvicorn on it with bounded connections."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Sequence
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from alignloop.errors import UserError
from alignloop.web.connections import IN_ALL, bounded_protocol

BACKLOG = 128
"""Connections taken in one go: while they are, nobody is answered."""
FILES = 128
"""Descriptors kept for what is no connection: database, log, models."""


LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")


def answered_hosts(host: str, more: Sequence[str] = ()) -> list[str]:
    """Host names a server answers to. Listening on every address, any name may be the right one.

    Args:
        host: address that it listens on.
        more: further names, which its owner gave.

    Returns:
        Names, or `*` for any.
    """
    return ["*"] if host in EVERY_ADDRESS and not more else [*LOCAL_HOSTS, host, *more]


def url_of(host: str, port: int) -> str:
    """`http://HOST:PORT`, an IPv6 address in brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 takes a free one.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "another server is there; choose another --port" if taken else str(error)
        raise UserError(f"cannot listen on {host}:{port}: {reason}") from error
    return listening


def run(
    app: ASGIApp,
    listening: socket.socket,
    *,
    body_s: float = 60.0,
    proxy: str = "",
    date_header: bool = True,
) -> None:
    """Serve until interrupted; open answers get five seconds to end.

    Args:
        app: the application.
        listening: from `listen`.
        body_s: seconds a request's body may take to arrive.
        proxy: address of a reverse proxy; only what it says of its clients (X-Forwarded-For, -Proto) is
            believed, and only it may hold more connections than one client.
        date_header: whether answers carry the time.
    """
    config = uvicorn.Config(
        app,
        http=bounded_protocol(body_s=body_s, in_all=_room(), exempt=_addresses(proxy)),
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=date_header,
        proxy_headers=bool(proxy),
        forwarded_allow_ips=proxy or None,
        timeout_keep_alive=30,
        backlog=BACKLOG,
        timeout_graceful_shutdown=5,
    )
    # uvicorn ends in order at Ctrl-C or SIGTERM and then raises the signal again; it has been obeyed.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _room() -> int:
    """How many connections may be open: IN_ALL, or fewer where the system grants fewer descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IN_ALL + FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(soft - FILES, 1)
    return IN_ALL


def _addresses(proxy: str) -> Sequence[str]:
    return [part.strip() for part in proxy.split(",") if part.strip()]
