"""Commands that run stages: `run RECIPE`, `train METHOD`, `quickstart`, and those named after a stage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignloop.cli.ending import print_next
from alignloop.cli.options import OVERRIDES, WORDS, RunOptions, takes_run_options
from alignloop.cli.recipes import complete_recipe, complete_stage
from alignloop.cli.running import execute
from alignloop.errors import ConfigError

if TYPE_CHECKING:
    from alignloop.config import RecipePlan
    from alignloop.pipeline import StageOutcome

app = typer.Typer(add_completion=False)
quickstart_app = typer.Typer(add_completion=False)
train_app = typer.Typer(add_completion=False)
constitution_app = typer.Typer(add_completion=False)
loop_app = typer.Typer(add_completion=False)
audit_app = typer.Typer(add_completion=False)

TINY = (
    "tiny is a model of 0.2 million weights, made here in a second: every stage is real, its answers are no "
    "language. It learns one thing, to use exclamation marks where it is asked to."
)
QUICKSTARTS = {"smollm2-135m-instruct": "quickstart", "tiny": "quickstart-tiny"}
_MARKS = {"alarm": "ALARM", "notice": "notice", "fine": "fine", "unknown": "unknown"}


@app.command()
@takes_run_options
def run(
    recipe: str = typer.Argument(
        help="A .yaml file, or the name of a recipe that `alignloop recipes` lists.",
        autocompletion=complete_recipe,
    ),
    overrides: list[str] = OVERRIDES,
    *,
    options: RunOptions,
) -> None:
    """Run a recipe of one or many stages; running it again goes on where it stopped.

    For one stage of a pipeline write NAME.KEY=VALUE.
    """
    run_recipe(recipe, overrides or [], options)


def run_recipe(name: str, words: list[str], options: RunOptions, *, output_dir: str = "") -> None:
    """Run a recipe by its file or name.

    Args:
        name: the file or the name.
        words: `key=value` settings that replace the recipe's.
        options: of the command.
        output_dir: where it writes if neither recipe nor words say it; runs/NAME if left out.

    Raises:
        UserError: no such recipe, or something in it is wrong.
    """
    from alignloop.config.shipped import find_recipe, load_recipe

    file = find_recipe(name)
    execute(load_recipe(file), words, options, output_dir=output_dir or f"runs/{file.stem}")


@quickstart_app.command()
@takes_run_options
def quickstart(
    overrides: list[str] = OVERRIDES,
    model: str = typer.Option(
        "smollm2-135m-instruct", help="smollm2-135m-instruct, or tiny (every stage within 3 minutes)."
    ),
    seed: int = typer.Option(42, help="Seed of data, sampling and training."),
    output_dir: str = typer.Option("", help="Where to write; runs/quickstart by default."),
    *,
    options: RunOptions,
) -> None:
    """Run the whole loop: demonstrations, SFT, answers, judgements, reward model, DPO, comparison, report.

    Judgements come from a simulated annotator and are marked as such everywhere. A CPU that multiplies
    bfloat16 fast is used so; dtype=float32 prevents it.
    """
    if model not in QUICKSTARTS:
        raise ConfigError(f"--model '{model}': accepted are {', '.join(QUICKSTARTS)}")
    from alignloop.machine import bf16_is_native

    name = QUICKSTARTS[model]
    if model == "tiny":
        print(TINY, file=sys.stderr)
    folder = output_dir or (f"runs/{name}" if seed == 42 else f"runs/{name}-seed{seed}")
    words = [f"seed={seed}", f"output_dir={folder}"]
    if model != "tiny" and bf16_is_native():
        words.append("dtype=bfloat16")
    run_recipe(name, [*words, *(overrides or ())], options, output_dir=folder)


@train_app.command()
@takes_run_options
def train(
    method: str = typer.Argument(
        help="pretrain, sft, reward, regression, best-of-n, dpo, ipo, kto, orpo, simpo, listwise, ppo, …",
        autocompletion=complete_stage,
    ),
    words: list[str] = WORDS,
    *,
    options: RunOptions,
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
    run_stage(method, words or [], options)


def run_stage(method: str, words: list[str], options: RunOptions) -> None:
    """Run one stage from `[RECIPE] [key=value …]`.

    Raises:
        UserError: no such method or recipe, or something in it is wrong.
    """
    from alignloop.config.shipped import find_method

    named = words[0] if words and "=" not in words[0] else ""
    found = find_method(method, named)
    if found.is_shipped:
        print(
            f"note: settings of {found.recipe.file} (see `alignloop recipes {found.name}`)", file=sys.stderr
        )
    execute(
        found.recipe,
        words[1:] if named else words,
        options,
        chosen=found.chosen,
        stage=found.stage,
        output_dir=f"runs/{found.name}",
    )


def stage_app(stage: str, text: str, example: str = "") -> typer.Typer:
    """A command that runs one stage: `[RECIPE] [key=value …]` and the options of every run."""
    made = typer.Typer(add_completion=False)
    shown = f"{text} `alignloop schema {stage}` lists the settings." + (f"\n\n{example}" if example else "")

    @made.command(help=shown)
    @takes_run_options
    def command(words: list[str] = WORDS, *, options: RunOptions) -> None:
        run_stage(stage, words or [], options)

    return made


sample_app = stage_app("sample", "Sample several answers per prompt.")
best_of_n_app = stage_app("best_of_n", "Keep the best of n answers and train on them.")
evaluate_app = stage_app("evaluate", "Compare a model with the one it started from.")
reward_bench_app = stage_app("reward_bench", "Examine a reward model on judged rows.")
judge_app = stage_app(
    "judge",
    "Let models compare the answers of a sample run.",
    "For example: alignloop judge dataset=runs/sample judges='[{model: smollm2-135m-instruct}]'",
)


@constitution_app.command()
@takes_run_options
def constitution(
    words: list[str] = WORDS,
    show: str = typer.Option("", "--show", help="Check and print a constitution: default, or a .yaml file."),
    *,
    options: RunOptions,
) -> None:
    """Answer, criticise and revise by principles. `alignloop schema constitution` lists the settings."""
    if not show:
        run_stage("constitution", words or [], options)
        return
    from alignloop.judges.constitution.principles import load_constitution

    book = load_constitution(show)
    print(f"{book.name}: {len(book.principles)} principles in {', '.join(book.languages)}")
    for principle in book.principles:
        for language, wording in principle.wordings.items():
            print(f"  {principle.name} ({language}): {wording.prefer}")


@loop_app.command()
@takes_run_options
def loop(
    labels: Annotated[Path, typer.Argument(help="Label folder that `alignloop label serve` serves.")],
    words: list[str] = WORDS,
    *,
    options: RunOptions,
) -> None:
    """Watch a label project: train on its judgements, sample fresh answers, queue them to be judged.

    For example: alignloop loop labels dataset=prompts.jsonl every=50. `alignloop schema loop` lists the
    settings.
    """
    run_stage("loop", [*(words or []), f"labels={labels}"], options)


@audit_app.command()
@takes_run_options
def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run folder")],
    overrides: list[str] = OVERRIDES,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder of the audit; RUN-audit if left out")
    ] = None,
    canaries: Annotated[bool, typer.Option(help="score fake answers with the run's own reward")] = True,
    *,
    options: RunOptions,
) -> None:
    """Audit a run: gold against distance, length, variety, repetition, canaries, and a verdict."""
    from alignloop.config.recipe_file import Recipe, located

    folder = output or run.resolve().parent / f"{run.resolve().name}-audit"
    keys = located({"output_dir": str(folder), "run": str(run), "canaries": canaries})
    execute(
        Recipe("audit"),
        overrides or [],
        options,
        chosen=keys,
        stage="audit",
        output_dir=str(folder),
        ending=_print_findings,
    )


def _print_findings(outcomes: list[StageOutcome], plan: RecipePlan) -> None:
    from alignloop.runs.evaluation_results import Audited
    from alignloop.runs.results import read_results

    results = read_results(outcomes[-1].results, Audited)
    typer.echo(f"{results.text}\n")
    for finding in results.findings:
        typer.echo(f"{_MARKS[finding.level]:8} {finding.name:18} {finding.text}")
    typer.echo()
    folder = outcomes[-1].path
    print_next([(f"alignloop report {folder}", "curve, fits and the completions that disagree most")])
