"""`alignloop quickstart`: the whole loop, small, offline, with a table and a report at the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from alignloop.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(add_completion=False)

RECIPES = {"smollm2-135m-instruct": "quickstart", "tiny": "quickstart-tiny"}


@app.command()
def quickstart(
    model: str = typer.Option(
        "smollm2-135m-instruct", help="smollm2-135m-instruct, or tiny (every stage in 3 minutes)."
    ),
    seed: int = typer.Option(42, help="Seed of data, sampling and training."),
    output_dir: str = typer.Option("", help="Where to write; runs/quickstart by default."),
    resume: str = typer.Option("auto", help="auto goes on where it stopped; never starts anew."),
) -> None:
    """Run the whole loop: sample, judge, reward model, DPO, evaluation, report.

    Judgements come from a simulated annotator and are marked as such everywhere.
    """
    if model not in RECIPES:
        raise ConfigError(f"--model '{model}': accepted are {', '.join(RECIPES)}")
    from alignloop.cli.running import print_ending
    from alignloop.config import make_plan, parse_overrides
    from alignloop.config.shipped import find_recipe, load_recipe
    from alignloop.pipeline import run_plan

    name = RECIPES[model]
    folder = output_dir or (f"runs/{name}" if seed == 42 else f"runs/{name}-seed{seed}")
    overrides = parse_overrides([f"seed={seed}", f"output_dir={folder}"])
    plan = make_plan(load_recipe(find_recipe(name)), overrides, output_dir=folder)
    outcomes = run_plan(plan, resume="never" if resume == "never" else "auto", say=_say)
    print_table(outcomes[-1].results)
    print_ending(outcomes, plan)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def print_table(results: Mapping[str, Any]) -> None:
    """Before and after with their intervals, then the win rates."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results['num_prompts']} held-out prompts, 95 % intervals")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, row in results["metrics"].items():
        cells = [_cell(row.get(side), row.get(f"{side}_interval")) for side in ("before", "after")]
        table.add_row(f"{name.replace('_', ' ')} ({row['unit']})", *cells)
    for key, label in (("win_rate", "win rate by gold"), ("win_rate_reward", "win rate by reward model")):
        if key in results:
            table.add_row(label, "", _cell(results[key]["value"], results[key]["interval"]))
    Console(width=max(80, Console().width)).print(table)


def _cell(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")
