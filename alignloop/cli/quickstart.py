"""`alignloop quickstart`: the whole loop, small, offline, with a table and a report at the end."""

from __future__ import annotations

import sys

import typer

from alignloop.cli.options import DRY_RUN, NEW, OVERWRITE, RESUME, RunOptions
from alignloop.cli.run import OVERRIDES
from alignloop.cli.running import execute
from alignloop.errors import ConfigError

app = typer.Typer(add_completion=False)

TINY = (
    "tiny is a model of 0.2 million weights, made here in a second: every stage is real, its answers are no "
    "language. It learns one thing, to use exclamation marks where it is asked to."
)
RECIPES = {"smollm2-135m-instruct": "quickstart", "tiny": "quickstart-tiny"}


@app.command()
def quickstart(
    overrides: list[str] = OVERRIDES,
    model: str = typer.Option(
        "smollm2-135m-instruct", help="smollm2-135m-instruct, or tiny (every stage within 3 minutes)."
    ),
    seed: int = typer.Option(42, help="Seed of data, sampling and training."),
    output_dir: str = typer.Option("", help="Where to write; runs/quickstart by default."),
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
) -> None:
    """Run the whole loop: demonstrations, SFT, answers, judgements, reward model, DPO, comparison, report.

    Judgements come from a simulated annotator and are marked as such everywhere. A CPU that multiplies
    bfloat16 fast is used so; dtype=float32 prevents it.
    """
    if model not in RECIPES:
        raise ConfigError(f"--model '{model}': accepted are {', '.join(RECIPES)}")
    from alignloop.config import make_plan, parse_overrides
    from alignloop.config.shipped import find_recipe, load_recipe
    from alignloop.machine import bf16_is_native

    name = RECIPES[model]
    if model == "tiny":
        print(TINY, file=sys.stderr)
    folder = output_dir or (f"runs/{name}" if seed == 42 else f"runs/{name}-seed{seed}")
    words = [f"seed={seed}", f"output_dir={folder}"]
    if model != "tiny" and bf16_is_native():
        words.append("dtype=bfloat16")
    execute(
        lambda more: make_plan(
            load_recipe(find_recipe(name)),
            parse_overrides([*words, *(overrides or ()), *more]),
            output_dir=folder,
        ),
        RunOptions(dry_run, resume, new, overwrite),
    )
