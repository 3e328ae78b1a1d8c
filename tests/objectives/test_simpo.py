"""SimPO."""

import math
from pathlib import Path

import pytest

import alignloop.objectives.simpo as simpo
from alignloop.objectives.simpo import SimPO

MASK = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]]


def scalar_loss(logprobs, *, beta, gamma, probability):
    total = 0.0
    for pair in (0, 1):
        mean = []
        for row in (2 * pair, 2 * pair + 1):
            counted = [logprobs[row][t] for t in range(4) if MASK[row][t]]
            mean.append(sum(counted) / len(counted))
        margin, p = beta * (mean[0] - mean[1]), probability[pair]
        total += p * math.log1p(math.exp(gamma - margin)) + (1 - p) * math.log1p(math.exp(gamma + margin))
    return total


@pytest.mark.parametrize("probability", [[1.0, 1.0], [0.7, 0.5]])
def test_against_scalar_reference(assert_matches, make_inputs, uniform, probability):
    inputs = make_inputs(MASK, [0, 0, 1, 1], logprobs=uniform(1, 4, 4, -3, -0.1), probability=probability)
    assert_matches(
        SimPO(beta=2.5, gamma=1.4),
        inputs,
        lambda lp: scalar_loss(lp, beta=2.5, gamma=1.4, probability=probability),
        denominator=2.0,
    )


def test_repeating_a_completion_changes_nothing(make_inputs):
    short = make_inputs([[1, 0], [1, 0]], [0, 0], logprobs=[[-1.0, 0.0], [-2.0, 0.0]])
    long = make_inputs([[1, 1], [1, 0]], [0, 0], logprobs=[[-1.0, -1.0], [-2.0, 0.0]])
    # −log σ(2·1 − 1)
    expected = math.log1p(math.exp(-1.0))
    for inputs in (short, long):
        assert SimPO()(inputs, denominator=1.0).loss.item() == pytest.approx(expected, abs=1e-12)


def test_it_stays_the_proof_that_an_objective_is_short():
    assert len(Path(simpo.__file__).read_text(encoding="utf-8").splitlines()) < 60
