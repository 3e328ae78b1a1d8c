"""`alignloop train METHOD [RECIPE] [key=value …]`; `sample`, `best-of-n` and `evaluate` run the same way."""

from __future__ import annotations

import sys

import typer

from alignloop.cli.run import DRY_RUN, RESUME, execute

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
        help="pretrain, sft, reward, regression, best-of-n, dpo, ipo, kto, orpo, simpo, listwise, ppo, …"
    ),
    words: list[str] = WORDS,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
) -> None:
    """Train with one method. `alignloop schema METHOD` lists its settings."""
    run_stage(method, words or [], dry_run=dry_run, resume=resume)


@sample_app.command()
def sample(words: list[str] = WORDS, dry_run: bool = DRY_RUN, resume: str = RESUME) -> None:
    """Sample several answers per prompt. `alignloop schema sample` lists the settings."""
    run_stage("sample", words or [], dry_run=dry_run, resume=resume)


@best_of_n_app.command()
def best_of_n(words: list[str] = WORDS, dry_run: bool = DRY_RUN, resume: str = RESUME) -> None:
    """Keep the best of n answers and train on them. `alignloop schema best_of_n` lists the settings."""
    run_stage("best_of_n", words or [], dry_run=dry_run, resume=resume)


@evaluate_app.command()
def evaluate(words: list[str] = WORDS, dry_run: bool = DRY_RUN, resume: str = RESUME) -> None:
    """Compare a model with the one it started from. `alignloop schema evaluate` lists the settings."""
    run_stage("evaluate", words or [], dry_run=dry_run, resume=resume)


@reward_bench_app.command()
def reward_bench(words: list[str] = WORDS, dry_run: bool = DRY_RUN, resume: str = RESUME) -> None:
    """Examine a reward model on judged rows. `alignloop schema reward_bench` lists the settings."""
    run_stage("reward_bench", words or [], dry_run=dry_run, resume=resume)


def run_stage(method: str, words: list[str], *, dry_run: bool, resume: str) -> None:
    """Run one stage from `[RECIPE] [key=value …]`."""
    from alignloop.config import make_plan, parse_overrides
    from alignloop.config.shipped import find_method

    named = words[0] if words and "=" not in words[0] else ""
    found = find_method(method, named)
    if found.is_shipped:
        print(
            f"note: settings of {found.recipe.file} (see `alignloop recipes {found.name}`)", file=sys.stderr
        )
    overrides = {**found.chosen, **parse_overrides(words[1:] if named else words)}
    plan = make_plan(found.recipe, overrides, stage=found.stage, output_dir=f"runs/{found.name}")
    execute(plan, dry_run=dry_run, resume=resume)
