"""Rollouts: completions of the next prompts, their rewards, and what they say about the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignloop.data.chat import ChatTemplate
from alignloop.data.packing import Batch, Completion, Group, completion
from alignloop.model.infer import run_groups
from alignloop.model.sampling import completion_seeds
from alignloop.model.scheduler import Sampled
from alignloop.records import Prompt, message_rows
from alignloop.rl.advantages import zero_spread
from alignloop.rl.buffer import group_numbers, token_mask, token_values, with_values
from alignloop.rl.kl import sequence_kl
from alignloop.rl.rewards import Sample, checked_scores, repetition
from alignloop.rl.scores import Scores, joined
from alignloop.stages.answers import of_all_ranks
from alignloop.stages.checks import tell
from alignloop.stages.online_save import Keeper, state_of
from alignloop.stages.online_setup import Online, Rollout
from alignloop.stages.sample import sampling_params
from alignloop.training.distributed import add_over_ranks, on_first_rank, share, world


def sample_rollout(online: Online, *, rounds: int = 1) -> Rollout:
    """Completions of the next prompts, scored; under dynamic sampling until enough groups have a spread.

    The spread that keeps a group is that of the rewards that are no penalties: all-wrong answers of
    different length teach length only. If `reference_refresh` says so, it refreshes the reference first.

    Args:
        online: the run.
        rounds: how often dynamic sampling may draw prompts, 1 without it.

    Returns:
        The groups, those without a spread left out under dynamic sampling.

    Raises:
        EngineError: a reward failed; the last checkpoint stays.
        KeyboardInterrupt: a stop was asked for; what is sampled so far is saved.
    """
    config, place = online.config, online.place
    refresh = config.reference_refresh
    if refresh and place.rollout and place.rollout % refresh == 0:
        online.roles.refresh_reference()
    keeper = Keeper(online, state_of(online))
    groups: list[Group] = []
    samples: list[Sample] = []
    parts: list[Scores] = []
    num_flat = num_undecided = 0
    for attempt in range(rounds):
        rows = next_rows(online, config.rollout_prompts - len(groups))
        seed = int(np.random.default_rng([config.seed, place.rollout, attempt]).integers(2**63))
        done = completions(online, rows, seed, keeper, attempt)
        fresh = [
            _group(online.prompt_ids[row], row, found, masks_cut=config.missing_eos == "mask")
            for row, found in zip(rows, done, strict=True)
        ]
        asked = [
            _sample(online.prompts[row], row, one, online.prepared.template)
            for row, found in zip(rows, done, strict=True)
            for one in found
        ]
        scores = agreed_scores(online, asked)
        number = group_numbers(fresh)
        flat, undecided = (
            zero_spread(torch.from_numpy(values), number).tolist() for values in (scores.total, scores.judged)
        )
        num_flat += sum(flat)
        num_undecided += sum(undecided)
        kept = [g for g in range(len(fresh)) if rounds == 1 or not (flat[g] or undecided[g])]
        groups += [fresh[g] for g in kept]
        places = [g * config.num_generations + k for g in kept for k in range(config.num_generations)]
        samples += [asked[i] for i in places]
        parts.append(scores.chosen(places))
        if len(groups) == config.rollout_prompts:
            break
    keeper.close()
    return Rollout(groups, samples, joined(parts), num_flat, num_undecided)


def completions(
    online: Online, rows: Sequence[int], seed: int, keeper: Keeper, attempt: int
) -> list[list[Sampled]]:
    """Completions of these prompts; every rank samples its share of the prompts."""
    config = online.config
    seeds = completion_seeds(seed, len(rows), config.num_generations)
    mine = share(list(zip(rows, seeds, strict=True)))
    with online.roles.precision():
        done = online.engine.generate(
            [online.prompt_ids[row].tolist() for row, _ in mine],
            sampling_params(config, seed=0),
            n=config.num_generations,
            seeds=[own for _, own in mine],
            begun=keeper.begun(attempt),
            keep=partial(keeper.keep, attempt),
        )
    return of_all_ranks(done, len(rows))


def agreed_scores(online: Online, samples: Sequence[Sample]) -> Scores:
    """The rewards; with several ranks the first one's, as a judge may not say the same twice.

    Raises:
        EngineError: a part of the reward failed; on every rank.
    """
    if world()[1] == 1:
        return online.reward(samples)

    return Scores.from_json(on_first_rank(lambda: online.reward(samples).to_json()))


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
    """Per-token values of all groups, (B, T) by name, read without gradient in packed rows.

    Every rank reads its share of the groups and fills its rows.
    """
    shape, shared = token_mask(groups).shape, len(groups) >= world()[1]
    ends = np.cumsum([len(group.completions) for group in groups]).tolist()
    mine = list(zip(groups, ends, strict=True))
    mine = share(mine) if shared else mine

    def split(values: Mapping[str, Tensor], batch: Batch, chunk: Sequence[Group]) -> list[dict[str, Tensor]]:
        sizes = [len(group.completions) for group in chunk]
        parts = [value.float().cpu().split(sizes) for value in values.values()]
        return [dict(zip(values, of_group, strict=True)) for of_group in zip(*parts, strict=True)]

    found = run_groups(online.roles, [group for group, _ in mine], online.trainer.token_budget, read, split)
    tables: dict[str, Tensor] = {}
    for (_, end), of_group in zip(mine, found, strict=True):
        for name, part in of_group.items():
            table = tables.setdefault(name, torch.zeros(shape))
            table[end - len(part) : end, : part.shape[1]] = part
    return {name: add_over_ranks(table) if shared else table for name, table in tables.items()}


def with_old_logprobs(online: Online, groups: list[Group]) -> list[Group]:
    """Groups with `old_logprobs`: the sampler's, or the trainer's beside the sampler's."""
    if not online.config.corrects_sampler(bfloat16=online.roles.autocast is not None):
        old = token_values(groups, "sampler_logprobs")
        return with_values(without(groups, "sampler_logprobs"), old_logprobs=old)
    temperature = online.config.temperature

    def read(batch: Batch) -> dict[str, Tensor]:
        out = online.roles(batch, temperature=temperature).logprobs
        return {"old_logprobs": out}

    return with_values(groups, **read_tables(online, groups, read))


def without(groups: list[Group], name: str) -> list[Group]:
    """Groups whose completions lack this value."""

    def bare(item: Completion) -> Completion:
        return replace(item, values={k: v for k, v in item.values.items() if k != name})

    return [replace(group, completions=tuple(map(bare, group.completions))) for group in groups]


def measure(online: Online, rollout: Rollout) -> dict[str, float]:
    """What the sampled completions say before anything is learned from them."""
    samples, scores = rollout.samples, rollout.scores
    if not samples:
        return _zero_spread(rollout)
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
        **_zero_spread(rollout),
    }
    if not any(s.finished for s in samples):
        tell(
            online.run,
            f"no completion of a rollout ended by itself, all were cut at max_new_tokens="
            f"{online.config.max_new_tokens}; missing_eos says what that costs",
        )
    if not any(s.completion for s in samples):
        tell(online.run, "every completion of a rollout is empty: the policy ends at once")
    if scores.spread is not None:
        metrics["ensemble_spread"] = float(scores.spread.mean())
    if online.gold is not None:
        metrics["gold"] = float(checked_scores(online.gold, samples).mean())
    return metrics


def _zero_spread(rollout: Rollout) -> dict[str, float]:
    """Groups whose rewards are all equal, and those whose rewards without penalties are."""
    return {
        "zero_spread_groups": float(rollout.num_zero_spread),
        "zero_spread_without_penalties": float(rollout.num_undecided),
    }


def kl_metrics(groups: Sequence[Group], reference_logprobs: Tensor) -> dict[str, float]:
    """KL to the start per completion in nats and its root, the distance of over-optimisation curves."""
    logprobs, mask = token_values(groups, "sampler_logprobs"), token_mask(groups)
    kl = float(sequence_kl(logprobs, reference_logprobs, mask).mean())
    return {"kl": kl, "sqrt_kl": max(kl, 0.0) ** 0.5}


def sample_rows(online: Online, rollout: Rollout) -> list[dict[str, Any]]:
    """The rollout's first completions as rows of samples.jsonl, of the step that learns from them."""
    found = list(zip(rollout.samples, rollout.scores.raw.tolist(), strict=True))
    return [
        {
            "step": online.trainer.step + 1,
            "prompt": message_rows(sample.prompt.prompt),
            "completion": sample.completion,
            "reward": value,
            "model": online.prepared.loaded.name,
        }
        for sample, value in found[: online.config.log_samples]
    ]


def _group(prompt_ids: np.ndarray, row: int, found: Sequence[Sampled], *, masks_cut: bool) -> Group:
    """A prompt with its completions; `masks_cut` counts no token of one cut at the longest length."""
    items = [
        completion(
            one.ids,
            None if one.finish != "length" or not masks_cut else np.zeros(len(one.ids), dtype=bool),
            sampler_logprobs=np.asarray(one.logprobs, np.float32),
        )
        for one in found
    ]
    return Group(prompt_ids, tuple(items), row)


def _sample(prompt: Prompt, row: int, one: Sampled, template: ChatTemplate) -> Sample:
    return Sample(prompt, template.whole_text(one.text).strip(), len(one.ids), one.finish != "length", row)
