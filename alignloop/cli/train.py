"""`alignloop train METHOD [RECIPE] [key=value …]`; `sample`, `best-of-n` and `evaluate` run the same way."""

from __future__ import annotations

import sys

import typer

from alignloop.cli.options import DRY_RUN, NEW, OVERWRITE, RESUME, Manner
from alignloop.cli.running import execute
from alignloop.cli.schema import complete_stage

app = typer.Typer(add_completion=False)
sample_app = typer.Typer(add_completion=False)
best_of_n_app = typer.Typer(add_completion=False)
evaluate_app = typer.Typer(add_completion=False)
reward_bench_app = typer.Typer(add_completion=False)

WORDS = typer.Argument(
    None,
    metavar="[RECIPE] [KEY=VALUE]...",
    help="A recipe (the one that comes with AlignLoop if left out), and settings that replace the recipe's.",
)


@app.command()
def train(
    method: str = typer.Argument(
        help="pretrain, sft, reward, regression, best-of-n, dpo, ipo, kto, orpo, simpo, listwise, ppo, …",
        autocompletion=complete_stage,
    ),
    words: list[str] = WORDS,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
) -> None:
    """Train with one method. `alignloop schema METHOD` lists all its settings.

    For example: alignloop train dpo dataset=pairs.jsonl eval_fraction=0.1 beta=0.05

    \b
    The usual ones:
    dataset                      rows to train on: a file, a run folder, a hub id
    model_name_or_path           the start: run, folder or name, such as tiny
    output_dir                   run folder to write; runs/METHOD if left out
    num_train_epochs, max_steps  how long
    learning_rate                peak of the schedule
    per_device_train_batch_size  rows of a pass; accumulation makes steps of them
    max_length                   longest row in tokens
    lora_r                       rank of an adapter; 0 trains all weights
    eval_fraction                share of prompts held out, to measure on
    seed                         of everything random
    """
    run_stage(method, words or [], Manner(dry_run, resume, new, overwrite))


@sample_app.command()
def sample(
    words: list[str] = WORDS,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
) -> None:
    """Sample several answers per prompt. `alignloop schema sample` lists the settings."""
    run_stage("sample", words or [], Manner(dry_run, resume, new, overwrite))


@best_of_n_app.command()
def best_of_n(
    words: list[str] = WORDS,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
) -> None:
    """Keep the best of n answers and train on them. `alignloop schema best_of_n` lists the settings."""
    run_stage("best_of_n", words or [], Manner(dry_run, resume, new, overwrite))


@evaluate_app.command()
def evaluate(
    words: list[str] = WORDS,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
) -> None:
    """Compare a model with the one it started from. `alignloop schema evaluate` lists the settings."""
    run_stage("evaluate", words or [], Manner(dry_run, resume, new, overwrite))


@reward_bench_app.command()
def reward_bench(
    words: list[str] = WORDS,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
) -> None:
    """Examine a reward model on judged rows. `alignloop schema reward_bench` lists the settings."""
    run_stage("reward_bench", words or [], Manner(dry_run, resume, new, overwrite))


def run_stage(method: str, words: list[str], manner: Manner) -> None:
    """Run one stage from `[RECIPE] [key=value …]`."""
    from alignloop.config import make_plan, parse_overrides
    from alignloop.config.shipped import find_method

    named = words[0] if words and "=" not in words[0] else ""
    found = find_method(method, named)
    if found.is_shipped:
        print(
            f"note: settings of {found.recipe.file} (see `alignloop recipes {found.name}`)", file=sys.stderr
        )
    settings = words[1:] if named else words
    execute(
        lambda more: make_plan(
            found.recipe,
            {**found.chosen, **parse_overrides([*settings, *more])},
            stage=found.stage,
            output_dir=f"runs/{found.name}",
        ),
        manner,
    )
