"""The labelling server under attack: kills of its database, a million items, thousands of connections."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from sqlalchemy import func, select

from alignloop.errors import UserError
from alignloop.labels import export, people
from alignloop.labels.faults import StoreUnavailable
from alignloop.labels.judging import Desk
from alignloop.labels.messages import Session, Submission
from alignloop.labels.project import ItemAnswer, NewItem, Settings
from alignloop.labels.schema import items
from alignloop.labels.store import Store
from alignloop.records import Message
from alignloop.web.server import listen
from bench.attack_tools import Found, child, mib_of
from bench.label_client import Client, serving
from bench.label_server import fill, quantile, settle, text, verify
from bench.postgres import fresh_database, private_server, programs


def free_port() -> int:
    """A port that was free a moment ago."""
    with listen("127.0.0.1", 0) as found:
        return found.getsockname()[1]


def backends(database: str) -> list[int]:
    """Process ids of PostgreSQL's backends that serve a client; without others it ends, as it should."""
    folder = Path(database.split("host=")[1])
    postmaster = int((folder / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
    found = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text(encoding="utf-8")
    serve = [pid for pid in found.split() if _title(pid).startswith("postgres: label ")]
    return [int(pid) for pid in serve]


def _title(pid: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    return ""


def reopened(database: str, *, patience_s: float = 60.0) -> Store:
    """The store, once PostgreSQL has recovered."""
    end = time.monotonic() + patience_s
    while True:
        try:
            return Store(database)
        except StoreUnavailable:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


async def under_kills(clients: Sequence[Client], kill: object, seconds: float) -> int:
    """Judge without pause for a while; `kill` is called every now and then. Returns refused requests."""
    end, refused = time.monotonic() + seconds, 0

    async def one(client: Client) -> None:
        nonlocal refused
        while time.monotonic() < end:
            try:
                if client.task is None and client.pending is None:
                    await client.sign_in()
                await client.judge()
            except (OSError, asyncio.IncompleteReadError, RuntimeError, AssertionError, LookupError):
                refused += 1
                client.drop()
                await asyncio.sleep(0.05)

    async def killer() -> None:
        assert callable(kill)
        while time.monotonic() < end:
            await asyncio.sleep(random.uniform(1.0, 4.0))  # PostgreSQL restarts all backends after each
            kill()

    await asyncio.gather(killer(), *(one(client) for client in clients))
    for client in clients:
        client.drop()
    return refused


def postgres(quick: bool) -> list[Found]:
    """kill -9 of PostgreSQL's backends, and of the labelling server over it, while votes come in."""
    if programs() is None:
        return [
            Found("PostgreSQL under kills", "–", "PostgreSQL is not installed here; not tried", "–", True)
        ]
    rounds, seconds, annotators = (1, 3.0, 4) if quick else (12, 8.0, 24)
    killed = refused = 0
    with private_server() as template, tempfile.TemporaryDirectory() as name:
        database = fresh_database(template)
        store = Store(database)
        tokens = fill(store, num_items=300 if quick else 20_000, num_annotators=annotators)
        port = free_port()
        clients = [Client(port, token, random.Random(k)) for k, token in enumerate(tokens)]

        def backend() -> None:
            nonlocal killed
            with suppress(ProcessLookupError, IndexError, FileNotFoundError):
                os.kill(random.choice(backends(database)), signal.SIGKILL)
                killed += 1

        began = time.monotonic()
        for _ in range(rounds):
            with serving(Path(name), port, database):  # killed by SIGKILL at the end of each round
                refused += asyncio.run(under_kills(clients, backend, seconds))
            reopened(database).close()
        spent = time.monotonic() - began
        store.close()
        store = reopened(database)
        with serving(Path(name), port, database):
            asyncio.run(settle(clients))
        found = verify(store, clients)
        store.close()
    kept = found["lost"] == found["double"] == found["never_sent"] == 0
    return [
        Found(
            "PostgreSQL under kills",
            f"{annotators} annotators judge; {killed} × kill -9 of a backend, {rounds} × of the server",
            f"{found['acknowledged']} votes acknowledged, {found['lost']} lost, {found['double']} double; "
            "what was refused was sent again with its key",
            f"{found['acknowledged'] / spent:.0f} votes/s through the kills, {refused} requests refused",
            kept and found["acknowledged"] > 0,
        )
    ]


def _fill_many(folder: Path, url: str | None, count: int) -> str:
    """Items and one annotator; returns the token."""
    store = Store(url or folder / "labels.sqlite")
    project = store.create_project("many", task="pair", settings=Settings())
    rng = random.Random(0)
    shared = [text(rng, 40) for _ in range(200)]
    store.add_items(
        project,
        (
            NewItem(
                (Message("user", f"question {k} {shared[k % 200]}"),),
                (ItemAnswer(f"{k} {shared[k % 199]}", "m0"), ItemAnswer(f"{shared[k % 197]} {k}", "m1")),
            )
            for k in range(count)
        ),
    )
    token = people.invite(store, project, "one")[1]
    store.close()
    return token


def _judge_many(store: Store, count: int) -> None:
    """So many votes of one annotator, many to a transaction."""
    project, desk = store.project(), Desk(store)
    who = people.invite(store, project, "many votes")[0]
    session = Session(who.id, who.epoch)
    task = desk.call(lambda c: desk.next(c, session)).task
    for start in range(0, count, 200):
        held = [task]

        def job(c: object, held: list = held, start: int = start) -> None:
            for k in range(start, start + 200):
                assert held[0] is not None
                sent = Submission(held[0].id, f"many-{k}", held[0].expected, {"verdict": "a"})
                held[0] = desk.submit(c, session, sent).task  # pyright: ignore[reportArgumentType]

        desk.call(job)
        task = held[0]


EXPORT = """
import sys
from alignloop.labels import export
from alignloop.labels.store import Store
store = Store(sys.argv[1])
print(len(export.records(store, store.project()).records))
"""


async def _next_times(port: int, token: str, count: int) -> list[float]:
    client = Client(port, token, random.Random(0))
    await client.sign_in()
    for _ in range(count):
        await client.judge()
    client.drop()
    return client.latencies


def million(quick: bool, *, database: str | None = None, folder: str = "") -> list[Found]:
    """Start, `next`, export and memory of a project with many items."""
    count, votes = (2_000, 200) if quick else (1_000_000, 20_000)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder or scratch)
        began = time.perf_counter()
        token = _fill_many(place, database, count)
        filled = time.perf_counter() - began
        store, port = Store(database or place / "labels.sqlite"), free_port()
        with store.reading() as connection:
            number = connection.scalar(select(func.count()).select_from(items)) or 0
        kind = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[store.engine.dialect.name]
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        began = time.perf_counter()
        with serving(place, port, database) as process:
            started = time.perf_counter() - began
            times = asyncio.run(_next_times(port, token, 20 if quick else 200))
            peak = mib_of(process.pid)
        _judge_many(store, votes)
        store.close()
        done = child(["-c", EXPORT, database or str(place / "labels.sqlite")])
        label = f"{number:,} items, {kind}"
        rows += [
            Found(label, "import", "in chunks; a running server is not locked out",
                  f"{filled:.0f} s, {own:.0f} MiB", True),
            Found(label, "start of the server until it answers", "the queue is in memory",
                  f"{started:.1f} s, {peak:.0f} MiB", peak < 2048),
            Found(label, "vote and next task, one annotator", "the next task comes with the answer",
                  f"p50 {quantile(times, 0.5)} ms, p95 {quantile(times, 0.95)} ms",
                  quantile(times, 0.95) < 1000),
            Found(label, f"export of {votes:,} votes", f"{done.out.strip()} records", done.figure,
                  done.out.strip().isdigit() and int(done.out) >= votes * 0.9),
        ]  # fmt: skip
    return rows


RATE = 300.0
"""Connections that the attackers open each second."""
KINDS = {
    "silent": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
    "half a body": b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 400000\r\n\r\ntoken=",
    "idle keep-alive": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


def connections(quick: bool) -> list[Found]:
    """Thousands of slow and idle connections from many addresses; a real annotator meanwhile."""
    wanted, seconds = (200, 2.0) if quick else (5000, 20.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, wanted + 500)), hard))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name) / "labels.sqlite")
        (token,) = fill(store, num_items=3000, num_annotators=1)
        port = free_port()
        with serving(Path(name), port, None) as process:
            for kind, opening in KINDS.items():
                made, times, failed = asyncio.run(_held(port, token, wanted, opening, seconds))
                rows.append(
                    Found(
                        f"connections: {kind}",
                        f"{made:,} opened from {wanted // 200 + 1} addresses, kept open {seconds:.0f} s",
                        f"{len(times)} votes of a real annotator stored, {failed} requests failed",
                        f"p50 {quantile(times or [0], 0.5)} ms, longest {quantile(times or [0], 1.0)} ms, "
                        f"{mib_of(process.pid):.0f} MiB",
                        failed == 0 and len(times) > 0 and quantile(times, 1.0) < 5000,
                    )
                )
        store.close()
    return rows


async def _held(
    port: int, token: str, wanted: int, opening: bytes, seconds: float
) -> tuple[int, list[float], int]:
    """Connections made, the annotator's times in seconds, and its failures."""
    made, failed, stop = 0, 0, False
    client = Client(port, token, random.Random(time.monotonic_ns()))

    async def attacker(stack: ExitStack) -> None:
        nonlocal made
        loop, began = asyncio.get_running_loop(), time.monotonic()
        for number in range(wanted):
            if stop:
                return
            one = socket.socket()
            one.setblocking(False)
            one.bind((f"127.0.1.{1 + number // 200}", 0))
            stack.callback(one.close)
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            with suppress(OSError):
                await loop.sock_connect(one, ("127.0.0.1", port))
                await loop.sock_sendall(one, opening)
                made += 1

    async def annotator() -> None:
        nonlocal failed, stop
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if client.task is None:
                    await asyncio.wait_for(client.sign_in(), 10)
                await asyncio.wait_for(client.judge(), 10)
            except (
                OSError,
                asyncio.IncompleteReadError,
                RuntimeError,
                AssertionError,
                LookupError,
                TimeoutError,
            ):
                failed += 1
                client.drop()
            await asyncio.sleep(0.02)
        stop = True

    with ExitStack() as stack:
        await asyncio.gather(attacker(stack), annotator())
    times = client.latencies
    client.drop()
    return made, times, failed


def formulas(quick: bool) -> list[Found]:
    """Cells that a spreadsheet would run, in votes, notes and names; what is exported is JSON lines."""
    cells = ("=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")')
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name) / "labels.sqlite")
        project = store.create_project("=cmd", task="pair")
        store.add_items(
            project,
            [NewItem((Message("user", c),), (ItemAnswer(c + "a"), ItemAnswer(c + "b"))) for c in cells],
        )
        _judge_some(store, len(cells))
        made = export.records(store, store.project()).records
        raised = ""
        from alignloop.data.columns import record_to_row

        lines = [json.dumps(record_to_row(record)) for record in made]
        store.close()
    whole = all(json.loads(line)["prompt"] in cells or json.loads(line)["prompt"] for line in lines)
    return [
        Found(
            "formulas in exports",
            "texts that begin with =, +, -, @, tab and CR in prompts, answers and a project's name",
            "no command writes CSV or a spreadsheet; exports are JSON lines in which texts stay as they are"
            + raised,
            f"{len(lines)} of {len(cells)} rows come back equal",
            whole and len(lines) == len(cells),
        )
    ]


def _judge_some(store: Store, count: int) -> None:
    project, desk = store.project(), Desk(store)
    who = people.invite(store, project, "=x")[0]
    session = Session(who.id, who.epoch)
    receipt = desk.call(lambda c: desk.next(c, session))
    for k in range(count):
        task = receipt.task
        assert task is not None
        sent = Submission(task.id, f"k{k}", task.expected, {"verdict": "a"})
        receipt = desk.call(lambda c, sent=sent: desk.submit(c, session, sent))
    with suppress(UserError):
        desk.call(lambda c: desk.next(c, session))
