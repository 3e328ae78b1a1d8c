"""`alignloop report`: the report of a run or pipeline folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


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
