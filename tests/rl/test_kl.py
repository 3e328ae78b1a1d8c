"""KL controllers and the comparison of sampler and trainer."""

import json
import math

import pytest
import torch

from alignloop.rl.kl import AdaptiveKL, FixedKL, Mismatch, beyond_rounding, mismatch, sequence_kl


def test_adaptive_controller_by_hand():
    controller = AdaptiveKL()
    # KL 6.6: error 0.1, 512 completions of a horizon of 10 000
    beta = 0.05 * (1 + 0.1 * 512 / 10_000)
    assert controller.update(6.6, num_completions=512) == pytest.approx(beta, rel=1e-12)
    # KL 60: the error is clipped to 0.2; KL 0: to −0.2
    beta *= 1 + 0.2 * 0.0512
    assert controller.update(60.0, num_completions=512) == pytest.approx(beta, rel=1e-12)
    beta *= 1 - 0.2 * 0.0512
    assert controller.update(0.0, num_completions=512) == pytest.approx(beta, rel=1e-12)
    assert controller.update(6.0, num_completions=512) == pytest.approx(beta, rel=1e-12)


def test_adaptive_controller_finds_the_target():
    """With KL = 1/β as the response, β settles where KL is the target."""
    controller = AdaptiveKL(beta=1.0, target=4.0, horizon=1_000)
    for _ in range(3_000):
        controller.update(1 / controller.beta, num_completions=64)
    assert 1 / controller.beta == pytest.approx(4.0, rel=1e-6)


def test_fixed_controller():
    controller = FixedKL(0.03)
    assert controller.update(1e6, num_completions=100) == 0.03


@pytest.mark.parametrize("make", [AdaptiveKL, FixedKL])
def test_state_survives_json_bit_for_bit(make):
    controller = make(beta=0.1)
    controller.update(7.3, num_completions=37)
    restored = make(beta=0.5)
    restored.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    assert restored.beta == controller.beta
    assert restored.update(1.1, num_completions=11) == controller.update(1.1, num_completions=11)


def test_sequence_kl_sums_counted_tokens():
    logprobs, reference = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-1.5, -9.0, -2.0]])
    got = sequence_kl(logprobs, reference, torch.tensor([[True, False, True]]))
    assert got.tolist() == [-0.5]


def test_mismatch_by_hand():
    """Ratios 3, 1 and ½ at the three counted tokens."""
    sampler = torch.zeros(2, 2, dtype=torch.float64)
    logprobs = torch.tensor([[math.log(3), 0.0], [math.log(0.5), 77.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False]])
    got = mismatch(logprobs, sampler, mask)
    assert got.mean_abs == pytest.approx((math.log(3) + math.log(2)) / 3, rel=1e-12)
    assert got.max_abs == pytest.approx(math.log(3), rel=1e-12)
    # r − 1 − log r
    assert got.kl == pytest.approx((2 - math.log(3) - 0.5 + math.log(2)) / 3, rel=1e-12)
    assert got.mean_ratio == pytest.approx(1.5, rel=1e-12)
    assert got.effective == pytest.approx(4.5**2 / (3 * (9 + 1 + 0.25)), rel=1e-12)
    assert got.capped == pytest.approx(1 / 3)


def test_no_mismatch():
    logprobs = torch.rand(3, 4)
    got = mismatch(logprobs, logprobs, torch.ones(3, 4).bool())
    assert got == (0.0, 0.0, 0.0, 1.0, 1.0, 0.0)


def test_top_p_truncation_shows_in_the_ratio():
    """A sampler that renormalises over 80 % of the mass: the trainer counts each token at 0.8 of it."""
    logprobs = torch.log(torch.tensor([[0.4, 0.2, 0.2]], dtype=torch.float64))
    sampler = logprobs - math.log(0.8)
    got = mismatch(logprobs, sampler, torch.ones(1, 3).bool())
    assert got.mean_ratio == pytest.approx(0.8, rel=1e-12)
    assert got.mean_abs == pytest.approx(-math.log(0.8), rel=1e-12)


def test_a_gap_is_rounding_or_another_model_by_type():
    """One token of four off by 0.6 nats: a tenth of a nat or more on average, as no float32 model is."""
    sampler = torch.tensor([[-1.0, -2.0, -3.0, -4.0]])
    mask = torch.ones_like(sampler, dtype=torch.bool)
    for shift, in_float32, in_bfloat16 in ((0.4, True, True), (0.6, False, True), (0.9, False, False)):
        gap = mismatch(sampler + torch.tensor([0.0, shift, 0.0, 0.0]), sampler, mask)
        assert (beyond_rounding(gap, bfloat16=False) is None) is in_float32
        assert (beyond_rounding(gap, bfloat16=True) is None) is in_bfloat16
    told = "by up to 0.9 nats, 0.225 on average, where rounding in"
    assert beyond_rounding(gap, bfloat16=False) == f"{told} float32 explains less than 0.5"
    assert beyond_rounding(gap, bfloat16=True) == f"{told} bfloat16 explains 0.2 on average"
    nothing = mismatch(torch.full_like(sampler, math.nan), sampler, mask)
    assert beyond_rounding(nothing, bfloat16=False) is not None
    assert beyond_rounding(nothing, bfloat16=True) is not None


def test_where_nothing_is_counted_nothing_differs() -> None:
    logprobs = torch.tensor([[-1.0, -9.0]])
    got = mismatch(logprobs, -logprobs, torch.zeros(1, 2).bool())
    assert got == (0.0, 0.0, 0.0, 1.0, 1.0, 0.0)


def test_a_ratio_at_the_cap_is_not_capped() -> None:
    sampler = torch.zeros(1, 3, dtype=torch.float64)
    logprobs = torch.tensor([[2.0, 2.0, 3.0]], dtype=torch.float64).log()
    mask = torch.ones(1, 3).bool()
    cap = float(logprobs[0, 0].exp())
    assert mismatch(logprobs, sampler, mask, cap=cap).capped == pytest.approx(1 / 3)
    assert mismatch(logprobs, sampler, mask, cap=3.5).capped == 0.0


def test_controllers_begin_with_the_documented_numbers() -> None:
    controller = AdaptiveKL()
    assert (controller.beta, controller.target, controller.horizon) == (0.05, 6.0, 10_000)


def test_gaps_at_the_limit_are_rounding() -> None:
    gap = Mismatch(mean_abs=0.2, max_abs=0.5, kl=0.0, mean_ratio=1.0, effective=1.0, capped=0.0)
    assert beyond_rounding(gap, bfloat16=True) is beyond_rounding(gap, bfloat16=False) is None
