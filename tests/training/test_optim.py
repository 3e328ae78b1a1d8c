import math

import pytest
import torch

from alignloop.training.optim import OptimizerSettings, build_optimizer, learning_rate


def test_linear_schedule_by_hand():
    settings = OptimizerSettings(learning_rate=1.0, lr_scheduler_type="linear", warmup_steps=2)
    rates = [learning_rate(settings, step, 6) for step in range(6)]
    # warm-up: 1/3, 2/3; then 1 − k/4 for k = 0…3
    assert rates == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_down_in_the_middle():
    settings = OptimizerSettings(learning_rate=2.0, lr_scheduler_type="cosine")
    assert learning_rate(settings, 5, 10) == pytest.approx(1.0)
    assert learning_rate(settings, 2, 8) == pytest.approx(1 + math.cos(math.pi / 4))


def test_constant_stays():
    settings = OptimizerSettings(learning_rate=3.0, lr_scheduler_type="constant")
    assert {learning_rate(settings, step, 7) for step in range(7)} == {3.0}


def test_first_adam_step_has_the_size_of_the_learning_rate():
    p = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = build_optimizer([p], OptimizerSettings(learning_rate=0.1, adam_epsilon=1e-12))
    p.grad = torch.tensor([[3.0, -5.0], [0.01, 7.0]])
    optimizer.step()
    # m̂/√v̂ = g/|g| after the first step
    assert torch.allclose(p.detach(), torch.tensor([[-0.1, 0.1], [-0.1, -0.1]]), atol=1e-6)


def test_decay_spares_vectors():
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = build_optimizer([matrix, vector], OptimizerSettings(learning_rate=0.1, weight_decay=0.5))
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    assert torch.allclose(matrix.detach(), torch.full((2, 2), 0.95))
    assert torch.equal(vector.detach(), torch.ones(2))


def test_nothing_trainable_is_an_error():
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        build_optimizer([torch.nn.Parameter(torch.ones(1), requires_grad=False)], OptimizerSettings())
