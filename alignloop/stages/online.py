"""What PPO and the GRPO family share: rollout → score → advantages → mini-batches, resumable anywhere.

Between mini-batches the rollout is in the checkpoint. An unfinished one is saved now and then; as it
depends only on the weights, the seeds and the place in the data, what is lost is sampled again alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignloop.data.packing import Group
from alignloop.errors import ModelError
from alignloop.objectives.base import Inputs, Objective
from alignloop.progress import Progress
from alignloop.rl.guard import Reading
from alignloop.rl.kl import Mismatch, beyond_rounding, mismatch
from alignloop.rl.ptx import WEIGHT
from alignloop.stages.checks import tell
from alignloop.stages.online_save import Keeper, keep_best, restore, save, save_best, state_of
from alignloop.stages.online_setup import Online, Place, Rollout, num_rollouts
from alignloop.stages.rollouts import measure, sample_rollout, sample_rows
from alignloop.stages.stopping import stop_requests
from alignloop.stages.summaries import summary_of_steps
from alignloop.training.distributed import any_rank, on_first_rank
from alignloop.training.loop import train_step

Prepare = Callable[[Online, Rollout], tuple[list[Group], dict[str, float]]]
"""Gives a rollout's groups the values its objective reads, and metrics."""


def train_online(
    online: Online, objective: Callable[[Online], Objective], prepare: Prepare
) -> dict[str, Any]:
    """Roll out, score, learn, until the steps are made or an alarm ends the run.

    Args:
        online: the run; goes on from its last checkpoint.
        objective: the loss of the present rollout.
        prepare: gives a rollout's groups the values the objective reads.

    Returns:
        Means of the last tenth of the steps, and how the run ended.

    Raises:
        EngineError: a reward failed; the last checkpoint stays.
        KeyboardInterrupt: after a checkpoint was written.
    """
    restore(online)
    place, trainer, config = online.place, online.trainer, online.config
    total = num_rollouts(config, len(online.prompts))
    history: list[dict[str, float]] = []
    with (
        stop_requests() as stop,
        Progress(trainer.num_steps, description=online.run.stage, start=trainer.step) as progress,
    ):
        while place.rollout < total and trainer.step < trainer.num_steps and not place.ended:
            if not place.groups:
                refresh = config.reference_refresh
                if refresh and place.rollout and place.rollout % refresh == 0:
                    online.roles.refresh_reference()
                rollout = sample_rollout(online, Keeper(online, stop, state_of(online)))
                place.groups, more = prepare(online, rollout)
                place.news = agreed({**measure(online, rollout), **more})
                place.shown = sample_rows(online, rollout)
                watch(online, rollout)
                if place.ended or not place.groups:
                    log_alone(online)
                    leave_rollout(place)
                    continue
            if not any_rank(stop.is_set()):
                metrics = learn(online, objective(online))
                progress.update(trainer.step, **metrics)
                history.append(metrics)
            stopped = any_rank(stop.is_set())
            if stopped or (config.save_steps and trainer.step % config.save_steps == 0):
                save(online)
            if stopped:
                raise KeyboardInterrupt
    ended = {"ended_by": place.ended} if place.ended else {}
    return {**summary_of_steps(history, trainer.step), **ended, **keep_best(online)}


def agreed(metrics: dict[str, float]) -> dict[str, float]:
    """The first rank's metrics, so that all ranks see the same alarms."""
    return on_first_rank(lambda: metrics)


def watch(online: Online, rollout: Rollout) -> None:
    """Let the guard see the rollout: keep the best weights, raise alarms."""
    place, news = online.place, online.place.news
    if not rollout.samples:
        return
    reading = Reading(
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


def learn(online: Online, objective: Objective) -> dict[str, float]:
    """One optimizer step on the next mini-batch of the rollout; logs it.

    Raises:
        ModelError: the trainer's log-probs are not the sampler's; nothing of the step is saved.
    """
    place, trainer, config = online.place, online.trainer, online.config
    batches = mini_batches(online)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def observe(inputs: Inputs) -> None:
        if inputs.logprobs is None:  # the critic's turn
            return
        sampler = inputs.extras.get("sampler_logprobs", inputs.extras["old_logprobs"])
        own = inputs.mask & (inputs.extras[WEIGHT] == 0) if WEIGHT in inputs.extras else inputs.mask
        rows = (inputs.logprobs.detach(), sampler, own)
        seen.append(tuple(t.cpu() for t in rows))  # pyright: ignore[reportArgumentType]

    first = place.done == 0
    trainer.observe = observe if first else None
    report = train_step(trainer, objective, online.extend(batches[place.done]))
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
    if early or place.done == len(batches):
        leave_rollout(place)
    last = trainer.step == trainer.num_steps
    if first or last or trainer.step % config.logging_steps == 0:
        online.run.log(trainer.step, **metrics)
    if first:
        check_gap(online, gap, int(metrics["rollout"]))
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


def mini_batches(online: Online) -> list[list[Group]]:
    """The rollout's groups for each of its optimizer steps: a new order in every pass."""
    config, place = online.config, online.place
    size, found = config.prompts_per_step, list[list[Group]]()
    for iteration in range(config.num_iterations):
        order = np.random.default_rng([config.seed, place.rollout, iteration]).permutation(len(place.groups))
        found += [[place.groups[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
    return found


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
