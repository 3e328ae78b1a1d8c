"""Plackett–Luce: as a reward model, and the helpers that listwise shares."""

import itertools
import math

import pytest
import torch

from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.plackett_luce import PlackettLuce

GROUP = [0, 0, 0, 0, 1, 1, 2, 3, 3, 3]
RANKS = [2, 1, 4, 3, 1, 2, 1, 1, 3, 1]  # the last group has two best ones


def scalar_loss(utility):
    total = 0.0
    for g in range(4):
        rows = [i for i, of in enumerate(GROUP) if of == g]
        for position in sorted({RANKS[i] for i in rows}):
            there = [i for i in rows if RANKS[i] == position]
            race = sum(math.exp(utility[i][0]) for i in rows if RANKS[i] >= position)
            total -= sum(utility[i][0] - math.log(race) for i in there) / len(there)
    return total


def test_against_scalar_reference(assert_matches, make_inputs, uniform):
    inputs = make_inputs([[1]] * 10, GROUP, scores=uniform(1, 10, 1, -2, 2), ranks=RANKS)
    assert PlackettLuce().count(inputs).item() == 4
    assert_matches(PlackettLuce(), inputs, scalar_loss, wrt=("scores",), denominator=4.0)


def test_probabilities_of_all_orders_sum_to_one(make_inputs, uniform):
    """Without ties e^{−loss} is the probability of the ranking."""
    scores = uniform(2, 4, 1, -2, 2)
    total = 0.0
    for order in itertools.permutations([1, 2, 3, 4]):
        inputs = make_inputs([[1]] * 4, [0] * 4, scores=scores, ranks=list(order))
        total += math.exp(-PlackettLuce()(inputs, denominator=1.0).loss.item())
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("ranks", [[1, 2], [2, 1], [1, 1]])
def test_two_completions_are_bradley_terry(make_inputs, ranks):
    """Values and gradients bit for bit up to rounding, the tie included."""
    results = []
    for objective in (PlackettLuce(), BradleyTerry()):
        inputs = make_inputs([[1]] * 2, [0, 0], scores=[[0.3], [-1.1]], ranks=ranks)
        inputs.scores.requires_grad_()
        loss = objective(inputs, denominator=1.0).loss
        loss.backward()
        results.append(torch.cat([loss.detach().reshape(1), inputs.scores.grad.reshape(-1)]))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)


def test_equal_scores(make_inputs):
    inputs = make_inputs([[1]] * 4, [0] * 4, scores=[[1.0]] * 4, ranks=[3, 1, 2, 4])
    # 1/4! for every order
    loss = PlackettLuce()(inputs, denominator=1.0).loss.item()
    assert loss == pytest.approx(math.log(24), abs=1e-12)


def test_metrics_by_hand(make_inputs):
    inputs = make_inputs([[1]] * 3, [0] * 3, scores=[[0.0], [5.0], [2.0]], ranks=[3, 2, 1])
    metrics = {k: m.value for k, m in PlackettLuce()(inputs, denominator=1.0).metrics.items()}
    # right: 2 > 0 and 5 > 0; wrong: the best (2) under the second (5); gaps 2, 5, −3
    assert metrics == pytest.approx(
        {"accuracy": 2 / 3, "margin": 4 / 3, "chosen_reward": 2.0, "rejected_reward": 0.0}
    )
