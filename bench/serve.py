"""Serving: concurrent streams against transformers' `generate` one at a time; first token under load.

    python -m bench.serve [--model smollm2-135m-instruct] [--streams 16] [--tokens 64] [--threads 2] [--json]

The same prompts, sampled at temperature 1, answers up to --tokens. Server and `generate` run in
processes of their own and take turns, --rounds times; medians are compared. The first token's time
is measured by a client over HTTP: for a lone request, and with --load clients of which each asks
again as soon as it has its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bench.measure import child, machine
from bench.serve_client import Streamed, question, serving, stream

TARGETS = {"speedup": 4.0, "first_token_ratio": 2.0}


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--load", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def generate_alone(model: str, streams: int, tokens: int) -> dict[str, float]:
    """Tokens per second of `generate`, one request after another, a first one not counted."""
    import torch

    from alignloop.records import Message
    from alignloop.serve.served import open_policy

    policy = open_policy(model)
    engine = policy.loaded.model
    counted, began = 0, 0.0
    torch.manual_seed(0)
    for number in range(-1, streams):
        if number == 0:
            began = time.perf_counter()
        messages = [Message(**m) for m in question(max(number, 0))["messages"]]
        ids = torch.tensor([policy.encoder.prompt(messages).tolist()], device=engine.device)
        made = engine.generate(  # pyright: ignore[reportCallIssue]
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0,
            max_new_tokens=tokens, pad_token_id=policy.loaded.tokenizer.pad_token_id,
        )  # fmt: skip
        counted += made.shape[1] - ids.shape[1] if number >= 0 else 0
    return {"tokens": counted, "seconds": time.perf_counter() - began}


async def together(address: str, streams: int, tokens: int) -> dict[str, float]:
    """Tokens per second of so many streams at once."""
    async with httpx.AsyncClient(timeout=600) as client:
        bodies = [question(number, max_tokens=tokens, temperature=1.0) for number in range(streams)]
        began = time.perf_counter()
        answers = await asyncio.gather(*(stream(client, address, body) for body in bodies))
    return {"tokens": sum(a.tokens for a in answers), "seconds": time.perf_counter() - began}


async def first_tokens(address: str, clients: int, each: int, tokens: int) -> list[float]:
    """Seconds to the first token of each request, with so many clients that ask without a pause."""

    async def one(client: httpx.AsyncClient, start: int) -> list[Streamed]:
        bodies = [question(start + i, max_tokens=tokens, temperature=1.0) for i in range(each)]
        return [await stream(client, address, body) for body in bodies]

    async with httpx.AsyncClient(timeout=600) as client:
        found = await asyncio.gather(*(one(client, 1000 + each * number) for number in range(clients)))
    return [answer.first_s for answers in found for answer in answers]


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Every number of the report."""
    alone, served, lone, loaded = [], [], [], []
    arguments = ["--generate", "--model", chosen.model, "--streams", str(chosen.streams)]
    arguments += ["--tokens", str(chosen.tokens)]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(chosen.model, threads=chosen.threads, folder=Path(folder)) as server,
    ):
        asyncio.run(together(server.address, 2, 8))  # warms the server up
        for _ in range(chosen.rounds):
            alone.append(child("bench.serve", arguments, threads=chosen.threads))
            served.append(asyncio.run(together(server.address, chosen.streams, chosen.tokens)))
            lone += asyncio.run(first_tokens(server.address, 1, 4, chosen.tokens))
            loaded += asyncio.run(first_tokens(server.address, chosen.load, 4, chosen.tokens))
    return summary(chosen, alone, served, lone, loaded)


def summary(
    chosen: argparse.Namespace,
    alone: list[dict[str, float]],
    served: list[dict[str, float]],
    lone: list[float],
    loaded: list[float],
) -> dict[str, Any]:
    """Medians, their ratios, and whether the targets are met."""
    one, many = (statistics.median(r["tokens"] / r["seconds"] for r in runs) for runs in (alone, served))
    speedup, ratio = many / one, statistics.median(loaded) / statistics.median(lone)
    return {
        "model": chosen.model,
        "streams": chosen.streams,
        "tokens": chosen.tokens,
        "load": chosen.load,
        "generate_tokens_per_s": round(one, 1),
        "served_tokens_per_s": round(many, 1),
        "speedup": round(speedup, 2),
        "first_token_alone_s": round(statistics.median(lone), 4),
        "first_token_loaded_s": round(statistics.median(loaded), 4),
        "first_token_loaded_worst_s": round(max(loaded), 4),
        "first_token_ratio": round(ratio, 2),
        "targets_met": {
            "speedup": speedup >= TARGETS["speedup"],
            "first_token_ratio": ratio <= TARGETS["first_token_ratio"],
        },
        "machine": machine(chosen.threads),
    }


def main() -> None:
    """Measure and print."""
    chosen = options()
    if chosen.generate:
        print(json.dumps(generate_alone(chosen.model, chosen.streams, chosen.tokens)))
        return
    report = measure(chosen)
    if chosen.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    print(f"{report['model']}, {report['streams']} streams of up to {report['tokens']} tokens")
    print(f"  generate, one at a time {report['generate_tokens_per_s']:8.1f} tokens/s")
    print(
        f"  served, all at once     {report['served_tokens_per_s']:8.1f} tokens/s  {report['speedup']:.2f}×"
    )
    print(f"  first token alone       {report['first_token_alone_s'] * 1000:8.0f} ms")
    print(
        f"  first token at load {report['load']}   {report['first_token_loaded_s'] * 1000:8.0f} ms"
        f"  {report['first_token_ratio']:.2f}×"
    )


if __name__ == "__main__":
    sys.exit(main())
