"""Best-of-n from one pool of samples, without bias, and its distance from the start.

P prompts, N samples per prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import Interval, mean_interval


@dataclass(frozen=True, slots=True)
class BestOfN:
    """Best-of-n at one n: its KL from the sampling policy in nats, mean gold and proxy reward."""

    n: int
    kl: float
    gold: Interval
    proxy: Interval


def best_of_n(proxy: ArrayLike, gold: ArrayLike, n: int) -> float:
    """Expected gold reward of the proxy's favourite among n of the N samples of one prompt.

    Σ_i gold_(i)·C(i − 1, n − 1)/C(N, n), samples sorted by proxy, ascending: the mean over all subsets
    of size n (Nakano et al. 2021, arXiv 2112.09332, appendix I), so it is unbiased. Samples with the
    same proxy reward share their weights, as if ties were broken at random.

    Args:
        proxy: (N,) reward that chooses.
        gold: (N,) reward that is reported.
        n: 1…N.

    Returns:
        Expected gold reward.

    Raises:
        DataError: unequal lengths, or n outside 1…N.
    """
    proxy, gold = np.asarray(proxy, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if proxy.ndim != 1 or proxy.shape != gold.shape:
        raise DataError("proxy and gold rewards must be two lists of the same length", field="gold")
    total = len(proxy)
    if not 1 <= n <= total:
        raise DataError(f"must lie between 1 and the number of samples, {total}", field="n", value=n)
    weights = np.array([math.comb(i, n - 1) / math.comb(total, n) for i in range(total)])
    order = np.argsort(proxy, kind="stable")
    _, tied = np.unique(proxy[order], return_inverse=True)
    shared = np.bincount(tied, weights=weights) / np.bincount(tied)
    return float(shared[tied] @ gold[order])


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n ‖ policy) = ln n − (n − 1)/n nats.

    Exact for rewards without ties, otherwise an upper bound (Beirami et al. 2024, arXiv 2401.01879).

    Args:
        n: samples to choose from.

    Returns:
        KL in nats.

    Raises:
        DataError: n below 1.
    """
    if n < 1:
        raise DataError("must be 1 or more", field="n", value=n)
    return math.log(n) - (n - 1) / n


def best_of_n_curve(
    proxy: Sequence[ArrayLike], gold: Sequence[ArrayLike], ns: Sequence[int], *, seed: int = 0
) -> list[BestOfN]:
    """Best-of-n over P prompts for each n, with prompt-clustered 95 % intervals.

    Args:
        proxy: P lists of rewards, each with at least max(ns) samples.
        gold: the same shape.
        ns: the numbers of samples to choose from.
        seed: of the bootstrap.

    Returns:
        One point per entry of `ns`.

    Raises:
        DataError: as `best_of_n`, unequal numbers of prompts, or fewer than 2 prompts.
    """
    if len(proxy) != len(gold):
        raise DataError(f"{len(proxy)} prompts with proxy, {len(gold)} with gold rewards", field="gold")

    def interval(rewards: Sequence[ArrayLike], n: int) -> Interval:
        values: NDArray[np.float64] = np.array(
            [best_of_n(p, r, n) for p, r in zip(proxy, rewards, strict=True)]
        )
        return mean_interval(values, seed=seed)

    return [BestOfN(n, best_of_n_kl(n), interval(gold, n), interval(proxy, n)) for n in ns]
