"""Listwise objectives on ranked completions."""

import math

import pytest
import torch

from alignloop.objectives.dpo import DPO
from alignloop.objectives.listwise import Listwise, lipo_lambda_terms, rank_advantages, rank_gains

MASK = [[1, 1, 1], [1, 0, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1]]
GROUP = [0, 0, 0, 0, 1, 1, 1, 2]
RANKS = [2, 1, 3, 4, 2, 1, 1, 1]  # a tie for the best place in the second group
GROUPS = ([0, 1, 2, 3], [4, 5, 6], [7])


def utilities(logprobs, reference, beta):
    return [
        beta * sum(logprobs[i][t] - reference[i][t] for t in range(3) if MASK[i][t]) for i in range(len(MASK))
    ]


def gains(rows):
    """Share of the others that each row beats, ties ½."""
    return {
        i: sum(1.0 if RANKS[i] < RANKS[j] else 0.5 if RANKS[i] == RANKS[j] else 0.0 for j in rows if j != i)
        / (len(rows) - 1)
        for i in rows
    }


def plackett_luce(logprobs, reference, beta):
    s, total = utilities(logprobs, reference, beta), 0.0
    for rows in GROUPS:
        for position in sorted({RANKS[i] for i in rows}):
            there = [i for i in rows if RANKS[i] == position]
            race = sum(math.exp(s[i]) for i in rows if RANKS[i] >= position)
            total -= sum(s[i] - math.log(race) for i in there) / len(there)
    return total


def lipo_lambda(logprobs, reference, beta):
    s, total = utilities(logprobs, reference, beta), 0.0
    for rows in GROUPS[:2]:
        gain = gains(rows)
        position = {i: 1 + sum(s[j] > s[i] for j in rows) for i in rows}
        for i in rows:
            for j in rows:
                if RANKS[i] < RANKS[j]:
                    value = abs(2 ** gain[i] - 2 ** gain[j])
                    discount = abs(1 / math.log(1 + position[i]) - 1 / math.log(1 + position[j]))
                    total += value * discount * math.log(1 + math.exp(s[j] - s[i]))
    return total


def group_relative(logprobs, old, epsilon):
    total = 0.0
    for rows in GROUPS[:2]:
        gain = gains(rows)
        mean = sum(gain.values()) / len(rows)
        std = math.sqrt(sum((g - mean) ** 2 for g in gain.values()) / (len(rows) - 1))
        for i in rows:
            advantage = (gain[i] - mean) / (std + 1e-4)
            tokens = [t for t in range(3) if MASK[i][t]]
            for t in tokens:
                ratio = math.exp(logprobs[i][t] - old[i][t])
                clipped = min(max(ratio, 1 - epsilon), 1 + epsilon)
                total -= min(ratio * advantage, clipped * advantage) / len(tokens) / len(rows)
    return total


@pytest.mark.parametrize(
    ("method", "reference_loss"), [("plackett_luce", plackett_luce), ("lipo_lambda", lipo_lambda)]
)
def test_against_scalar_reference(assert_matches, make_inputs, uniform, method, reference_loss):
    reference = uniform(2, 8, 3, -3, -0.1)
    inputs = make_inputs(
        MASK, GROUP, logprobs=uniform(1, 8, 3, -3, -0.1), reference_logprobs=reference, ranks=RANKS
    )
    objective = Listwise(method=method, beta=0.7)
    assert objective.count(inputs).item() == 3
    assert_matches(objective, inputs, lambda lp: reference_loss(lp, reference, 0.7), denominator=3.0)


def test_group_relative_against_scalar_reference(assert_matches, make_inputs, uniform):
    old = uniform(2, 8, 3, -1.5, -0.5)
    inputs = make_inputs(MASK, GROUP, logprobs=uniform(1, 8, 3, -1.5, -0.5), old_logprobs=old, ranks=RANKS)
    objective = Listwise(method="group_relative", epsilon=0.3)
    assert objective.needs == {"logprobs"}
    assert_matches(objective, inputs, lambda lp: group_relative(lp, old, 0.3), denominator=3.0)


@pytest.mark.parametrize("method", ["plackett_luce", "lipo_lambda"])
def test_two_completions_against_dpo(make_inputs, uniform, method):
    """Plackett–Luce is DPO; LiPO-λ is DPO times its weight |2¹ − 2⁰|·|1/ln 2 − 1/ln 3|."""
    weight = 1.0 if method == "plackett_luce" else 1 / math.log(2) - 1 / math.log(3)
    results = []
    for objective in (Listwise(method=method, beta=0.3), DPO(beta=0.3)):
        inputs = make_inputs(
            [[1, 1, 0], [1, 1, 1]] * 2,
            [0, 0, 1, 1],
            logprobs=uniform(3, 4, 3, -3, 0),
            reference_logprobs=uniform(4, 4, 3, -3, 0),
            ranks=[1, 2, 1, 2],
        )
        inputs.logprobs.requires_grad_()
        loss = objective(inputs, denominator=2.0).loss
        loss.backward()
        results.append(torch.cat([loss.detach().reshape(1), inputs.logprobs.grad.reshape(-1)]))
    torch.testing.assert_close(results[0], weight * results[1], rtol=0, atol=1e-12)


def test_a_tied_pair_is_dpo_with_probability_one_half(make_inputs, uniform):
    fields = {"logprobs": uniform(3, 2, 3, -3, 0), "reference_logprobs": uniform(4, 2, 3, -3, 0)}
    tied = make_inputs([[1] * 3] * 2, [0, 0], ranks=[1, 1], **fields)
    soft = make_inputs([[1] * 3] * 2, [0, 0], probability=[0.5], **fields)
    loss = Listwise(beta=0.3)(tied, denominator=1.0).loss.item()
    assert loss == pytest.approx(DPO(beta=0.3)(soft, denominator=1.0).loss.item(), abs=1e-12)


def test_lipo_lambda_has_a_gradient_at_the_start(make_inputs):
    """At policy = reference all s are equal; the weights then come from the ranking itself."""
    same = [[-1.0]] * 3
    inputs = make_inputs([[1]] * 3, [0] * 3, logprobs=same, reference_logprobs=same, ranks=[2, 3, 1])
    inputs.logprobs.requires_grad_()
    Listwise(method="lipo_lambda")(inputs, denominator=1.0).loss.backward()
    middle, last, best = inputs.logprobs.grad.reshape(-1).tolist()
    assert best < middle < last
    assert best < 0 < last


def test_group_relative_at_ratio_one_is_reinforce(make_inputs):
    """Gradient −A/(|y|·K) at each token: advantages ±1/√2 of two completions, but for the 1e-4."""
    logprobs = [[-1.0, -2.0], [-0.5, -9.0]]
    inputs = make_inputs([[1, 1], [1, 0]], [0, 0], logprobs=logprobs, old_logprobs=logprobs, ranks=[1, 2])
    inputs.logprobs.requires_grad_()
    Listwise(method="group_relative")(inputs, denominator=1.0).loss.backward()
    advantage = 0.5 / (math.sqrt(0.5) + 1e-4)
    expected = [[-advantage / 4, -advantage / 4], [advantage / 2, 0.0]]
    torch.testing.assert_close(
        inputs.logprobs.grad, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("method", ["plackett_luce", "lipo_lambda", "group_relative"])
def test_one_completion_has_no_gradient(make_inputs, method):
    inputs = make_inputs(
        [[1]], [0], logprobs=[[-1.0]], reference_logprobs=[[-2.0]], old_logprobs=[[-2.0]], ranks=[1]
    )
    inputs.logprobs.requires_grad_()
    loss = Listwise(method=method)(inputs, denominator=1.0).loss
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert inputs.logprobs.grad.item() == 0.0


def test_gains_and_advantages_by_hand():
    ranks, group = torch.tensor([1, 2, 2, 4, 1, 1, 9]).double(), torch.tensor([0, 0, 0, 0, 1, 1, 2])
    assert rank_gains(ranks, group).tolist() == pytest.approx([1, 0.5, 0.5, 0, 0.5, 0.5, 0.5])
    # squares ¼ + 0 + 0 + ¼ over 3
    first = 0.5 / (math.sqrt(0.5 / 3) + 1e-4)
    assert rank_advantages(ranks, group).tolist() == pytest.approx([first, 0, 0, -first, 0, 0, 0])


def test_each_completion_has_its_own_terms():
    """Against those ranked below it: the last has none, the middle one its pair with the last."""
    s, ranks, group = (
        torch.tensor([0.3, -0.2, 0.1]).double(),
        torch.tensor([2, 3, 1]).double(),
        torch.tensor([0, 0, 0]),
    )
    # in the order of s the places are 1, 3 and 2; gains ½, 0 and 1
    discount = [1 / math.log(2), 1 / math.log(4), 1 / math.log(3)]

    def term(i, j, gain):
        return gain * abs(discount[i] - discount[j]) * math.log1p(math.exp(float(s[j] - s[i])))

    root = math.sqrt(2)
    expected = [term(0, 1, root - 1), 0.0, term(2, 0, 2 - root) + term(2, 1, 1.0)]
    assert lipo_lambda_terms(s, ranks, group).tolist() == pytest.approx(expected, rel=1e-12)
