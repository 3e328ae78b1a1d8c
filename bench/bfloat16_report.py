"""The page of bench/bfloat16.py: figures by method and type, intervals over seeds, and DPO's first steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "bfloat16.md"
T_QUANTILES = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""97.5 % points of Student's t by degrees of freedom."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval over seeds; infinite for one seed."""
    if len(values) < 2:
        return statistics.fmean(values), float("inf")
    t = T_QUANTILES.get(len(values) - 1, 1.96)
    return statistics.fmean(values), t * statistics.stdev(values) / len(values) ** 0.5


def compared(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method's figure, of the seeds that both types have.

    `inside` says whether bfloat16's mean lies between float32's lowest and highest seed, `paired` is the mean
    difference bfloat16 − float32 of the same seed with the half width of its interval.
    """
    by: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for run in runs:
        by.setdefault((run["method"], run["dtype"]), {})[run["seed"]] = run["figures"]
    rows = []
    for method in dict.fromkeys(run["method"] for run in runs):
        plain, other = by.get((method, "float32"), {}), by.get((method, "bfloat16"), {})
        seeds = sorted(plain.keys() & other.keys())
        for name in plain[seeds[0]] if seeds else ():
            left, right = ([side[seed][name] for seed in seeds] for side in (plain, other))
            rows.append(
                {
                    "method": method,
                    "figure": name,
                    "seeds": len(seeds),
                    "float32": interval(left),
                    "bfloat16": interval(right),
                    "range": (min(left), max(left)),
                    "paired": interval([b - a for a, b in zip(left, right, strict=True)]),
                    "inside": min(left) <= statistics.fmean(right) <= max(left),
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    head = "| method | figure | seeds | float32 | float32's seeds | bfloat16 | inside | bfloat16 − float32 |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        low, high = row["range"]
        cells = [row["method"], row["figure"], row["seeds"], _pm(row["float32"]), f"{low:.4f} to {high:.4f}"]
        cells += [_pm(row["bfloat16"]), "yes" if row["inside"] else "**no**", _pm(row["paired"])]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _pm(value: tuple[float, float]) -> str:
    mean, half = value
    return f"{mean:.4f}" if half == float("inf") else f"{mean:.4f} ± {half:.4f}"


def first_steps(rows: Sequence[Mapping[str, Any]]) -> str:
    """DPO's loss before each of three steps, by data and side: means over seeds, lowest and highest seed."""
    lines = [
        "| data | weights and products | seeds | before step 1 | step 2 | step 3 |",
        "|---|---|---|---|---|---|",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        for side in dict.fromkeys(row["dtype"] for row in rows):
            runs = [row["losses"] for row in rows if (row["data"], row["dtype"]) == (data, side)]
            cells = [_seeds([losses[step] for losses in runs]) for step in range(3)]
            lines.append("| " + " | ".join([data, side, str(len(runs)), *cells]) + " |")
    return "\n".join(lines)


def _seeds(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def write_page(kept: Mapping[str, Any], *, to_docs: bool) -> str:
    """The measured part of the page; with `to_docs` it replaces that part of docs/results/bfloat16.md."""
    settings, host = kept["settings"], kept["machine"]
    rows, seconds = compared(kept["runs"]), sum(run["cpu_s"] for run in kept["runs"])
    outside = [f"{row['method']} {row['figure']}" for row in rows if not row["inside"]]
    verdict = f"{len(rows) - len(outside)} of {len(rows)} figures lie inside"
    verdict += f"; outside: {', '.join(outside)}." if outside else "."
    rates = ", ".join(f"{name} {rate:g}" for name, rate in settings["rates"].items())
    parts = [
        f"{settings['model']}, {settings['steps']} steps of {settings['batch']} prompts, constant rate "
        f"{settings['rate']:g} ({rates}), rows within {settings['max_length']} tokens, pairs of "
        f"`{settings['pairs'] or 'the package'}`, prompts of `{settings['prompts'] or 'the package'}`, "
        f"{settings['eval_rows']} held-out rows, {settings['eval_prompts']} held-out prompts, two answers "
        f"each. {host['cpu']}, one thread, {seconds / 60:.0f} minutes of it in all.",
        table(rows),
        verdict,
    ]
    if kept["drift"]:
        parts += ["DPO's first steps on the same pairs:", first_steps(kept["drift"])]
    measured = "\n\n".join(parts)
    if to_docs:
        before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
        PAGE.write_text(f"{before}{MARK}\n\n{measured}\n", encoding="utf-8")
    return measured


MARK = "<!-- measured: written by bench/bfloat16.py --write -->"
