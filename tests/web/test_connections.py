"""Slow and many connections against a real server on this machine."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from alignloop.web.connections import bounded_protocol
from alignloop.web.server import listen


async def app(scope, receive, send):
    assert scope["type"] == "http"
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = str(size).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """A server whose heads may take 0.5 s and whose bodies 1 s."""
    with serving(bounded_protocol(head_s=0.5, body_s=1.0)) as place:
        yield place


@contextmanager
def serving(protocol: type[asyncio.Protocol]) -> Iterator[tuple[str, int]]:
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, http=protocol, log_level="error", lifespan="off", timeout_keep_alive=30)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    yield listening.getsockname()
    server.should_exit = True
    thread.join(30)


def connected(address: tuple[str, int]) -> socket.socket:
    found = socket.create_connection(address, timeout=10)
    found.settimeout(10)
    return found


def rest(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    found = b""
    while piece := connection.recv(4096):
        found += piece
    return found


def test_a_half_sent_head_is_ended(address):
    started = time.monotonic()
    slow = connected(address)
    slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
    for _ in range(3):  # a line now and then does not help
        time.sleep(0.1)
        slow.sendall(b"X-A: b\r\n")
    assert rest(slow).startswith(b"HTTP/1.1 408 ")
    assert 0.4 < time.monotonic() - started < 5
    silent = connected(address)
    assert rest(silent).startswith(b"HTTP/1.1 408 ")


def test_a_half_sent_body_is_ended_and_a_whole_one_is_answered(address):
    slow = connected(address)
    slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    quick = connected(address)
    quick.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\n123")
    assert rest(quick).endswith(b"\r\n\r\n3")
    assert b"200" not in rest(slow)


def test_a_connection_may_rest_between_requests_but_not_within_one(address):
    kept = connected(address)
    for _ in range(2):
        kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        found = b""
        while not found.endswith(b"\r\n\r\n0"):
            found += kept.recv(4096)
        time.sleep(0.8)  # longer than a head may take
    kept.sendall(b"GET / HTTP/1.1\r\n")
    assert rest(kept).startswith(b"HTTP/1.1 408 ")


def from_address(address: tuple[str, int], source: str) -> socket.socket:
    found = socket.create_connection(address, timeout=10, source_address=(source, 0))
    found.settimeout(10)
    return found


@pytest.mark.parametrize(
    "kind", [b"", b"GET / HTTP/1.1\r\n", b"idle", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"]
)
def test_many_networks_together_shut_nobody_out(kind):
    """All connections are held by others, and a new client is served; its open connection stays."""
    with serving(bounded_protocol(head_s=60, body_s=60, per_client=10, in_all=30)) as address:
        mine = connected(address)
        held = []
        for number in range(40):
            one = from_address(address, f"127.0.0.{2 + number // 10}")
            if kind == b"idle":
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert one.recv(4096).startswith(b"HTTP/1.1 200 ")
            elif kind:
                one.sendall(kind)
            held.append(one)
        for client in (mine, connected(address)):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert rest(client).startswith(b"HTTP/1.1 200 ")
        for one in held:
            one.close()


def test_a_client_holds_so_many_connections_and_gets_them_back():
    with serving(bounded_protocol(head_s=60, per_client=20)) as address:
        held = [connected(address) for _ in range(20)]
        assert rest(connected(address)).startswith(b"HTTP/1.1 429 ")
        for one in held:
            one.close()
        answer = b"HTTP/1.1 429 "
        until = time.monotonic() + 30
        while answer.startswith(b"HTTP/1.1 429 ") and time.monotonic() < until:
            again = connected(address)
            again.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = rest(again)
        assert answer.startswith(b"HTTP/1.1 200 ")
