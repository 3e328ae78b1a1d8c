import math

import numpy as np
import pytest

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import wilson
from alignloop.evaluation.planner import (
    detectable_difference,
    prompts_for_difference,
    prompts_for_win_rate,
    rate_difference_deviation,
)


def test_textbook_numbers():
    # ((1.959964 + 0.841621)/0.5)² = 31.4
    assert prompts_for_difference(0.5, standard_deviation=1.0) == 32
    # ((1.959964·½ + 0.841621·√0.24)/0.1)² = 193.8
    assert prompts_for_win_rate(0.6) == 194
    assert prompts_for_win_rate(0.4) == 194
    assert detectable_difference(32, standard_deviation=1.0) == pytest.approx(0.4952, abs=1e-4)


def test_ties_make_scores_quieter():
    # σ₀² = 0.7/4, σ₁² = 0.24 − 0.3/4
    expected = ((1.959964 * math.sqrt(0.175) + 0.841621 * math.sqrt(0.165)) / 0.1) ** 2
    assert prompts_for_win_rate(0.6, ties=0.3) == math.ceil(expected)


@pytest.mark.parametrize(("rate", "ties"), [(0.6, 0.0), (0.58, 0.3), (0.7, 0.1)])
def test_the_planned_number_has_the_promised_power(rate, ties):
    n = prompts_for_win_rate(rate, ties=ties, power=0.8)
    u = np.random.default_rng(0).random((n, 4000))
    scores = np.where(u < rate - ties / 2, 1.0, np.where(u < rate + ties / 2, 0.5, 0.0))
    low, _ = wilson(scores, np.ones(n))
    assert 0.77 <= np.mean(low > 0.5) <= 0.83


def test_rate_differences():
    # p = 0.2, q = 0.3: 0.16 + 0.21 = 0.37; correlation 0.5 takes √(0.16·0.21) off
    assert rate_difference_deviation(0.2, 0.3) == pytest.approx(math.sqrt(0.37))
    correlated = rate_difference_deviation(0.2, 0.3, correlation=0.5)
    assert correlated == pytest.approx(math.sqrt(0.37 - math.sqrt(0.0336)))
    assert rate_difference_deviation(0.2, 0.3, samples=4) == pytest.approx(math.sqrt(0.37) / 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: prompts_for_win_rate(0.5),
        lambda: prompts_for_win_rate(1.0),
        lambda: prompts_for_win_rate(0.9, ties=0.4),
        lambda: prompts_for_win_rate(0.6, power=1.0),
        lambda: prompts_for_difference(0.0, standard_deviation=1.0),
        lambda: prompts_for_difference(0.1, standard_deviation=0.0),
        lambda: prompts_for_difference(math.nan, standard_deviation=1.0),
        lambda: detectable_difference(1, standard_deviation=1.0),
        lambda: rate_difference_deviation(0.0, 0.5),
        lambda: rate_difference_deviation(0.2, 0.5, samples=0),
    ],
)
def test_wrong_input(call):
    with pytest.raises(DataError):
        call()
