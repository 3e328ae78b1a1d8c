"""The parts of PPO's and GRPO's loops: run, receive a rollout, mini-batches, learn, end; resumable anywhere.

Between mini-batches the rollout is in the checkpoint. An unfinished one is saved now and then; as it
depends only on the weights, the seeds and the place in the data, what is lost is sampled again alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignloop.data.packing import Group
from alignloop.errors import ModelError
from alignloop.model.adapters import delete_others
from alignloop.model.roles import POLICY
from alignloop.objectives.base import Inputs, Objective
from alignloop.progress import Progress
from alignloop.rl.guard import RolloutReading
from alignloop.rl.kl import Mismatch, beyond_rounding, mismatch
from alignloop.rl.ptx import WEIGHT
from alignloop.stages import common
from alignloop.stages.checks import tell
from alignloop.stages.online_save import keep_best, restore, save, save_best
from alignloop.stages.online_setup import Online, Place, Rollout
from alignloop.stages.rollouts import measure, sample_rows
from alignloop.stages.stopping import stop_requests
from alignloop.stages.summaries import summary_of_steps
from alignloop.training.distributed import any_rank, on_first_rank
from alignloop.training.loop import train_step


@contextmanager
def running(online: Online) -> Iterator[None]:
    """Go on from the last checkpoint, with a progress bar; `learn` and `receive` answer Ctrl-C meanwhile."""
    restore(online)
    trainer = online.trainer
    bar = Progress(trainer.num_steps, description=online.run.stage, start=trainer.step)
    with stop_requests() as online.stop, bar as online.progress:
        yield


def receive(online: Online, rollout: Rollout, groups: list[Group], metrics: dict[str, float]) -> None:
    """Take a rollout to be learned from, if the guard lets the run go on and there is something to learn.

    Args:
        online: the run.
        rollout: the completions with their rewards.
        groups: its groups with the values the objective reads.
        metrics: what was measured beside the rollout's own metrics.

    Raises:
        KeyboardInterrupt: a stop was asked for; a checkpoint with the rollout is written.
    """
    place = online.place
    place.groups = groups
    place.news = agreed({**measure(online, rollout), **metrics})
    place.shown = sample_rows(online, rollout)
    watch(online, rollout)
    if place.ended or not place.groups:
        log_alone(online)
        leave_rollout(place)
    else:
        pause(online)


def pause(online: Online, *, due: bool = False) -> None:
    """Write a checkpoint if it is `due` or a stop was asked for.

    Raises:
        KeyboardInterrupt: a stop was asked for, on any rank.
    """
    stopped = any_rank(online.stop.is_set())
    if stopped or due:
        save(online)
    if stopped:
        raise KeyboardInterrupt


def end(online: Online, history: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Save the policy, the best one if the recipe keeps it.

    Args:
        online: the run after its last step.
        history: metrics of its steps.

    Returns:
        Means of the last tenth of the steps, and how the run ended.
    """
    ended = {"ended_by": online.place.ended} if online.place.ended else {}
    results = {**summary_of_steps(history, online.trainer.step), **ended, **keep_best(online)}
    if online.prepared.peft is not None:
        delete_others(online.prepared.peft, POLICY)
    common.save_policy(online.prepared, online.run.model)
    return results


def agreed(metrics: dict[str, float]) -> dict[str, float]:
    """The first rank's metrics, so that all ranks see the same alarms."""
    return on_first_rank(lambda: metrics)


def watch(online: Online, rollout: Rollout) -> None:
    """Let the guard see the rollout: keep the best weights, raise alarms."""
    place, news = online.place, online.place.news
    if not rollout.samples:
        return
    reading = RolloutReading(
        news["reward"],
        news["completion_length"],
        news["entropy"],
        news.get("gold"),
        news.get("kl"),
        news.get("ensemble_spread"),
    )
    alarms = online.guard.update(reading)
    # a rollback before the first window is full goes to the start
    if online.guard.is_best() or (online.config.on_alarm == "rollback" and place.best_step < 0):
        save_best(online)
    for alarm in alarms:
        news[f"alarm_{alarm.name}"] = 1.0
        if alarm.name not in place.alarmed:
            place.alarmed.append(alarm.name)
            tell(online.run, f"rollout {place.rollout}: {alarm.name}: {alarm.text}")
    if alarms and online.config.on_alarm != "warn":
        place.ended = alarms[0].name


def learn(online: Online, objective: Objective, batch: Sequence[Group]) -> dict[str, float]:
    """One optimizer step on the next mini-batch of the rollout; logs it and writes a checkpoint that is due.

    Raises:
        ModelError: the trainer's log-probs are not the sampler's; nothing of the step is saved.
        KeyboardInterrupt: a stop was asked for; a checkpoint is written.
    """
    place, trainer, config = online.place, online.trainer, online.config
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def observe(inputs: Inputs) -> None:
        if inputs.logprobs is None:  # the critic's turn
            return
        sampler = inputs.extras.get("sampler_logprobs", inputs.extras["old_logprobs"])
        own = inputs.mask & (inputs.extras[WEIGHT] == 0) if WEIGHT in inputs.extras else inputs.mask
        rows = (inputs.logprobs.detach(), sampler, own)
        seen.append(tuple(t.cpu() for t in rows))  # pyright: ignore[reportArgumentType]

    first = place.done == 0
    report = train_step(trainer, objective, batch, observe=observe if first else None)
    metrics = dict(report.metrics)
    if "kl" in metrics:
        metrics["kl_per_token"] = metrics.pop("kl")
    gap = None
    if first:  # the weights are still those that sampled
        if seen:  # a rank may have no share of a mini-batch
            gap = mismatch(*(torch.cat([row[i][row[2]] for row in seen])[None] for i in range(3)))
            metrics |= {"sampler_gap": gap.mean_abs, "sampler_gap_max": gap.max_abs}
            metrics["sampler_effective"] = gap.effective
        metrics |= place.news
        for row in place.shown:
            online.run.sample(**row)
    metrics |= {"epoch": place.cursor / len(online.prompts), "rollout": place.rollout}
    place.done, place.alone = place.done + 1, []
    early = bool(config.target_kl) and metrics.get("approx_kl", 0.0) > config.target_kl
    if early:
        metrics["left_early"] = 1.0
    if early or place.done == num_mini_batches(online):
        leave_rollout(place)
    last = trainer.step == trainer.num_steps
    if first or last or trainer.step % config.logging_steps == 0:
        online.run.log(trainer.step, **metrics)
    if first:
        check_gap(online, gap, int(metrics["rollout"]))
    online.progress.update(trainer.step, **metrics)
    pause(online, due=bool(config.save_steps) and trainer.step % config.save_steps == 0)
    return metrics


def check_gap(online: Online, gap: Mismatch | None, rollout: int) -> None:
    """Stop where the first mini-batch shows that another model is trained than the one that sampled.

    Args:
        online: the run.
        gap: of this rank's share of the mini-batch, None without a share.
        rollout: its number.

    Raises:
        ModelError: on every rank, if the gap is more than rounding on any.
    """
    found = None
    if gap is not None:
        found = beyond_rounding(gap, bfloat16=online.roles.autocast is not None)
    if not any_rank(found is not None):
        return
    model = online.prepared.loaded.model
    dropout = [name for name, rate in model.config.to_dict().items() if "drop" in name and _positive(rate)]
    advice = "use a model of another architecture, and please report this one"
    if dropout:
        advice = f"set {', '.join(dropout)} to 0 in the model's config.json, as dropout trains another model"
    raise ModelError(
        f"rollout {rollout}: log-probs of {type(model).__name__} in training differ from those it was "
        f"sampled with {found or 'on another rank'}; it would learn from another model's samples: {advice}"
    )


def _positive(value: object) -> bool:
    return isinstance(value, float) and value > 0


def num_mini_batches(online: Online) -> int:
    """Mini-batches of the rollout, all its passes together."""
    return online.config.num_iterations * -(-len(online.place.groups) // online.config.prompts_per_step)


def mini_batches(online: Online) -> Iterator[list[Group]]:
    """The rollout's groups for each of its optimizer steps that are left: a new order in every pass.

    The rollout may be left early, when `learn` has seen its KL, and the run may end within it.
    """
    config, place, trainer = online.config, online.place, online.trainer
    rollout, size, groups = place.rollout, config.prompts_per_step, place.groups
    per_pass = -(-len(groups) // size)
    for number in range(place.done, num_mini_batches(online)):
        if place.rollout != rollout or trainer.step == trainer.num_steps:
            return
        iteration, at = divmod(number, per_pass)
        order = np.random.default_rng([config.seed, rollout, iteration]).permutation(len(groups))
        yield [groups[i] for i in order[at * size : (at + 1) * size]]


def leave_rollout(place: Place) -> None:
    """The rollout is learned from; the next one comes."""
    place.rollout += 1
    place.done, place.groups, place.news, place.shown = 0, [], {}, []


def log_alone(online: Online) -> None:
    """Log a rollout that nothing is learned from."""
    place = online.place
    place.alone.append({"rollout": place.rollout, **place.news})
    # of the step to come: a run that goes on from here takes such rows from its checkpoint
    online.run.log(online.trainer.step + 1, **place.alone[-1])
    if not place.ended:
        tell(
            online.run,
            "a rollout had no group whose completions differ in reward, so nothing was learned from it; "
            "the task may be too hard, too easy, or the reward constant",
        )
