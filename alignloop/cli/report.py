"""`alignloop report` and `alignloop plot`: a run or pipeline as a page, a metric of runs as an SVG file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)
plot_app = typer.Typer(add_completion=False)


class Format(StrEnum):
    """What `--format` accepts."""

    html = "html"
    md = "md"
    json = "json"


@app.command()
def report(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|PIPELINE…", help="a run or pipeline folder, or several runs"),
    ],
    format: Annotated[Format, typer.Option(help="html, md (Markdown) or json")] = Format.html,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file to write; - is standard output")
    ] = None,
) -> None:
    """Write what a run or pipeline did: curves, completions, data, lineage, evaluation.

    HTML goes to report.html in the (first) folder, Markdown and JSON to standard output, unless -o says
    otherwise.
    """
    from alignloop.report import render, write_report

    path: Path | list[Path] = paths[0] if len(paths) == 1 else paths
    to_screen = str(output) == "-" if output is not None else format is not Format.html
    if to_screen:
        typer.echo(render(path, format=format.value), nl=False)
    else:
        typer.echo(write_report(path, format=format.value, output=output))


@plot_app.command()
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
