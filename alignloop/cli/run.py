"""`alignloop run RECIPE [key=value …]` and `alignloop recipes`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from alignloop.errors import AlignLoopError
from alignloop.foreign import dump_yaml
from alignloop.machine import process_rank

if TYPE_CHECKING:
    from alignloop.config import Plan, StagePlan
    from alignloop.pipeline import Outcome

app = typer.Typer(add_completion=False)
recipes_app = typer.Typer(add_completion=False)

Resume = Literal["auto", "never"] | Path

DRY_RUN = typer.Option(
    False, "--dry-run", help="Print the resolved recipe and a summary of its data; run nothing."
)
RESUME = typer.Option(
    "auto", "--resume", help="auto goes on where it stopped; never starts anew; or a checkpoint folder."
)
OVERRIDES = typer.Argument(None, metavar="[KEY=VALUE]...", help="Settings that replace the recipe's.")


@app.command()
def run(
    recipe: str = typer.Argument(
        help="A .yaml file, or the name of a recipe that `alignloop recipes` lists."
    ),
    overrides: list[str] = OVERRIDES,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
) -> None:
    """Run a recipe of one or many stages; running it again goes on where it stopped.

    For one stage of a pipeline write NAME.KEY=VALUE.
    """
    from alignloop.config import make_plan, parse_overrides
    from alignloop.config.shipped import find_recipe, load_recipe

    file = find_recipe(recipe)
    plan = make_plan(load_recipe(file), parse_overrides(overrides or ()), output_dir=f"runs/{file.stem}")
    execute(plan, dry_run=dry_run, resume=resume)


@recipes_app.command()
def recipes(name: str = typer.Argument("", help="Print this recipe.")) -> None:
    """List the recipes that come with AlignLoop, or print one."""
    from alignloop.config.shipped import SHIPPED, find_recipe

    if name:
        print(find_recipe(name).read_text(encoding="utf-8"), end="")
        return
    for file in sorted(SHIPPED.glob("*.yaml")):
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        print(f"{file.stem:20} {first.lstrip('# ')}")


def execute(plan: Plan, *, dry_run: bool, resume: str) -> None:
    """Print or run a plan."""
    for notice in plan.notices:
        print(f"note: {notice}", file=sys.stderr)
    if dry_run:
        for stage in plan.stages:
            print_stage(stage, plan)
        return
    from alignloop.pipeline import run_plan

    how: Resume = resume if resume == "auto" or resume == "never" else Path(resume)
    if process_rank() > 0:  # the first of several processes speaks
        run_plan(plan, resume=how, say=lambda text: None)
        return
    outcomes = run_plan(plan, resume=how, say=lambda text: print(text, file=sys.stderr))
    print_summary(outcomes, plan.output_dir)


def print_stage(stage: StagePlan, plan: Plan) -> None:
    """A stage's resolved keys, then what its preview says of data and memory.

    Raises:
        UserError: something of the stage cannot be read, or a model cannot be sampled from.
    """

    from alignloop.pipeline import load_function, settle_defaults
    from alignloop.stages.writers import check_writers

    if plan.is_pipeline:
        print(f"# {stage.name}")
    waiting = paths_made_here(stage, plan)
    stage, decisions = (stage, {}) if waiting else settle_defaults(stage)
    print(dump_yaml(stage.keys), end="")
    for key, one in decisions.items():
        print(f"# {key}: {one.value:g}: {one.reason}")
    check_writers(stage.config, waiting=waiting)
    if waiting:
        print(f"# summary: not yet, {', '.join(waiting)} has to be made first")
    elif stage.spec.preview:
        for name, text in load_function(stage.spec.preview)(stage.config, stage.objective).items():
            print(f"# {name}: {text}")
    print()


def paths_made_here(stage: StagePlan, plan: Plan) -> list[str]:
    """Paths of the stage that an earlier stage of the recipe has yet to make."""
    from alignloop.config import path_values

    if not plan.is_pipeline:
        return []
    paths = path_values(stage.config).values()
    return [path for path in paths if Path(path).is_relative_to(plan.output_dir) and not Path(path).exists()]


def print_summary(outcomes: list[Outcome], folder: Path) -> None:
    """What came out: a line for each stage, more sentences of the last one, its report, next commands."""
    from alignloop.progress import format_seconds
    from alignloop.report import write_report
    from alignloop.report.folder import read_run
    from alignloop.report.outcome import outcome as told

    found = [told(read_run(one.path)) for one in outcomes]
    for one, said in zip(outcomes, found, strict=True):
        took = "reused" if one.status == "reused" else format_seconds(one.duration_s)
        print(f"{one.name:16} {took:>8}  {said.lines[0] if said.lines else ''}".rstrip())
    last = found[-1]
    for line in last.lines[1:]:
        print(line)
    try:
        print(f"\nrun:    {outcomes[-1].path}\nreport: {write_report(folder)}")
    except AlignLoopError as error:  # the run itself is done and kept
        print(f"\nrun:    {outcomes[-1].path}")
        print(f"note: no report: {error}", file=sys.stderr)
    print("next:")
    width = max(len(command) for command, _ in last.commands)
    for command, purpose in last.commands:
        print(f"  {command:{width}}  # {purpose}")
