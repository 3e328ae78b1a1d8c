"""What a model's own log-probs say: perplexity of held-out text, KL between two models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from alignloop.data.packing import Group, collate, pack
from alignloop.evaluation.bootstrap import Interval, mean_interval
from alignloop.model.packed import PackedModel


def sequence_logprobs(model: PackedModel, groups: Sequence[Group], token_budget: int) -> list[np.ndarray]:
    """Per-token log-probs of each group's first completion, nats, float64, one array for each group."""
    model.eval()
    found: list[np.ndarray] = [np.zeros(0)] * len(groups)
    numbered = [Group(g.prompt_ids, g.completions[:1], i) for i, g in enumerate(groups)]
    with torch.no_grad():
        for chunk in pack(numbered, token_budget):
            batch = collate(chunk)
            logprobs = model(batch).logprobs
            assert logprobs is not None
            for group, row, mask in zip(
                chunk, logprobs.cpu().double().numpy(), batch.mask.numpy(), strict=True
            ):
                found[group.index] = row[mask]
    return found


def perplexity(
    model: PackedModel,
    groups: Sequence[Group],
    token_budget: int,
    *,
    level: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> Interval:
    """exp(mean NLL per token) of documents, with an interval that resamples documents.

    Args:
        model: as `sequence_logprobs`, like the two after it.
        groups: the documents.
        token_budget: of a forward pass.
        level: nominal coverage.
        replicates: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        Perplexity per token.

    Raises:
        DataError: fewer than two documents.
    """
    logprobs = sequence_logprobs(model, groups, token_budget)
    tokens = np.concatenate(logprobs)
    owner = np.repeat(np.arange(len(logprobs)), [len(part) for part in logprobs])
    mean = mean_interval(-tokens, owner.tolist(), level=level, replicates=replicates, seed=seed)
    return Interval(
        math.exp(mean.value),
        math.exp(mean.low),
        math.exp(mean.high),
        mean.level,
        mean.num_clusters,
        mean.method,
    )


def kl_on_samples(
    policy: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]],
    *,
    level: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> Interval:
    """KL(policy ‖ reference) in nats per completion, from samples of the policy (k1, temperature 1).

    Σ_t log π(y_t) − log ref(y_t), averaged over completions. Unbiased only for samples drawn at
    temperature 1 without truncation; for greedy completions it is the log-ratio of those.

    Args:
        policy: log-probs of the tokens of each completion by the policy, nats, at temperature 1.
        reference: those of the same tokens by the reference.
        level: nominal coverage.
        replicates: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The KL with an interval that resamples completions.
    """
    ratios = [math.fsum(ours) - math.fsum(theirs) for ours, theirs in zip(policy, reference, strict=True)]
    return mean_interval(ratios, level=level, replicates=replicates, seed=seed)
