"""The labelling server as a process, and annotators who speak just enough HTTP to be cheap."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

VERDICTS = ("a_much", "a", "tie", "b", "b_much")
COMMAND = [sys.executable, "-c", "from alignloop.cli import main; main()", "label", "serve"]


@contextmanager
def serving(folder: Path, port: int, database: str | None) -> Iterator[subprocess.Popen]:
    """The server as its own process; killed at the end."""
    environment = {**os.environ, **({"ALIGNLOOP_DATABASE": database} if database else {})}
    process = subprocess.Popen(
        [*COMMAND, str(folder), "--port", str(port)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("owner:"):
            raise SystemExit(f"the server did not start: {line}")
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass
class Client:
    """One annotator over one kept-open connection; speaks just enough HTTP to be cheap."""

    port: int
    token: str
    rng: random.Random
    cookie: str = ""
    csrf: str = ""
    task: dict | None = None
    pending: dict | None = None
    acknowledged: dict[str, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str, body: bytes = b"", kind: str = ""
    ) -> tuple[int, dict, bytes]:
        """Status, headers, body; raises OSError or IncompleteReadError when the server is gone."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        head = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", f"content-length: {len(body)}"]
        head += [f"cookie: {self.cookie}", f"x-csrf-token: {self.csrf}", f"content-type: {kind}"]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(
            line.lower().split(": ", 1) if ": " in line else (line, "") for line in raw[1:] if line
        )
        cookies = [line.split(": ", 1)[1] for line in raw[1:] if line.lower().startswith("set-cookie")]
        if cookies:
            headers["set-cookie"] = cookies[0].split(";")[0]
        return (
            int(raw[0].split()[1]),
            headers,
            await reader.readexactly(int(headers.get("content-length", 0))),
        )

    async def sign_in(self) -> None:
        """Invitation token → session cookie and the page's token."""
        form = urlencode({"token": self.token}).encode()
        status, headers, _ = await self.request("POST", "/login", form, "application/x-www-form-urlencoded")
        assert status == 303, status
        self.cookie = headers["set-cookie"]
        _, _, page = await self.request("GET", "/")
        self.csrf = page.split(b'name="csrf" content="')[1].split(b'"')[0].decode()
        await self.call("next", {})

    async def call(self, name: str, body: dict) -> dict:
        """One of the page's calls; keeps the next task."""
        status, _, raw = await self.request(
            "POST", f"/api/{name}", json.dumps(body).encode(), "application/json"
        )
        if status != 200:
            raise RuntimeError(f"{name}: {status} {raw[:200]!r}")
        answer = json.loads(raw)
        self.task = answer["task"]
        return answer

    async def judge(self) -> None:
        """Send one judgement; what was pending before is sent again as it was."""
        if self.pending is None:
            assert self.task is not None, "no task left; use more items"
            self.pending = {
                "assignment": self.task["id"],
                "expected": self.task["expected"],
                "key": f"{self.rng.getrandbits(128):032x}",
                "answer": {"verdict": self.rng.choice(VERDICTS)},
                "seconds": 1.5,
            }
        began = time.perf_counter()
        answer = await self.call("judge", self.pending)
        self.latencies.append(time.perf_counter() - began)
        self.acknowledged[self.pending["key"]] = answer["judgement"]
        self.pending = None

    def drop(self) -> None:
        """Forget a broken connection."""
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None
