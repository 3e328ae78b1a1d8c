"""SFT: mean NLL over counted tokens."""

import math

import pytest
import torch

from alignloop.objectives.sft import SFT


def test_value_and_gradient_by_hand(make_inputs):
    # counted: log ½, log ¼ and log ⅛; the masked log ⅓ does not enter
    logprobs = [[math.log(1 / 2), math.log(1 / 3)], [math.log(1 / 4), math.log(1 / 8)]]
    inputs = make_inputs([[1, 0], [1, 1]], [0, 1], logprobs=logprobs)
    inputs.logprobs.requires_grad_()
    output = SFT()(inputs, denominator=3.0)
    output.loss.backward()
    assert output.loss.item() == pytest.approx((1 + 2 + 3) * math.log(2) / 3, abs=1e-12)
    torch.testing.assert_close(
        inputs.logprobs.grad, torch.tensor([[-1 / 3, 0], [-1 / 3, -1 / 3]], dtype=torch.float64)
    )


def test_unit_is_a_counted_token(make_inputs):
    inputs = make_inputs([[1, 0, 1], [1, 1, 1]], [0, 1], logprobs=[[-1.0] * 3] * 2)
    assert SFT().count(inputs).item() == 5
    nll = SFT()(inputs, denominator=5.0).metrics["nll"]
    assert (nll.sum.item(), nll.count.item(), nll.value) == (5.0, 5.0, 1.0)


def test_forgotten_logprobs_are_named(make_inputs):
    with pytest.raises(ValueError, match=r"Inputs\.logprobs"):
        SFT()(make_inputs([[1]], [0]), denominator=1.0)
