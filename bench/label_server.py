"""The labelling server under load: speed, page, and kill -9.

    python bench/label_server.py speed [--database postgresql://…] [--json]
    python bench/label_server.py page  [--json]
    python bench/label_server.py kill  [--kills 50] [--json]

`speed` measures the latency of 50 annotators who together send 200 judgements per second, then how
many per second are accepted when nobody waits. `page` measures in Chromium the time from the Enter
key to the next task being ready. `kill` kills the server again and again under load; every client
sends what was not acknowledged again with the same key. All of them count afterwards what the
database holds: nothing acknowledged may be missing, nothing may be there twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from sqlalchemy import func, select

from alignloop.feedback import people
from alignloop.feedback.project import Answer, NewItem, Settings
from alignloop.feedback.schema import judgements
from alignloop.feedback.store import Store
from alignloop.records import Message

WORDS = ("the", "model", "answers", "a", "question", "in", "plain", "words", "모델이", "질문에", "답합니다")
VERDICTS = ("a_much", "a", "tie", "b", "b_much")
COMMAND = [sys.executable, "-c", "from alignloop.cli import main; main()", "label", "serve"]


def text(rng: random.Random, num_words: int) -> str:
    """Random words."""
    return " ".join(rng.choice(WORDS) for _ in range(num_words))


def fill(store: Store, *, num_items: int, num_annotators: int) -> list[str]:
    """A pair project with items of two 120-word answers; returns the annotators' tokens."""
    rng = random.Random(0)
    project = store.create_project("load", task="pair", settings=Settings(gold_share=0.0))
    store.add_items(
        project,
        (
            NewItem(
                (Message("user", f"{n} {text(rng, 30)}"),), (Answer(text(rng, 120)), Answer(text(rng, 120)))
            )
            for n in range(num_items)
        ),
    )
    return [people.invite(store, project, f"annotator {k}")[1] for k in range(num_annotators)]


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


def verify(store: Store, clients: list[Client]) -> dict[str, int]:
    """Compare what was acknowledged with what is stored."""
    with store.reading() as connection:
        stored = {row.key: row.id for row in connection.execute(select(judgements.c.key, judgements.c.id))}
        tasks = connection.scalar(select(func.count(func.distinct(judgements.c.assignment_id))))
    acknowledged = {key: number for client in clients for key, number in client.acknowledged.items()}
    unanswered = {client.pending["key"] for client in clients if client.pending}
    return {
        "acknowledged": len(acknowledged),
        "stored": len(stored),
        "lost": sum(stored.get(key) != number for key, number in acknowledged.items()),
        "double": len(stored) - (tasks or 0),
        "never_sent": len(set(stored) - set(acknowledged) - unanswered),
    }


def quantile(values: list[float], q: float) -> float:
    """In milliseconds."""
    return round(1000 * sorted(values)[min(int(q * len(values)), len(values) - 1)], 2)


async def paced(clients: list[Client], rate: float, seconds: float) -> None:
    """Each client sends at its own regular moments, `rate` per second together."""

    async def one(client: Client, offset: float) -> None:
        step, start = len(clients) / rate, time.perf_counter() + offset
        for k in range(int(seconds / step)):
            await asyncio.sleep(max(0.0, start + k * step - time.perf_counter()))
            await client.judge()

    await asyncio.gather(*(one(c, k / rate) for k, c in enumerate(clients)))


async def flat_out(clients: list[Client], seconds: float) -> None:
    """Nobody waits between answer and next judgement."""
    end = time.perf_counter() + seconds

    async def one(client: Client) -> None:
        while time.perf_counter() < end:
            await client.judge()

    await asyncio.gather(*(one(c) for c in clients))


async def measure(clients: list[Client], seconds: float, rate: float) -> dict[str, float]:
    """Latency at the given rate, then the highest rate."""
    await asyncio.gather(*(client.sign_in() for client in clients))
    for client in clients:
        await client.judge()
        client.latencies.clear()
    began = time.perf_counter()
    await paced(clients, rate, seconds)
    paced_s, sent = time.perf_counter() - began, [x for c in clients for x in c.latencies]
    for client in clients:
        client.latencies.clear()
    began = time.perf_counter()
    await flat_out(clients, seconds)
    flat_s, flat = time.perf_counter() - began, [x for c in clients for x in c.latencies]
    return {
        "paced_per_s": round(len(sent) / paced_s, 1),
        "paced_p50_ms": quantile(sent, 0.5),
        "paced_p95_ms": quantile(sent, 0.95),
        "paced_p99_ms": quantile(sent, 0.99),
        "highest_per_s": round(len(flat) / flat_s, 1),
        "highest_p95_ms": quantile(flat, 0.95),
    }


def cpu_seconds(process: subprocess.Popen) -> float:
    """Processor time the server has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def speed(arguments: argparse.Namespace) -> dict:
    """The `speed` measurement."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(arguments.database or folder / "labels.sqlite")
        tokens = fill(store, num_items=arguments.items, num_annotators=arguments.annotators)
        clients = [Client(arguments.port, token, random.Random(k)) for k, token in enumerate(tokens)]
        with serving(folder, arguments.port, arguments.database) as process:
            before = cpu_seconds(process)
            found = asyncio.run(measure(clients, arguments.seconds, arguments.rate))
            used = cpu_seconds(process) - before
        count = sum(len(client.acknowledged) for client in clients)
        found["server_cpu_ms"] = round(1000 * used / count, 2)
        return {
            "database": store.engine.dialect.name,
            "items": arguments.items,
            **found,
            **verify(store, clients),
        }


def page(arguments: argparse.Namespace) -> dict:
    """The `page` measurement."""
    from playwright.sync_api import sync_playwright

    switches = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    switches += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(arguments.database or folder / "labels.sqlite")
        (token,) = fill(store, num_items=arguments.items, num_annotators=1)
        times = []
        with serving(folder, arguments.port, arguments.database), sync_playwright() as player:
            browser = player.chromium.launch(executable_path=arguments.chromium, args=switches)
            tab = browser.new_page()
            tab.goto(f"http://127.0.0.1:{arguments.port}/invite/{token}")
            tab.click("button.primary")
            tab.wait_for_selector(".verdicts button")
            tab.evaluate(WATCH)
            for _ in range(arguments.judgements):
                tab.keyboard.press("2")
                tab.keyboard.press("Enter")
                tab.wait_for_function("() => window.readyTimes.length > 0")
                times.append(tab.evaluate("window.readyTimes.shift()") / 1000)
            browser.close()
        return {
            "items": arguments.items,
            "judgements": len(times),
            "ready_p50_ms": quantile(times, 0.5),
            "ready_p95_ms": quantile(times, 0.95),
            "ready_max_ms": quantile(times, 1.0),
        }


WATCH = """() => {
  window.readyTimes = [];
  let began = null;
  addEventListener("keydown", (event) => { if (event.key === "Enter") began = performance.now(); }, true);
  new MutationObserver(() => {
    // New buttons are there: wait for the frame that shows them.
    if (began === null || document.querySelector(".verdicts [aria-checked=true]")) return;
    if (!document.querySelector(".verdicts")) return;
    const from = began;
    began = null;
    requestAnimationFrame(() => setTimeout(() => window.readyTimes.push(performance.now() - from)));
  }).observe(document.getElementById("choices"), { childList: true });
}"""


async def until_killed(clients: list[Client], process: subprocess.Popen, after: float) -> None:
    """Judge without pause; the server is killed after a while and every client notices."""

    async def one(client: Client) -> None:
        try:
            if not client.cookie:
                await client.sign_in()
            while True:
                await client.judge()
        except (OSError, asyncio.IncompleteReadError):
            client.drop()

    async def killer() -> None:
        await asyncio.sleep(after)
        process.send_signal(signal.SIGKILL)

    await asyncio.gather(killer(), *(one(c) for c in clients))


def kill(arguments: argparse.Namespace) -> dict:
    """The `kill` measurement."""
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(arguments.database or folder / "labels.sqlite")
        tokens = fill(store, num_items=arguments.items, num_annotators=arguments.annotators)
        clients = [Client(arguments.port, token, random.Random(k)) for k, token in enumerate(tokens)]
        resent = 0
        for _ in range(arguments.kills):
            with serving(folder, arguments.port, arguments.database) as process:
                asyncio.run(until_killed(clients, process, rng.uniform(0.3, 1.0)))
            resent += sum(client.pending is not None for client in clients)
        with serving(folder, arguments.port, arguments.database):
            asyncio.run(settle(clients))
        return {"kills": arguments.kills, "sent_again": resent, **verify(store, clients)}


async def settle(clients: list[Client]) -> None:
    """Send what is still pending."""
    await asyncio.gather(*(client.judge() for client in clients if client.pending))
    for client in clients:
        client.drop()


def main() -> None:
    """Parse the command line and print the measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "page", "kill"))
    parser.add_argument("--database", help="postgresql://…; an empty one")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--annotators", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=200.0, help="judgements per second of all together")
    parser.add_argument("--judgements", type=int, default=100)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--port", type=int, default=8391)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {"speed": speed, "page": page, "kill": kill}[arguments.what](arguments)
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:>16}  {value}")


if __name__ == "__main__":
    main()
