"""A server under mixed load for a long time: right answers, disconnects, bad requests; no leak, no crash.

    python -m bench.serve_soak [--model tiny] [--seconds 600] [--clients 8] [--json]

Each client picks at random: a request whose answer is known from asking alone (streamed or whole), a
stream that it leaves in the middle, or a bad request. An answer is the lone one's if sampling is
seeded; what else is in the batch changes logits by rounding, so one different answer in a thousand is
let pass and every one is counted. Sampling is at top-p 0.9: in the tail of the whole vocabulary tokens
lie closer than rounding moves the draw, and about one in a thousand would be another one (docs/log.md).
Memory is compared between the third fifth of the time and the last: what comes before is warming up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.measure import machine
from bench.serve_client import Server, question, serving, stream

BAD: tuple[bytes, ...] = (
    b"{",
    b'{"messages":[]}',
    b'{"messages":[{"role":"user","content":"\xff\xfe"}]}',
    b'{"messages":[{"role":"user","content":"a"}],"n":1000000}',
    b'{"messages":[{"role":"user","content":"a"}],"max_tokens":"many"}',
    b'{"messages":[{"role":"user","content":"' + b"word " * 60000 + b'"}]}',
    b'{"prompt":[]}',
)
GROWTH = 0.05
"""Largest growth of memory, as a share."""
DIFFERENT = 0.001
"""Largest share of answers that differ from the lone ones."""


@dataclass(slots=True)
class Tally:
    """What happened, and memory samples (time, MB)."""

    counts: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


async def soak(server: Server, *, seconds: float, clients: int, seed: int = 0) -> Tally:
    """Load the server for so long."""
    tally = Tally()
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        asked = [question(n, max_tokens=8 + 6 * (n % 8), temperature=1.0, top_p=0.9) for n in range(24)]
        known = [(await stream(client, server.address, body)).text for body in asked]
        end = time.monotonic() + seconds

        async def work(number: int) -> None:
            chance = random.Random(seed * 1000 + number)
            while time.monotonic() < end:
                try:
                    await _one(client, server.address, chance, asked, known, tally)
                except (httpx.HTTPError, RuntimeError, ValueError, KeyError) as error:
                    tally.faults.append(repr(error))
                    await asyncio.sleep(0.1)

        async def watch() -> None:
            while time.monotonic() < end and server.process.poll() is None:
                tally.memory.append((time.monotonic(), server.memory_mb()))
                await asyncio.sleep(seconds / 100)

        await asyncio.gather(watch(), *(work(number) for number in range(clients)))
    return tally


async def _one(
    client: httpx.AsyncClient,
    address: str,
    chance: random.Random,
    asked: list[dict[str, Any]],
    known: list[str],
    tally: Tally,
) -> None:
    """One request of a kind drawn at random."""
    kind = chance.choices(("stream", "whole", "leave", "bad"), (4, 3, 2, 1))[0]
    place = chance.randrange(len(asked))
    url = f"{address}/v1/chat/completions"
    if kind == "bad":
        answer = await client.post(url, content=chance.choice(BAD))
        if not 400 <= answer.status_code < 500 or "error" not in answer.json():
            tally.faults.append(f"a bad request got {answer.status_code}")
    elif kind == "leave":
        body = {**asked[place], "max_tokens": 400, "n": 2, "stream": True}
        async with client.stream("POST", url, json=body) as answer:
            async for _ in answer.aiter_bytes():
                break
    else:
        if kind == "stream":
            text = (await stream(client, address, asked[place])).text
        else:
            answer = await client.post(url, json=asked[place])
            text = answer.json()["choices"][0]["message"]["content"]
        tally.counts["answers"] += 1
        tally.counts["different"] += text != known[place]
    tally.counts[kind] += 1


def growth(memory: list[tuple[float, float]]) -> float:
    """Memory of the last fifth of the samples over that of the third fifth, less one."""
    fifth = max(1, len(memory) // 5)
    early, late = memory[2 * fifth : 3 * fifth] or memory[:1], memory[-fifth:]
    return statistics.median(mb for _, mb in late) / statistics.median(mb for _, mb in early) - 1


def verdict(tally: Tally, server: Server, exit_code: int, left: dict[str, float]) -> dict[str, Any]:
    """The report; `passed` if nothing is wrong."""
    errors = server.errors.read_text(encoding="utf-8")
    checks = {
        "no crash": exit_code == 0 and "Traceback" not in errors,
        "no fault": not tally.faults,
        "no wrong answer": tally.counts["different"] <= DIFFERENT * tally.counts["answers"],
        "no leak": growth(tally.memory) <= GROWTH,
        "nothing left behind": not any(left.values()),
    }
    return {
        **{name: tally.counts[name] for name in ("answers", "different", "stream", "whole", "leave", "bad")},
        "memory_mb": round(tally.memory[-1][1], 1),
        "memory_growth": round(growth(tally.memory), 4),
        "faults": tally.faults[:20],
        "left": left,
        "checks": checks,
        "passed": all(checks.values()),
    }


def run(model: str, *, seconds: float, clients: int, threads: int) -> dict[str, Any]:
    """Start a server, load it, stop it, judge."""
    with tempfile.TemporaryDirectory() as folder:
        with serving(model, threads=threads, folder=Path(folder)) as server:
            tally = asyncio.run(soak(server, seconds=seconds, clients=clients))
            names = ("alignloop_open_requests", "alignloop_running_completions", "alignloop_stored_tokens")
            for _ in range(50):
                left = {name: server.metric(name) for name in names}
                if not any(left.values()):
                    break
                time.sleep(0.1)
        report = verdict(tally, server, server.process.returncode, left)
    return {"model": model, "seconds": seconds, "clients": clients, **report, "machine": machine(threads)}


def main() -> int:
    """Run and print; the exit code tells whether it passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    report = run(chosen.model, seconds=chosen.seconds, clients=chosen.clients, threads=chosen.threads)
    if chosen.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        for name, value in report.items():
            print(f"{name:14} {value}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
