"""`alignloop audit RUN`: did it become better, or better at fooling its reward?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignloop.cli.ending import print_next
from alignloop.cli.options import DRY_RUN, NEW, OVERWRITE, RESUME, RunOptions
from alignloop.cli.run import OVERRIDES
from alignloop.cli.running import execute

if TYPE_CHECKING:
    from alignloop.config import RecipePlan
    from alignloop.pipeline import StageOutcome

app = typer.Typer(add_completion=False)

_MARKS = {"alarm": "ALARM", "notice": "notice", "fine": "fine", "unknown": "unknown"}


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run folder")],
    overrides: list[str] = OVERRIDES,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder of the audit; RUN-audit if left out")
    ] = None,
    canaries: Annotated[bool, typer.Option(help="score fake answers with the run's own reward")] = True,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
) -> None:
    """Audit a run: gold against distance, length, variety, repetition, canaries, and a verdict."""
    from alignloop.config import make_plan, parse_overrides
    from alignloop.config.recipe_file import located, parse_recipe

    folder = output or run.resolve().parent / f"{run.resolve().name}-audit"
    keys = {"output_dir": str(folder), "run": str(run), "canaries": canaries}
    execute(
        lambda more: make_plan(
            parse_recipe("stage: audit", file="audit"),
            {**located(keys), **parse_overrides([*(overrides or ()), *more])},
            output_dir=str(folder),
        ),
        RunOptions(dry_run, resume, new, overwrite),
        _print_findings,
    )


def _print_findings(outcomes: list[StageOutcome], plan: RecipePlan) -> None:
    results = outcomes[-1].results
    typer.echo(f"{results['text']}\n")
    for finding in results["findings"]:
        typer.echo(f"{_MARKS[finding['level']]:8} {finding['name']:18} {finding['text']}")
    typer.echo()
    folder = outcomes[-1].path
    print_next([(f"alignloop report {folder}", "curve, fits and the completions that disagree most")])
