"""The recipe full-loop, run and timed: a table of models × metrics, and time and memory of every stage.

    python bench/full_loop.py [--recipe full-loop] [--folder runs/full-loop] [--output FILE.md] [--report]

Run again after a stop it goes on, as the recipe does. Beside wall-clock time it measures the CPU time of
the process, which on one thread is what an otherwise idle machine would need; `--report` writes the page of
a folder that was run before and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.io import write_whole
from alignloop.report.comparison import comparison_table, markdown_tables
from alignloop.report.scale import duration
from alignloop.runs.evaluation_results import Compared
from alignloop.runs.results import read_results
from bench.measure import ROOT, machine

CPU_FILE = "cpu.jsonl"
"""{"t": Unix time, "cpu": CPU seconds of the process} every few seconds; beside the pipeline's folder."""
POLL_S = 5.0
Points = list[tuple[float, float]]


def run(recipe: str, folder: Path, words: Sequence[str]) -> None:
    """Run the recipe in a process of its own and follow its CPU time.

    Raises:
        SystemExit: with the process's code if it fails.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "alignloop", "run", recipe, f"output_dir={folder}", *words]
    process = subprocess.Popen(command, cwd=ROOT)
    with cpu_file(folder).open("a", encoding="utf-8") as file:
        while process.poll() is None:
            fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            ticks = int(fields[11]) + int(fields[12])  # user and system, hundredths of a second
            file.write(json.dumps({"t": time.time(), "cpu": ticks / 100}) + "\n")
            file.flush()
            time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(process.returncode)


def cpu_file(folder: Path) -> Path:
    """Where a pipeline's CPU times are kept."""
    return folder.parent / f"{folder.name}-{CPU_FILE}"


def cpu_seconds(points: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """CPU seconds between two times; a process that began anew begins at 0."""
    total = 0.0
    for (t0, c0), (t1, c1) in pairwise(points):
        if c1 >= c0 and t1 > t0:
            inside = max(0.0, min(t1, end) - max(t0, start))
            total += (c1 - c0) * inside / (t1 - t0)
    return total


def read_points(file: Path) -> Points:
    """(time, CPU seconds) of every poll."""
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(row["t"], row["cpu"]) for row in rows]


def stages(folder: Path) -> list[dict[str, Any]]:
    """run.json of every stage that has one, in the recipe's order."""
    names = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))["stages"]
    files = [folder / entry["path"] / "run.json" for entry in names]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def stage_rows(records: Sequence[dict[str, Any]], points: Points) -> list[tuple[str, ...]]:
    """Name, wall-clock time, CPU time, peak memory of every stage of a second or more, and their sum."""
    rows, wall, cpu = [], 0.0, 0.0
    for record in records:
        began, ended = (
            datetime.fromisoformat(record[key]).timestamp() if record.get(key) else 0.0
            for key in ("created", "finished")
        )
        spent = cpu_seconds(points, began, ended)
        wall, cpu = wall + (record["duration_s"] or 0.0), cpu + spent
        if (record["duration_s"] or 0.0) >= 1:
            cells = (duration(record["duration_s"]), duration(spent) if points else "–")
            rows.append((record["name"], *cells, f"{record.get('peak_memory_gb', 0):.1f} GB"))
    peak = max((record.get("peak_memory_gb", 0) for record in records), default=0)
    return [*rows, ("all", duration(wall), duration(cpu) if points else "–", f"{peak:.1f} GB")]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def across(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of metrics × models with the models as its rows, which are more and have shorter names."""
    turned = [[name, *(row[i] for row in rows)] for i, name in enumerate(head[1:], start=1)]
    return table(["", *(row[0] for row in rows)], turned)


def page(folder: Path, recipe: str) -> str:
    """The result page of a pipeline's folder."""
    records = stages(folder)
    compared = next((r for r in records if r["stage"] == "compare" and r["status"] == "finished"), None)
    audit = next((r for r in records if r["stage"] == "audit" and r["status"] == "finished"), None)
    results = read_results(None if compared is None else compared["results"], Compared)
    found = comparison_table(results)
    environment = records[0]["environment"]
    parts = [
        f"# The full loop\n\n```\npython bench/full_loop.py --recipe {recipe}\n```\n",
        f"{environment['cpu']}, {environment['threads']} thread(s), torch {environment['torch']}, "
        f"{environment['device']}.\n",
    ]
    if found is not None:
        (head, rows), *more = markdown_tables(found)
        parts += [f"## What became better, what worse\n\nIntervals are {found.level}.\n", across(head, rows)]
        parts += [table(columns, cells) for columns, cells in more]
    if audit is not None:
        parts.append(f"## Audit of {Path(audit['parents'][0]['path']).name}\n\n{audit['results']['text']}\n")
    rows = stage_rows(records, read_points(cpu_file(folder)))
    parts += ["## Time and memory\n", table(("stage", "wall clock", "CPU time", "peak memory"), rows)]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe and write its page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="full-loop")
    parser.add_argument("--folder", type=Path, default=Path("runs/full-loop"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--report", action="store_true", help="run nothing, write the page of the folder")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings that replace the recipe's")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    if not options.report:
        run(options.recipe, folder, options.words)
    text = page(folder, options.recipe)
    if options.output is None:
        print(text)
    else:
        write_whole(options.output, text)
    print(json.dumps(machine(0)), file=sys.stderr)


if __name__ == "__main__":
    main()
