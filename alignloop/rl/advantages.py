"""From rewards to advantages: token rewards, GAE, whitening, group baselines.

Legend: B completions, T tokens, P prompts. Nothing here has a gradient. A mask's True means the
token was the policy's own choice; tokens in the middle that were not (a tool's output) are masked,
and time passes over them as if they were absent.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from alignloop.errors import EngineError, UserError

AdvantageKind = Literal["group_std", "group_mean", "group_mean_batch_std", "leave_one_out", "batch"]


class MissingEOS(NamedTuple):
    """What a completion without an end-of-sequence token scores.

    Attributes:
        rule: keep: its score; replace: `value` instead of it; penalise: its score − `value`; mask: its score,
            which counts in the group's baseline, while its tokens count nowhere (DAPO, arXiv 2503.14476,
            section 3.4, overlong filtering).
        value: in reward units. Stiennon et al. (arXiv 2009.01325) replace with −1.
    """

    rule: Literal["keep", "replace", "penalise", "mask"]
    value: float = 0.0


def sequence_scores(
    scores: Tensor, finished: Tensor, *, missing_eos: MissingEOS, clip: float | None
) -> Tensor:
    """Scores of completions after the rule for a missing EOS and clipping to ±clip.

    A replaced score is not clipped, a penalised one is clipped before the penalty, so that clipping
    never hides what the missing EOS costs.

    Args:
        scores: (B,), reward units.
        finished: bool (B,), True where the completion ended with EOS.
        missing_eos: the rule for the others.
        clip: bound of |score|, None for none.

    Returns:
        (B,), reward units.
    """
    clipped = scores if clip is None else scores.clamp(-clip, clip)
    if missing_eos.rule == "replace":
        return torch.where(finished, clipped, torch.full_like(clipped, missing_eos.value))
    if missing_eos.rule == "penalise":
        return torch.where(finished, clipped, clipped - missing_eos.value)
    return clipped


def token_rewards(
    scores: Tensor, logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor, *, beta: float
) -> Tensor:
    """R_t = −β·(log π − log ref)_t, and the score on top at the last counted token.

    The KL in the reward as in Ziegler et al. 2019 (arXiv 1909.08593, equation 2), with k1.

    Args:
        scores: (B,), of `sequence_scores`.
        logprobs: (B, T), nats, of the sampling policy.
        reference_logprobs: (B, T), nats.
        mask: bool (B, T). A row without a True gets no reward at all.
        beta: weight of the KL, reward units per nat.

    Returns:
        (B, T), reward units, 0 where masked.
    """
    rewards = torch.where(mask, -beta * (logprobs - reference_logprobs), 0.0)
    return rewards + torch.where(_is_last(mask), scores[:, None], 0.0)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: δ_t = R_t + γV_{t+1} − V_t, A_t = δ_t + γλA_{t+1}.

    Schulman et al. 2015, arXiv 1506.02438, equation 16. t + 1 is the next *counted* token; after the
    last one V and A are 0. Returns A + V are taken here, before any whitening.

    Args:
        rewards: (B, T), reward units.
        values: (B, T), the critic's estimate before each token.
        mask: bool (B, T).
        gamma: discount per counted token.
        lam: λ; 1 sums all rewards to come, 0 looks one step ahead.

    Returns:
        advantages and returns, each (B, T), 0 where masked.
    """
    advantages = torch.zeros_like(values)
    next_value = values.new_zeros(values.shape[0])
    carried = values.new_zeros(values.shape[0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * carried
        counted = mask[:, t]
        advantages[:, t] = torch.where(counted, advantage, 0.0)
        carried = torch.where(counted, advantage, carried)
        next_value = torch.where(counted, values[:, t], next_value)
    return advantages, torch.where(mask, advantages + values, 0.0)


def rewards_to_come(rewards: Tensor, mask: Tensor) -> Tensor:
    """Σ R_s over the counted tokens s ≥ t of a completion: GAE with γ = λ = 1 and no critic.

    REINFORCE++ (arXiv 2501.03262) whitens these over all tokens of the rollout. (B, T) → (B, T).
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)[0]


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """(x − mean)/√(variance + eps) over all counted elements of the batch, ddof = 1.

    To be called on the whole rollout, not on a micro-batch. One counted element has no variance and is
    only shifted.

    Args:
        values: any shape.
        mask: bool, same shape.
        shift_mean: False scales but leaves the mean where it is (rewards, whose sign matters).
        eps: added to the variance.

    Returns:
        same shape, 0 where masked.
    """
    count = mask.sum().clamp(min=1)
    mean = torch.where(mask, values, 0.0).sum() / count
    centred = torch.where(mask, values - mean, 0.0)
    variance = centred.square().sum() / (count - 1).clamp(min=1)
    scale = torch.where(count > 1, (variance + eps).rsqrt(), 1.0)
    return torch.where(mask, centred * scale + (0.0 if shift_mean else mean), 0.0)


def group_advantages(rewards: Tensor, group: Tensor, *, kind: AdvantageKind) -> Tensor:
    """Advantage of each completion over its group, or over the batch.

    group_std: (r − mean)/(std + 1e-4), std with ddof = 1 (GRPO, arXiv 2402.03300).
    group_mean: r − mean (Dr. GRPO, arXiv 2503.20783).
    group_mean_batch_std: (r − mean)/(std + 1e-4), std over all completions of all prompts with ddof = 1
        (Lite PPO, arXiv 2508.08221).
    leave_one_out: r − mean of the others (RLOO, arXiv 2402.14740).
    batch: (r − mean)/(std + 1e-4) over all completions of all prompts (REINFORCE++, arXiv 2501.03262).

    Args:
        rewards: (B,), reward units, of the whole rollout.
        group: int64 (B,), prompt number of each row, from 0.
        kind: the baseline and the scale.

    Returns:
        (B,). 0 for every completion of a group with equal rewards, but for `batch`.

    Raises:
        UserError: a group of one completion (two are needed for a baseline).
        EngineError: a reward is NaN or infinite.
    """
    _check_rewards(rewards, group, smallest=1 if kind == "batch" else 2)
    if kind == "batch":
        return _standardise(rewards, torch.zeros_like(group))
    size, mean = _group_moments(rewards, group)
    if kind == "group_std":
        advantages = _standardise(rewards, group)
    elif kind == "group_mean":
        advantages = rewards - mean
    elif kind == "group_mean_batch_std":
        spread = rewards.std() if len(rewards) > 1 else rewards.new_zeros(())
        advantages = (rewards - mean) / (spread + 1e-4)
    else:
        # r − (n·mean − r)/(n − 1) = (r − mean)·n/(n − 1)
        advantages = (rewards - mean) * size / (size - 1)
    # exactly 0, where the mean of equal numbers may be a rounding error away from them
    return torch.where(zero_spread(rewards, group)[group], 0.0, advantages)


def decoupled_advantages(parts: Tensor, weights: Tensor, group: Tensor) -> Tensor:
    """Every part of a reward standardised in its group, their weighted sum standardised over the rollout.

    Σ_k w_k·(r_k − mean_k)/(std_k + 1e-4) within a group, then (a − mean)/(std + 1e-4) over all completions,
    so that no part drowns another one (GDPO, arXiv 2601.05242).

    Args:
        parts: (K, B), reward units, the parts of the reward.
        weights: (K,).
        group: int64 (B,), prompt number of each row, from 0.

    Returns:
        (B,).

    Raises:
        UserError: a group of one completion (two are needed for a baseline).
        EngineError: a reward is NaN or infinite.
    """
    standard = torch.stack([group_advantages(part, group, kind="group_std") for part in parts])
    total = (weights.to(standard)[:, None] * standard).sum(0)
    return group_advantages(total, torch.zeros_like(group), kind="batch")


def zero_spread(rewards: Tensor, group: Tensor) -> Tensor:
    """bool (P,): prompts all of whose completions have exactly the same reward, and so no gradient."""
    num_groups = int(group.max()) + 1 if group.numel() else 0
    empty = rewards.new_zeros(num_groups)
    highest = empty.scatter_reduce(0, group, rewards, "amax", include_self=False)
    lowest = empty.scatter_reduce(0, group, rewards, "amin", include_self=False)
    return highest == lowest


def per_token(per_sequence: Tensor, mask: Tensor) -> Tensor:
    """A completion's number at each of its counted tokens, 0 elsewhere. (B,), (B, T) → (B, T)."""
    return torch.where(mask, per_sequence[:, None], 0.0)


def _is_last(mask: Tensor) -> Tensor:
    """bool (B, T), True at each row's last counted token."""
    after = mask.flip(-1).cumsum(-1).flip(-1)
    return mask & (after == 1)


def _group_moments(rewards: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Size and mean of each row's group, (B,) each."""
    size = group.bincount().to(rewards.dtype)
    total = torch.zeros_like(size).index_add(0, group, rewards)
    return size[group], (total / size.clamp(min=1))[group]


def _standardise(rewards: Tensor, group: Tensor) -> Tensor:
    size, mean = _group_moments(rewards, group)
    centred = rewards - mean
    squares = torch.zeros_like(rewards).index_add(0, group, centred.square())[group]
    return centred / ((squares / (size - 1).clamp(min=1)).sqrt() + 1e-4)


def _check_rewards(rewards: Tensor, group: Tensor, *, smallest: int) -> None:
    if not bool(rewards.isfinite().all()):
        row = int((~rewards.isfinite()).nonzero()[0])
        raise EngineError(f"the reward of completion {row} is {float(rewards[row])}; rewards must be finite")
    sizes = group.bincount()
    if bool(((sizes > 0) & (sizes < smallest)).any()):
        raise UserError("a group of one completion has no baseline: sample at least 2 completions per prompt")
