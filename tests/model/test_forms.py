"""Which modules get a faster form, and that others are left alone: linear layers, norms, MLPs, attention."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from alignloop.model import lean, onednn, rotary
from alignloop.model.decode import decoding
from alignloop.model.lean import RMSNorm, use_lean_forms
from alignloop.model.onednn import (
    linear,
    once_per_module,
    put_back,
    replace_forwards,
    suits,
    use_fast_linears,
)
from tests.model.helpers import small_model

LAYERS = 4


class Marked(nn.Parameter):
    """A parameter that is more than one, as of tensors in parts."""


@pytest.fixture(autouse=True)
def _not_intel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "cpu_is_intel", lambda: False)


def test_what_goes_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.zeros(2, 3)
    assert suits(plain)
    assert suits(nn.Parameter(plain))
    for other in (plain.double(), plain.bfloat16(), plain.to("meta"), Marked(plain)):
        assert not suits(other)
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits(plain)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not suits(plain)
    monkeypatch.undo()
    monkeypatch.setattr(onednn, "cpu_is_intel", lambda: True)
    assert not suits(plain)


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "x weight", "weight bias", "x weight bias"])
def test_only_gradients_that_are_wanted_are_made(wanted: str) -> None:
    x, weight, bias = torch.randn(2, 3, 5), torch.randn(4, 5), torch.randn(4)
    upstream = torch.randn(2, 3, 4)
    rows, flat = upstream.reshape(-1, 4), x.reshape(-1, 5)
    expected = {"x": upstream @ weight, "weight": rows.T @ flat, "bias": rows.sum(0)}
    given = {"x": x, "weight": weight, "bias": bias}
    for name in wanted.split():
        given[name].requires_grad_()
    out = linear(x, weight, bias)
    assert torch.allclose(out, F.linear(x, weight, bias), atol=1e-5)
    out.backward(upstream)
    for name, tensor in given.items():
        if name in wanted.split():
            assert torch.allclose(tensor.grad, expected[name], atol=1e-5)
        else:
            assert tensor.grad is None


def test_layers_of_other_kinds_and_with_forwards_of_their_own_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        pass

    class OwnConv(Conv1D):
        pass

    kept = nn.Linear(3, 3)
    kept.forward = kept.forward  # type: ignore[method-assign]
    marked = nn.Linear(3, 3)
    marked.weight = Marked(marked.weight.detach())
    others = [Own(3, 3), OwnConv(3, 3), kept, marked, nn.Linear(3, 3).double(), Conv1D(3, 3).double()]
    model = nn.Sequential(*others, nn.Linear(3, 3), Conv1D(3, 3))
    replaced = use_fast_linears(model)
    assert replaced == [model[-2], model[-1]]
    assert use_fast_linears(model) == []
    x = torch.randn(2, 3)
    assert torch.allclose(model[-1](x), x @ model[-1].weight + model[-1].bias, atol=1e-6)
    with pytest.raises(ZeroDivisionError), put_back(replaced):
        _ = 1 / 0
    assert [m for m in model.modules() if "forward" in m.__dict__] == [kept]


def test_every_module_is_looked_at_once_and_few_are_replaced() -> None:
    model, seen = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh())), []

    def forward_of(module: nn.Module) -> Any:
        seen.append(type(module))
        return (lambda x: x + 1) if isinstance(module, nn.Tanh) else None

    assert replace_forwards(model, forward_of) == [model[1][0]]
    assert seen == [nn.Sequential, nn.ReLU, nn.Sequential, nn.Tanh]
    assert model(torch.tensor([-1.0, 2.0])).tolist() == [1.0, 3.0]


def test_what_a_module_is_is_found_out_once_for_its_class_and_window() -> None:
    calls: list[nn.Module] = []

    @once_per_module
    def examine(module: nn.Module) -> int:
        calls.append(module)
        return len(calls)

    one, other = nn.ReLU(), nn.ReLU()
    assert [examine(one), examine(one), examine(other), examine(one)] == [1, 1, 2, 1]
    one.__class__ = nn.Tanh  # type: ignore[assignment]
    assert [examine(one), examine(one)] == [3, 3]
    one.sliding_window = 4  # type: ignore[assignment]
    assert [examine(one), examine(one)] == [4, 4]
    one.sliding_window = 5  # type: ignore[assignment]
    assert examine(one) == 5
    one.config = SimpleNamespace(sliding_window=9)  # type: ignore[assignment]
    assert [examine(one), examine(one)] == [6, 6]
    one.config.sliding_window = 8  # type: ignore[union-attr]
    assert examine(one) == 7
    one.config.other = 8  # type: ignore[union-attr]
    assert examine(one) == 7


def norm(size: int = 6, **fields: Any) -> Any:
    made = LlamaRMSNorm(size)
    with torch.no_grad():
        made.weight.copy_(torch.rand(size) + 0.5)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


class TwoRMSNorm(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor, more: Tensor | None = None) -> Tensor:
        return super().forward(hidden_states)


class DoubleRMSNorm(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return 2 * super().forward(hidden_states)


class WideRMSNorm(LlamaRMSNorm):
    """In float32 the same; bfloat16 comes out as float32."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states.float())


class NormOfAnotherName(LlamaRMSNorm):
    pass


def test_norms_that_are_not_of_the_form_stay() -> None:
    marked = norm()
    marked.weight = Marked(marked.weight.detach())
    own = norm()
    own.forward = own.forward
    others = [kind(6) for kind in (TwoRMSNorm, DoubleRMSNorm, WideRMSNorm, NormOfAnotherName)]
    others += [marked, own, norm(variance_epsilon=1), norm().to("meta")]
    right = norm()
    model = nn.ModuleList([*others, right])
    assert use_lean_forms(model) == [right]
    for module in others:
        module.eval()


@pytest.mark.parametrize("weight_type", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("input_type", [torch.float32, torch.bfloat16, torch.float64])
def test_a_replaced_norm_gives_the_classs_numbers_in_every_type(
    input_type: torch.dtype, weight_type: torch.dtype
) -> None:
    module = norm()
    assert use_lean_forms(module) == [module]
    module.to(weight_type)
    x = torch.randn(3, 6).to(input_type)
    expected = LlamaRMSNorm.forward(module, x)
    with torch.no_grad():
        found = module(x)
    for out in (found, module(x)):
        assert out.dtype == expected.dtype
        assert torch.equal(out, expected)
    assert module(x[:0]).shape == (0, 6)


def test_a_norms_gradient_is_made_for_what_needs_it() -> None:
    x, weight = torch.randn(4, 6, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    for of_x, of_weight in ((True, False), (False, True)):
        a, w = x.clone().requires_grad_(of_x), weight.clone().requires_grad_(of_weight)
        RMSNorm.apply(a, w, 1e-6).square().sum().backward()
        assert (a.grad is None) != of_x
        assert (w.grad is None) != of_weight


class Gated(nn.Module):
    """An MLP of the common form."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(4, 6), nn.Linear(4, 6)
        self.down_proj = nn.Linear(6, 4)
        self.act_fn = act or nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Swapped(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


class Two(Gated):
    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        return super().forward(x)


class Further(Gated):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Reads(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return (
            self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) + 0 * self.up_proj.weight.sum()
        )


def test_mlps_that_are_not_of_the_form_stay() -> None:
    own = Gated()
    own.forward = own.forward  # type: ignore[method-assign]
    others = [Swapped(), Two(), Further(), Reads(), Gated(nn.GELU()), own]
    right = Gated()
    assert use_lean_forms(nn.ModuleList([*others, right])) == [right]
    plain = copy.deepcopy(right)
    del plain.forward
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        assert torch.allclose(right(x), plain(x), atol=1e-6)
    assert torch.allclose(right(x), plain(x), atol=1e-6)
    assert right(x[:0]).shape == (0, 3, 4)
    with torch.no_grad():  # the hooks of its parts run
        right.up_proj.register_forward_hook(lambda _m, _i, out: 0 * out)
        assert torch.allclose(right(x), right.down_proj.bias.expand_as(x), atol=1e-6)


def test_what_is_kept_of_an_mlp_passes_through_the_hooks_around_it() -> None:
    module = Gated()
    assert use_lean_forms(module) == [module]
    x = torch.randn(2, 3, 4, requires_grad=True)
    expected = torch.autograd.grad(Gated.forward(module, x).sum(), (x, module.gate_proj.weight))
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(tuple(t.shape)) or t.clone(), lambda t: t
    ):
        out = module(x)
    found = torch.autograd.grad(out.sum(), (x, module.gate_proj.weight))
    for mine, other in zip(found, expected, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    assert kept.count((2, 3, 6)) >= 2  # gate and up
    assert lean._same(x) is x


def _attentions(model: Any) -> list[Any]:
    return [layer.self_attn for layer in model.model.layers]


def test_attention_layers_that_are_more_than_the_form_stay() -> None:
    model: Any = small_model()
    first, second, third, _ = _attentions(model)
    own = first.forward = first.forward
    second.k_proj.weight = Marked(second.k_proj.weight.detach())
    third.extra = nn.Identity()
    with decoding(model):
        assert ["forward" in module.__dict__ for module in _attentions(model)] == [True, False, False, True]
        assert first.__dict__["forward"] is own
    assert ["forward" in module.__dict__ for module in _attentions(model)] == [True, False, False, False]


@pytest.mark.parametrize(
    ("size", "width"), [(9, 32), (None, 32), ("8", 32), (8.0, 32), (8, None), (8, "32"), (8, 32.0)]
)
def test_attention_layers_whose_sizes_are_odd_or_not_told_stay(size: Any, width: Any) -> None:
    module = SimpleNamespace(config=SimpleNamespace(hidden_size=width), head_dim=size)
    assert rotary._rules_of.__wrapped__(module) is None


def test_what_is_alike() -> None:
    a = torch.tensor([1000.0, 0.0])
    assert rotary._alike(a, a + torch.tensor([0.0, 0.09]))
    assert not rotary._alike(a, a + torch.tensor([0.0, 0.11]))
    assert rotary._alike(a, a + torch.tensor([0.19, 0.0]))
    assert not rotary._alike(a, a + torch.tensor([0.21, 0.0]))
    assert not rotary._alike(a, a[:1])
    assert not rotary._alike(a, a[None])


def test_a_part_of_a_head_that_is_turned_is_left_to_the_class() -> None:
    model: Any = small_model()
    calls: list[int] = []

    class Noting(type(_attentions(model)[0])):
        def forward(self, *args: Any, **named: Any) -> Any:
            calls.append(len(args))
            return "the class's"

    module = _attentions(model)[0]
    module.__class__ = Noting
    x, part = torch.randn(1, 2, 32), torch.randn(1, 2, 4)
    assert rotary._forward(module, None, x, (part, part), None, "more", named=1) == "the class's"
    assert calls == [4]
