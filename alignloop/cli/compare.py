"""`alignloop compare`: any number of models on any number of sets, from a recipe or from words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignloop.cli.options import RunOptions, takes_run_options
from alignloop.cli.running import execute
from alignloop.errors import UserError

if TYPE_CHECKING:
    from alignloop.config import Recipe

app = typer.Typer(add_completion=False)

OWN_PROMPTS = 200
"""Held-out instructions that models are compared on where no set is named."""


@app.command()
@takes_run_options
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
        typer.Option(
            "--set",
            metavar="KIND=FILE",
            help="what to measure, such as exact=gsm8k.jsonl; without it our own held-out instructions",
        ),
    ] = None,
    prompts_for: Annotated[
        str | None,
        typer.Option(
            metavar="WIN_RATE | RATE:RATE",
            help="only say how many prompts prove this win rate, or tell these two pass rates apart",
        ),
    ] = None,
    ties: Annotated[float, typer.Option(help="share of ties, for --prompts-for WIN_RATE")] = 0.0,
    correlation: Annotated[
        float, typer.Option(help="of both models' passes on a prompt, for --prompts-for RATE:RATE")
    ] = 0.0,
    *,
    options: RunOptions,
) -> None:
    """Compare models: a table with intervals, win rates, ratings, alignment tax.

    `alignloop schema compare` lists the settings.
    """
    if prompts_for is not None:
        plan_prompts(prompts_for, ties, correlation)
        return
    named = [word for word in words or [] if "=" not in word or word.startswith("http")]
    settings = [word for word in words or [] if word not in named]
    recipe, stage, output = chosen(named, sets or [])
    execute(recipe, settings, options, stage=stage, output_dir=output)


def chosen(named: list[str], sets: list[str]) -> tuple[Recipe, str, str]:
    """The recipe that is meant, the stage it is for ("" if it has several), and where its runs go.

    Raises:
        UserError: too little is named.
    """
    from alignloop.config.shipped import find_recipe, load_recipe

    if len(named) == 1 and named[0].endswith((".yaml", ".yml")):
        return load_recipe(find_recipe(named[0])), "compare", f"runs/{Path(named[0]).stem}"
    if not sets and len(named) < 2:
        raise UserError(
            "name the models and what to measure: alignloop compare RUN_A RUN_B --set exact=gsm8k.jsonl"
        )
    if not sets:
        print("no --set is given: the models answer AlignLoop's own held-out instructions", file=sys.stderr)
    return from_words(named, sets), "compare" if sets else "", "runs/compare"


def from_words(models: list[str], sets: list[str]) -> Recipe:
    """A recipe out of the command line; without sets a first stage writes the prompts.

    Raises:
        UserError: a set that is not KIND=FILE.
    """
    from alignloop.config import LocatedValue, Recipe
    from alignloop.config.compare import SET_KINDS

    entries: list[dict[str, Any]] = []
    for text in sets:
        kind, equals, path = text.partition("=")
        if not equals or kind not in SET_KINDS:
            raise UserError(f"--set {text}: expected KIND=FILE with one of {', '.join(SET_KINDS)}")
        count = sum(entry["kind"] == kind for entry in entries)
        name = {"name": f"{kind}_{count + 1}"} if count else {}
        entries.append({"kind": kind, "path": path, **name})
    asked = {"models": LocatedValue(models, "models"), "sets": LocatedValue(entries, "--set")}
    if entries:
        return Recipe(entries=asked)
    asked["sets"] = LocatedValue([{"kind": "instructions", "path": "@held_out"}], "--set")
    made = {"stage": "instructions", "name": "held_out", "split": "eval", "num_rows": OWN_PROMPTS}
    stages = [
        {key: LocatedValue(value, "") for key, value in made.items()},
        {"stage": LocatedValue("compare", ""), **asked},
    ]
    return Recipe(stages=stages)


def plan_prompts(wanted: str, ties: float, correlation: float) -> None:
    """Say how many prompts prove a win rate, or tell two rates apart.

    Raises:
        UserError: neither a rate nor two.
    """
    from alignloop.evaluation.planner import (
        prompts_for_difference,
        prompts_for_win_rate,
        rate_difference_deviation,
    )

    try:
        rates = [float(part) for part in wanted.split(":")]
    except ValueError:
        rates = []
    if len(rates) == 1:
        count, what = prompts_for_win_rate(rates[0], ties=ties), f"a true win rate of {rates[0]:.1%}"
        print(
            f"{count} prompts: with so many, {what} ({ties:.0%} ties) has a 95 % interval that excludes 50 % "
            "in 4 of 5 evaluations"
        )
    elif len(rates) == 2:
        deviation = rate_difference_deviation(*rates, correlation=correlation)
        count = prompts_for_difference(rates[1] - rates[0], standard_deviation=deviation)
        print(
            f"{count} prompts: with so many, true pass rates of {rates[0]:.1%} and {rates[1]:.1%} "
            f"(correlation {correlation:g}) have a difference whose 95 % interval "
            "excludes 0 in 4 of 5 evaluations"
        )
    else:
        raise UserError(
            f"--prompts-for {wanted}: expected a win rate as 0.55, or two pass rates as 0.40:0.45"
        )
