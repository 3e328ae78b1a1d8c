"""`alignloop plot`: a metric of one or several runs as an SVG file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def plot(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="one run folder, or up to six to compare")
    ],
    metric: Annotated[str, typer.Option("--metric", "-m", help="a name in metrics.jsonl")] = "loss",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the SVG file to write")] = None,
) -> None:
    """Draw a metric over steps as an SVG file, METRIC.svg in the first run's folder unless -o names one."""
    from alignloop.report import write_text
    from alignloop.report.curves import metric_picture
    from alignloop.report.folder import read_run

    picture = metric_picture([read_run(path) for path in runs], metric)
    typer.echo(write_text(output or runs[0] / f"{metric}.svg", picture))
