"""What a run of online RL carries, and how it is put together from a recipe."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from alignloop.config.rl import OnlineConfig, PPOConfig
from alignloop.data.packing import Group
from alignloop.data.tokenize import Encoder
from alignloop.errors import DataError
from alignloop.model.roles import ActorCritic
from alignloop.model.scheduler import TOKEN_BUDGET
from alignloop.objectives.base import Objective
from alignloop.progress import Progress
from alignloop.records import Prompt
from alignloop.rl.guard import AlarmLimits, TrainingGuard
from alignloop.rl.kl import AdaptiveKL, FixedKL, KLController
from alignloop.rl.rewards import Component, Reward, Sample, Scores
from alignloop.rl.rollout import CompletionEngine, LocalEngine
from alignloop.runs import Run
from alignloop.stages import common
from alignloop.stages.lint import enforce
from alignloop.stages.lint_template import lint_template, lint_texts
from alignloop.stages.rows import training_encoder
from alignloop.stages.sample import read_prompts
from alignloop.stages.scoring import build_gold, build_reward
from alignloop.training.loop import Trainer


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
        alone: logged rows of rollouts since the last step that nothing was learned from.
        ended: the alarm that ended the run, "" while it goes on.
        best_step: steps that the best weights so far had made, −1 before there are any.
    """

    rollout: int = 0
    cursor: int = 0
    done: int = 0
    groups: list[Group] = field(default_factory=list)
    news: dict[str, float] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)
    alarmed: list[str] = field(default_factory=list)
    alone: list[dict[str, float]] = field(default_factory=list)
    ended: str = ""
    best_step: int = -1


class SavedPlace(NamedTuple):
    """Step, rollout and best step of a checkpoint, −1 before there is one."""

    step: int = -1
    rollout: int = -1
    best_step: int = -1


@dataclass(slots=True)
class Online:
    """Everything a run of online RL carries.

    `saved` is the place of the last checkpoint; `stop`, set when the run shall end, and `progress` are there
    while it runs (`online.running`).
    """

    config: OnlineConfig
    run: Run
    prepared: common.Prepared
    roles: ActorCritic
    trainer: Trainer
    engine: CompletionEngine
    prompts: list[Prompt]
    prompt_ids: list[np.ndarray]
    reward: Reward
    gold: Component | None
    kl: KLController
    guard: TrainingGuard
    place: Place = field(default_factory=Place)
    saved: SavedPlace = SavedPlace()
    stop: threading.Event = field(init=False)
    progress: Progress = field(init=False)

    @property
    def unfinished(self) -> bool:
        """Whether rollouts and steps are left, and no alarm has ended the run."""
        place, trainer = self.place, self.trainer
        left = place.rollout < num_rollouts(self.config, len(self.prompts))
        return left and trainer.step < trainer.num_steps and not place.ended


@dataclass(frozen=True, slots=True)
class Rollout:
    """Completions with their rewards. The groups' completions hold `sampler_logprobs`.

    Attributes:
        groups: prompts with their completions.
        samples: the same completions as texts.
        scores: their rewards.
        num_zero_spread: groups drawn, kept or not, whose rewards are all equal.
        num_undecided: groups drawn whose rewards without penalties are all equal.
    """

    groups: list[Group]
    samples: list[Sample]
    scores: Scores
    num_zero_spread: int
    num_undecided: int


def usable_prompts(config: OnlineConfig, run: Run, encoder: Encoder) -> tuple[list[Prompt], list[np.ndarray]]:
    """Prompts that leave room for a completion within `max_length`, with their tokens.

    Raises:
        DataError: no prompt is short enough.
    """
    prompts = read_prompts(config, config.max_prompts, run)
    room = config.max_length - config.max_new_tokens
    enforce([*lint_template(encoder.template), *lint_texts(prompts, encoder)], run.warn)
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


def set_up(config: OnlineConfig, run: Run, prepared: common.Prepared, roles: ActorCritic) -> Online:
    """Prompts, rewards, optimizer and guard around the roles of a model."""
    encoder = training_encoder(config, prepared.loaded, prepared.template)
    prompts, prompt_ids = usable_prompts(config, run, encoder)
    where: Any = {"base": prepared, "dtype": config.dtype, "device": config.device}
    reward = build_reward(config, prompts, max_tokens=config.max_new_tokens, **where)
    settings = common.optimizer_settings(config, num_steps(config, len(prompts)))
    optimizer = common.build_optimizer(roles.role_parameters()[0], settings)
    trainer = Trainer(
        roles,
        optimizer,
        settings,
        num_steps(config, len(prompts)),
        token_budget=config.tokens_per_pass(roles.device.type),
        unsplit=config.tokens_unsplit(roles.device.type),
        temperature=config.temperature,
    )
    model = prepared.peft or prepared.loaded.model
    engine = LocalEngine(model, prepared.loaded.tokenizer, max(TOKEN_BUDGET, config.max_length))
    limits = AlarmLimits(
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
    gold = build_gold(config.gold, prompts, **where)
    guard = TrainingGuard(limits, config.keep_best)
    return Online(
        config=config,
        run=run,
        prepared=prepared,
        roles=roles,
        trainer=trainer,
        engine=engine,
        prompts=prompts,
        prompt_ids=prompt_ids,
        reward=reward,
        gold=gold,
        kl=kl,
        guard=guard,
    )


def reads_reference(config: OnlineConfig, objective: Objective | None) -> bool:
    """Whether anything reads the reference: the loss, the reward's KL, the guard's budget or a metric."""
    in_loss = objective is not None and "reference_logprobs" in objective.needs
    return isinstance(config, PPOConfig) or bool(
        in_loss or config.kl_coef or config.kl_budget or config.track_kl
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
