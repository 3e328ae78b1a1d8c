"""How many prompts an evaluation needs, before it is paid for.

n = ((z_{1−α/2}·σ₀ + z_{power}·σ₁) / δ)², with σ the standard deviation of one prompt's score, under no
difference (σ₀) and under the difference δ to be found (σ₁).
"""

from __future__ import annotations

import math
from statistics import NormalDist

from alignloop.errors import DataError


def prompts_for_win_rate(
    win_rate: float, *, ties: float = 0.0, power: float = 0.8, level: float = 0.95
) -> int:
    """Prompts needed so that a true win rate is told apart from ½.

    A prompt's score is 1, ½ or 0 with P(½) = `ties`: variance p(1 − p) − ties/4.

    Args:
        win_rate: the win rate, ties ½, that one wants to be able to prove.
        ties: share of ties (orders that disagree included).
        power: probability that the interval then excludes ½.
        level: of the interval.

    Returns:
        Number of prompts.

    Raises:
        DataError: a rate of ½, or a number outside its range.
    """
    _check_share("win_rate", win_rate, low=0, high=1)
    _check_share("ties", ties, low=0, high=1, closed=True)
    if win_rate == 0.5:
        raise DataError("a win rate of exactly ½ cannot be told apart from ½", field="win_rate")
    if ties > 2 * min(win_rate, 1 - win_rate):
        raise DataError(
            f"with a win rate of {win_rate:g} there cannot be so many ties", field="ties", value=ties
        )
    null, alternative = math.sqrt((1 - ties) / 4), math.sqrt(win_rate * (1 - win_rate) - ties / 4)
    return _prompts(abs(win_rate - 0.5), null, alternative, power, level)


def prompts_for_difference(
    difference: float, *, standard_deviation: float, power: float = 0.8, level: float = 0.95
) -> int:
    """Prompts needed so that a mean difference of two models on the same prompts is told apart from 0.

    Args:
        difference: the smallest difference worth finding, in the metric's unit.
        standard_deviation: of one prompt's difference, from a pilot or `rate_difference_deviation`.
        power: probability that the paired interval then excludes 0.
        level: of the interval.

    Returns:
        Number of prompts.

    Raises:
        DataError: a difference of 0 or a number outside its range.
    """
    if not math.isfinite(difference) or difference == 0:
        raise DataError("must be a number other than 0", field="difference", value=difference)
    if not (math.isfinite(standard_deviation) and standard_deviation > 0):
        raise DataError("must be above 0", field="standard_deviation", value=standard_deviation)
    return _prompts(abs(difference), standard_deviation, standard_deviation, power, level)


def detectable_difference(
    num_prompts: int, *, standard_deviation: float, power: float = 0.8, level: float = 0.95
) -> float:
    """The smallest mean difference that `num_prompts` prompts find with the given power.

    Args:
        num_prompts: prompts of the evaluation.
        standard_deviation: of one prompt's difference.
        power: probability that the paired interval excludes 0.
        level: of the interval.

    Returns:
        The difference, in the metric's unit.

    Raises:
        DataError: a number outside its range.
    """
    if num_prompts < 2:
        raise DataError("must be 2 or more", field="num_prompts", value=num_prompts)
    if not (math.isfinite(standard_deviation) and standard_deviation > 0):
        raise DataError("must be above 0", field="standard_deviation", value=standard_deviation)
    return sum(_quantiles(power, level)) * standard_deviation / math.sqrt(num_prompts)


def rate_difference_deviation(
    first: float, second: float, *, correlation: float = 0.0, samples: int = 1
) -> float:
    """Standard deviation of one prompt's difference between two pass rates.

    √((p(1 − p) + q(1 − q) − 2ρ√(p(1 − p)q(1 − q))) / samples), ρ the correlation of the two models'
    results on the same prompt. Dividing by the samples per prompt takes them as independent given the
    prompt *and* all prompts as equally hard; otherwise use a pilot's standard deviation.

    Args:
        first: pass rate p.
        second: pass rate q.
        correlation: ρ.
        samples: samples per prompt.

    Returns:
        Standard deviation of the difference.

    Raises:
        DataError: a number outside its range.
    """
    for name, rate in (("first", first), ("second", second)):
        _check_share(name, rate, low=0, high=1)
    _check_share("correlation", correlation, low=-1, high=1)
    if samples < 1:
        raise DataError("must be 1 or more", field="samples", value=samples)
    a, b = first * (1 - first), second * (1 - second)
    return math.sqrt((a + b - 2 * correlation * math.sqrt(a * b)) / samples)


def _prompts(difference: float, null: float, alternative: float, power: float, level: float) -> int:
    z_level, z_power = _quantiles(power, level)
    return max(2, math.ceil(((z_level * null + z_power * alternative) / difference) ** 2))


def _quantiles(power: float, level: float) -> tuple[float, float]:
    _check_share("power", power, low=0, high=1)
    _check_share("level", level, low=0, high=1)
    return NormalDist().inv_cdf((1 + level) / 2), NormalDist().inv_cdf(power)


def _check_share(name: str, value: float, *, low: float, high: float, closed: bool = False) -> None:
    if not (low < value < high or (closed and value in (low, high))):
        raise DataError(f"must lie between {low:g} and {high:g}", field=name, value=value)
