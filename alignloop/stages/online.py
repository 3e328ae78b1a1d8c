"""What PPO and the GRPO family share: rollout → score → advantages → mini-batches, resumable anywhere.

A rollout depends only on the weights, the seeds and the place in the data, so a run that is killed
during one samples it again, token for token; between mini-batches the rollout is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignloop.config.rl import OnlineConfig
from alignloop.data.packing import Batch, Group, collate, completion, pack
from alignloop.data.tokenize import Encoder
from alignloop.errors import DataError
from alignloop.model.generate import generate
from alignloop.model.roles import ActorCritic
from alignloop.model.sampling import completion_seeds
from alignloop.model.scheduler import Sampled
from alignloop.objectives.base import Inputs, Objective
from alignloop.progress import Progress
from alignloop.records import Prompt
from alignloop.rl.advantages import zero_spread
from alignloop.rl.guard import Guard, Limits, Reading
from alignloop.rl.kl import AdaptiveKL, FixedKL, KLController, mismatch, sequence_kl
from alignloop.rl.rewards import Component, Reward, Sample, Scores, checked_scores, repetition
from alignloop.rl.rollout import from_tensors, group_numbers, to_tensors, token_mask, token_values
from alignloop.run import Run
from alignloop.stages import common
from alignloop.stages.sample import read_prompts, sampling_params
from alignloop.stages.scoring import build_gold, build_reward
from alignloop.training.checkpoint import load_checkpoint, save_checkpoint
from alignloop.training.loop import Trainer, train_step


@dataclass(slots=True)
class Place:
    """Where a run is; part of every checkpoint.

    Attributes:
        rollout: number of the rollout, from 0.
        cursor: prompts drawn so far.
        done: mini-batches of this rollout already learned from.
        groups: this rollout, ready to be learned from; none before it is sampled.
        news: its metrics, logged with its first mini-batch.
        shown: its rows for samples.jsonl, written likewise.
        alarmed: alarms that have gone off.
        ended: the alarm that ended the run, "" while it goes on.
    """

    rollout: int = 0
    cursor: int = 0
    done: int = 0
    groups: list[Group] = field(default_factory=list)
    news: dict[str, float] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)
    alarmed: list[str] = field(default_factory=list)
    ended: str = ""


@dataclass(slots=True)
class Online:
    """Everything a run of online RL carries. `rounds` is how often dynamic sampling may draw anew."""

    config: OnlineConfig
    run: Run
    prepared: common.Prepared
    roles: ActorCritic
    trainer: Trainer
    prompts: list[Prompt]
    prompt_ids: list[np.ndarray]
    reward: Reward
    gold: Component | None
    kl: KLController
    guard: Guard
    place: Place
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class Rollout:
    """Completions with their rewards. The groups' completions hold `sampler_logprobs`."""

    groups: list[Group]
    samples: list[Sample]
    scores: Scores
    num_zero_spread: int


Prepare = Callable[[Online, Rollout], tuple[list[Group], dict[str, float]]]
"""Gives a rollout's groups the values its objective reads, and metrics."""


def usable_prompts(config: OnlineConfig, run: Run, encoder: Encoder) -> tuple[list[Prompt], list[np.ndarray]]:
    """Prompts that leave room for a completion within `max_length`, with their tokens.

    Raises:
        DataError: no prompt is short enough.
    """
    prompts = read_prompts(config.dataset, config.columns, config.max_prompts, run)
    room = config.max_length - config.max_new_tokens
    ids = [encoder.prompt(prompt.prompt) for prompt in prompts]
    kept = [i for i, tokens in enumerate(ids) if len(tokens) <= room]
    if len(kept) < len(ids):
        run.warn(
            f"{len(ids) - len(kept)} prompts dropped: longer than the {room} tokens that "
            f"max_length - max_new_tokens leaves"
        )
    if not kept:
        raise DataError(
            f"no prompt is within {room} tokens (max_length − max_new_tokens)", reason="prompt_too_long"
        )
    return [prompts[i] for i in kept], [ids[i] for i in kept]


def set_up(
    config: OnlineConfig, run: Run, prepared: common.Prepared, roles: ActorCritic, *, rounds: int = 1
) -> Online:
    """Prompts, rewards, optimizer and guard around the roles of a model."""
    prompts, prompt_ids = usable_prompts(config, run, common.encoder(config, prepared))
    reward = build_reward(config, prompts, max_tokens=config.max_new_tokens)
    settings = common.optimizer_settings(config, num_steps(config, len(prompts)))
    optimizer = common.build_optimizer(roles.policy.parameters(), settings)
    trainer = Trainer(
        roles,
        optimizer,
        settings,
        num_steps(config, len(prompts)),
        token_budget=config.token_budget,
        temperature=config.temperature,
        autocast=prepared.autocast,
    )
    limits = Limits(
        config.guard_window,
        config.kl_budget,
        config.gold_drop,
        config.length_factor,
        config.entropy_factor,
        config.spread_factor,
    )
    adaptive = config.kl_controller == "adaptive"
    kl = (
        AdaptiveKL(config.kl_coef, config.kl_target, config.kl_horizon)
        if adaptive
        else FixedKL(config.kl_coef)
    )
    gold = build_gold(config.gold, prompts)
    guard = Guard(limits, config.keep_best)
    return Online(
        config, run, prepared, roles, trainer, prompts, prompt_ids, reward, gold, kl, guard, Place(), rounds
    )


def steps_per_rollout(config: OnlineConfig) -> int:
    """Optimizer steps of a rollout that is not left early."""
    return config.num_iterations * (config.rollout_prompts // config.prompts_per_step)


def num_rollouts(config: OnlineConfig, num_prompts: int) -> int:
    """Rollouts of a run."""
    if config.max_steps > 0:
        return -(-config.max_steps // steps_per_rollout(config))
    return max(1, round(config.num_train_epochs * num_prompts / config.rollout_prompts))


def num_steps(config: OnlineConfig, num_prompts: int) -> int:
    """Optimizer steps of a run whose rollouts are not left early."""
    full = num_rollouts(config, num_prompts) * steps_per_rollout(config)
    return min(full, config.max_steps) if config.max_steps > 0 else full


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
        common.stop_requests() as stop,
        Progress(trainer.num_steps, description=online.run.stage, start=trainer.step) as progress,
    ):
        while place.rollout < total and trainer.step < trainer.num_steps and not place.ended:
            if not place.groups:
                rollout = sample_rollout(online)
                place.groups, more = prepare(online, rollout)
                place.news = {**measure(online, rollout), **more}
                place.shown = sample_rows(online, rollout)
                watch(online, rollout)
                if place.ended or not place.groups:
                    log_alone(online)
                    leave_rollout(place)
                    continue
            if not stop.is_set():
                metrics = learn(online, objective(online))
                progress.update(trainer.step, **metrics)
                history.append(metrics)
            if stop.is_set() or (config.save_steps and trainer.step % config.save_steps == 0):
                save(online)
            if stop.is_set():
                raise KeyboardInterrupt
    ended = {"ended_by": place.ended} if place.ended else {}
    return {**common.summary(history, trainer.step), **ended, **keep_best(online)}


def sample_rollout(online: Online) -> Rollout:
    """Completions of the next prompts, scored; under dynamic sampling until enough groups have a spread."""
    config, place = online.config, online.place
    groups: list[Group] = []
    samples: list[Sample] = []
    parts: list[Scores] = []
    num_zero = 0
    for attempt in range(online.rounds):
        rows = next_rows(online, config.rollout_prompts - len(groups))
        seed = int(np.random.default_rng([config.seed, place.rollout, attempt]).integers(2**63))
        done = generate(
            online.prepared.peft or online.prepared.loaded.model,
            online.prepared.loaded.tokenizer,
            [online.prompt_ids[row].tolist() for row in rows],
            sampling_params(config, seed=0),
            n=config.num_generations,
            seeds=completion_seeds(seed, len(rows), config.num_generations),
            token_budget=4 * config.token_budget,
        )
        fresh = [_group(online.prompt_ids[row], row, found) for row, found in zip(rows, done, strict=True)]
        asked = [
            _sample(online.prompts[row], row, one)
            for row, found in zip(rows, done, strict=True)
            for one in found
        ]
        scores = online.reward(asked)
        flat = zero_spread(torch.from_numpy(scores.total), group_numbers(fresh)).tolist()
        num_zero += sum(flat)
        kept = [g for g in range(len(fresh)) if online.rounds == 1 or not flat[g]]
        groups += [fresh[g] for g in kept]
        places = [g * config.num_generations + k for g in kept for k in range(config.num_generations)]
        samples += [asked[i] for i in places]
        parts.append(_chosen(scores, places))
        if len(groups) == config.rollout_prompts:
            break
    return Rollout(groups, samples, _joined(parts), num_zero)


def next_rows(online: Online, count: int) -> list[int]:
    """The next prompts of the stream, each epoch in an order of its own."""
    size, rows = len(online.prompts), list[int]()
    for number in range(online.place.cursor, online.place.cursor + count):
        epoch, at = divmod(number, size)
        order = np.arange(size)
        if online.config.shuffle:
            order = np.random.default_rng([online.config.seed, epoch]).permutation(size)
        rows.append(int(order[at]))
    online.place.cursor += count
    return rows


def read_tables(
    online: Online, groups: Sequence[Group], read: Callable[[Batch], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Per-token values of all groups, (B, T) by name, read without gradient in packed rows."""
    online.roles.eval()
    mask = token_mask(groups)
    sizes = [len(group.completions) for group in groups]
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    numbered = [Group(group.prompt_ids, group.completions, number) for number, group in enumerate(groups)]
    tables: dict[str, Tensor] = {}
    with torch.no_grad():
        for chunk in pack(numbered, online.config.token_budget):
            for name, values in read(collate(chunk)).items():
                table = tables.setdefault(name, torch.zeros(mask.shape))
                row = 0
                for group in chunk:
                    part = values[row : row + sizes[group.index]].float().cpu()
                    start = starts[group.index]
                    table[start : start + len(part), : part.shape[1]] = part
                    row += len(part)
    return tables


def measure(online: Online, rollout: Rollout) -> dict[str, float]:
    """What the sampled completions say before anything is learned from them."""
    samples, scores = rollout.samples, rollout.scores
    if not samples:
        return {"zero_spread_groups": float(rollout.num_zero_spread)}
    mask = token_mask(rollout.groups)
    logprobs = token_values(rollout.groups, "sampler_logprobs")
    metrics = {
        "reward": float(scores.raw.mean()),
        "reward_std": float(scores.raw.std()),
        **{f"reward_{name}": float(values.mean()) for name, values in scores.components.items()},
        "completion_length": float(np.mean([s.num_tokens for s in samples])),
        "eos_rate": float(np.mean([s.finished for s in samples])),
        # the mean of −log π over its own samples estimates the entropy
        "entropy": float(-logprobs[mask].mean()),
        "repetition": float(np.mean([repetition(s.completion) for s in samples])),
        "zero_spread_groups": float(rollout.num_zero_spread),
    }
    if scores.spread is not None:
        metrics["ensemble_spread"] = float(scores.spread.mean())
    if online.gold is not None:
        metrics["gold"] = float(checked_scores(online.gold, samples).mean())
    return metrics


def kl_metrics(groups: Sequence[Group], reference_logprobs: Tensor) -> dict[str, float]:
    """KL to the start per completion in nats and its root, the distance of over-optimisation curves."""
    logprobs, mask = token_values(groups, "sampler_logprobs"), token_mask(groups)
    kl = float(sequence_kl(logprobs, reference_logprobs, mask).mean())
    return {"kl": kl, "sqrt_kl": max(kl, 0.0) ** 0.5}


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
    if online.guard.is_best():
        save_checkpoint(
            online.run.path / "best",
            step=online.trainer.step,
            modules={"policy": online.roles.policy},
            optimizers={},
            keep=1,
        )
    for alarm in alarms:
        news[f"alarm_{alarm.name}"] = 1.0
        if alarm.name not in place.alarmed:
            place.alarmed.append(alarm.name)
            online.run.warn(f"rollout {place.rollout}: {alarm.name}: {alarm.text}")
    if alarms and online.config.on_alarm != "warn":
        place.ended = alarms[0].name


def learn(online: Online, objective: Objective) -> dict[str, float]:
    """One optimizer step on the next mini-batch of the rollout; logs it."""
    place, trainer, config = online.place, online.trainer, online.config
    batches = mini_batches(online)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def observe(inputs: Inputs) -> None:
        assert inputs.logprobs is not None
        sampler = inputs.extras.get("sampler_logprobs", inputs.extras["old_logprobs"])
        rows = (inputs.logprobs.detach(), sampler, inputs.mask)
        seen.append(tuple(t.cpu() for t in rows))  # pyright: ignore[reportArgumentType]

    first = place.done == 0
    trainer.observe = observe if first else None
    report = train_step(trainer, objective, batches[place.done])
    metrics = dict(report.metrics)
    if "kl" in metrics:
        metrics["kl_per_token"] = metrics.pop("kl")
    if first:  # the weights are still those that sampled
        gap = mismatch(*(torch.cat([row[i][row[2]] for row in seen])[None] for i in range(3)))
        metrics |= {"sampler_gap": gap.mean_abs, "sampler_gap_max": gap.max_abs, **place.news}
        for row in place.shown:
            online.run.sample(**row)
    metrics |= {"epoch": place.cursor / len(online.prompts), "rollout": place.rollout}
    place.done += 1
    early = bool(config.target_kl) and metrics.get("approx_kl", 0.0) > config.target_kl
    if early:
        metrics["left_early"] = 1.0
    if early or place.done == len(batches):
        leave_rollout(place)
    last = trainer.step == trainer.num_steps
    if first or last or trainer.step % config.logging_steps == 0:
        online.run.log(trainer.step, **metrics)
    return metrics


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
    online.run.log(online.trainer.step, rollout=online.place.rollout, **online.place.news)
    if not online.place.ended:
        online.run.warn(
            "a rollout had no group whose completions differ in reward, so nothing was learned from it; "
            "the task may be too hard, too easy, or the reward constant"
        )


def sample_rows(online: Online, rollout: Rollout) -> list[dict[str, Any]]:
    """The rollout's first completions as rows of samples.jsonl, of the step that learns from them."""
    found = list(zip(rollout.samples, rollout.scores.raw.tolist(), strict=True))
    return [
        {
            "step": online.trainer.step + 1,
            "prompt": [{"role": m.role, "content": m.content} for m in sample.prompt.prompt],
            "completion": sample.completion,
            "reward": value,
            "model": online.prepared.loaded.name,
        }
        for sample, value in found[: online.config.log_samples]
    ]


def save(online: Online) -> None:
    """A checkpoint of everything the rest of the run depends on."""
    place = online.place
    state = {name: value for name, value in asdict_flat(place).items() if name != "groups"}
    save_checkpoint(
        online.run.checkpoints,
        step=online.trainer.step,
        modules={"model": online.roles},
        optimizers={"model": online.trainer.optimizer},
        state={
            "place": state,
            "kl": online.kl.state_dict(),
            "reward": online.reward.state_dict(),
            "guard": online.guard.state_dict(),
        },
        tensors=to_tensors(place.groups),
        keep=online.config.save_total_limit,
    )


def restore(online: Online) -> None:
    """Go on from the newest intact checkpoint, if there is one."""
    trainer, run = online.trainer, online.run
    found = load_checkpoint(
        run.checkpoints, modules={"model": online.roles}, optimizers={"model": trainer.optimizer}
    )
    if found is None:
        run.rewind(-1)
        return
    trainer.step = found.step
    run.rewind(found.step)
    for skipped in found.skipped:
        run.warn(f"damaged checkpoint passed over: {skipped}")
    online.place = Place(**found.state["place"], groups=from_tensors(found.tensors))
    online.kl.load_state_dict(found.state["kl"])
    online.reward.load_state_dict(found.state["reward"])
    online.guard.load_state_dict(found.state["guard"])


def keep_best(online: Online) -> dict[str, Any]:
    """Put the best weights into the policy, if the recipe keeps them and a window was full."""
    best = online.guard.best
    if best is None:
        return {}
    found = load_checkpoint(online.run.path / "best", modules={"policy": online.roles.policy}, optimizers={})
    return {} if found is None else {"best": {"step": found.step, **best}}


def asdict_flat(place: Place) -> dict[str, Any]:
    """The place as plain data, its groups left out."""
    return {name: getattr(place, name) for name in Place.__slots__ if name != "groups"}


def _group(prompt_ids: np.ndarray, row: int, found: Sequence[Sampled]) -> Group:
    items = [completion(one.ids, sampler_logprobs=np.asarray(one.logprobs, np.float32)) for one in found]
    return Group(prompt_ids, tuple(items), row)


def _sample(prompt: Prompt, row: int, one: Sampled) -> Sample:
    return Sample(prompt, one.text.strip(), len(one.ids), one.finish != "length", row)


def _chosen(scores: Scores, places: Sequence[int]) -> Scores:
    index = np.asarray(places, dtype=np.int64)
    parts = {name: values[index] for name, values in scores.components.items()}
    spread = None if scores.spread is None else scores.spread[index]
    return Scores(scores.total[index], scores.raw[index], parts, spread)


def _joined(parts: Sequence[Scores]) -> Scores:
    names = parts[0].components
    spreads = [part.spread for part in parts if part.spread is not None]
    return Scores(
        np.concatenate([part.total for part in parts]),
        np.concatenate([part.raw for part in parts]),
        {name: np.concatenate([part.components[name] for part in parts]) for name in names},
        np.concatenate(spreads) if spreads else None,
    )
