"""`alignloop run RECIPE [key=value …]` and `alignloop recipes`."""

from __future__ import annotations

from pathlib import Path

import typer

from alignloop.cli.options import DRY_RUN, NEW, OVERWRITE, RESUME, RunOptions
from alignloop.cli.running import execute

app = typer.Typer(add_completion=False)

OVERRIDES = typer.Argument(None, metavar="[KEY=VALUE]...", help="Settings that replace the recipe's.")


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes that begin like that; files are the shell's own affair."""
    from alignloop.config.shipped import SHIPPED

    names = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    own = sorted(str(file) for file in Path().glob("*.yaml"))
    return [name for name in (*own, *names) if name.startswith(incomplete)]


@app.command()
def run(
    recipe: str = typer.Argument(
        help="A .yaml file, or the name of a recipe that `alignloop recipes` lists.",
        autocompletion=complete_recipe,
    ),
    overrides: list[str] = OVERRIDES,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
) -> None:
    """Run a recipe of one or many stages; running it again goes on where it stopped.

    For one stage of a pipeline write NAME.KEY=VALUE.
    """
    from alignloop.config import make_plan, parse_overrides
    from alignloop.config.shipped import find_recipe, load_recipe

    file = find_recipe(recipe)
    execute(
        lambda more: make_plan(
            load_recipe(file), parse_overrides([*(overrides or ()), *more]), output_dir=f"runs/{file.stem}"
        ),
        RunOptions(dry_run, resume, new, overwrite),
    )
