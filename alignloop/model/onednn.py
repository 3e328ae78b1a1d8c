"""float32 linear layers on a CPU through oneDNN instead of MKL, where that is faster.

PyTorch sends float32 matrix products on x86 to MKL, which uses half the vector width on AMD
processors; oneDNN, which PyTorch ships as well, does not. On Intel's MKL is the faster one for most
of a layer's shapes with few rows (`python bench/linears.py`). The numbers differ by rounding only.
R rows, K inputs, N outputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from alignloop.machine import cpu_is_intel

# oneDNN prepares a program of about 1 MB for every new number of rows, and packed rows differ in every
# batch: its own cache and PyTorch's keep 1024 of them each, which grows to gigabytes. 64 are a step's.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")


T = TypeVar("T")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, differentiable, by oneDNN if both are float32 on a CPU that is not Intel's, else
    `torch.nn.functional.linear`.

    Args:
        x: float32 (..., R, K).
        weight: float32 (N, K), any strides.
        bias: float32 (N,), or None.

    Returns:
        float32 (..., R, N).
    """
    if not suits(x) or not suits(weight) or x.numel() == 0:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def suits(tensor: Tensor) -> bool:
    """True if `linear` takes this tensor to oneDNN: dense float32 on a CPU, not a distributed tensor."""
    if cpu_is_intel() or not torch.backends.mkldnn.is_available():
        return False
    dense = type(tensor) in (Tensor, nn.Parameter)
    on_cpu = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return dense and on_cpu and not torch.is_autocast_enabled("cpu")


def use_fast_linears(model: nn.Module) -> list[nn.Module]:
    """Let every linear layer of `model` that suits compute through `linear` from now on.

    Modules keep their weights, hooks and class; only `forward` is replaced. A layer that no longer
    suits when it is called (another device or dtype) computes as before.

    Returns:
        The modules whose `forward` was replaced now.
    """
    return replace_forwards(model, _forward_of)


def replace_forwards(
    model: nn.Module, forward_of: Callable[[nn.Module], Callable[..., Any] | None]
) -> list[nn.Module]:
    """Give modules another `forward`; each keeps its weights, hooks and class.

    Args:
        model: all of its modules are looked at.
        forward_of: the replacement for a module, None for one that is left alone.

    Returns:
        The modules whose `forward` was replaced now.
    """
    replaced = []
    for module in model.modules():
        forward = forward_of(module)
        if forward is not None:
            module.forward = forward
            replaced.append(module)
    return replaced


def once_per_module(examine: Callable[[nn.Module], T]) -> Callable[[nn.Module], T]:
    """What `examine` says of a module, remembered while the module lives and has the same class and sliding
    window: what that computes does not change, and generation begins anew with every reply."""
    known: WeakKeyDictionary[nn.Module, tuple[object, T]] = WeakKeyDictionary()

    @wraps(examine)
    def remembered(module: nn.Module) -> T:
        held = vars(module)
        window = held.get("sliding_window"), getattr(held.get("config"), "sliding_window", None)
        key = type(module), window
        if module not in known or known[module][0] != key:
            known[module] = key, examine(module)
        return known[module][1]

    return remembered


@contextmanager
def put_back(replaced: Sequence[nn.Module]) -> Iterator[None]:
    """Give modules their class's own `forward` back on leaving."""
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _forward_of(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The replacement of `forward`, None for a module that is left alone."""
    if "forward" in module.__dict__:
        return None
    if type(module) is nn.Linear and suits(module.weight):
        return partial(_linear_forward, module)
    if type(module) is Conv1D and suits(module.weight):
        return partial(_conv1d_forward, module)
    return None


def _linear_forward(module: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, module.weight, module.bias)


def _conv1d_forward(module: Conv1D, x: Tensor) -> Tensor:
    return linear(x, module.weight.t(), module.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """`linear` with its gradient, both by oneDNN."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = _product(x, weight, bias)  # a view; Gemma 3n's layers add to it in place, which no view allows
        return torch.ops.aten._unsafe_view(out, out.shape)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        to_x, to_weight, to_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            _product(gradient, weight.t(), None) if to_x else None,
            _product(rows.t(), x.reshape(-1, x.shape[-1]).t(), None) if to_weight else None,
            rows.sum(0) if to_bias else None,
        )
