"""Run the stages of a recipe in order: done ones are used again, a stopped one goes on where it was.

What decides is content, not time: a finished stage is used again if its configuration, the content of
its inputs, its parents and the code are the same. Anything else runs, and an earlier result in its
place is moved to `old/`, never removed. Under torchrun all ranks run the stages that share their work,
and wait for the first one in all others.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from alignloop.config import RecipePlan, StagePlan, may_change, path_values
from alignloop.config.defaults import Decision, open_keys
from alignloop.errors import AlignLoopError, RunError, UserError
from alignloop.foreign import dump_yaml
from alignloop.io import FULL, write_whole, writing
from alignloop.machine import release_memory
from alignloop.progress import busy
from alignloop.runs import (
    RUN_FILE,
    Input,
    Parent,
    Run,
    code_of,
    delete_run,
    differences,
    find_inputs,
    fingerprint,
    work_sha256,
)
from alignloop.runs.continuation import origin
from alignloop.runs.from_checkpoint import make_newest
from alignloop.runs.hashing import content_sha256
from alignloop.runs.record import GIVEN, copy_given, saved_place
from alignloop.training.distributed import is_first_rank, on_first_rank, start, wait_for_all

PIPELINE_FILE = "pipeline.json"
SCHEMA = 1
_CHECKPOINT = re.compile(r"step-\d+")
Resume = Literal["auto", "never"] | Path
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """How one stage ended: `reused` if nothing had to be done."""

    name: str
    stage: str
    path: Path
    status: Literal["finished", "reused"]
    duration_s: float
    results: Mapping[str, Any]


def run_plan(
    plan: RecipePlan, *, resume: Resume = "auto", overwrite: bool = False, say: Say = print
) -> list[StageOutcome]:
    """Run every stage that has to be run.

    Args:
        plan: stages with their resolved configurations.
        resume: `auto` takes up what is unfinished and uses again what is finished and unchanged; `never`
            runs everything anew, moving earlier results aside; a checkpoint folder makes a recipe of one
            stage go on from there.
        overwrite: an earlier run of other settings is deleted, which otherwise is moved aside or in the
            way; only a run folder ever is, and none that another process writes.
        say: told a sentence about each stage.

    Returns:
        What became of each stage, in order.

    Raises:
        AlignLoopError: the first stage that fails, with a note on how to go on.
        KeyboardInterrupt: with the same note.
    """
    start()
    if isinstance(resume, Path):
        _check_checkpoint(resume, plan)
    if plan.is_pipeline and is_first_rank():
        _claim(plan)
    outcomes: list[StageOutcome] = []
    for number, stage in enumerate(plan.stages, start=1):
        where = f"stage '{stage.name}' ({number} of {len(plan.stages)})" if plan.is_pipeline else stage.name
        try:
            outcomes.append(_run_stage(plan, stage, where, resume, overwrite, say))
        except (AlignLoopError, KeyboardInterrupt, OSError) as error:
            note = _how_to_go_on(error, stage, where, plan.is_pipeline, bool(outcomes))
            if note:
                error.add_note(note)
            raise
        release_memory()
        if plan.is_pipeline and is_first_rank():
            _write_pipeline(plan)
    return outcomes


def _how_to_go_on(
    error: BaseException, stage: StagePlan, where: str, is_pipeline: bool, some_done: bool
) -> str:
    """Said below the error; nothing where the error itself says all there is to do."""
    if isinstance(error, UserError) and not is_pipeline:
        return ""
    verb = "was interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    done = "; the stages before it are done and kept" if some_done else ""
    same = "With that corrected, the same" if isinstance(error, UserError) else "The same"
    place = saved_place(Path(stage.config.output_dir)) or stage.spec.kept_elsewhere
    goes_on = f"goes on from {place}" if place else "starts this stage from its beginning"
    nothing = "" if place or isinstance(error, UserError) else " Nothing of it was saved yet."
    return f"{where} {verb}{done}.{nothing} {same} command {goes_on}."


def _run_stage(
    plan: RecipePlan, stage: StagePlan, where: str, resume: Resume, overwrite: bool, say: Say
) -> StageOutcome:
    folder = Path(stage.config.output_dir)
    with busy(f"{where}: looking at its inputs"):
        stage, decisions = settle_defaults(stage, resume)
        inputs, parents = stage_inputs(stage)
        work = work_sha256(stage.stage, stage.keys, inputs, parents)
    for key, one in decisions.items():
        say(f"{where}: {key} {one.value:g}: {one.reason}")
    wanted = origin(stage.stage, stage.keys, inputs, parents)
    code = code_of(stage.spec.runner, stage.keys, stage.config, stage.objective)
    if on_first_rank(lambda: _reused(plan, stage, where, resume, overwrite, say, work, code, wanted)):
        return _outcome(stage, Run.open(folder), "reused")
    with (
        Run.create(
            folder,
            stage=stage.stage,
            config=stage.keys,
            seed=stage.config.seed,
            parents=parents,
            inputs=inputs,
            name=stage.name,
            may_change=may_change(type(stage.config)),
            code=code,
        ) as run,
        writing(folder, only=FULL),
    ):
        run.track(stage.config.report_to)
        if decisions:
            run.set_decided({key: one._asdict() for key, one in decisions.items()})
        if isinstance(resume, Path):
            checkpoint = resume
            on_first_rank(lambda: make_newest(checkpoint, run))
        on_first_rank(lambda: copy_given(stage.given))
        say(f"{where}: {'goes on' if run.resumed else 'starts'}: {folder}")

        def do() -> None:
            run.finish(call_runner(stage, run))

        if stage.spec.shared:
            do()
            wait_for_all()
        else:
            on_first_rank(do)
        return _outcome(stage, run, "finished")


def settle_defaults(stage: StagePlan, resume: Resume = "auto") -> tuple[StagePlan, Mapping[str, Decision]]:
    """A stage with numbers in the place of `auto`, and what was decided.

    A run of the same work that is there already keeps its own numbers, whatever this version would decide;
    a run that goes on from another one's checkpoint takes that one's.

    Args:
        stage: as the recipe has it.
        resume: see `run_plan`.

    Returns:
        The stage as it will run, and a decision for each key; unchanged where data or model cannot be read,
        of which the stage itself tells.
    """
    from alignloop.stages.defaults import settled, with_decisions

    if not open_keys(stage.config):
        return stage, {}

    def decide() -> dict[str, list[Any]]:
        source = resume.parents[1] if isinstance(resume, Path) else Path(stage.config.output_dir)
        kept = _decided_before(source, open_keys(stage.config))
        own = replace(stage, config=with_decisions(stage.config, kept)) if kept else stage
        if kept and (isinstance(resume, Path) or _work(own) == Run.open(source).record["work_sha256"]):
            return {key: list(one) for key, one in kept.items()}
        try:
            found = settled(stage.config, stage.objective, stage.given).decisions
        except UserError:
            return {}
        return {key: list(one) for key, one in found.items()}

    decisions = {key: Decision(*one) for key, one in on_first_rank(decide).items()}
    return replace(stage, config=with_decisions(stage.config, decisions)), decisions


def _decided_before(folder: Path, wanted: Sequence[str]) -> dict[str, Decision]:
    """What an earlier run decided for the keys that are open now."""
    if not (folder / RUN_FILE).is_file():
        return {}
    decided = Run.open(folder).record.get("decided", {})
    return {key: Decision(**decided[key]) for key in wanted} if set(wanted) <= set(decided) else {}


def _work(stage: StagePlan) -> str:
    return work_sha256(stage.stage, stage.keys, *stage_inputs(stage))


def stage_inputs(stage: StagePlan) -> tuple[dict[str, Input], list[Parent]]:
    """What a stage reads: see `find_inputs`. What was given in Python counts as it is before it is copied;
    files in the stage's own run folder, such as an earlier call's, count by content alone."""
    paths = path_values(stage.config)
    inputs, parents = find_inputs({key: path for key, path in paths.items() if path not in stage.given})
    for key, path in paths.items():
        if path in stage.given:
            inputs[key] = Input(path, content_sha256(stage.given[path]))
    own = Path(stage.config.output_dir).resolve()
    return inputs, [parent for parent in parents if Path(parent.path).resolve() != own]


def _reused(
    plan: RecipePlan,
    stage: StagePlan,
    where: str,
    resume: Resume,
    overwrite: bool,
    say: Say,
    work: str,
    code: str,
    wanted: Mapping[str, Any],
) -> bool:
    """Whether the stage is finished and used again; if not, what is in its place may be moved aside."""
    folder = Path(stage.config.output_dir)
    result = fingerprint(work, code)
    earlier = Run.open(folder) if (folder / RUN_FILE).is_file() else None
    unchanged = earlier is not None and earlier.status == "finished" and earlier.fingerprint == result
    if unchanged and isinstance(resume, Path):
        raise RunError(f"{folder} is finished, there is nothing to go on with; --resume never runs it anew")
    if earlier is not None and unchanged and resume != "never":
        say(f"{where}: reused, finished before with the same settings: {folder}")
        return True
    if earlier is not None and _must_give_way(plan, earlier, work, resume, overwrite):
        reason = "asked to run anew"
        if resume != "never":
            same = earlier.record["work_sha256"] == work
            reason = (
                _why_the_same_work_runs_again(earlier)
                if same
                else differences(folder, earlier.record, wanted, {}) or "an input has changed"
            )
        if overwrite:
            _delete(earlier, stage, plan)
            say(f"{where}: runs again ({reason}); the earlier run is deleted")
        else:
            say(f"{where}: runs again ({reason}); the earlier run is kept in {_set_aside(earlier, plan)}")
    return False


def _why_the_same_work_runs_again(earlier: Run) -> str:
    went_on = "continues" in earlier.record
    return "it went on from a checkpoint of another length" if went_on else "the code has changed"


def call_runner(stage: StagePlan, run: Run) -> Mapping[str, Any]:
    """Call the stage's function: `(config, run)`, or `(config, run, objective)` where it has one.

    Raises:
        ModelError: the stage would sample from a model that the local engine cannot generate from.
    """
    with busy("loading PyTorch"):
        from alignloop.stages.writers import check_writers

        function = load_function(stage.spec.runner)
    check_writers(stage.config)
    if stage.objective is None:
        return function(stage.config, run)
    return function(stage.config, run, stage.objective)


def load_function(path: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _must_give_way(plan: RecipePlan, earlier: Run, work: str, resume: Resume, overwrite: bool) -> bool:
    """Whether an earlier run in the stage's folder has to make room for a new one.

    Folders of a pipeline belong to it, so that a changed recipe replaces what it made. A folder that a
    person named for one stage is only emptied if asked to; Run.create says what is in the way.
    """
    if earlier.status == "running":
        return False  # another process writes it; Run.create refuses
    if resume == "never":
        return True
    same_work = earlier.record["work_sha256"] == work
    if same_work:
        return earlier.status == "finished"  # finished by other code
    return plan.is_pipeline or overwrite


def _delete(earlier: Run, stage: StagePlan, plan: RecipePlan) -> None:
    """Delete an earlier run for a new one.

    Raises:
        RunError: the new run reads from it, another run was made from it, or it is not all a run's.
    """
    folder = earlier.path.resolve()
    for key, path in path_values(stage.config).items():
        if Path(path).resolve().is_relative_to(folder) and path not in stage.given:
            raise RunError(f"--overwrite would delete {path}, which is this run's {key}; --new keeps both")
    roots = [root for root in (plan.output_dir.resolve().parent, Path("runs")) if root.is_dir()]
    within = plan.output_dir if plan.is_pipeline else None
    delete_run(earlier.path, roots=roots, within=within, remedy="--new keeps both")


def _set_aside(earlier: Run, plan: RecipePlan) -> Path:
    """Move a run folder to `old/` in the pipeline's folder, or beside a single run's."""
    root = plan.output_dir / "old" if plan.is_pipeline else earlier.path.parent
    root.mkdir(exist_ok=True)
    stem = earlier.path.name if plan.is_pipeline else f"{earlier.path.name}-old"
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    moved = earlier.path.rename(root / f"{stem}-{number}")
    if (moved / GIVEN).is_dir():  # a recipe that was written there names them in their first place
        shutil.copytree(moved / GIVEN, earlier.path / GIVEN, copy_function=os.link)
    return moved


def _outcome(stage: StagePlan, run: Run, status: Literal["finished", "reused"]) -> StageOutcome:
    record = run.record
    seconds = record["duration_s"] or 0.0 if status == "finished" else 0.0  # None on a rank that follows
    return StageOutcome(stage.name, stage.stage, run.path, status, seconds, record["results"])


def _check_checkpoint(folder: Path, plan: RecipePlan) -> None:
    if plan.is_pipeline:
        raise RunError("--resume PATH is for a recipe of one stage; a pipeline goes on by itself")
    if not plan.stages[0].spec.checkpoints:
        stage = plan.stages[0].stage
        raise RunError(f"--resume PATH: stage '{stage}' has no checkpoints to go on from; leave --resume out")
    if not folder.is_dir() or not _CHECKPOINT.fullmatch(folder.name):
        raise RunError(f"--resume {folder}: expected a checkpoint folder, such as checkpoints/step-00000100")


def _claim(plan: RecipePlan) -> None:
    """Make the pipeline's folder, refusing one that holds something else."""
    folder = plan.output_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
        if held and not (folder / PIPELINE_FILE).is_file():
            what = "a run" if RUN_FILE in held else f"other files ({', '.join(sorted(held)[:3])})"
            raise RunError(f"{folder} holds {what}, not a pipeline; choose another output_dir")
        _write_pipeline(plan)
    except OSError as error:
        raise RunError(f"{folder}: cannot write a pipeline here: {error.strerror}") from error


def _write_pipeline(plan: RecipePlan) -> None:
    """pipeline.json: {schema, recipe, updated, stages: [{name, stage, path}]}; statuses are in each run."""
    stages = [
        {"name": s.name, **{key: value for key, value in s.keys.items() if key != "output_dir"}}
        for s in plan.stages
    ]
    recipe = {"output_dir": str(plan.output_dir), "stages": stages}
    record = {
        "schema": SCHEMA,
        "file": plan.file,
        "recipe": dump_yaml(recipe),
        "updated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "stages": [{"name": s.name, "stage": s.stage, "path": s.name} for s in plan.stages],
    }
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    write_whole(plan.output_dir / PIPELINE_FILE, text)
