"""`alignloop runs`: list, compare, tag and delete run folders."""

from __future__ import annotations

import difflib
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignloop.errors import RunError, UserError

if TYPE_CHECKING:
    from alignloop.runs import Run

app = typer.Typer(
    add_completion=False, help="List, compare, tag and delete run folders.", invoke_without_command=True
)

_RESULTS_SHOWN = 3
_HEADLINES = (
    "win_rate.value",
    "held_out.accuracy",
    "metrics.gold_pass_rate.after",
    "metrics.kl.after",
    "reward",
    "gold",
    "kl",
    "margin",
    "loss",
)
"""Results that are shown before others."""
RUNS = Path("runs")


class Status(StrEnum):
    """What `--status` accepts."""

    running = "running"
    finished = "finished"
    failed = "failed"
    interrupted = "interrupted"


@app.callback()
def runs(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        list_runs(folder=RUNS, stage="", status=None, tag="", match="", sort="", as_json=False)


@app.command("list")
def list_runs(
    folder: Path = typer.Argument(RUNS, help="Where to look."),
    stage: str = typer.Option("", help="Only runs of this stage."),
    status: Status | None = typer.Option(None, help="Only those in this state."),
    tag: str = typer.Option("", help="Only runs with this tag."),
    match: str = typer.Option("", help="Only runs with this text in their path or name."),
    sort: str = typer.Option("", help="By started, duration, or the name of a result; highest last."),
    as_json: bool = typer.Option(False, "--json", help="One JSON list instead of a table."),
) -> None:
    """List runs with their status, duration, tags and main results."""
    from alignloop.runs import find_runs, tags

    if folder == RUNS and not folder.exists():
        print("no runs yet: there is no folder runs/ here")
        return
    found = [
        run
        for run in find_runs(folder, on_fault=lambda error: print(f"left out: {error}", file=sys.stderr))
        if (not stage or run.stage == stage.replace("-", "_"))
        and (status is None or run.status == status)
        and (not tag or tag in tags(run.path))
        and match.casefold() in f"{run.path} {run.record.get('name', '')}".casefold()
    ]
    if sort:
        _check_result(sort, found)
        found.sort(key=lambda run: _order(run, sort))
    if as_json:
        rows = [{"path": str(run.path), "tags": tags(run.path), **run.record} for run in found]
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    if not found:
        print(f"no runs in {folder}" + (" that fit" if stage or status or tag or match else ""))
        return
    _print_table([("run", "stage", "status", "started (UTC)", "took", "results"), *map(_line, found)])


@app.command()
def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Two or more run folders.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Show in which settings runs differ, and their results side by side."""
    from alignloop.runs import Run

    if len(paths) < 2:
        raise RunError("name two runs or more")
    found = [Run.open(path) for path in paths]
    configs = [run.config() for run in found]
    results = [run.numbers() for run in found]
    keys = dict.fromkeys(key for config in configs for key in config if key != "output_dir")
    settings = {key: [config.get(key) for config in configs] for key in keys}
    differing = {key: row for key, row in settings.items() if any(value != row[0] for value in row)}
    names = dict.fromkeys(name for row in results for name in row)
    measured = {name: [row.get(name) for row in results] for name in names}
    if as_json:
        shown = {"runs": [str(path) for path in paths], "settings": differing, "results": measured}
        print(json.dumps(shown, ensure_ascii=False, indent=2))
        return
    head = ("", *(str(path) for path in paths))
    rows = [(key, *(_short(value) for value in row)) for key, row in differing.items()]
    _print_table([head, *(rows or [("settings", *["the same"] * len(paths))])])
    print()
    _print_table([head, *((name, *(_figure(value) for value in row)) for name, row in measured.items())])


@app.command()
def tag(
    path: Annotated[Path, typer.Argument(metavar="RUN")],
    add: Annotated[list[str] | None, typer.Argument(metavar="TAG…", help="Tags to add.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", "-r", help="A tag to take away.")] = None,
) -> None:
    """Add and remove a run's tags, or show them."""
    from alignloop.runs import set_tags

    print(", ".join(set_tags(path, add=add or (), remove=remove or ())) or "no tags")


@app.command()
def delete(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN…")],
    force: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Delete the run of this name though others are made from it."),
    ] = None,
    look_in: Annotated[
        list[Path] | None,
        typer.Option(help="Where runs made from it may be; its own folder and runs/ always."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete runs: never one that another was made from (unless forced by name), never other folders."""
    from alignloop.runs import Run, delete_run

    for path in paths:
        run = Run.open(path)
        roots = {root.resolve() for root in (path.resolve().parent, RUNS, *(look_in or ())) if root.is_dir()}
        if not yes:
            typer.confirm(f"Delete {path} (stage {run.stage}, {run.status})?", abort=True)
        delete_run(path, roots=sorted(roots), force=force or ())
        print(f"deleted {path}")


def _print_table(lines: list[tuple[str, ...]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=True)]
        print("  ".join([*cells, line[-1]]).rstrip())


def _order(run: Run, key: str) -> tuple[bool, float | str]:
    """Runs without the value come first."""
    value = run.record.get({"started": "started", "duration": "duration_s"}.get(key, ""))
    if key not in ("started", "duration"):
        value = run.numbers().get(key)
    fallback: float | str = "" if key == "started" else 0.0
    return value is not None, fallback if value is None else value


def _check_result(name: str, found: list[Run]) -> None:
    """Refuse to sort by what no run has."""

    known = {
        "started",
        "duration",
        *(key for run in found for key in run.numbers()),
    }
    if found and name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(known)[:12])}, …"
        raise UserError(f"--sort: no run has a result '{name}'; {hint}")


def _figure(value: float | None) -> str:
    from alignloop.progress import format_number

    return "–" if value is None else format_number(value)


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _line(run: Run) -> tuple[str, ...]:
    from alignloop.progress import format_number, format_seconds
    from alignloop.runs import tags

    record: dict[str, Any] = run.record
    seconds = record.get("duration_s")
    results = run.numbers()
    first = [name for name in _HEADLINES if name in results]
    names = [*first, *(name for name in results if name not in first and "." not in name)]
    numbers = [f"{_short_name(name)} {format_number(results[name])}" for name in names]
    labels = "".join(f" #{tag}" for tag in tags(run.path))
    return (
        str(run.path),
        run.stage,
        run.status,
        str(record.get("started", ""))[:16].replace("T", " "),
        format_seconds(seconds) if isinstance(seconds, int | float) else "",
        (", ".join(numbers[:_RESULTS_SHOWN]) + labels).strip(),
    )


def _short_name(name: str) -> str:
    """`win_rate.value` is win_rate, `metrics.kl.after` is kl."""
    return name.removeprefix("metrics.").removesuffix(".value").removesuffix(".after")
