"""`alignloop compare`: any number of models on any number of sets, from a recipe or from words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignloop.cli.run import DRY_RUN, RESUME, execute, find_recipe, load_recipe

if TYPE_CHECKING:
    from alignloop.config import Recipe

app = typer.Typer(add_completion=False)


@app.command()
def compare(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE | MODEL… [KEY=VALUE]…",
            help="a recipe, or models: run folders, names, answer files, endpoints; the baseline first",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KIND=FILE", help="what to measure, such as exact=gsm8k.jsonl"),
    ] = None,
    prompts_for: Annotated[
        float | None,
        typer.Option(metavar="WIN_RATE", help="only say how many prompts it takes to prove this win rate"),
    ] = None,
    ties: Annotated[float, typer.Option(help="share of ties, for --prompts-for")] = 0.0,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
) -> None:
    """Compare models: a table with intervals, win rates, ratings, alignment tax.

    `alignloop schema compare` lists the settings.
    """
    from alignloop.config import make_plan, parse_overrides
    from alignloop.errors import UserError
    from alignloop.run import Run

    if prompts_for is not None:
        plan_prompts(prompts_for, ties)
        return
    named = [word for word in words or [] if "=" not in word or word.startswith("http")]
    settings = [word for word in words or [] if word not in named]
    if len(named) == 1 and named[0].endswith((".yaml", ".yml")):
        recipe = load_recipe(find_recipe(named[0]))
        output = f"runs/{Path(named[0]).stem}"
    elif named and sets:
        recipe, output = from_words(named, sets), "runs/compare"
    else:
        raise UserError(
            "name the models and what to measure: alignloop compare RUN_A RUN_B --set exact=gsm8k.jsonl"
        )
    plan = make_plan(recipe, parse_overrides(settings), stage="compare", output_dir=output)
    execute(plan, dry_run=dry_run, resume=resume)
    if not dry_run:
        from alignloop.report.comparison import as_text

        print(as_text(Run.open(plan.stages[0].config.output_dir).record["results"]))
        print(f"alignloop report {plan.stages[0].config.output_dir}", file=sys.stderr)


def from_words(models: list[str], sets: list[str]) -> Recipe:
    """A recipe out of the command line.

    Raises:
        UserError: a set that is not KIND=FILE.
    """
    from alignloop.config import Entry, Recipe
    from alignloop.config.compare import SET_KINDS
    from alignloop.errors import UserError

    entries: list[dict[str, Any]] = []
    for text in sets:
        kind, equals, path = text.partition("=")
        if not equals or kind not in SET_KINDS:
            raise UserError(f"--set {text}: expected KIND=FILE with one of {', '.join(SET_KINDS)}")
        count = sum(entry["kind"] == kind for entry in entries)
        name = {"name": f"{kind}_{count + 1}"} if count else {}
        entries.append({"kind": kind, "path": path, **name})
    return Recipe(entries={"models": Entry(models, "models"), "sets": Entry(entries, "--set")})


def plan_prompts(win_rate: float, ties: float) -> None:
    """Say how many prompts prove a win rate."""
    from alignloop.evaluation.planner import prompts_for_win_rate

    count = prompts_for_win_rate(win_rate, ties=ties)
    print(
        f"{count} prompts: with so many, a true win rate of {win_rate:.1%} ({ties:.0%} ties) has a 95 % "
        "interval that excludes 50 % in 4 of 5 evaluations"
    )
