"""DPO and its variants."""

import math

import pytest

from alignloop.objectives.dpo import DPO

MASK = [[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]  # the second row has a hole
GROUP = [0, 0, 1, 1]


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def scalar_loss(logprobs, reference, mask, *, beta, loss, epsilon, rpo, length, probability):
    total = 0.0
    for pair in range(len(logprobs) // 2):
        ratio, nll, tokens = [0.0, 0.0], [0.0, 0.0], [0, 0]
        for side in (0, 1):
            row = 2 * pair + side
            for t, counts in enumerate(mask[row]):
                if counts:
                    ratio[side] += logprobs[row][t] - reference[row][t]
                    nll[side] -= logprobs[row][t]
                    tokens[side] += 1
        x = beta * (ratio[0] - ratio[1]) + length * (tokens[0] - tokens[1])

        def of(z):
            if loss == "hinge":
                return (1 - epsilon) * max(0.0, 1 - z) + epsilon * max(0.0, 1 + z)
            clean, flipped = softplus(-z), softplus(z)
            if loss == "robust":
                return ((1 - epsilon) * clean - epsilon * flipped) / (1 - 2 * epsilon)
            return (1 - epsilon) * clean + epsilon * flipped

        p = probability[pair]
        total += p * of(x) + (1 - p) * of(-x) + rpo * nll[0] / tokens[0]
    return total


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "robust"])
@pytest.mark.parametrize("epsilon", [0.0, 0.2])
@pytest.mark.parametrize(("rpo", "length", "probability"), [(0.0, 0.0, [1.0, 1.0]), (0.7, 0.05, [0.8, 0.5])])
def test_against_scalar_reference(
    assert_matches, make_inputs, uniform, loss, epsilon, rpo, length, probability
):
    logprobs, reference = uniform(1, 4, 4, -3, -0.1), uniform(2, 4, 4, -3, -0.1)
    inputs = make_inputs(
        MASK, GROUP, logprobs=logprobs, reference_logprobs=reference, probability=probability
    )
    objective = DPO(beta=0.3, loss=loss, label_smoothing=epsilon, rpo_alpha=rpo, length_alpha=length)
    assert_matches(
        objective,
        inputs,
        lambda lp: scalar_loss(
            lp, reference, MASK,
            beta=0.3, loss=loss, epsilon=epsilon, rpo=rpo, length=length, probability=probability,
        ),
        denominator=2.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "expected"), [("sigmoid", math.log(2)), ("hinge", 1.0), ("robust", math.log(2))]
)
def test_policy_equal_to_reference(make_inputs, uniform, loss, expected):
    logprobs = uniform(3, 4, 4, -3, 0)
    inputs = make_inputs(MASK, GROUP, logprobs=logprobs, reference_logprobs=logprobs)
    output = DPO(loss=loss, label_smoothing=0.1)(inputs, denominator=2.0)
    assert output.loss.item() == pytest.approx(expected, abs=1e-12)
    assert output.metrics["margin"].value == 0.0


def test_beta_to_zero_leaves_log_two(make_inputs, uniform):
    inputs = make_inputs(
        MASK, GROUP, logprobs=uniform(4, 4, 4, -3, 0), reference_logprobs=uniform(5, 4, 4, -3, 0)
    )
    assert DPO(beta=1e-12)(inputs, denominator=2.0).loss.item() == pytest.approx(math.log(2), abs=1e-10)


def test_gradient_raises_chosen_and_lowers_rejected(make_inputs, uniform):
    inputs = make_inputs(
        MASK, GROUP, logprobs=uniform(4, 4, 4, -3, 0), reference_logprobs=uniform(5, 4, 4, -3, 0)
    )
    inputs.logprobs.requires_grad_()
    DPO()(inputs, denominator=2.0).loss.backward()
    gradient = inputs.logprobs.grad
    assert (gradient[0::2][inputs.mask[0::2]] < 0).all()
    assert (gradient[1::2][inputs.mask[1::2]] > 0).all()
    assert (gradient[~inputs.mask] == 0).all()


def test_all_but_one_token_masked(make_inputs):
    # Δ = (−1 − −2) − (−4 − −3.5) = 1.5; the other tokens would change it
    inputs = make_inputs(
        [[0, 1], [1, 0]],
        [0, 0],
        logprobs=[[-9.0, -1.0], [-4.0, -9.0]],
        reference_logprobs=[[-5.0, -2.0], [-3.5, -5.0]],
    )
    loss = DPO(beta=2.0)(inputs, denominator=1.0).loss.item()
    assert loss == pytest.approx(math.log1p(math.exp(-3.0)), abs=1e-12)


def test_soft_label_is_minimal_at_its_logit(make_inputs):
    # p·ℓ(x) + (1 − p)·ℓ(−x) has its minimum at x = log(p / (1 − p))
    x = math.log(0.8 / 0.2)
    inputs = make_inputs(
        [[1], [1]],
        [0, 0],
        logprobs=[[-1.0], [-1.0 - x]],
        reference_logprobs=[[-1.0], [-1.0]],
        probability=[0.8],
    )
    inputs.logprobs.requires_grad_()
    DPO(beta=1.0)(inputs, denominator=1.0).loss.backward()
    assert inputs.logprobs.grad.abs().max().item() < 1e-12


def test_robust_loss_averages_to_the_clean_one(make_inputs, uniform):
    """Over labels flipped with probability ε, its expectation is the loss without flips."""
    reference = uniform(7, 4, 4, -3, 0)
    inputs = make_inputs(MASK, GROUP, logprobs=uniform(6, 4, 4, -3, 0), reference_logprobs=reference)
    kept = DPO(loss="robust", label_smoothing=0.3)(inputs, denominator=1.0).loss
    inputs.extras["probability"] = inputs.logprobs.new_zeros(2)
    flipped = DPO(loss="robust", label_smoothing=0.3)(inputs, denominator=1.0).loss
    del inputs.extras["probability"]
    clean = DPO()(inputs, denominator=1.0).loss
    assert (0.7 * kept + 0.3 * flipped).item() == pytest.approx(clean.item(), abs=1e-12)


def test_metrics_by_hand(make_inputs):
    inputs = make_inputs(
        [[1, 1], [1, 0], [1, 0], [1, 0]],
        [0, 0, 1, 1],
        logprobs=[[-1.0, -2.0], [-3.0, 0.0], [-5.0, 0.0], [-2.0, 0.0]],
        reference_logprobs=[[-2.0, -2.0], [-2.0, 0.0], [-4.0, 0.0], [-4.0, 0.0]],
    )
    # log-ratios: 1, −1, −1, 2
    metrics = {k: m.value for k, m in DPO(beta=0.5)(inputs, denominator=2.0).metrics.items()}
    assert metrics == {
        "chosen_reward": 0.0,
        "rejected_reward": 0.25,
        "margin": -0.25,
        "accuracy": 0.5,
        "chosen_logprob": -4.0,
        "rejected_logprob": -2.5,
    }
