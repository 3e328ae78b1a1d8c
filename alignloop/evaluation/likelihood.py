"""What a model's own log-probs say: of given texts, and the KL between two models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from alignloop.data.packing import Batch, Group
from alignloop.evaluation.bootstrap import Interval, mean_interval
from alignloop.model.infer import run_groups
from alignloop.model.packed import Forward, PackedModel


def sequence_logprobs(model: PackedModel, groups: Sequence[Group], token_budget: int) -> list[np.ndarray]:
    """Per-token log-probs of each group's first completion, nats, float64, one array for each group."""

    def read(out: Forward, batch: Batch, chunk: Sequence[Group]) -> list[np.ndarray]:
        assert out.logprobs is not None
        rows = zip(out.logprobs.cpu().double().numpy(), batch.mask.numpy(), strict=True)
        return [row[mask] for row, mask in rows]

    first = [Group(group.prompt_ids, group.completions[:1]) for group in groups]
    return run_groups(model, first, token_budget, model, read, title="log-probs")


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
