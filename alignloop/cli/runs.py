"""`alignloop runs [list]`: the run folders in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from alignloop.run import Run

app = typer.Typer(add_completion=False, help="List run folders.", invoke_without_command=True)

_RESULTS_SHOWN = 3


@app.callback()
def runs(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        list_runs(folder=Path("runs"), stage="", status="", as_json=False)


@app.command("list")
def list_runs(
    folder: Path = typer.Argument(Path("runs"), help="Where to look."),
    stage: str = typer.Option("", help="Only runs of this stage."),
    status: str = typer.Option("", help="Only running, finished, failed or interrupted ones."),
    as_json: bool = typer.Option(False, "--json", help="One JSON list instead of a table."),
) -> None:
    """List runs with their status, duration and main results."""
    from alignloop.run import find_runs

    if folder == Path("runs") and not folder.exists():
        print("no runs yet: there is no folder runs/ here")
        return
    found = [
        run
        for run in find_runs(folder)
        if (not stage or run.stage == stage) and (not status or run.status == status)
    ]
    if as_json:
        rows = [{"path": str(run.path), **run.record} for run in found]
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    if not found:
        print(f"no runs in {folder}")
        return
    lines = [("run", "stage", "status", "started (UTC)", "took", "results"), *map(_line, found)]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:5], widths, strict=True)]
        print("  ".join([*cells, line[5]]).rstrip())


def _line(run: Run) -> tuple[str, ...]:
    from alignloop.progress import format_number, format_seconds

    record: dict[str, Any] = run.record
    seconds = record.get("duration_s")
    numbers = [
        f"{name} {format_number(value)}"
        for name, value in record.get("results", {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return (
        str(run.path),
        run.stage,
        run.status,
        str(record.get("started", ""))[:16].replace("T", " "),
        format_seconds(seconds) if isinstance(seconds, int | float) else "",
        ", ".join(numbers[:_RESULTS_SHOWN]),
    )
