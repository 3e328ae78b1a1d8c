"""A running application, in memory for requests and on a port for browsers."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import uvicorn
from starlette.testclient import TestClient

from alignloop.labels import people
from alignloop.labels.project import Project
from alignloop.labels.store import Store
from alignloop.labels.web.app import create_app
from alignloop.labels.web.sessions import Guesses, RateLimit
from tests.labels.web.browsing import READY

SECRET = b"k" * 32


@dataclass
class Person:
    """A signed-in client with the token its page carries."""

    client: TestClient
    csrf: str
    annotator_id: int

    def call(self, name: str, body: object = None, **headers: str):
        """One of the page's own calls."""
        sent = {"X-CSRF-Token": self.csrf, **headers}
        return self.client.post(f"/api/{name}", json=body if body is not None else {}, headers=sent)

    def form(self, path: str, **fields: str):
        """One of the pages' forms."""
        return self.client.post(path, data={"csrf": self.csrf, **fields}, follow_redirects=False)


@dataclass
class Served:
    """An application over a store, and ways in."""

    store: Store
    client: Callable[[], TestClient]

    def sign_in(self, project: Project | None, name: str, role: str = "annotator") -> Person:
        """Invite somebody and sign in."""
        annotator, token = people.invite(self.store, project, name, role=role)
        client = self.client()
        answer = client.post("/login", data={"token": token})
        assert answer.status_code == 200, answer.text
        found = re.search(r'name="csrf"(?: value| content)="([^"]+)"', answer.text)
        if found is None:
            found = re.search(r'name="csrf" value="([^"]+)"', client.get("/owner").text)
        return Person(client, found[1] if found else "", annotator.id)


@pytest.fixture
def served(lite: Store) -> Iterator[Served]:
    """The application, called without a network; the clients share one running writer."""
    app = create_app(
        lite,
        secret=SECRET,
        guesses=Guesses(RateLimit(burst=5, refill_s=60.0), RateLimit(burst=7, refill_s=60.0)),
    )
    with TestClient(app, base_url="http://localhost") as first:
        clients = []

        def client() -> TestClient:
            clients.append(TestClient(app, base_url="http://localhost"))
            clients[-1].portal = first.portal
            return clients[-1]

        yield Served(lite, client)


class Server:
    """The application on a real port, in a thread."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(64)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        app = create_app(store, secret=SECRET)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the server."""
        self.server.should_exit = True
        self.thread.join(timeout=10)
        self.socket.close()


@pytest.fixture
def server(lite: Store) -> Iterator[Server]:
    """A server that a browser can reach."""
    running = Server(lite)
    yield running
    running.stop()


@pytest.fixture
def visit(chromium, server) -> Callable:
    """Function that opens a page as a signed-in person in a fresh browser profile.

    Guidelines, which a first visit opens, are closed unless told otherwise (`read=False`).
    """
    contexts = []

    def open_page(
        project: Project | None,
        name: str = "a",
        *,
        role: str = "annotator",
        token: str = "",
        read: bool = True,
        **options,
    ):
        if not token:
            _, token = people.invite(server.store, project, name, role=role)
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.faults = []
        own = ("data:", f"{server.url}/")
        page.on("request", lambda r: r.url.startswith(own) or page.faults.append(f"outside: {r.url}"))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda m: page.faults.append(m.text) if "Content Security" in m.text else None)
        page.goto(f"{server.url}/invite/{token}")
        page.click("button.primary")
        if role == "annotator":
            page.wait_for_function(READY)
            if read and page.is_visible("#guide-read"):
                page.click("#guide-read")
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            assert page.faults == []
        context.close()
