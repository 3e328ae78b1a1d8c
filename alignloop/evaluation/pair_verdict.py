"""What was learned from judged pairs, on pairs held out: rates with intervals, and a verdict in words.

N held-out pairs; a margin is a score of the chosen completion minus that of the rejected one: a reward
model's rewards, or β times a policy's implicit rewards (Rafailov et al. 2023, arXiv 2305.18290, equation 5),
whose sign does not depend on β.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import Interval, rate_interval
from alignloop.evaluation.winrate import length_controlled_win_rate
from alignloop.runs.evaluation_results import AnswersWon, WinRow
from alignloop.runs.results import Estimate, PairAccuracy, ends


@dataclass(frozen=True, slots=True)
class PairRate:
    """How often the chosen completion has the higher score.

    Attributes:
        accuracy: over all pairs, equal scores ½, prompts as the sampled unit.
        at_equal_length: predicted for completions of equal length; None with fewer than 3 prompts, or where
            the chosen one is always the longer one, or always the shorter.
        num_pairs: N.
    """

    accuracy: Interval
    at_equal_length: Interval | None
    num_pairs: int

    @property
    def learned(self) -> bool:
        """Whether the interval lies above chance."""
        return self.accuracy.low > 0.5

    @property
    def only_length(self) -> bool:
        """Whether it is above chance, but not at equal length."""
        return self.learned and self.at_equal_length is not None and self.at_equal_length.low <= 0.5

    def row(self) -> PairAccuracy:
        """As results for run.json."""
        one, two = self.accuracy, self.at_equal_length
        return PairAccuracy(
            accuracy=one.value,
            accuracy_interval=ends(one),
            at_equal_length=None if two is None else two.value,
            at_equal_length_interval=ends(two),
            pairs=self.num_pairs,
        )


def pair_rate(
    margins: ArrayLike, length_differences: ArrayLike, prompts: Sequence[object], *, level: float = 0.95
) -> PairRate:
    """Accuracy on held-out pairs, and accuracy at equal length.

    At equal length: P(right) = σ(b₀ + b₁·tanh(Δ/sd)) at Δ = 0, see `length_controlled_win_rate`.

    Args:
        margins: (N,) score of chosen minus rejected.
        length_differences: (N,) length of chosen minus rejected, any unit.
        prompts: (N,) prompt of each pair.
        level: nominal coverage.

    Returns:
        The rates.

    Raises:
        DataError: fewer than 2 prompts, or a margin that is not finite.
    """
    found = np.asarray(margins, dtype=np.float64)
    if not np.isfinite(found).all():
        raise DataError("a score is not finite", field="margins")
    right = (1 + np.sign(found)) / 2
    accuracy = rate_interval(right, prompts, level=level)
    controlled, gaps = None, np.asarray(length_differences, dtype=np.float64)
    if len(set(prompts)) >= 3 and gaps.min() <= 0 <= gaps.max():
        controlled = length_controlled_win_rate(right, gaps, prompts, level=level).win_rate
    return PairRate(accuracy, controlled, len(right))


def pairs_needed(accuracy: float, *, level: float = 0.95) -> int | None:
    """Held-out pairs with which this accuracy would be told apart from chance: (z·½ / (p − ½))².

    Args:
        accuracy: p, 0 to 1.
        level: nominal coverage.

    Returns:
        The number, None at or below chance.
    """
    if accuracy <= 0.5:
        return None
    z = NormalDist().inv_cdf((1 + level) / 2)
    return math.ceil((z * 0.5 / (accuracy - 0.5)) ** 2)


def sentences(
    policy: PairRate, reward: PairRate, wins: AnswersWon | None, *, chosen_longer: float
) -> list[str]:
    """The verdict first, then what it rests on.

    Args:
        policy: implicit rewards of the trained model against its reference.
        reward: the reward model's.
        wins: of the new answers over the old ones by the reward model, None where nothing was compared.
        chosen_longer: share of held-out pairs whose chosen completion is the longer one, equal lengths ½.

    Returns:
        Sentences for terminal and report.
    """
    found = [f"Verdict: {_verdict(policy, reward, wins)}"]
    found.append(f"The reward model agrees with {_rate(reward)}.")
    found.append(f"The trained model itself leans towards the chosen answer in {_rate(policy)}.")
    found.append(f"Always preferring the longer answer would get {100 * chosen_longer:.1f} %.")
    for name, rate in (("reward model", reward), ("trained model", policy)):
        if rate.only_length:
            found.append(
                f"The {name} may have learned length: at equal length it is not told apart from chance."
            )
    if wins is not None:
        equal = (
            "" if wins.at_equal_length is None else f", {100 * wins.at_equal_length:.1f} % at equal length"
        )
        found.append(
            f"The reward model, names hidden, prefers the new answers in {100 * wins.value:.1f} % "
            f"[{100 * wins.low:.1f}, {100 * wins.high:.1f}] of {wins.num_prompts} held-out prompts{equal}: "
            f"{wins.verdict}. It learned from the same pairs, so people have the last word."
        )
    return found


def _rate(rate: PairRate) -> str:
    one, two = rate.accuracy, rate.at_equal_length
    equal = "" if two is None else f"; at equal length {_shown(two)}"
    return f"{_shown(one)} of {rate.num_pairs} held-out judgements{equal}"


def _shown(one: Interval) -> str:
    return f"{100 * one.value:.1f} % [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _verdict(policy: PairRate, reward: PairRate, wins: AnswersWon | None) -> str:
    if not policy.learned and not reward.learned:
        best = max(policy.accuracy.value, reward.accuracy.value)
        needed = pairs_needed(best)
        more = f"; at this accuracy about {needed} held-out pairs would decide" if needed else ""
        return (
            f"nothing is shown to be learned: on {policy.num_pairs} held-out pairs neither the trained model "
            f"nor the reward model is told apart from chance{more}."
        )
    if not reward.learned:
        return (
            "the trained model follows the judgements on held-out pairs; the reward model is not told apart "
            "from chance, so its opinion of the new answers says nothing."
        )
    if not policy.learned:
        return (
            "the judgements can be learned, as the reward model shows, but the trained model does not follow "
            "them yet: train longer or at a higher rate."
        )
    if wins is None or wins.verdict == "undecided":
        said = "the judgements were learned and hold on new prompts"
        return f"{said}; whether the new answers are better is undecided."
    if wins.verdict == "better":
        return "the judgements were learned, hold on new prompts, and show in the answers."
    return "the judgements were learned, but the reward model finds the new answers worse: read them first."


def wins_of(row: WinRow | None) -> AnswersWon | None:
    """A row of a comparison's win rates, None for none, or for one without its rate."""
    if row is None or row.value is None or row.interval is None:
        return None
    return AnswersWon(
        value=row.value,
        low=row.interval[0],
        high=row.interval[1],
        at_equal_length=row.length_controlled,
        num_prompts=row.num_prompts or 0,
        verdict=Estimate(interval=row.interval).against_half,
    )
