"""`alignloop train METHOD [RECIPE] [key=value …]`, and the commands that run one stage the same way."""

from __future__ import annotations

import sys

import typer

from alignloop.cli.options import DRY_RUN, NEW, OVERWRITE, RESUME, RunOptions
from alignloop.cli.running import execute
from alignloop.cli.schema import complete_stage

app = typer.Typer(add_completion=False)

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
    run_stage(method, words or [], RunOptions(dry_run, resume, new, overwrite))


def stage_app(stage: str, text: str, example: str = "") -> typer.Typer:
    """A command that runs one stage: `[RECIPE] [key=value …]` and the options of every run."""
    made = typer.Typer(add_completion=False)
    shown = f"{text} `alignloop schema {stage}` lists the settings." + (f"\n\n{example}" if example else "")

    @made.command(help=shown)
    def command(
        words: list[str] = WORDS,
        dry_run: bool = DRY_RUN,
        resume: str = RESUME,
        new: bool = NEW,
        overwrite: bool = OVERWRITE,
    ) -> None:
        run_stage(stage, words or [], RunOptions(dry_run, resume, new, overwrite))

    return made


def run_stage(method: str, words: list[str], options: RunOptions) -> None:
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
        options,
    )


sample_app = stage_app("sample", "Sample several answers per prompt.")
best_of_n_app = stage_app("best_of_n", "Keep the best of n answers and train on them.")
evaluate_app = stage_app("evaluate", "Compare a model with the one it started from.")
reward_bench_app = stage_app("reward_bench", "Examine a reward model on judged rows.")
judge_app = stage_app(
    "judge",
    "Let models compare the answers of a sample run.",
    "For example: alignloop judge dataset=runs/sample judges='[{model: smollm2-135m-instruct}]'",
)
