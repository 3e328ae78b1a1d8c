"""The largest of correlated normals: critical values and p-values that hold for several models at once."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DRAWS = 10_000


def largest_normal(correlation: Array, level: float, *, draws: int = DRAWS, seed: int = 0) -> float:
    """The `level` quantile of max |Z_s|, Z normal with this correlation (S, S); exact for one."""
    if len(correlation) == 1:
        return NormalDist().inv_cdf((1 + level) / 2)
    return float(np.quantile(_largest(correlation, draws, seed), level))


def p_of_largest(correlation: Array, z: Array, *, draws: int = DRAWS, seed: int = 0) -> Array:
    """P(max |Z| ≥ |z_s|) for each s, (S, S), (S,) → (S,): the p-values that belong to `largest_normal`."""
    if len(correlation) == 1:
        return np.array([2 * (1 - NormalDist().cdf(abs(float(z[0]))))])
    return (1 + (_largest(correlation, draws, seed)[:, None] >= np.abs(z)).sum(0)) / (1 + draws)


def correlation_of(table: Array) -> Array:
    """Correlation of the columns of (C, S); a column without spread is correlated with none."""
    centred = table - table.mean(0)
    norms = np.sqrt((centred**2).sum(0))
    scaled = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 1e-12)
    found = scaled.T @ scaled
    np.fill_diagonal(found, 1.0)
    return found


def agreeing(p: Array, excludes: Array, level: float) -> list[float]:
    """p-values on the side of 1 − level on which their intervals are, whatever the draws' resolution did."""
    limit = round(1 - level, 12)
    return np.where(excludes, np.minimum(p, np.nextafter(limit, 0)), np.maximum(p, limit)).tolist()


def _largest(correlation: Array, draws: int, seed: int) -> Array:
    """max_s |Z_s| of each draw, (draws,)."""
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    z = np.random.default_rng(seed).standard_normal((draws, len(correlation))) @ root.T
    return np.abs(z).max(1)
