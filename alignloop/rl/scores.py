"""What the completions of a rollout are worth: the sum that is learned from, and its parts.

B completions, flat in the order of the rollout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Scores:
    """Rewards of a rollout.

    Attributes:
        total: float64 (B,), what is learned from, in reward units.
        raw: float64 (B,), the weighted sum before the rule for a missing EOS, clipping and normalisation.
        components: float64 (B,) by name, unweighted.
        spread: float64 (B,), standard deviation over the ensemble's members; None without one.
        weights: weight of each component that is a summand of `raw`; an ensemble's members are none.
        penalties: names of the components that are penalties.
    """

    total: np.ndarray
    raw: np.ndarray
    components: Mapping[str, np.ndarray]
    spread: np.ndarray | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    penalties: tuple[str, ...] = ()

    @property
    def judged(self) -> np.ndarray:
        """Weighted sum of the components that are no penalties, float64 (B,); `raw` without any of them."""
        parts = [w * self.components[name] for name, w in self.weights.items() if name not in self.penalties]
        return np.sum(parts, axis=0) if parts else self.raw

    def chosen(self, places: Sequence[int]) -> Scores:
        """The scores of some completions, in this order."""
        index = np.asarray(places, dtype=np.int64)
        return Scores(
            self.total[index],
            self.raw[index],
            {name: values[index] for name, values in self.components.items()},
            None if self.spread is None else self.spread[index],
            self.weights,
            self.penalties,
        )

    def to_json(self) -> dict[str, Any]:
        """As lists and numbers."""
        return {
            "total": self.total.tolist(),
            "raw": self.raw.tolist(),
            "components": {name: values.tolist() for name, values in self.components.items()},
            "spread": None if self.spread is None else self.spread.tolist(),
            "weights": dict(self.weights),
            "penalties": list(self.penalties),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Scores:
        """The inverse of `to_json`."""
        return Scores(
            np.asarray(content["total"]),
            np.asarray(content["raw"]),
            {name: np.asarray(values) for name, values in content["components"].items()},
            None if content["spread"] is None else np.asarray(content["spread"]),
            dict(content["weights"]),
            tuple(content["penalties"]),
        )


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of several groups of completions by the same reward, one after another."""
    first = parts[0]
    spreads = [part.spread for part in parts if part.spread is not None]
    return Scores(
        np.concatenate([part.total for part in parts]),
        np.concatenate([part.raw for part in parts]),
        {name: np.concatenate([part.components[name] for part in parts]) for name in first.components},
        np.concatenate(spreads) if spreads else None,
        first.weights,
        first.penalties,
    )


def unique_names(names: Sequence[str], reserved: Sequence[str] = ()) -> list[str]:
    """Names of which none occurs twice nor is reserved: `score`, `score_2`, `score_3`, …

    A name that occurs once and is not reserved stays as it is.
    """
    taken = {*reserved, *(name for name in names if name not in reserved)}
    seen: set[str] = set()
    result = []
    for name in names:
        own, number = name, 1
        while own in seen or own in reserved or (number > 1 and own in taken):
            number += 1
            own = f"{name}_{number}"
        seen.add(own)
        result.append(own)
    return result
