"""Attention layers with rotary positions in fewer operations, while the generation engine runs.

A decoding step has few rows, and of a layer's time much goes into small operations: transformers takes
ten for the rotary positions, here there are six. A module is recognised by what its class hands to the
engine on a small input. R rows, H query heads, K key heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alignloop.errors import ModelError
from alignloop.model.onednn import once_per_module
from alignloop.model.step import Rules, attend, masked, running

_FOREIGN = (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


class _Probe:
    """Keeps what an attention module hands over; "attends" with the queries themselves."""

    def __init__(self) -> None:
        self.seen: tuple[int, Tensor, Tensor, Tensor, Rules] | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        self.seen = (layer, query, key, value, rules)
        return query.transpose(0, 1)


def attention_of(module: nn.Module) -> Callable[..., Any] | None:
    """A replacement for the `forward` of an attention module with rotary positions, None for others.

    The model must be set up for decoding. Modules are left alone that have a `forward` of their own, norms
    of queries and keys, other weights than float32 on a CPU, or compute anything else than `forward` here;
    under autocast all are.
    """
    if "forward" in module.__dict__ or module._modules.keys() != set(_PROJECTIONS):
        return None
    if torch.is_autocast_enabled("cpu"):
        return None
    for weight in module.parameters():
        if type(weight) is not nn.Parameter or weight.device.type != "cpu" or weight.dtype != torch.float32:
            return None
    rules = _rules_of(module)
    return None if rules is None else partial(_forward, module, rules)


@once_per_module
def _rules_of(module: nn.Module) -> Rules | None:
    """The rules that the class hands to the engine, None if it computes anything else than `_forward`."""
    size, width = getattr(module, "head_dim", None), getattr(module.config, "hidden_size", None)
    if not isinstance(size, int) or size % 2 or not isinstance(width, int):
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, width, generator=generator)
    angles = torch.randn(1, 2, size // 2, generator=generator).repeat(1, 1, 2)
    positions = (angles.cos(), angles.sin())
    own, ours = _Probe(), _Probe()
    arguments = {"position_embeddings": positions, "attention_mask": None, "past_key_values": None}
    try:
        with torch.no_grad():
            with running(own):
                expected = type(module).forward(module, x, **arguments)[0]
            if own.seen is None:
                return None
            with running(ours):
                found = _forward(module, own.seen[-1], x, position_embeddings=positions)[0]
    except (*_FOREIGN, ModelError):  # a forward that needs something else
        return None
    assert ours.seen is not None
    pairs = [*zip(own.seen[1:4], ours.seen[1:4], strict=True), (expected, found)]
    if own.seen[0] != ours.seen[0] or not all(_alike(a, b) for a, b in pairs):
        return None
    return own.seen[-1]


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


def _forward(
    module: Any,
    rules: Rules,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    *others: object,
    **named: object,
) -> tuple[Tensor, None]:
    """(1, R, h), cosines and sines (1, R, D) → (1, R, h)."""
    if position_embeddings[0].shape[-1] != module.head_dim:  # only a part of each head is turned
        return type(module).forward(
            module, hidden_states, position_embeddings, attention_mask, *others, **named
        )
    cos, sin = (x[0, :, None] for x in position_embeddings)
    half = sin[..., : sin.shape[-1] // 2]
    query, key, value = (
        project(hidden_states)[0].unflatten(-1, (-1, module.head_dim))
        for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    query, key = rotated(query, cos, half), rotated(key, cos, half)
    turned = (query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1))
    out = attend(module.layer_idx, *turned, masked(rules, attention_mask, module))  # pyright: ignore[reportCallIssue]
    return module.o_proj(out.reshape(1, len(out), -1)), None


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x turned by its position's angles, its first half against its second (Su et al. 2021, arXiv
    2104.09864, eq. 34, in transformers' order). (R, H, D), cosines (R, 1, D), sines (R, 1, D / 2)."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin, value=-1)
    out[..., half:].addcmul_(x[..., :half], sin)
    return out
