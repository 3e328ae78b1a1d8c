"""The labelling server under load: speed, page, and kill -9.

    python bench/label_server.py speed [--postgresql] [--json]
    python bench/label_server.py page  [--json]
    python bench/label_server.py kill  [--kills 50] [--postgresql] [--json]

`speed` measures the latency of 50 annotators who together send 200 judgements per second, then how
many per second are accepted when nobody waits. `page` measures in Chromium the time from the Enter
key to the next task being ready. `kill` kills the server again and again under load, each time after a
random number of judgements; every client sends what was not acknowledged again with the same key. All
of them count afterwards what the database holds: nothing acknowledged may be missing, nothing may be
there twice. `--postgresql` starts a PostgreSQL server for the measurement, `--database` takes one's own.
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
from pathlib import Path

from sqlalchemy import func, select

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.labels import people
from alignloop.labels.project import ItemAnswer, NewItem, Settings
from alignloop.labels.schema import judgements
from alignloop.labels.store import Store
from alignloop.records import Message
from bench.label_client import Client, serving
from bench.postgres import fresh_database, private_server

WORDS = ("the", "model", "answers", "a", "question", "in", "plain", "words", "모델이", "질문에", "답합니다")


PATIENCE_S = 1800.0
"""Longest wait for the judgements after which the server is killed."""


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
                (Message("user", f"{n} {text(rng, 30)}"),),
                (ItemAnswer(text(rng, 120)), ItemAnswer(text(rng, 120))),
            )
            for n in range(num_items)
        ),
    )
    return [people.invite(store, project, f"annotator {k}")[1] for k in range(num_annotators)]


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


@contextmanager
def workplace(arguments: argparse.Namespace) -> Iterator[tuple[Path, str | None]]:
    """A label folder and the URL of an empty database, None for the folder's own SQLite file."""
    with tempfile.TemporaryDirectory() as name:
        if not arguments.postgresql:
            yield Path(name), arguments.database
            return
        with private_server() as template:
            yield Path(name), fresh_database(template)


def speed(arguments: argparse.Namespace) -> dict:
    """The `speed` measurement."""
    with workplace(arguments) as (folder, database):
        store = Store(database or folder / "labels.sqlite")
        tokens = fill(store, num_items=arguments.items, num_annotators=arguments.annotators)
        clients = [Client(arguments.port, token, random.Random(k)) for k, token in enumerate(tokens)]
        with serving(folder, arguments.port, database) as process:
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
    with workplace(arguments) as (folder, database):
        store = Store(database or folder / "labels.sqlite")
        (token,) = fill(store, num_items=arguments.items, num_annotators=1)
        times = []
        with serving(folder, arguments.port, database), sync_playwright() as player:
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


async def until_killed(
    clients: list[Client], process: subprocess.Popen, *, judgements: int, delay_s: float
) -> None:
    """Judge without pause; the server is killed `delay_s` after so many more were acknowledged."""

    def acknowledged() -> int:
        return sum(len(client.acknowledged) for client in clients)

    wanted, deadline = acknowledged() + judgements, time.monotonic() + PATIENCE_S

    async def one(client: Client) -> None:
        try:
            if client.task is None and client.pending is None:
                await client.sign_in()
            while True:
                await client.judge()
        except (OSError, asyncio.IncompleteReadError):
            client.drop()

    async def killer() -> None:
        while acknowledged() < wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        await asyncio.sleep(delay_s)
        process.send_signal(signal.SIGKILL)

    await asyncio.gather(killer(), *(one(c) for c in clients))
    if acknowledged() < wanted:
        raise SystemExit(f"the server accepted fewer than {judgements} judgements in {PATIENCE_S:.0f} s")


def kill(arguments: argparse.Namespace) -> dict:
    """The `kill` measurement."""
    rng = random.Random(arguments.seed)
    with workplace(arguments) as (folder, database):
        store = Store(database or folder / "labels.sqlite")
        tokens = fill(store, num_items=arguments.items, num_annotators=arguments.annotators)
        clients = [Client(arguments.port, token, random.Random(k)) for k, token in enumerate(tokens)]
        resent = kept = 0
        for number in range(1, arguments.kills + 1):
            with serving(folder, arguments.port, database) as process:
                moment = {"judgements": rng.randint(1, 200), "delay_s": rng.uniform(0, 0.05)}
                asyncio.run(until_killed(clients, process, **moment))
            pending = [client.pending["key"] for client in clients if client.pending is not None]
            resent += len(pending)
            with store.reading() as connection:
                query = select(func.count()).where(judgements.c.key.in_(pending))
                kept += connection.scalar(query) or 0
            print(f"kill {number}: {resent} sent again, {kept} of these stored", file=sys.stderr, flush=True)
        with serving(folder, arguments.port, database):
            asyncio.run(settle(clients))
        return {
            "database": store.engine.dialect.name,
            "kills": arguments.kills,
            "sent_again": resent,
            "of_these_stored": kept,
            **verify(store, clients),
        }


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
    parser.add_argument("--postgresql", action="store_true", help="on a PostgreSQL server started for this")
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ended early, it still stops its servers
    found = {"speed": speed, "page": page, "kill": kill}[arguments.what](arguments)
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:>16}  {value}")


if __name__ == "__main__":
    main()
