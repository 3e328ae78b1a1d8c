"""Over-optimisation: gold reward as a function of the distance d = √KL(π ‖ start).

Gao, Schulman & Hilton 2022, arXiv 2210.10760, equations 1 and 2. Two different forms:
best-of-n  R(d) = d·(α − β·d)
RL         R(d) = d·(α − β·ln d)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignloop.errors import DataError

Form = Literal["best_of_n", "rl"]

_PENALTY: dict[Form, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "best_of_n": lambda d: -d * d,
    "rl": lambda d: -d * np.log(d),
}


@dataclass(frozen=True, slots=True)
class Overoptimisation:
    """A fitted curve.

    Attributes:
        form: "best_of_n" or "rl".
        alpha: initial gain per √nat.
        beta: how fast the gain is lost; 0 or less means no sign of over-optimisation.
        r_squared: share of the variance of the gold gain around its mean that the curve explains.
        peak_kl: KL in nats at which the fitted gold reward is highest, None if it only rises.
        beyond_peak: whether the largest measured KL lies beyond that.
    """

    form: Form
    alpha: float
    beta: float
    r_squared: float
    peak_kl: float | None
    beyond_peak: bool

    def __call__(self, kl: ArrayLike) -> NDArray[np.float64]:
        """Fitted gold gain at KL values in nats, 0 at KL 0."""
        d = np.sqrt(np.asarray(kl, dtype=np.float64))
        safe = np.where(d > 0, d, 1.0)
        return np.where(d > 0, self.alpha * d + self.beta * _PENALTY[self.form](safe), 0.0)


def fit_overoptimisation(kl: ArrayLike, gold_gain: ArrayLike, form: Form) -> Overoptimisation:
    """Least-squares fit of α and β.

    Args:
        kl: (M,) KL from the starting policy in nats, along training or over n.
        gold_gain: (M,) mean gold reward minus that of the starting policy.
        form: "best_of_n" or "rl".

    Returns:
        The fitted curve.

    Raises:
        DataError: unknown form, negative or non-finite numbers, unequal lengths, or fewer than 3
            different KL values above 0.
    """
    if form not in _PENALTY:
        raise DataError(f"accepted are {', '.join(_PENALTY)}", field="form", value=form)
    kl, gain = np.asarray(kl, dtype=np.float64), np.asarray(gold_gain, dtype=np.float64)
    if kl.ndim != 1 or kl.shape != gain.shape:
        raise DataError("kl and gold_gain must be two lists of the same length", field="gold_gain")
    if not (np.isfinite(kl).all() and np.isfinite(gain).all() and (kl >= 0).all()):
        raise DataError("KL must be 0 or more and all numbers finite", field="kl")
    kl, gain = kl[kl > 0], gain[kl > 0]
    if len(np.unique(kl)) < 3:
        raise DataError("a fit needs at least 3 different KL values above 0", field="kl")
    d = np.sqrt(kl)
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, _PENALTY[form](d)], axis=1), gain, rcond=None)
    peak = _peak(float(alpha), float(beta), form)
    fitted = alpha * d + beta * _PENALTY[form](d)
    total = float(((gain - gain.mean()) ** 2).sum())
    r_squared = 1 - float(((gain - fitted) ** 2).sum()) / total if total > 0 else math.nan
    beyond = peak is not None and float(kl.max()) > peak
    return Overoptimisation(form, float(alpha), float(beta), r_squared, peak, beyond)


def _peak(alpha: float, beta: float, form: Form) -> float | None:
    """KL where dR/dd = 0: d = α/2β for best-of-n, d = e^{α/β − 1} for RL."""
    if beta <= 0:
        return None
    if form == "best_of_n":
        return (alpha / (2 * beta)) ** 2 if alpha > 0 else 0.0
    exponent = 2 * (alpha / beta - 1)
    return math.exp(exponent) if exponent < 700 else None
