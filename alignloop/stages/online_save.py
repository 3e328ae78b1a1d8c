"""Checkpoints of online RL: between mini-batches, in the middle of a rollout, and the best weights."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.data.packing import Group
from alignloop.errors import RunError
from alignloop.foreign import has_shape
from alignloop.model.generate import Unfinished
from alignloop.rl.buffer import from_tensors, to_tensors
from alignloop.stages import common
from alignloop.stages.checks import tell
from alignloop.stages.online_setup import Online, Place, SavedPlace
from alignloop.stages.unfinished import load_unfinished, save_unfinished
from alignloop.training.checkpoint import load_checkpoint, save_checkpoint
from alignloop.training.distributed import is_first_rank, world
from alignloop.training.stream import rows_digest

# A `Place` without its groups, as a checkpoint has it.
PlaceState = TypedDict("PlaceState", {k: v for k, v in get_type_hints(Place).items() if k != "groups"})  # pyright: ignore
PlaceState.__pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportAttributeAccessIssue]


class GuardState(TypedDict):
    """State of a `TrainingGuard`."""

    readings: list[dict[str, float | None]]
    best: dict[str, float] | None
    best_gold: dict[str, float] | None


class OnlineState(TypedDict):
    """What a checkpoint of online RL holds as JSON."""

    __pydantic_config__ = ConfigDict(extra="allow")  # pyright: ignore[reportGeneralTypeIssues]

    place: PlaceState  # pyright: ignore[reportInvalidTypeForm]
    kl: dict[str, float]
    reward: dict[str, float]
    guard: GuardState


def state_of(online: Online) -> dict[str, Any]:
    """Everything the rest of the run depends on that JSON can hold."""
    place = online.place
    return {
        **trained_on(online),
        "place": {item.name: getattr(place, item.name) for item in fields(place) if item.name != "groups"},
        "kl": online.kl.state_dict(),
        "reward": online.reward.state_dict(),
        "guard": online.guard.state_dict(),
    }


def trained_on(online: Online) -> dict[str, Any]:
    """The settings and the tokenized prompts that a checkpoint of the run belongs to."""
    prompts = (Group(ids, (), number) for number, ids in enumerate(online.prompt_ids))
    return {"origin": online.run.origin, "rows": rows_digest(prompts)}


def save(online: Online, state: dict[str, Any] | None = None) -> None:
    """A checkpoint between two mini-batches; in the middle of a rollout with the `state` at its start."""
    place = online.place
    save_checkpoint(
        online.run.checkpoints,
        step=online.trainer.step,
        modules={"model": online.roles},
        optimizers={"model": online.trainer.optimizer},
        state=state or state_of(online),
        tensors={**to_tensors(place.groups), **online.roles.reference_state()},
        keep=online.config.save_total_limit,
    )
    online.saved = SavedPlace(online.trainer.step, place.rollout, place.best_step)
    _keep_only(online.run.path / "best", {place.best_step})


def restore(online: Online) -> None:
    """Go on from the newest intact checkpoint, if there is one."""
    trainer, run = online.trainer, online.run
    found = load_checkpoint(
        run.checkpoints, modules={"model": online.roles}, optimizers={"model": trainer.optimizer}
    )
    if found is None:
        run.rewind(-1)
        return
    common.check_origin(run, found, trained_on(online), trainer.num_steps)
    state = found.state
    if not has_shape(state, OnlineState):
        raise RunError(
            f"the newest checkpoint in {run.checkpoints} is not one of stage {run.stage}; remove "
            f"{run.checkpoints} and the same command starts from the beginning"
        )
    trainer.step = found.step
    run.rewind(found.step)
    for skipped in found.skipped:
        tell(run, f"damaged checkpoint passed over: {skipped}")
    online.place = Place(**state["place"], groups=from_tensors(found.tensors))
    for row in online.place.alone:
        run.log(found.step + 1, **row)
    online.roles.load_reference_state(found.tensors)
    online.kl.load_state_dict(state["kl"])
    online.reward.load_state_dict(state["reward"])
    online.guard.load_state_dict(state["guard"])
    restore_best(online)
    online.saved = SavedPlace(trainer.step, online.place.rollout, online.place.best_step)


# The best weights


def save_best(online: Online) -> None:
    """Keep the policy as it is now, and what the last checkpoint takes for the best."""
    folder, step = online.run.path / "best", online.trainer.step
    save_checkpoint(folder, step=step, modules={"policy": online.roles.policy}, optimizers={}, keep=3)
    online.place.best_step = step
    _keep_only(folder, {step, online.saved.best_step})


def restore_best(online: Online) -> None:
    """Forget best weights of a future that did not happen; do without those that are gone."""
    folder, step = online.run.path / "best", online.place.best_step
    _keep_only(folder, {step})
    if step >= 0 and not (folder / f"step-{step:08d}").is_dir():
        tell(
            online.run,
            f"the best weights so far, of step {step}, are not in {folder}; the best from here on are kept",
        )
        online.guard.best, online.place.best_step = None, -1


def keep_best(online: Online) -> dict[str, Any]:
    """Put the best weights into the policy, if a window was full; a rollback without takes the start's."""
    best = online.guard.best
    if best is None and not (online.place.ended and online.config.on_alarm == "rollback"):
        return {}
    found = load_checkpoint(online.run.path / "best", modules={"policy": online.roles.policy}, optimizers={})
    return {} if found is None else {"best": {"step": found.step, **(best or {})}}


def _keep_only(folder: Path, steps: set[int]) -> None:
    if not is_first_rank():
        return
    for path in folder.glob("step-*"):
        if int(path.name.removeprefix("step-")) not in steps:
            shutil.rmtree(path, ignore_errors=True)


# Unfinished rollouts


@dataclass
class Keeper:
    """Saves the rollout under way when a stop is asked for, and every `rollout_save_s` seconds.

    What is saved belongs to one (step, rollout, attempt) and is of no use to any other. With several
    ranks nothing is saved within a rollout, which is sampled again after a kill.

    Attributes:
        online: the run.
        state: of the run at the start of the rollout.
        last: when it was saved last, or begun.
    """

    online: Online
    state: dict[str, Any]
    last: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Where it is saved."""
        return self.online.run.path / "rollout"

    def begun(self, attempt: int) -> Unfinished | None:
        """What an earlier process saved of this attempt."""
        if world()[1] > 1:  # a rank's share of a rollout is sampled again, token for token
            return None
        return load_unfinished(self.folder, self._key(attempt), self.online.run)

    def keep(self, attempt: int, describe: Callable[[], Unfinished]) -> None:
        """Save if it is time.

        Raises:
            KeyboardInterrupt: a stop was asked for; everything is saved.
        """
        online, every_s = self.online, self.online.config.rollout_save_s
        due = every_s and time.monotonic() - self.last >= every_s
        if world()[1] > 1 or not (due or self.online.stop.is_set()):
            return
        if online.saved[:2] != (online.trainer.step, online.place.rollout):
            save(online, self.state)
        save_unfinished(self.folder, self._key(attempt), describe(), step=online.trainer.step)
        self.last = time.monotonic()
        if self.online.stop.is_set():
            raise KeyboardInterrupt

    def close(self) -> None:
        """The rollout is complete."""
        if is_first_rank():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _key(self, attempt: int) -> list[int]:
        return [self.online.trainer.step, self.online.place.rollout, attempt]
