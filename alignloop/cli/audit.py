"""`alignloop audit RUN`: did it become better, or better at fooling its reward?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignloop.cli.ending import print_next

app = typer.Typer(add_completion=False)


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run folder")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder of the audit; RUN-audit if left out")
    ] = None,
    canaries: Annotated[bool, typer.Option(help="score fake answers with the run's own reward")] = True,
    resume: Annotated[str, typer.Option(help="auto uses a finished audit again; never audits anew")] = "auto",
) -> None:
    """Audit a run: gold against distance, length, variety, repetition, canaries, and a verdict."""
    from alignloop.config import STAGES, Plan, StagePlan, resolve
    from alignloop.pipeline import run_plan
    from alignloop.runs import Run

    folder = output or run.resolve().parent / f"{run.resolve().name}-audit"
    keys = {"output_dir": str(folder), "run": str(run), "canaries": canaries}
    stage = StagePlan("audit", "audit", STAGES["audit"], resolve("audit", keys).config)
    how = "never" if resume == "never" else "auto"
    run_plan(Plan("", folder, (stage,), is_pipeline=False), resume=how, say=lambda text: None)
    results = Run.open(folder).record["results"]
    typer.echo(f"{results['text']}\n")
    marks = {"alarm": "ALARM", "notice": "notice", "fine": "fine", "unknown": "unknown"}
    for finding in results["findings"]:
        typer.echo(f"{marks[finding['level']]:8} {finding['name']:18} {finding['text']}")
    typer.echo()
    print_next([(f"alignloop report {folder}", "curve, fits and the completions that disagree most")])
