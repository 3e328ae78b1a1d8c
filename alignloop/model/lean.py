"""RMSNorms and gated MLPs that keep less for backward and take fewer passes over memory without one.

No matrix product is computed twice.

For each layer and token a transformers model keeps of a norm the input, the normed input and the
output, and of the MLP gate, silu(gate), up and their product. The normed input, silu(gate) and the
product take one elementwise pass; backward makes them again. h hidden size, m width of the MLP.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._autograd import _top_saved_tensors_default_hooks
from torch.autograd.function import once_differentiable
from transformers.activations import SiLUActivation

from alignloop.model.onednn import once_per_module, replace_forwards

_GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class RMSNorm(torch.autograd.Function):
    """weight · x / √(mean(x²) + ε), x (..., h), weight (h,); keeps x and the root, differentiable once.

    Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4. As in transformers, the normed x is rounded to
    x's dtype before the weight multiplies it; gradients are computed in float32 at least.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        normed, root = _normed(x, weight, epsilon)
        ctx.save_for_backward(x, weight, root)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, root = ctx.saved_tensors
        width, wide = x.shape[-1], root.dtype
        rows, gradient = x.to(wide).reshape(-1, width), gradients[0].to(wide).reshape(-1, width)
        scale, root = weight.to(wide), root.reshape(-1)
        along = gradient * rows
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            share = torch.mv(along, scale) * root.pow(3) / width
            to_x = (gradient * scale).mul_(root[:, None]).addcmul_(rows, share[:, None], value=-1)
            to_x = to_x.reshape(x.shape).to(x.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = torch.mv(along.t(), root).to(weight.dtype)
        return to_x, to_weight, None


def _normed(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The normed x and the reciprocal root, bit for bit as transformers' operations one by one."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    root = wide.pow(2).mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    normed = (wide * root).to(x.dtype)
    return normed.mul_(weight) if weight.dtype == x.dtype else weight * normed, root


class GatedSiLU(torch.autograd.Function):
    """silu(gate) · up, both (..., m), which are all it keeps. Shazeer 2020, arXiv 2002.05202, eq. 5."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        (gradient,) = gradients
        return torch.ops.aten.silu_backward(gradient * up, gate), gradient * F.silu(gate)


def use_lean_forms(model: nn.Module) -> list[nn.Module]:
    """Let the norms and MLPs of `model` that are of these two forms keep less from now on.

    Modules keep their weights, hooks and class; only `forward` is replaced, and where torch.compile
    traces it, it is the class's own. A module is recognised by what its class computes on a small
    input, so variants (weights counted from 1, scaled gates) stay as they are. Without a gradient the
    numbers are the class's to the last bit.

    Returns:
        The modules whose `forward` was replaced now.
    """
    return replace_forwards(model, _forward_of)


def _forward_of(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The replacement of `forward`, None for a module that is left alone."""
    if "forward" in module.__dict__:
        return None
    if type(module).__name__.endswith("RMSNorm") and _takes_one(module) and _is_rms_norm(module):
        return partial(_norm_forward, module)
    if module._modules.keys() >= _GATED and _takes_one(module) and _is_gated_mlp(module):
        return partial(_mlp_forward, module)
    return None


def _takes_one(module: nn.Module) -> bool:
    """Whether its forward takes one argument."""
    return len(inspect.signature(module.forward).parameters) == 1


@once_per_module
@torch.no_grad()
def _is_rms_norm(module: nn.Module) -> bool:
    """Whether the module gives `RMSNorm` of its weight and `variance_epsilon`, to the last bit."""
    weight, epsilon = module._parameters.get("weight"), module.__dict__.get("variance_epsilon")
    if type(weight) is not nn.Parameter or weight.is_meta or not isinstance(epsilon, float):
        return False
    x = torch.linspace(-2, 3, 2 * weight.numel(), device=weight.device).reshape(2, -1)
    pairs = [(type(module).forward(module, s), RMSNorm.apply(s, weight, epsilon)) for s in (x, x.bfloat16())]
    return all(own.dtype == ours.dtype and torch.equal(own, ours) for own, ours in pairs)


@once_per_module
@torch.no_grad()
def _is_gated_mlp(module: nn.Module) -> bool:
    """Whether the class's forward is down(silu(gate(x)) · up(x)), run with projections that are cheap."""
    if type(module.act_fn) not in (SiLUActivation, nn.SiLU):
        return False
    parts = {"gate_proj": lambda x: 2 * x + 1, "up_proj": lambda x: 3 - x, "down_proj": lambda x: x.flip(0)}
    x = torch.linspace(-2, 3, 8).reshape(1, 2, 4)
    try:  # a forward that reads other modules does not find them, one that calls another's has no super
        out = type(module).forward(SimpleNamespace(**module.__dict__ | parts, act_fn=F.silu), x)  # pyright: ignore[reportArgumentType]
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False
    return torch.equal(out, (F.silu(2 * x + 1) * (3 - x)).flip(0))


def _lean(x: Tensor) -> bool:
    return not torch.compiler.is_compiling() and x.numel() > 0


def _norm_forward(module: Any, x: Tensor) -> Tensor:
    if not _lean(x) or x.dtype == torch.float64:  # which transformers rounds to float32 on the way
        return type(module).forward(module, x)
    if not torch.is_grad_enabled():
        return _normed(x, module.weight, module.variance_epsilon)[0]
    return RMSNorm.apply(x, module.weight, module.variance_epsilon)


def _mlp_forward(module: Any, x: Tensor) -> Tensor:
    if not _lean(x):
        return type(module).forward(module, x)
    gate, up = module.gate_proj(x), module.up_proj(x)
    if not torch.is_grad_enabled():
        return module.down_proj(F.silu(gate, inplace=True).mul_(up))
    product = GatedSiLU.apply(gate, up)
    with _made_again(product, gate, up):
        return module.down_proj(product)


@contextmanager
def _made_again(product: Tensor, gate: Tensor, up: Tensor) -> Iterator[None]:
    """Where autograd would keep silu(gate) · up, it keeps gate and up and multiplies again.

    Only the innermost hooks see a saved tensor: what these do not replace, and gate and up themselves,
    go on to the hooks around them (gradient checkpointing, counting, offloading).
    """
    place, dtype = product.untyped_storage().data_ptr(), product.dtype
    parts = [gate.detach(), up.detach()]
    keep, give = _top_saved_tensors_default_hooks(True) or (_same, _same)

    def pack(tensor: Tensor) -> Callable[[], Tensor]:
        if tensor.dtype != dtype or tensor.untyped_storage().data_ptr() != place:
            return partial(give, keep(tensor))
        layout = (tensor.size(), tensor.stride(), tensor.storage_offset())
        kept_gate, kept_up = (keep(part) for part in parts)
        return lambda: (F.silu(give(kept_gate)) * give(kept_up)).as_strided(*layout)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda make: make()):
        yield
    parts.clear()  # autograd holds on to `pack`, and a layer that is computed again must let go of these


def _same(tensor: Tensor) -> Tensor:
    return tensor
