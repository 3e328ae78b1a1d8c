"""Which items to have judged next, from plain numbers about them.

N candidates, K answers, E reward models, D features. A share of every batch is chosen at random and
kept apart as the arm `random`: what the strategy gains is measured against it, and agreement and bias
are estimated on it, since a chosen sample stands for nothing but itself.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignloop.errors import UserError

Strategy = Literal["random", "uncertainty", "gap", "diversity"]
Array = NDArray[np.float64]

POOL = 4
"""With features, `uncertainty` and `gap` spread their choice over the best POOL·count candidates."""


_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen candidates.

    Attributes:
        indices: (count,) positions among the candidates, in order of choice within each arm.
        arms: for each the strategy that chose it, `random` for the control.
    """

    indices: NDArray[np.int64]
    arms: tuple[str, ...]


def choose(
    strategy: Strategy,
    count: int,
    *,
    num_candidates: int,
    scores: ArrayLike | None = None,
    features: ArrayLike | None = None,
    labelled: ArrayLike | None = None,
    random_share: float = 0.2,
    seed: int = 0,
) -> Selection:
    """Choose candidates to be judged.

    Args:
        strategy: `random`; `uncertainty` takes near ties of the reward models; `gap` large predicted
            differences; `diversity` what is far from everything judged or chosen before.
        count: how many to choose, all if there are fewer.
        num_candidates: N.
        scores: (N, K) rewards of one model or (E, N, K) of an ensemble; for uncertainty and gap.
        features: (N, D), for diversity; with the others, keeps the batch from repeating itself.
        labelled: (M, D) features of what was judged before.
        random_share: least share of the batch that is chosen at random, above 0.
        seed: of the random arm.

    Returns:
        The chosen candidates and which arm chose each.

    Raises:
        UserError: the strategy's numbers are missing, or shapes do not fit.
    """
    if not 0.0 < random_share <= 1.0:
        raise UserError("random_share must lie above 0 and at most at 1: the random arm is the control")
    count = min(count, num_candidates)
    shuffled = np.random.default_rng(seed).permutation(num_candidates)
    num_random = count if strategy == "random" else math.ceil(random_share * count)
    control, rest = shuffled[:num_random], np.sort(shuffled[num_random:])
    if num_random == count:
        return Selection(control, ("random",) * count)
    points = None if features is None else _points(features, num_candidates)
    near = [] if points is None else [points[control]]
    if labelled is not None and points is not None:
        near.append(np.asarray(labelled, dtype=np.float64))
    if strategy == "diversity":
        if points is None:
            raise UserError("diversity needs features of the candidates")
        picked = rest[farthest_first(points[rest], count - num_random, near=np.concatenate(near))]
    else:
        value = usefulness(strategy, scores, num_candidates)
        best = rest[np.argsort(-value[rest], kind="stable")]
        picked = best[: count - num_random]
        if points is not None:
            pool = best[: POOL * (count - num_random)]
            picked = pool[farthest_first(points[pool], count - num_random, near=np.concatenate(near))]
    return Selection(np.concatenate([control, picked]), ("random",) * num_random + (strategy,) * len(picked))


def usefulness(strategy: str, scores: ArrayLike | None, num_candidates: int) -> Array:
    """How much a strategy wants each candidate: (N,), higher is wanted more.

    For `uncertainty` the mean over answer pairs of the entropy of the ensemble's mean preference,
    H(mean_e σ(r_i − r_j)): high for near ties and where the models contradict each other. For `gap`
    the largest mean difference of two answers.
    """
    if scores is None:
        raise UserError(f"{strategy} needs reward-model scores of the candidates")
    values = np.asarray(scores, dtype=np.float64)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[1] != num_candidates or values.shape[2] < 2:
        raise UserError(f"scores must have the shape (N, K) or (E, N, K) with N = {num_candidates}, K ≥ 2")
    if not np.isfinite(values).all():
        raise UserError("scores must be finite numbers")
    if strategy == "gap":
        mean = values.mean(0)
        return mean.max(1) - mean.min(1)
    first, second = np.triu_indices(values.shape[2], 1)
    chance = (0.5 * (1 + np.tanh((values[:, :, first] - values[:, :, second]) / 2))).mean(0)
    chance = np.clip(chance, 1e-12, 1 - 1e-12)
    return -(chance * np.log(chance) + (1 - chance) * np.log(1 - chance)).mean(1)


def farthest_first(points: Array, count: int, *, near: Array) -> NDArray[np.int64]:
    """Greedy k-centre (Gonzalez 1985; Sener & Savarese 2018, arXiv 1708.00489): positions in `points`.

    Each next point is the one farthest from `near` and from those taken, by Euclidean distance;
    the first, with nothing near, is the one farthest from the mean.
    """
    count = min(count, len(points))
    centres = near if len(near) else points.mean(0, keepdims=True)
    squares = (points**2).sum(1)
    distance = np.full(len(points), np.inf)
    for start in range(0, len(centres), _CHUNK):
        part = centres[start : start + _CHUNK]
        crossed = squares[:, None] + (part**2).sum(1) - 2 * points @ part.T
        distance = np.minimum(distance, crossed.min(1))
    taken = []
    for _ in range(count):
        k = int(distance.argmax())
        taken.append(k)
        distance = np.minimum(distance, ((points - points[k]) ** 2).sum(1))
        distance[k] = -1.0
    return np.array(taken, dtype=np.int64)


def text_features(texts: Sequence[str], *, dimension: int = 256) -> Array:
    """Hashed character 3-gram counts, square-rooted and of unit length: (N, dimension).

    For any language and without a model; a model's mean hidden state is better where there is one.
    """
    features = np.zeros((len(texts), dimension))
    for row, text in zip(features, texts, strict=True):
        lowered = f"  {text.lower()}  "
        for k in range(len(lowered) - 2):
            row[zlib.crc32(lowered[k : k + 3].encode("utf-8", "replace")) % dimension] += 1.0
    features = np.sqrt(features)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _points(features: ArrayLike, num_candidates: int) -> Array:
    points = np.asarray(features, dtype=np.float64)
    if points.ndim != 2 or len(points) != num_candidates or not np.isfinite(points).all():
        raise UserError(f"features must be finite numbers of the shape (N, D) with N = {num_candidates}")
    return points
