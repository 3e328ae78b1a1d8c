"""Per-token log-probs through the vocabulary head, without ever storing [tokens, vocabulary].

M rows (positions that predict a counted token), h hidden size, V vocabulary. The head runs over
slices of the vocabulary, with a running maximum and sum, and recomputes each slice's logits in
backward, so its memory is a slice × M instead of M × V; each slice of the head's gradient is written
once. It runs over counted positions only: never over the prompt or padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alignloop.model.onednn import linear

SLICE_ELEMENTS = {"cpu": 2**21, "cuda": 2**26}
"""Logits held at once, by device type: what a CPU's caches hold, what keeps a GPU busy."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What the model does between head and softmax: softcap · tanh(logits · scale / softcap).

    Attributes:
        scale: factor of the logits (Cohere's and HyperCLOVA X's; its reciprocal divides Granite's).
        softcap: None, or a final soft cap (Gemma 2, RecurrentGemma, xLSTM).
        temperature: sampling temperature the logits are divided by afterwards; log-probs used in a
            policy ratio must be those of the distribution that was sampled.
        vocabulary: tokens the model gives logits for, the first so many rows of the head (Inkling pads
            its head); None for all.
    """

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0
    vocabulary: int | None = None

    def apply(self, logits: Tensor) -> Tensor:
        """Transformed logits; float32 or wider, any shape. Works in place."""
        if self.softcap is not None:
            logits = logits.mul_(self.scale / self.softcap).tanh_().mul_(self.softcap)
        elif self.scale != 1.0:
            logits = logits.mul_(self.scale)
        return logits if self.temperature == 1.0 else logits.div_(self.temperature)

    def backward(self, grad: Tensor, transformed: Tensor) -> Tensor:
        """Gradient with respect to the raw logits from the gradient of the transformed ones, in place."""
        grad = grad.mul_(self.scale / self.temperature)
        if self.softcap is not None:
            grad = grad.mul_(1 - (transformed * (self.temperature / self.softcap)).square_())
        return grad


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    transform: LogitTransform | None = None,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """log softmax(transform(hidden · weightᵀ + bias))[target] for each row, differentiable.

    Args:
        hidden: (M, h), float32 or bfloat16.
        weight: (V, h), the vocabulary head.
        targets: int64 (M,).
        bias: (V,) or None.
        transform: logit scale, soft cap and temperature; none if None.
        entropy: also return the entropy of each row's distribution.

    Returns:
        Log-probs in nats, (M,), float32 (float64 for float64 input), and the entropies in nats or None.
    """
    transform = transform or LogitTransform()
    if transform.vocabulary is not None:
        weight = weight[: transform.vocabulary]
        bias = None if bias is None else bias[: transform.vocabulary]
    device = hidden.device.type
    if torch.is_autocast_enabled(device):  # backward runs without it, and must recompute the same logits
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    result: tuple[Tensor, Tensor] = _TokenLogprobs.apply(hidden, weight, bias, targets, transform, entropy)  # type: ignore[assignment]
    return result[0], result[1] if entropy else None


def _slices(num_rows: int, vocabulary: int, device: torch.device) -> list[slice]:
    size = max(128, SLICE_ELEMENTS.get(device.type, 2**24) // max(1, num_rows))
    return [slice(first, min(first + size, vocabulary)) for first in range(0, vocabulary, size)]


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, columns: slice, transform: LogitTransform
) -> Tensor:
    logits = linear(hidden, weight[columns])
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if bias is not None:
        logits += bias[columns]
    return transform.apply(logits)


def _targets_in(columns: slice, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows have their target in a slice of the vocabulary (M,), and its place there (M, 1), 0 if not.

    Masked instead of selected: a GPU would have to be waited for to know how many rows they are.
    """
    inside = (targets >= columns.start) & (targets < columns.stop)
    return inside, torch.where(inside, targets - columns.start, 0)[:, None]


class _TokenLogprobs(torch.autograd.Function):
    """Forward keeps (M,) log-normalisers; backward recomputes one slice of logits at a time.

    With a frozen head only the direction ∂logπ_t/∂h_t = W[y_t] − p_t·W is needed, an (M, h) matrix
    that the forward pass can make while the logits are at hand: backward is then a product of rows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        picked = torch.zeros(len(targets), dtype=kind, device=hidden.device)
        top, total, weighted = torch.full_like(picked, -math.inf), torch.zeros_like(picked), None
        frozen = not ctx.needs_input_grad[1] and not ctx.needs_input_grad[2]
        mean_weight = None  # Σ_v e^z_v·W_v
        if entropy:
            weighted = torch.zeros_like(picked)  # Σ_v e^z_v·z_v
        elif frozen and ctx.needs_input_grad[0]:
            mean_weight = torch.zeros(hidden.shape, dtype=kind, device=hidden.device)
        for columns in _slices(len(targets), weight.shape[0], hidden.device):
            z = _logits(hidden, weight, bias, columns, transform)
            inside, places = _targets_in(columns, targets)
            picked = torch.where(inside, z.gather(1, places)[:, 0], picked)
            new_top = torch.maximum(top, z.amax(-1))
            shrink = (top - new_top).exp_()
            top = new_top
            keep = z.clone() if entropy or transform.softcap is not None else z
            e = z.sub_(top[:, None]).exp_()
            total.mul_(shrink).add_(e.sum(-1))
            if weighted is not None:
                weighted.mul_(shrink).add_((e * keep).sum(-1))
            elif mean_weight is not None:
                raw = transform.backward(e, keep).to(weight.dtype)
                mean_weight.mul_(shrink[:, None]).add_(linear(raw, weight[columns].t()))
        normalizers = top + total.log()
        entropies = picked.new_empty(0) if weighted is None else normalizers - weighted / total
        ctx.transform, ctx.entropy, ctx.has_direction = transform, entropy, mean_weight is not None
        if mean_weight is not None:
            of_target = transform.backward(torch.ones_like(picked), picked)
            direction = of_target[:, None] * weight[targets] - mean_weight / total[:, None]
            ctx.save_for_backward(direction.to(hidden.dtype))
        else:
            ctx.save_for_backward(hidden, weight, bias, targets, normalizers, entropies)
        if not entropy:
            ctx.mark_non_differentiable(entropies)
        return picked - normalizers, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropies: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.has_direction:
            (direction,) = ctx.saved_tensors
            return (direction * grad_logprobs[:, None].to(direction.dtype), None, None, None, None, None)
        hidden, weight, bias, targets, normalizers, entropies = ctx.saved_tensors
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros(hidden.shape, dtype=normalizers.dtype, device=hidden.device)
        grad_weight = torch.empty_like(weight) if to_weight else None
        grad_bias = torch.empty_like(bias) if bias is not None and to_bias else None
        for columns in _slices(len(targets), weight.shape[0], hidden.device):
            z = _logits(hidden, weight, bias, columns, ctx.transform)
            keep = z.clone() if ctx.transform.softcap is not None else z
            log_p = z.sub_(normalizers[:, None])
            # ∂logπ_y/∂z = 1[y] − p and ∂H/∂z = −p·(log p + H)
            if ctx.entropy:
                slope = grad_entropies[:, None] * (log_p + entropies[:, None]) + grad_logprobs[:, None]
                grad = log_p.exp_().mul_(slope).neg_()
            else:
                grad = log_p.exp_().mul_(-grad_logprobs[:, None])
            inside, places = _targets_in(columns, targets)
            grad.scatter_add_(1, places, torch.where(inside, grad_logprobs, 0.0).to(grad.dtype)[:, None])
            grad = ctx.transform.backward(grad, keep)
            if grad_bias is not None:
                grad_bias[columns] = grad.sum(0)
            grad = grad.to(weight.dtype)
            if to_hidden:
                grad_hidden += linear(grad, weight[columns].t())
            if grad_weight is not None:
                grad_weight[columns] = linear(grad.t(), hidden.t())
        return grad_hidden.to(hidden.dtype) if to_hidden else None, grad_weight, grad_bias, None, None, None
