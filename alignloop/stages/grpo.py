"""GRPO and its family: policy gradients whose baseline is the other completions of the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alignloop.config.rl import GRPOConfig
from alignloop.data.packing import Group
from alignloop.errors import ConfigError
from alignloop.model.roles import ActorCritic, frozen_copy
from alignloop.objectives.base import Objective
from alignloop.rl.advantages import (
    decoupled_advantages,
    group_advantages,
    per_token,
    rewards_to_come,
    token_rewards,
    whiten,
)
from alignloop.rl.buffer import group_numbers, token_mask, token_values, with_values
from alignloop.rl.kl import sequence_kl
from alignloop.runs import Run
from alignloop.stages import common
from alignloop.stages.checks import check_online
from alignloop.stages.online import end, learn, mini_batches, receive, running
from alignloop.stages.online_setup import Online, Rollout, reads_reference, set_up
from alignloop.stages.rollouts import kl_metrics, read_tables, sample_rollout, with_old_logprobs


def grpo(config: GRPOConfig, run: Run, objective: Objective) -> dict[str, Any]:
    """Train a policy on rewards of its own completions.

    Args:
        config: the recipe; `dataset` holds prompts.
        run: the run folder; receives metrics, samples, checkpoints and `model/`.
        objective: a member of the family, for example `GRPO()`.

    Returns:
        Results for run.json.
    """
    prepared = common.prepare(config)
    check_online(config, objective, run, prepared.model, prepared.loaded, prepared.template)
    follows_kl = reads_reference(config, objective)
    if config.reference_refresh and not follows_kl:
        raise ConfigError("reference_refresh: nothing reads the reference; set beta, kl_coef or track_kl")
    reference = frozen_copy(prepared.model) if follows_kl and prepared.peft is None else None
    roles = ActorCritic(prepared.model, peft=prepared.peft, reference=reference)
    online = set_up(config, run, prepared, roles)
    rounds = config.max_sampling_rounds if config.dynamic_sampling else 1
    history: list[dict[str, float]] = []
    with running(online):
        while online.unfinished:
            if not online.place.groups:
                rollout = sample_rollout(online, rounds=rounds)
                groups, metrics = with_advantages(online, rollout, config, follows_kl=follows_kl)
                receive(online, rollout, groups, metrics)
            history += [learn(online, objective, batch) for batch in mini_batches(online)]
    return end(online, history)


def with_advantages(
    online: Online, rollout: Rollout, config: GRPOConfig, *, follows_kl: bool
) -> tuple[list[Group], dict[str, float]]:
    """Groups with `advantages`, `old_logprobs` and, where the KL is followed, `reference_logprobs`."""
    groups = rollout.groups
    if not groups:
        return [], {}
    mask, temperature = token_mask(groups), config.temperature
    tables, metrics = {}, {}
    if follows_kl:
        tables = read_tables(
            online,
            groups,
            lambda batch: {
                "reference_logprobs": online.roles.reference_logprobs(batch, temperature=temperature)
            },
        )
        metrics = kl_metrics(groups, tables["reference_logprobs"])
    rewards = torch.from_numpy(rollout.scores.total)
    logprobs, beta = token_values(groups, "sampler_logprobs"), online.kl.beta
    reference = tables.get("reference_logprobs", logprobs)  # without one the KL counts for nothing
    if config.normalize_each_reward:
        scores = rollout.scores
        parts = torch.from_numpy(np.stack([scores.components[name] for name in scores.weights]))
        weights = torch.tensor(list(scores.weights.values()))
        advantages = decoupled_advantages(parts, weights, group_numbers(groups))
        tables["advantages"] = per_token(advantages.float(), mask)
    elif config.advantage == "token":
        returns = rewards_to_come(token_rewards(rewards.float(), logprobs, reference, mask, beta=beta), mask)
        tables["advantages"] = whiten(returns, mask)
    else:
        rewards = rewards - beta * sequence_kl(logprobs, reference, mask)
        advantages = group_advantages(rewards, group_numbers(groups), kind=config.advantage)
        tables["advantages"] = per_token(advantages.float(), mask)
    if config.kl_coef:
        metrics["kl_coef"] = beta
        online.kl.update(metrics["kl"], num_completions=len(rewards))
    return with_old_logprobs(online, with_values(groups, **tables)), metrics
