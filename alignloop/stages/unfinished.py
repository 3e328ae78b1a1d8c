"""Unfinished generations on disk: saved now and then, and gone on with after a kill, token for token."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alignloop.errors import RunError
from alignloop.foreign import has_shape
from alignloop.model import resume
from alignloop.model.generate import Unfinished, UnfinishedState
from alignloop.runs import Run
from alignloop.stages.checks import tell
from alignloop.training.checkpoint import load_checkpoint, save_checkpoint


def save_unfinished(folder: Path, key: Sequence[int], unfinished: Unfinished, *, step: int = 0) -> None:
    """Write a generation under way; `key` says which one it is.

    Raises:
        DiskError: the disk is full or not writable.
    """
    save_checkpoint(
        folder,
        step=step,
        modules={},
        optimizers={},
        state={"key": list(key), "unfinished": unfinished.state},
        tensors=unfinished.tensors,
        keep=1,
    )


def load_unfinished(folder: Path, key: Sequence[int], run: Run) -> Unfinished | None:
    """What an earlier process saved of the generation `key`; None if nothing, or of another one."""
    try:
        found = load_checkpoint(folder, modules={}, optimizers={})
    except RunError as error:  # it can be sampled again, token for token
        tell(run, f"the unfinished rollout is sampled again: {error}")
        return None
    if found is None or found.state.get("key") != list(key):
        return None
    state = found.state.get("unfinished")
    if not has_shape(state, UnfinishedState) or not resume.is_ours(state["generation"]):
        tell(run, f"the unfinished rollout is sampled again: {folder} was saved by another version")
        return None
    return Unfinished({**state}, dict(found.tensors))


@dataclass
class Kept:
    """Saves one generation every `every_s` seconds (0: never) and when a stop is asked for.

    Attributes:
        run: the run that samples.
        folder: where the generation is saved.
        every_s: seconds between saves.
        stop: set when the process shall end.
        last: when it was saved last, or begun.
    """

    run: Run
    folder: Path
    every_s: float
    stop: threading.Event
    last: float = field(default_factory=time.monotonic)

    def begun(self) -> Unfinished | None:
        """What an earlier process saved."""
        return load_unfinished(self.folder, (), self.run)

    def keep(self, describe: Callable[[], Unfinished]) -> None:
        """Save if it is time.

        Raises:
            KeyboardInterrupt: a stop was asked for; everything is saved.
        """
        due = self.every_s and time.monotonic() - self.last >= self.every_s
        if not due and not self.stop.is_set():
            return
        save_unfinished(self.folder, (), describe())
        self.last = time.monotonic()
        if self.stop.is_set():
            raise KeyboardInterrupt

    def close(self) -> None:
        """The generation is complete, and what was made of it is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
