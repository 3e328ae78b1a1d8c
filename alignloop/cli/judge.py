"""`alignloop judge`: AI feedback on sampled answers; the stage `judge` run from the command line."""

from __future__ import annotations

import typer

from alignloop.cli.options import DRY_RUN, NEW, OVERWRITE, RESUME, Manner
from alignloop.cli.train import WORDS, run_stage

app = typer.Typer(add_completion=False)


@app.command()
def judge(
    words: list[str] = WORDS,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
) -> None:
    """Let models compare the answers of a sample run. `alignloop schema judge` lists the settings.

    For example: alignloop judge dataset=runs/sample judges='[{model: smollm2-135m-instruct}]'
    """
    run_stage("judge", words or [], Manner(dry_run, resume, new, overwrite))
