"""Log-ratios of long completions: exact to float32's last digits, however large the sums behind them."""

import numpy as np
import pytest
import torch

from alignloop.objectives.base import Inputs, log_ratios
from alignloop.objectives.dpo import DPO
from alignloop.objectives.ipo import IPO
from alignloop.objectives.kto import KTO
from alignloop.objectives.listwise import Listwise
from alignloop.objectives.simpo import SimPO
from tests.objectives.conftest import evaluate

TOKENS = 10_000


def long_pair(**extras: torch.Tensor) -> tuple[Inputs, np.ndarray, np.ndarray]:
    """Two completions of 10⁴ tokens whose policy is close to the reference; Σ log-ratio in float64."""
    rng = np.random.default_rng(0)
    reference = -rng.gamma(1.5, 2.0, (2, TOKENS)).astype(np.float32)
    policy = (reference + rng.normal(0, 1e-3, reference.shape)).astype(np.float32)
    inputs = Inputs(
        mask=torch.ones(2, TOKENS, dtype=torch.bool),
        group=torch.zeros(2, dtype=torch.long),
        logprobs=torch.from_numpy(policy),
        reference_logprobs=torch.from_numpy(reference),
        extras=extras,
    )
    return inputs, (policy.astype(np.float64) - reference).sum(1), policy.astype(np.float64)


def test_a_log_ratio_is_summed_token_by_token() -> None:
    inputs, exact, policy = long_pair()
    # |Σ log π| is about 3·10⁴, whose float32 neighbours are 2·10⁻³ apart: no difference of two is nearer
    apart = np.spacing(np.float32(np.abs(policy.sum(1)).max()))
    assert apart > 1e-3
    found = log_ratios(inputs).double().numpy()
    # a cascade of float32 additions of numbers whose absolute sum is below 10
    assert np.abs(found - exact).max() < 1e-5


@pytest.mark.parametrize("objective", [DPO(beta=1.0), IPO(beta=1.0, reduction="sum")])
def test_margins_of_10000_tokens(objective) -> None:
    inputs, exact, _ = long_pair()
    margin = evaluate(objective, inputs, 1.0).metrics["margin"].value
    assert margin == pytest.approx(exact[0] - exact[1], abs=1e-5)


def test_the_length_normalised_margins_of_10000_tokens() -> None:
    inputs, exact, policy = long_pair()
    found = evaluate(IPO(beta=1.0), inputs, 1.0).metrics["margin"].value
    assert found == pytest.approx((exact[0] - exact[1]) / TOKENS, abs=1e-9)
    found = evaluate(SimPO(beta=1.0), inputs, 1.0).metrics["margin"].value
    means = policy.mean(1)
    assert found == pytest.approx(means[0] - means[1], abs=2e-6)  # means of about 3 in float32


def test_kto_and_rankings_of_10000_tokens() -> None:
    inputs, exact, _ = long_pair(
        mismatched=torch.tensor([False, True]), desirable=torch.tensor([True, False])
    )
    metrics = evaluate(KTO(beta=1.0), inputs, 1.0).metrics
    assert metrics["chosen_reward"].value == pytest.approx(exact[0], abs=1e-5)
    assert metrics["reference_point"].value == pytest.approx(max(0.0, exact[1]), abs=1e-5)
    inputs, exact, _ = long_pair(ranks=torch.tensor([1.0, 2.0]))
    margin = evaluate(Listwise(beta=1.0), inputs, 1.0).metrics["margin"].value
    assert margin == pytest.approx(exact[0] - exact[1], abs=1e-5)
