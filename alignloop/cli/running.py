"""Carries out a plan for the commands that run stages: shown, run, and told about at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignloop.cli.ending import print_next
from alignloop.cli.options import RunOptions
from alignloop.errors import AlignLoopError
from alignloop.foreign import dump_yaml
from alignloop.machine import process_rank

if TYPE_CHECKING:
    from alignloop.config import Recipe, RecipePlan, StagePlan
    from alignloop.config.recipe_file import Entries
    from alignloop.pipeline import StageOutcome

Ending = Callable[["list[StageOutcome]", "RecipePlan"], None]
"""Says what came out."""


def execute(
    recipe: Recipe,
    words: Sequence[str],
    options: RunOptions,
    *,
    chosen: Entries | None = None,
    stage: str = "",
    output_dir: str = "",
    ending: Ending | None = None,
) -> RecipePlan:
    """Print or run a recipe, and say what came out.

    Args:
        recipe: as read, or empty.
        words: `key=value` settings that replace the recipe's.
        options: what the command's options say.
        chosen: settings that the command implies; words replace them.
        stage: see `make_plan`.
        output_dir: see `make_plan`.
        ending: says what came out; `print_ending` if left out.

    Returns:
        The plan that was run or printed.

    Raises:
        AlignLoopError: a stage that failed, with a note on the ways out.
    """
    from alignloop.config import make_plan, parse_overrides

    options.check()

    def plan_with(more: Sequence[str]) -> RecipePlan:
        overrides = {**(chosen or {}), **parse_overrides([*words, *more])}
        return make_plan(recipe, overrides, stage=stage, output_dir=output_dir)

    plan = plan_with(())
    if options.new:
        plan = plan_with([f"output_dir={_free_folder(plan.output_dir)}"])
    for notice in plan.notices:
        print(f"note: {notice}", file=sys.stderr)
    if options.dry_run:
        for one in plan.stages:
            print_stage(one, plan)
    else:
        _run(plan, options, ending or print_ending)
    return plan


def _run(plan: RecipePlan, options: RunOptions, ending: Ending) -> None:
    from alignloop.pipeline import run_plan
    from alignloop.runs import FolderTaken

    says = process_rank() == 0  # the first of several processes speaks

    def say(text: str) -> None:
        if says:
            print(text, file=sys.stderr)

    try:
        outcomes = run_plan(plan, resume=options.how, overwrite=options.overwrite, say=say)
    except FolderTaken as error:
        error.add_note(_ways_out(Path(error.folder), options.overwrite, error.is_run))
        raise
    if says:
        ending(outcomes, plan)


def numbered(folder: Path) -> Path:
    """The folder itself if nothing is in it, else the first of `folder-2`, `folder-3`, … that is free."""
    number, candidate = 1, folder
    while any(candidate.iterdir()) if candidate.is_dir() else candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def _free_folder(folder: Path) -> str:
    """Agreed on by all processes, of which the first one may make it before another one looks."""
    from alignloop.training.distributed import on_first_rank, start

    start()
    return on_first_rank(lambda: str(numbered(folder)))


def _ways_out(folder: Path, overwrite: bool, is_run: bool) -> str:
    new = f"--new writes {numbered(folder)} and keeps both"
    if not is_run:
        why = "--overwrite deletes runs only, and this folder is none"
        return f"{new}." + (f" {why}." if overwrite else "")
    return f"{new}; --overwrite deletes the run in {folder} first."


def print_stage(stage: StagePlan, plan: RecipePlan) -> None:
    """A stage's resolved keys, then what its preview says of data and memory.

    Raises:
        UserError: something of the stage cannot be read, or a model cannot be sampled from.
    """
    from alignloop.pipeline import load_function, settle_defaults
    from alignloop.progress import busy

    if plan.is_pipeline:
        print(f"# {stage.name}", flush=True)
    waiting = paths_made_here(stage, plan)
    with busy("looking at the rows and the model"):
        stage, decisions = (stage, {}) if waiting else settle_defaults(stage)
    print(dump_yaml(stage.keys), end="")
    for key, one in decisions.items():
        print(f"# {key}: {one.value:g}: {one.reason}")
    sys.stdout.flush()
    with busy("loading PyTorch"):
        from alignloop.stages.writers import check_writers

        check_writers(stage.config, waiting=waiting)
    if waiting:
        print(f"# summary: not yet, {', '.join(waiting)} has to be made first")
    elif stage.spec.preview:
        with busy("reading the rows, and timing two layers of the model"):
            rows = load_function(stage.spec.preview)(stage.config, stage.objective)
        for name, text in rows.items():
            print(f"# {name}: {text}")
    print()


def paths_made_here(stage: StagePlan, plan: RecipePlan) -> list[str]:
    """Paths of the stage that an earlier stage of the recipe has yet to make."""
    from alignloop.config import path_values

    if not plan.is_pipeline:
        return []
    paths = path_values(stage.config).values()
    return [path for path in paths if Path(path).is_relative_to(plan.output_dir) and not Path(path).exists()]


def print_ending(outcomes: list[StageOutcome], plan: RecipePlan) -> None:
    """What came out: a table of the stages, the last one's sentences, report, and what to do next."""
    from alignloop.progress import format_seconds
    from alignloop.report import write_report
    from alignloop.report.comparison import as_text
    from alignloop.report.outcome import outcome_of, overall
    from alignloop.runs.evaluation_results import Compared
    from alignloop.runs.results import read_results

    told = [outcome_of(one.path) for one in outcomes]
    if outcomes[-1].stage == "compare":
        print(f"{as_text(read_results(outcomes[-1].results, Compared))}\n")
    took = ["reused" if one.status == "reused" else format_seconds(one.duration_s) for one in outcomes]
    if plan.is_pipeline:
        width = max(len(one.name) for one in outcomes)
        for one, seconds, said in zip(outcomes, took, told, strict=True):
            print(f"{one.name:{width}}  {seconds:>7}  {said.headline}".rstrip())
        print()
        for line in overall([(one.name, said) for one, said in zip(outcomes, told, strict=True)]):
            print(line)
    else:
        for line in told[-1].lines:
            print(line)
    where = plan.output_dir
    print(f"\nrun:    {where}" + ("" if plan.is_pipeline else f" ({took[-1]})"))
    try:
        print(f"report: {write_report(where)}")
    except AlignLoopError as error:  # the run itself is done and kept
        print(f"note: no report: {error}", file=sys.stderr)
    print_next(told[-1].commands)
