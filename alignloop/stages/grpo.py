"""GRPO and its family: policy gradients whose baseline is the other completions of the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alignloop.config.rl import GRPOConfig
from alignloop.data.packing import Group
from alignloop.errors import ConfigError
from alignloop.model.adapters import delete_others
from alignloop.model.roles import POLICY, ActorCritic, frozen_copy
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
from alignloop.stages.online import train_online
from alignloop.stages.online_setup import Online, Rollout, reads_reference, set_up
from alignloop.stages.rollouts import kl_metrics, read_tables


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
    rounds = config.max_sampling_rounds if config.dynamic_sampling else 1
    online = set_up(config, run, prepared, roles, rounds=rounds)

    def prepare(online: Online, rollout: Rollout) -> tuple[list[Group], dict[str, float]]:
        return with_advantages(online, rollout, config, follows_kl=follows_kl)

    results = train_online(online, lambda _: objective, prepare)
    if prepared.peft is not None:
        delete_others(prepared.peft, POLICY)
    common.save_policy(prepared, run.path / "model")
    return results


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


def with_old_logprobs(online: Online, groups: list[Group]) -> list[Group]:
    """Groups with `old_logprobs`: the sampler's, or the trainer's beside the sampler's."""
    if not online.config.corrects_sampler(bfloat16=online.roles.autocast is not None):
        old = token_values(groups, "sampler_logprobs")
        return with_values(without(groups, "sampler_logprobs"), old_logprobs=old)
    temperature = online.config.temperature

    def read(batch: Any) -> dict[str, torch.Tensor]:
        out = online.roles(batch, temperature=temperature).logprobs
        return {"old_logprobs": out}

    return with_values(groups, **read_tables(online, groups, read))


def without(groups: list[Group], name: str) -> list[Group]:
    """Groups whose completions lack this value."""
    return [
        Group(
            group.prompt_ids,
            tuple(
                type(item)(item.ids, item.mask, {k: v for k, v in item.values.items() if k != name})
                for item in group.completions
            ),
            group.index,
            group.values,
        )
        for group in groups
    ]
