"""Choosing the best of several answers by reward, and telling ties from differences.

K ranked completions of a prompt, N comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from alignloop.data.packing import Group
from alignloop.evaluation.bootstrap import rate_interval
from alignloop.evaluation.reward_bench import Array, Comparisons


def best_of(
    groups: Sequence[Group], rewards: Sequence[Array], n: int = 4, *, level: float = 0.95
) -> dict[str, Any] | None:
    """How often the highest reward among n ranked answers belongs to a best one.

    With K > n answers the mean over all C(K, n) choices of n; equal highest rewards share the credit. A
    choice whose answers all have one rank has no wrong pick and is left out.

    Args:
        groups: with `ranks` in their values; others are passed over.
        rewards: (K,) of each group.
        n: answers to choose from.
        level: nominal coverage of the interval.

    Returns:
        `prompts`, `accuracy`, `interval` and `chance` (of a blind pick); None with fewer than two prompts.
    """
    hits, chances, prompts = [], [], []
    for group, reward in zip(groups, rewards, strict=True):
        if "ranks" not in group.values:
            continue
        ranks = np.asarray(group.values["ranks"])
        picks = [_pick(ranks[list(c)], reward[list(c)]) for c in combinations(range(len(reward)), n)]
        picks = [pick for pick in picks if pick is not None]
        if picks:
            hit, chance = np.mean(picks, axis=0)
            hits.append(hit)
            chances.append(chance)
            prompts.append(group.prompt_ids.tobytes())
    if len(set(prompts)) < 2:
        return None
    interval = rate_interval(hits, prompts, level=level)
    return {
        "prompts": len(set(prompts)),
        "accuracy": interval.value,
        "interval": [interval.low, interval.high],
        "chance": float(np.mean(chances)),
    }


def _pick(ranks: Array, rewards: Array) -> tuple[float, float] | None:
    """Share of the highest rewards that are best answers, and share of best answers."""
    best = ranks == ranks.min()
    if best.all():
        return None
    return float(best[rewards == rewards.max()].mean()), float(best.mean())


def tie_separation(comparisons: Comparisons) -> float | None:
    """P(|margin| of a decided comparison > |margin| of a tie), equal ones ½: the area under the ROC curve.

    ½ says that ties look like differences to the model, 1 that they never do. None without both kinds.
    """
    size = np.abs(comparisons.margin)
    decided, ties = size[comparisons.decided], size[~comparisons.decided]
    if not len(decided) or not len(ties):
        return None
    return float(((1 + np.sign(decided[:, None] - ties[None, :])) / 2).mean())
