"""A server in a process of its own, and a client that streams from it, for the serving benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.measure import ROOT

TOPICS = (
    "why rain falls", "how bees find flowers", "what a dam is for", "how bread rises", "why the sea is salty",
    "how a bicycle stays upright", "what makes a good question", "왜 하늘이 파란지", "how mountains form",
    "why leaves fall", "how a compass works", "what a library is", "강이 바다로 가는 길", "how clouds form",
    "why metal feels cold", "how ink dries",
)  # fmt: skip


@dataclass(slots=True)
class Server:
    """A running server; `errors` is the file with what it said on its standard error."""

    address: str
    process: subprocess.Popen[str]
    errors: Path

    def memory_mb(self) -> float:
        """Its resident memory now, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1000

    def metric(self, name: str) -> float:
        """A number of /metrics."""
        lines = httpx.get(f"{self.address}/metrics", timeout=60).text.splitlines()
        return float(next(line.rsplit(" ", 1)[1] for line in lines if line.startswith(name)))


@contextmanager
def serving(model: str, *, threads: int, folder: Path) -> Iterator[Server]:
    """`alignloop serve MODEL` on a free port, with so many threads, until the context ends."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = [sys.executable, "-m", "alignloop", "serve", model, "--name", "served", "--port", "0"]
    errors = folder / "server-errors.txt"
    with errors.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(
            [*command, "--votes", "none"], stdout=subprocess.PIPE, stderr=sink, text=True, env=environment
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if "listening on" not in line:
        process.wait(timeout=30)
        raise RuntimeError(f"the server did not start:\n{errors.read_text(encoding='utf-8')[-2000:]}")
    try:
        yield Server(line.split()[-1].removesuffix("/v1"), process, errors)
    finally:
        process.terminate()
        process.wait(timeout=60)


def question(number: int, **settings: Any) -> dict[str, Any]:
    """A chat request; equal numbers are equal requests."""
    topic = TOPICS[number % len(TOPICS)]
    content = f"Explain {topic} to a curious child in a few sentences. (Question {number})"
    return {"messages": [{"role": "user", "content": content}], "seed": number, **settings}


@dataclass(frozen=True, slots=True)
class Streamed:
    """A streamed answer: its text, tokens (the end token included) and times in seconds."""

    text: str
    tokens: int
    first_s: float
    total_s: float


async def stream(client: httpx.AsyncClient, address: str, body: dict[str, Any]) -> Streamed:
    """Ask and read the answer as it comes.

    Raises:
        RuntimeError: an answer other than 200, or an error in the stream.
    """
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    began, first, text, tokens = time.perf_counter(), 0.0, "", 0
    async with client.stream("POST", f"{address}/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            first = first or time.perf_counter() - began
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            text += "".join(choice["delta"].get("content", "") for choice in event["choices"])
            tokens = event["usage"]["completion_tokens"] if "usage" in event else tokens
    return Streamed(text, tokens, first, time.perf_counter() - began)
