"""`alignloop train METHOD [RECIPE] [key=value …]`; `sample`, `best-of-n` and `evaluate` run the same way."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from alignloop.cli.run import DRY_RUN, RESUME, SHIPPED, execute, find_recipe, load_recipe

MEMBERS = {
    "bradley_terry": ("reward", "objective"),
    "odin": ("reward", "objective"),
    "plackett_luce": ("reward", "objective"),
    "regression": ("reward", "objective"),
    "lipo_lambda": ("listwise", "method"),
    "group_relative": ("listwise", "method"),
}
"""Methods that are a choice within a stage: its name, and the key whose value they are."""

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
    name, given = method.replace("-", "_"), words or []
    stage, key = MEMBERS.get(name, (name, ""))
    if key:
        own = given[:1] if given and "=" not in given[0] else []
        shipped = [name] if (SHIPPED / f"{name}.yaml").is_file() else []
        given = [*(own or shipped), f"{key}={name}", *given[len(own) :]]
    run_stage(stage, given, dry_run=dry_run, resume=resume)


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


def run_stage(stage: str, words: list[str], *, dry_run: bool, resume: str) -> None:
    """Run one stage from `[RECIPE] [key=value …]`."""
    from alignloop.config import Recipe, make_plan, parse_overrides

    recipe = Recipe()
    named = bool(words) and "=" not in words[0]
    shipped = SHIPPED / f"{stage}.yaml"
    file = find_recipe(words[0]) if named else shipped if shipped.is_file() else None
    if file is not None:
        recipe = load_recipe(file)
        if not named:
            print(f"note: settings of {recipe.file} (see `alignloop recipes {stage}`)", file=sys.stderr)
    stem = Path(words[0]).stem if named else stage
    overrides = parse_overrides(words[1:] if named else words)
    plan = make_plan(recipe, overrides, stage=stage, output_dir=f"runs/{stem}")
    execute(plan, dry_run=dry_run, resume=resume)
