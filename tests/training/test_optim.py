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


def test_two_adam_steps_by_hand():
    """g = 1, then 0: β and ε of the settings, not PyTorch's."""
    settings = OptimizerSettings(learning_rate=0.5, adam_beta1=0.5, adam_beta2=0.75, adam_epsilon=1.0)
    p = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    optimizer = build_optimizer([p], settings)
    p.grad = torch.ones_like(p)
    optimizer.step()
    # m̂ = 0.5/(1 − 0.5) = 1, v̂ = 0.25/(1 − 0.75) = 1: a step of 0.5 · 1/(√1 + 1)
    assert float(p.detach()) == pytest.approx(-0.25, rel=1e-12)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    # m̂ = 0.25/(1 − 0.25) = 1/3, v̂ = 0.1875/(1 − 0.5625) = 3/7
    assert float(p.detach()) == pytest.approx(-0.25 - 0.5 / 3 / (math.sqrt(3 / 7) + 1), rel=1e-12)


def test_defaults_are_those_of_the_documentation():
    assert OptimizerSettings() == OptimizerSettings(1e-5, "linear", 0, 0.0, 0.9, 0.999, 1e-8, 1.0)


def test_rates_at_the_edges_of_the_schedule():
    linear = OptimizerSettings(learning_rate=1.0, warmup_steps=3)
    # a warm-up as long as the run; then nothing is left, and a step beyond the end has rate 0
    assert [learning_rate(linear, step, 3) for step in range(3)] == pytest.approx([0.25, 0.5, 0.75])
    assert learning_rate(linear, 3, 4) == 1.0  # one step after the warm-up has the whole rate
    assert learning_rate(linear, 4, 4) == 0.0
    assert learning_rate(linear, 9, 4) == 0.0
    cosine = OptimizerSettings(learning_rate=1.0, lr_scheduler_type="cosine", warmup_steps=1)
    assert learning_rate(cosine, 0, 5) == 0.5
    assert learning_rate(cosine, 9, 5) == pytest.approx(0.0, abs=1e-15)
    constant = OptimizerSettings(learning_rate=1.0, lr_scheduler_type="constant", warmup_steps=1)
    assert [learning_rate(constant, step, 9) for step in (0, 1, 8)] == [0.5, 1.0, 1.0]


def test_every_parameter_is_in_one_group():
    shapes = [(2, 2), (3,), (2, 1, 2), ()]
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = build_optimizer(parameters, OptimizerSettings(learning_rate=0.25, weight_decay=0.5))
    decayed, spared = optimizer.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 2), (2, 1, 2)]
    assert [tuple(p.shape) for p in spared["params"]] == [(3,), ()]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.5, 0.0)
    assert all(group["lr"] == 0.25 and group["fused"] for group in optimizer.param_groups)
    frozen = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
    (only,) = build_optimizer([frozen, parameters[1]], OptimizerSettings()).param_groups
    assert [tuple(p.shape) for p in only["params"]] == [(3,)]


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
