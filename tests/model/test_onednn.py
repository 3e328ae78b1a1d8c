from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from alignloop.model import onednn
from alignloop.model.onednn import linear, put_back, use_fast_linears
from tests.helpers_models import relative_error, rounding_bound


@pytest.fixture(autouse=True)
def _not_intel(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Intel's processors all of this is left to MKL."""
    monkeypatch.setattr(onednn, "cpu_is_intel", lambda: False)


@pytest.mark.parametrize("shape", [(5,), (1, 7), (2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_pytorch(shape: tuple[int, ...], bias: bool) -> None:
    x = torch.randn(*shape, 300, requires_grad=True)
    weight = torch.randn(200, 300, requires_grad=True)
    b = torch.randn(200, requires_grad=True) if bias else None
    inputs = [tensor for tensor in (x, weight, b) if tensor is not None]
    out, expected = (
        linear(x, weight, b),
        F.linear(x.double(), weight.double(), None if b is None else b.double()),
    )
    upstream = torch.randn_like(out)
    gradients = torch.autograd.grad(out, inputs, upstream)
    references = torch.autograd.grad(expected, inputs, upstream.double())
    # an error is at most that share of the sum of the terms' sizes
    sizes = [tensor.detach().double().abs().requires_grad_() for tensor in inputs]
    largest = F.linear(*sizes)
    all_sizes = (largest, *torch.autograd.grad(largest, sizes, upstream.double().abs()))
    for got, want, size in zip((out, *gradients), (expected, *references), all_sizes, strict=True):
        assert ((got - want).abs() <= relative_error(300) * size).all()


def test_only_float32_is_sent_to_onednn() -> None:
    x, weight = torch.randn(4, 8, dtype=torch.float64), torch.randn(6, 8, dtype=torch.float64)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    assert linear(torch.randn(0, 8), torch.randn(6, 8)).shape == (0, 6)


def test_a_model_computes_the_same_inside_and_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(30, 40), nn.GELU(), Conv1D(20, 40), nn.Linear(20, 3, bias=False))
    x = torch.randn(5, 30)
    outside = model(x)
    with put_back(use_fast_linears(model)):
        assert all("forward" in module.__dict__ for module in model if type(module) is not nn.GELU)
        # two computations, each off by that much
        bound = rounding_bound(model, lambda some: some(x.to(next(some.parameters()).dtype)), length=1)
        assert (model(x) - outside).abs().max() <= 2 * bound < 1e-3
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert torch.equal(model(x), outside)


def test_on_intel_a_model_is_left_to_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "cpu_is_intel", lambda: True)
    model, x = nn.Linear(30, 40), torch.randn(5, 30)
    with put_back(use_fast_linears(model)):
        assert "forward" not in model.__dict__
    assert torch.equal(linear(x, model.weight, model.bias), model(x))


GROWTH = """
import torch
from alignloop.machine import memory_gb
from alignloop.model import onednn
from alignloop.model.onednn import linear
onednn.cpu_is_intel = lambda: False
weights = [torch.randn(n, k, requires_grad=True) for n, k in ((64, 64), (192, 64), (64, 192))]
linear(torch.randn(100, 64, requires_grad=True), weights[0]).sum().backward()
before = memory_gb()
for rows in range(200, 400, 2):
    for weight in weights:
        linear(torch.randn(rows, weight.shape[1], requires_grad=True), weight).sum().backward()
print(memory_gb() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_shapes() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, encoding="utf-8", check=True)
    assert float(done.stdout) < 0.25


def test_a_layer_may_add_to_the_output_in_place() -> None:
    """As Gemma 3n's layers do: a view out of an autograd function would forbid it."""
    x, weight = torch.randn(1, 3, 4, requires_grad=True), torch.randn(5, 4)
    out = linear(x, weight)
    out[0, 0] += 1
    out.sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, weight.sum(0).expand(1, 3, 4))
