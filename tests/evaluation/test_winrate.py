import math

import numpy as np
import pytest
import statsmodels.api as sm

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import rate_interval
from alignloop.evaluation.winrate import (
    length_controlled_win_rate,
    win_rate,
)


def test_win_rate_counts_ties_half_and_is_clustered():
    scores, prompts = [1, 1, 0.5, 0.5, 0, 0.5], ["a", "a", "b", "b", "c", "c"]
    found = win_rate(scores, prompts)
    assert found.value == pytest.approx(3.5 / 6)
    assert found == rate_interval(scores, prompts)
    assert win_rate(scores, prompts, method="studentised").method == "studentised"


def test_win_rate_of_a_sweep_does_not_claim_certainty():
    found = win_rate(np.ones(200))
    # Wilson at p = 1: n/(n + z²)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(200 / (200 + 1.959964**2), abs=1e-6)


def test_length_control_is_logistic_regression_at_zero():
    rng = np.random.default_rng(0)
    delta = rng.normal(10, 30, 4000)
    tanh = np.tanh(delta / delta.std())
    scores = (rng.random(4000) < 1 / (1 + np.exp(-0.3 - 1.2 * tanh))).astype(float)
    found = length_controlled_win_rate(scores, delta)
    reference = sm.Logit(scores, sm.add_constant(tanh)).fit(disp=False)
    # Firth's correction is O(1/N).
    assert found.win_rate.value == pytest.approx(1 / (1 + math.exp(-reference.params[0])), abs=1e-4)
    assert found.length_effect == pytest.approx(reference.params[1], abs=2e-3)
    z_error = (
        math.log(found.win_rate.high / (1 - found.win_rate.high))
        - math.log(found.win_rate.low / (1 - found.win_rate.low))
    ) / (2 * 1.959964)
    assert z_error == pytest.approx(reference.bse[0], rel=0.03)
    assert found.raw.value == scores.mean()


def test_a_model_that_wins_only_by_length_is_at_one_half():
    rng = np.random.default_rng(1)
    delta = rng.normal(40, 40, 3000)
    scores = (rng.random(3000) < 1 / (1 + np.exp(-2 * np.tanh(delta / delta.std())))).astype(float)
    found = length_controlled_win_rate(scores, delta)
    assert found.raw.low > 0.6
    assert found.win_rate.low < 0.5 < found.win_rate.high


def test_length_control_survives_a_sweep_and_equal_lengths():
    sweep = length_controlled_win_rate(np.ones(50), np.arange(50.0))
    assert 0.8 < sweep.win_rate.value < 1
    assert sweep.win_rate.low < sweep.win_rate.value < sweep.win_rate.high
    equal = length_controlled_win_rate([1, 0, 1, 1, 0.5, 0], [3.0] * 6)
    assert equal.length_effect == 0.0
    # Firth with an intercept only adds half a win and half a loss: (3.5 + ½)/(6 + 1)
    assert equal.win_rate.value == pytest.approx(4 / 7)


@pytest.mark.parametrize("rate_logit", [0.0, 1.5, 2.5])
def test_length_controlled_interval_covers(rate_logit):
    rng = np.random.default_rng(2)
    truth = 1 / (1 + math.exp(-rate_logit))
    hits = 0
    for _ in range(1000):
        delta = rng.normal(10, 30, 150)
        chance = 1 / (1 + np.exp(-rate_logit - np.tanh(delta / delta.std())))
        found = length_controlled_win_rate((rng.random(150) < chance).astype(float), delta)
        hits += found.win_rate.low <= truth <= found.win_rate.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_length_controlled_interval_covers_with_several_judgements_per_prompt():
    rng = np.random.default_rng(3)
    prompts = [p for p in range(120) for _ in range(3)]
    hits = 0
    for _ in range(1000):
        # Which of the two answers a prompt's three judges like is one common draw.
        delta = np.repeat(rng.normal(0, 30, 120), 3)
        liked = np.repeat(rng.random(120), 3)
        chance = 1 / (1 + np.exp(-0.5 - np.tanh(delta / delta.std())))
        found = length_controlled_win_rate((liked < chance).astype(float), delta, prompts)
        hits += found.win_rate.low <= 1 / (1 + math.exp(-0.5)) <= found.win_rate.high
    assert 0.93 <= hits / 1000 <= 0.97


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: win_rate([]), "at least one value"),
        (lambda: win_rate([1, 2]), "between 0 and 1"),
        (lambda: length_controlled_win_rate([1, 0, 1], [1.0, 2.0]), "finite length difference"),
        (lambda: length_controlled_win_rate([1, 0], [1.0, 2.0]), "at least 3 prompts"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(DataError, match=message):
        call()
