"""ORPO, with and without the prompt in its NLL."""

import math

import pytest
import torch

from alignloop.objectives.orpo import ORPO, log1mexp

MASK = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]]


def scalar_loss(logprobs, prompt_logprob=None, *, lam, probability, prompt_tokens=(0, 0)):
    total = 0.0
    for pair in (0, 1):
        odds, nll, tokens = [], [], []
        for row in (2 * pair, 2 * pair + 1):
            counted = [logprobs[row][t] for t in range(4) if MASK[row][t]]
            likelihood = math.exp(sum(counted) / len(counted))
            odds.append(likelihood / (1 - likelihood))
            nll.append(-sum(counted))
            tokens.append(len(counted))
        prompt_nll = -prompt_logprob[pair] if prompt_logprob else 0.0
        ratio, p = odds[0] / odds[1], probability[pair]
        # −log σ(log x) = log(1 + 1/x)
        odds_loss = p * math.log(1 + 1 / ratio) + (1 - p) * math.log(1 + ratio)
        total += (nll[0] + prompt_nll) / (tokens[0] + prompt_tokens[pair]) + lam * odds_loss
    return total


@pytest.mark.parametrize("probability", [[1.0, 1.0], [0.7, 0.5]])
def test_against_scalar_reference(assert_matches, make_inputs, uniform, probability):
    inputs = make_inputs(MASK, [0, 0, 1, 1], logprobs=uniform(1, 4, 4, -3, -0.1), probability=probability)
    assert_matches(
        ORPO(lam=0.4), inputs, lambda lp: scalar_loss(lp, lam=0.4, probability=probability), denominator=2.0
    )


def test_with_prompt_against_scalar_reference(assert_matches, make_inputs, uniform):
    inputs = make_inputs(
        MASK,
        [0, 0, 1, 1],
        logprobs=uniform(1, 4, 4, -3, -0.1),
        prompt_logprob=[-7.5, -2.25],
        prompt_tokens=[5.0, 2.0],
    )
    assert_matches(
        ORPO(lam=0.4, nll="prompt_and_completion"),
        inputs,
        lambda lp, prompt: scalar_loss(lp, prompt, lam=0.4, probability=[1, 1], prompt_tokens=[5, 2]),
        wrt=("logprobs", "prompt_logprob"),
        denominator=2.0,
    )
    assert ORPO(nll="prompt_and_completion").needs == {"logprobs", "prompt_logprob"}
    assert ORPO().needs == {"logprobs"}


def test_equal_odds_leave_log_two(make_inputs):
    inputs = make_inputs([[1, 1], [1, 0]], [0, 0], logprobs=[[-0.5, -1.5], [-1.0, 0.0]])
    loss = ORPO(lam=0.1)(inputs, denominator=1.0).loss.item()
    assert loss == pytest.approx(1.0 + 0.1 * math.log(2), abs=1e-12)


def test_certain_completions_stay_finite(make_inputs):
    """A log-prob that rounds to 0 has infinite odds."""
    inputs = make_inputs([[1], [1]], [0, 0], logprobs=[[0.0], [-1.0]])
    inputs.logprobs.requires_grad_()
    loss = ORPO()(inputs, denominator=1.0).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(inputs.logprobs.grad).all()


@pytest.mark.parametrize("x", [-1e-6, -1e-3, -0.69, -0.7, -5.0, -40.0, -1e4])
def test_log1mexp_against_series(x):
    got = log1mexp(torch.tensor(x, dtype=torch.float64).reshape(1))
    # −Σ e^{kx}/k where the series converges fast, else log(−expm1)
    expected = -sum(math.exp(k * x) / k for k in range(1, 60)) if x < -1 else math.log(-math.expm1(x))
    assert got.item() == pytest.approx(expected, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("x", [-1e-6, -0.69, -0.7, -5.0, -1e4])
def test_log1mexp_gradient(x):
    leaf = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    log1mexp(leaf).sum().backward()
    # d/dx log(1 − eˣ) = 1 / (1 − e^{−x})
    assert leaf.grad.item() == pytest.approx(-math.exp(x) / -math.expm1(x), rel=1e-9)
