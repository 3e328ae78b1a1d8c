"""`alignloop loop`: train again whenever enough new labels have arrived."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignloop.cli.options import NEW, OVERWRITE, RESUME, RunOptions
from alignloop.cli.train import run_stage

app = typer.Typer(add_completion=False)


@app.command()
def loop(
    labels: Annotated[Path, typer.Argument(help="Label folder that `alignloop label serve` serves.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE]...", help="Settings; `alignloop schema loop` lists them."
        ),
    ] = None,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
) -> None:
    """Watch a label project: train on its judgements, sample fresh answers, queue them to be judged.

    For example: alignloop loop labels dataset=prompts.jsonl every=50
    """
    run_stage("loop", [*(words or []), f"labels={labels}"], RunOptions(False, resume, new, overwrite))
