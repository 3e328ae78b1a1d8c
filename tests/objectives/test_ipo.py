"""IPO, with both reductions."""

import pytest

from alignloop.objectives.ipo import IPO

MASK = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]]


def scalar_loss(logprobs, reference, *, beta, reduction, probability):
    total = 0.0
    for pair in (0, 1):
        sides = []
        for row in (2 * pair, 2 * pair + 1):
            counted = [logprobs[row][t] - reference[row][t] for t in range(4) if MASK[row][t]]
            sides.append(sum(counted) / len(counted) if reduction == "mean" else sum(counted))
        delta, p = sides[0] - sides[1], probability[pair]
        total += p * (delta - 0.5 / beta) ** 2 + (1 - p) * (delta + 0.5 / beta) ** 2
    return total


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("probability", [[1.0, 1.0], [0.6, 0.5]])
def test_against_scalar_reference(assert_matches, make_inputs, uniform, reduction, probability):
    reference = uniform(2, 4, 4, -3, -0.1)
    inputs = make_inputs(
        MASK,
        [0, 0, 1, 1],
        logprobs=uniform(1, 4, 4, -3, -0.1),
        reference_logprobs=reference,
        probability=probability,
    )
    assert_matches(
        IPO(beta=0.3, reduction=reduction),
        inputs,
        lambda lp: scalar_loss(lp, reference, beta=0.3, reduction=reduction, probability=probability),
        denominator=2.0,
    )


def test_policy_equal_to_reference(make_inputs, uniform):
    logprobs = uniform(3, 4, 4, -3, 0)
    inputs = make_inputs(MASK, [0, 0, 1, 1], logprobs=logprobs, reference_logprobs=logprobs)
    # (0 − 1/(2·0.1))² = 25
    assert IPO(beta=0.1)(inputs, denominator=2.0).loss.item() == pytest.approx(25.0, abs=1e-12)


def test_no_gradient_at_the_target_margin(make_inputs):
    inputs = make_inputs(
        [[1, 1], [1, 1]],
        [0, 0],
        logprobs=[[-1.0, -1.0], [-2.0, -3.0]],
        reference_logprobs=[[-2.0, -2.0], [-2.0, -3.0]],
    )
    inputs.logprobs.requires_grad_()
    # per token Δ = 1 = 1/(2β) at β = ½; summed Δ = 2, beyond it
    loss = IPO(beta=0.5, reduction="mean")(inputs, denominator=1.0).loss
    loss.backward()
    assert loss.item() == 0.0
    assert (inputs.logprobs.grad == 0).all()
    assert IPO(beta=0.5, reduction="sum")(inputs, denominator=1.0).loss.item() == pytest.approx(1.0)
