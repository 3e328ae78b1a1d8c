"""A checkpoint that a run goes on from: made its newest one, if it is of the same settings."""

from __future__ import annotations

import shutil
from pathlib import Path

from alignloop.errors import RunError
from alignloop.foreign import has_shape
from alignloop.io import new_folder
from alignloop.runs.continuation import Origin, changes, refuse_other_origin
from alignloop.runs.folder import Run
from alignloop.training.checkpoint import read_manifest


def make_newest(checkpoint: Path, run: Run) -> None:
    """Make a checkpoint the newest of a run, so that its stage goes on from there.

    One of another run is copied; later ones are moved to `checkpoints-unused/`.

    Args:
        checkpoint: a folder step-NNNNNNNN.
        run: open for writing.

    Raises:
        RunError: another checkpoint of that step is there, or this one is of other settings.
    """
    target = run.checkpoints / checkpoint.name
    if not target.exists():
        _check_origin(checkpoint, run)
    run.checkpoints.mkdir(exist_ok=True)
    if not target.exists():
        with new_folder(target) as made:
            shutil.copytree(checkpoint, made, dirs_exist_ok=True)
    elif not target.samefile(checkpoint):
        raise RunError(f"--resume {checkpoint}: {target} exists already and is another one")
    for later in sorted(run.checkpoints.glob("step-*")):
        if int(later.name.removeprefix("step-")) > int(checkpoint.name.removeprefix("step-")):
            unused = run.path / "checkpoints-unused"
            unused.mkdir(exist_ok=True)
            shutil.rmtree(unused / later.name, ignore_errors=True)
            later.rename(unused / later.name)


def _check_origin(checkpoint: Path, run: Run) -> None:
    """Refuse a checkpoint of a run with other settings, before it is copied; note what may differ and does.

    Raises:
        RunError: naming what differs; the checkpoint is damaged or does not tell what it was trained with.
    """
    state = read_manifest(checkpoint)["state"]
    if not has_shape(state.get("origin"), Origin):
        raise RunError(
            f"--resume {checkpoint}: it does not tell what it was trained with (an earlier version wrote "
            "it); go on in its own run folder, or start from that run's weights by model_name_or_path"
        )
    refuse_other_origin(str(checkpoint), {"origin": state["origin"]}, {"origin": run.origin}, run.may_change)
    longer = changes(state["origin"], run.origin, run.may_change)
    if longer:
        run.continue_from(str(checkpoint), longer)
