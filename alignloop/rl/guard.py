"""Is the policy getting better, or better at fooling its reward? Readings, alarms, the best so far.

Every comparison is between running means over `window` rollouts: the newest, the first, and the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

AlarmName = Literal[
    "reward_up_gold_down", "length_growth", "entropy_collapse", "kl_over_budget", "spread_growth"
]


@dataclass(frozen=True, slots=True)
class RolloutReading:
    """Means over one rollout, taken before it is learned from; None where it is not measured.

    Attributes:
        reward: proxy reward, before normalisation.
        gold: gold reward, which is not trained on.
        kl: KL to the reference per completion, nats.
        length: tokens per completion.
        entropy: per token, nats.
        spread: standard deviation over the ensemble's members, reward units.
    """

    reward: float
    length: float
    entropy: float
    gold: float | None = None
    kl: float | None = None
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class AlarmLimits:
    """When an alarm goes off.

    Attributes:
        window: rollouts of a running mean; nothing is compared before two windows are full.
        kl_budget: KL per completion in nats; 0 is off.
        gold_drop: how far gold may fall below its best while the reward is above what it was then.
        length_factor: multiple of the first length.
        entropy_factor: share of the first entropy.
        spread_factor: multiple of the first spread.
    """

    window: int = 5
    kl_budget: float = 0.0
    gold_drop: float = 0.05
    length_factor: float = 2.0
    entropy_factor: float = 0.2
    spread_factor: float = 2.0


class Alarm(NamedTuple):
    """What went wrong, in one sentence with its numbers."""

    name: AlarmName
    text: str


@dataclass
class TrainingGuard:
    """Watches the readings of a run.

    Attributes:
        limits: when an alarm goes off.
        follow: what the best weights are judged by; none keeps no best.
        readings: all so far; with `best` the only state.
        best: running mean of `follow` at its highest, with the reward then; None before a window is full.
        best_gold: the same of gold.
    """

    limits: AlarmLimits
    follow: Literal["none", "gold", "reward"] = "none"
    readings: list[RolloutReading] = field(default_factory=list)
    best: dict[str, float] | None = None
    best_gold: dict[str, float] | None = None

    def update(self, reading: RolloutReading) -> list[Alarm]:
        """Take in a rollout's reading; returns the alarms it sets off."""
        self.readings.append(reading)
        window = self.limits.window
        if self._mean("gold") is not None and len(self.readings) >= window:
            self.best_gold = self._higher(self.best_gold, "gold")
        if len(self.readings) < 2 * window and not self.limits.kl_budget:
            return []
        return self._alarms(compare=len(self.readings) >= 2 * window)

    def is_best(self) -> bool:
        """Whether the newest running mean of `follow` is the highest and the newest reading not below it.

        A window looks back: where gold falls faster than it rose, its mean still rises for some rollouts
        after the peak, and their weights are worse than it says. To be asked once after `update`.
        """
        if self.follow == "none" or len(self.readings) < self.limits.window:
            return False
        mean, newest = self._mean(self.follow), getattr(self.readings[-1], self.follow)
        if mean is None or (self.best is not None and (newest is None or newest < mean)):
            return False
        before, self.best = self.best, self._higher(self.best, self.follow)
        return self.best is not before

    def state_dict(self) -> dict[str, Any]:
        """Readings and bests as plain data."""
        return {
            "readings": [asdict(reading) for reading in self.readings],
            "best": self.best,
            "best_gold": self.best_gold,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.readings = [RolloutReading(**row) for row in state["readings"]]
        self.best, self.best_gold = state["best"], state["best_gold"]

    def _higher(self, best: dict[str, float] | None, name: str) -> dict[str, float] | None:
        value = self._mean(name)
        if value is None or (best is not None and value <= best["value"]):
            return best
        return {
            "value": value,
            "reward": self._always("reward"),
            "rollout": float(len(self.readings) - 1),
        }

    def _measured(self, name: str, first: bool) -> list[float]:
        """The numbers of the newest window, or of the first one, that were measured."""
        window = self.limits.window
        part = self.readings[:window] if first else self.readings[-window:]
        return [value for reading in part if (value := getattr(reading, name)) is not None]

    def _mean(self, name: str, *, first: bool = False) -> float | None:
        found = self._measured(name, first)
        return sum(found) / len(found) if found else None

    def _always(self, name: Literal["reward", "entropy"], *, first: bool = False) -> float:
        """The mean of what every reading holds."""
        found = self._measured(name, first)
        return sum(found) / len(found)

    def _alarms(self, *, compare: bool) -> list[Alarm]:
        limits, found = self.limits, list[Alarm]()
        kl = self._mean("kl")
        if limits.kl_budget and kl is not None and kl > limits.kl_budget:
            text = f"KL {kl:.2f} nats per completion is above the budget of {limits.kl_budget:g}"
            found.append(Alarm("kl_over_budget", text))
        if not compare:
            return found
        gold, reward, best = self._mean("gold"), self._always("reward"), self.best_gold
        if gold is not None:
            assert best is not None  # `update` has set it
            if gold < best["value"] - limits.gold_drop and reward > best["reward"]:
                text = (
                    f"reward rose from {best['reward']:.3f} to {reward:.3f} while gold fell from its best "
                    f"{best['value']:.3f} to {gold:.3f}: the reward is being exploited"
                )
                found.append(Alarm("reward_up_gold_down", text))
        for name, alarm, factor in (
            ("length", "length_growth", limits.length_factor),
            ("spread", "spread_growth", limits.spread_factor),
        ):
            before, now = self._mean(name, first=True), self._mean(name)
            if before is not None and now is not None and now > factor * before:
                text = f"{name} grew from {before:.3g} to {now:.3g}, more than {factor:g} times"
                found.append(Alarm(alarm, text))  # pyright: ignore[reportArgumentType]
        before, now = self._always("entropy", first=True), self._always("entropy")
        if now < limits.entropy_factor * before:
            text = f"entropy fell from {before:.3g} to {now:.3g} nats per token: answers become all alike"
            found.append(Alarm("entropy_collapse", text))
        return found
