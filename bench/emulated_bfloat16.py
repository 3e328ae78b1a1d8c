"""bfloat16 products on a processor that has no instructions for them, with the numbers of one that has.

Such instructions multiply bfloat16 operands exactly, add in float32 and round the result. Here the operands
are made float32, which changes no value, multiplied in float32, and the result is rounded: the same but for
the order of the additions.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ATEN = torch.ops.aten
_LIBRARY = torch.library.Library("aten", "IMPL")
"""Holds the replacements, which end with it."""


def emulate() -> None:
    """Replace PyTorch's matrix products of bfloat16 on a CPU, for good.

    `alignloop.machine` says from now on that the processor can do it.
    """
    from alignloop import machine

    machine.bf16_instructions = lambda: ["emulated"]
    for name, function in (("mm", _mm), ("addmm", _addmm), ("bmm", _bmm), ("baddbmm", _baddbmm)):
        _LIBRARY.impl(name, function, "CPU")


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [one.float() if one.dtype == torch.bfloat16 else one for one in tensors]


def _mm(a: Tensor, b: Tensor) -> Tensor:
    x, y = _wide(a, b)
    return _ATEN.mm.out(x, y, out=x.new_empty(x.shape[0], y.shape[1])).to(a.dtype)


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    x, y = _wide(a, b)
    return _ATEN.bmm.out(x, y, out=x.new_empty(x.shape[0], x.shape[1], y.shape[2])).to(a.dtype)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    added, x, y = _wide(bias, a, b)
    out = x.new_empty(x.shape[0], y.shape[1])
    return _ATEN.addmm.out(added, x, y, beta=beta, alpha=alpha, out=out).to(a.dtype)


def _baddbmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    added, x, y = _wide(bias, a, b)
    out = x.new_empty(x.shape[0], x.shape[1], y.shape[2])
    return _ATEN.baddbmm.out(added, x, y, beta=beta, alpha=alpha, out=out).to(a.dtype)
