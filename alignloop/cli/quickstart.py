"""`alignloop quickstart`: the whole loop, small, offline, with a table and a report at the end."""

from __future__ import annotations

import sys

import typer

from alignloop.errors import ConfigError

app = typer.Typer(add_completion=False)

TINY = (
    "tiny is a model of 0.2 million weights, made here in a second: every stage is real, its answers are no "
    "language. It learns one thing, to use exclamation marks where it is asked to."
)
RECIPES = {"smollm2-135m-instruct": "quickstart", "tiny": "quickstart-tiny"}


@app.command()
def quickstart(
    model: str = typer.Option(
        "smollm2-135m-instruct", help="smollm2-135m-instruct, or tiny (every stage within 3 minutes)."
    ),
    seed: int = typer.Option(42, help="Seed of data, sampling and training."),
    output_dir: str = typer.Option("", help="Where to write; runs/quickstart by default."),
    resume: str = typer.Option("auto", help="auto goes on where it stopped; never starts anew."),
) -> None:
    """Run the whole loop: answers, judgements, reward model, DPO, evaluation, report.

    Judgements come from a simulated annotator and are marked as such everywhere.
    """
    if model not in RECIPES:
        raise ConfigError(f"--model '{model}': accepted are {', '.join(RECIPES)}")
    from alignloop.cli.running import print_ending
    from alignloop.config import make_plan, parse_overrides
    from alignloop.config.shipped import find_recipe, load_recipe
    from alignloop.pipeline import run_plan

    if model == "tiny":
        _say(TINY)
    name = RECIPES[model]
    folder = output_dir or (f"runs/{name}" if seed == 42 else f"runs/{name}-seed{seed}")
    overrides = parse_overrides([f"seed={seed}", f"output_dir={folder}"])
    plan = make_plan(load_recipe(find_recipe(name)), overrides, output_dir=folder)
    outcomes = run_plan(plan, resume="never" if resume == "never" else "auto", say=_say)
    print_ending(outcomes, plan)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
