"""A listening socket and uvicorn on it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from alignloop.errors import UserError


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
        listening.listen(512)
    except (OSError, OverflowError) as error:
        listening.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "another server is there; choose another --port" if taken else str(error)
        raise UserError(f"cannot listen on {host}:{port}: {reason}") from error
    return listening


def run(app: ASGIApp, listening: socket.socket, *, say: Callable[[str], object]) -> None:
    """Serve until interrupted; open answers get five seconds to end.

    Args:
        app: the application.
        listening: from `listen`.
        say: gets one line with the address.
    """
    host, port = listening.getsockname()[:2]
    say(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}/v1")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        limit_concurrency=2000,
    )
    # uvicorn ends in order at Ctrl-C or SIGTERM and then raises the signal again; it has been obeyed.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
