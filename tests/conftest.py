"""What every test relies on: few threads, no network, and prerequisites that skip with a reason.

Set before torch is imported anywhere: thread counts and the offline switches, which child processes
inherit. The network guard lets loopback and Unix sockets through and raises on anything else.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.postgres import fresh_database, private_server, programs

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_MODE"):
    os.environ[_name] = "offline" if _name == "WANDB_MODE" else "1"


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):  # a Unix socket's path
        return True
    host = str(address[0])
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for anything but this machine fails at that line."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(host: object) -> None:
        raise OSError(f"tests may not use the network: {host}")

    def guarded_connect(self: socket.socket, address, /):
        return connect(self, address) if _is_local(address) else refuse(address)

    def guarded_connect_ex(self: socket.socket, address, /):
        return connect_ex(self, address) if _is_local(address) else refuse(address)

    def guarded_getaddrinfo(host, *args, **kwargs):
        name = host.decode() if isinstance(host, bytes) else host
        return getaddrinfo(host, *args, **kwargs) if _is_local((name or "",)) else refuse(name)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)


@pytest.fixture(autouse=True)
def fresh_seed() -> None:
    """The same random numbers whatever ran before, if torch is in use at all."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A path for a run folder that does not exist yet."""
    return tmp_path / "run"


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome, or None."""
    names = (os.environ.get("ALIGNLOOP_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _has_cuda():
        pytest.skip("no CUDA device")
    for marker, found, package in (
        ("browser", find_chromium, "chromium"),
        ("postgres", programs, "postgresql"),
    ):
        if item.get_closest_marker(marker) and not found():
            reason = f"{package} is not installed (scripts/system installs it on Debian as root)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """A headless Chromium (playwright's sync Browser) that looks nothing up by itself.

    One per module, and the only one: while playwright's sync interface is open its event loop counts as
    running in this thread, so that a second one, or asyncio.run in a later module, would be refused.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server started for the tests, in which a database's name is still to be put."""
    with private_server() as template:
        yield template


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database on each kind of server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'labels.sqlite'}"
    return fresh_database(request.getfixturevalue("postgres"))
