"""`alignloop watch`: a live view of a run, or of the stage that runs in a pipeline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignloop.errors import RunError

if TYPE_CHECKING:
    from rich.console import Group

    from alignloop.report.folder import RunFolder

app = typer.Typer(add_completion=False)

BETWEEN_STAGES_S = 15.0
"""A pipeline in which nothing ran for so long has ended."""


@app.command()
def watch(
    path: Annotated[Path, typer.Argument(metavar="RUN|PIPELINE", help="a run or pipeline folder")],
    interval: Annotated[float, typer.Option(min=0.1, help="seconds between looks")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="show the state now and end")] = False,
) -> None:
    """Show a run's curves and latest completion until it ends; Ctrl-C stops watching, not the run.

    Of a pipeline it shows the stage that runs, one after the other.
    """
    from rich.console import Console
    from rich.live import Live

    from alignloop.report.folder import is_pipeline, read_run

    console = Console()
    run = read_run(shown(path))
    if once or not console.is_terminal:
        console.print(picture(run))
        return
    patience = BETWEEN_STAGES_S if is_pipeline(path) and run.status == "running" else 0.0
    seen = time.monotonic()
    try:
        with Live(picture(run), console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while run.status == "running" or time.monotonic() < seen + patience:
                time.sleep(interval)
                run = read_run(shown(path))
                seen = time.monotonic() if run.status == "running" else seen
                live.update(picture(run), refresh=True)
    except KeyboardInterrupt:
        console.print(f"Stopped watching; the run goes on. Its report: alignloop report {path}")


def shown(path: Path) -> Path:
    """The run to look at: in a pipeline the stage that runs, else the one that was started last.

    Raises:
        RunError: a pipeline of which nothing was started.
    """
    from alignloop.report.folder import is_pipeline
    from alignloop.runs import find_runs

    if not is_pipeline(path):
        return path
    stages = list(find_runs(path, depth=1))
    if not stages:
        raise RunError(f"{path}: no stage of this pipeline was started yet")
    return max(stages, key=lambda run: (run.status == "running", str(run.record.get("started")))).path


def picture(run: RunFolder) -> Group:
    """The state of a run as something rich can print; a run's texts are never read as markup."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from alignloop.report.curves import plots
    from alignloop.report.plot import sparkline
    from alignloop.report.samples import choose_samples, visible
    from alignloop.report.scale import duration, rounded
    from alignloop.runs.json_values import number, text

    colour = {"running": "cyan", "finished": "green", "failed": "red"}.get(run.status, "yellow")
    last = run.metrics[-1] if run.metrics else {}
    head = Text.assemble(
        (visible(run.name), "bold"), f"  {visible(run.stage)}  ", (visible(run.status), colour),
        f"  step {rounded(number(last.get('step')))}  {duration(number(last.get('time_s')))}",
    )  # fmt: skip
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Curve", "First", "Last", "Course"):
        table.add_column(name, justify="left" if name in ("Curve", "Course") else "right", no_wrap=True)
    for plot in plots(run.metrics)[0]:
        for series in plot.series:
            values = [y for _, y in series.points]
            title, name = plot.title.split(" (")[0].split(" of ")[0], series.name
            if len(plot.series) > 1:
                title = name.capitalize() if name.startswith(title.lower()) else f"{title}, {name}"
            course = sparkline(values, width=20)
            table.add_row(Text(visible(title)), rounded(values[0]), rounded(values[-1]), course)
    parts = [head, table]
    parts += [Text(f"Warning: {visible(problem)}", style="yellow") for problem in run.problems]
    if run.info.get("error"):
        parts.append(Text(f"Error: {visible(text(run.info['error']))}", style="red"))
    for sample in choose_samples(run.samples[-8:], at_most=1, characters=600).shown:
        parts.append(
            Text(f"Prompt      {sample.prompt[-1].content if sample.prompt else ''}", overflow="ellipsis")
        )
        parts.append(Text(f"Completion  {''.join(part.text for part in sample.after)}"))
    return Group(*parts)
