"""A real server on loopback over a tiny model, in a thread of the test process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import openai
import pytest
import uvicorn
from starlette.applications import Starlette

from alignloop.data.chat import load_template
from alignloop.data.tokenize import Encoder
from alignloop.model.load import LoadedModel
from alignloop.model.tiny import tiny_model
from alignloop.serve.app import create_app
from alignloop.serve.served import Policy, RequestLimits
from alignloop.web.server import listen

CONTEXT = 1024
"""Positions of the tiny model."""


def tiny_policy(name: str = "tiny", seed: int = 0) -> Policy:
    model, tokenizer = tiny_model(seed=seed)
    encoder = Encoder(tokenizer, load_template("tokenizer", tokenizer), 4096, "error")
    return Policy(name, LoadedModel(model, tokenizer, name), encoder, CONTEXT)


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """The server's address while it runs."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"
        listening.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def policy() -> Policy:
    return tiny_policy()


Start = Callable[..., str]


@pytest.fixture
def start(policy: Policy) -> Iterator[Start]:
    """Starts servers with limits or a key of the test's own."""
    with ExitStack() as stack:

        def begin(
            *, api_key: str | None = None, policies: list[Policy] | None = None, **limits: float
        ) -> str:
            app = create_app(policies or [policy], limits=RequestLimits(**limits), api_key=api_key)  # pyright: ignore
            return stack.enter_context(running(app))

        yield begin


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """One server for all tests that need no settings; its model is its own."""
    limits = RequestLimits(max_tokens=900, max_choices=8, body_bytes=65536, token_budget=8192)
    with running(create_app([tiny_policy()], limits=limits)) as found:
        yield found


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0) as made:
        yield made
