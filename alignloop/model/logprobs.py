"""Per-token log-probs through the vocabulary head, without ever storing [tokens, vocabulary].

M rows (positions that predict a counted token), h hidden size, V vocabulary. The head runs over
chunks of rows and recomputes each chunk's logits in backward, so its memory is chunk × V instead
of M × V, and it runs over counted positions only: never over the prompt or padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alignloop.model.onednn import linear

CHUNK_ELEMENTS = 2**24
"""Logits held at once, in elements (64 MiB in float32)."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What the model does between head and softmax: softcap · tanh(logits · scale / softcap).

    Attributes:
        scale: factor of the logits (Cohere's logit_scale, 1 / Granite's logits_scaling).
        softcap: None, or Gemma 2's final soft cap.
        temperature: sampling temperature the logits are divided by afterwards; log-probs used in a
            policy ratio must be those of the distribution that was sampled.
    """

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

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


def transform_of(config: Any, temperature: float = 1.0) -> LogitTransform:
    """The transform a transformers model configuration asks for."""
    scale = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return LogitTransform(scale / divisor, getattr(config, "final_logit_softcapping", None), temperature)


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
    result: tuple[Tensor, Tensor] = _TokenLogprobs.apply(hidden, weight, bias, targets, transform, entropy)  # type: ignore[assignment]
    return result[0], result[1] if entropy else None


def _chunks(num_rows: int, vocabulary: int) -> list[slice]:
    rows = max(16, CHUNK_ELEMENTS // vocabulary)
    return [slice(first, min(first + rows, num_rows)) for first in range(0, num_rows, rows)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform) -> Tensor:
    logits = linear(hidden, weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if bias is not None:
        logits += bias
    return transform.apply(logits)


class _TokenLogprobs(torch.autograd.Function):
    """Forward keeps (M,) log-normalisers; backward recomputes one chunk of logits at a time.

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
        logprobs = torch.empty(len(targets), dtype=kind, device=hidden.device)
        normalizers = torch.empty_like(logprobs)
        entropies = torch.empty_like(logprobs) if entropy else logprobs.new_empty(0)
        frozen = not ctx.needs_input_grad[1] and not ctx.needs_input_grad[2]
        direction = torch.empty_like(hidden) if frozen and ctx.needs_input_grad[0] and not entropy else None
        for rows in _chunks(len(targets), weight.shape[0]):
            logits = _logits(hidden[rows], weight, bias, transform)
            normalizer = torch.logsumexp(logits, dim=-1)
            normalizers[rows] = normalizer
            logprobs[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - normalizer
            if entropy:
                log_p = logits.sub_(normalizer[:, None])
                entropies[rows] = -(log_p.exp() * log_p).sum(-1)
            elif direction is not None:
                grad = _grad_logits(logits, normalizer, targets[rows], torch.ones_like(normalizer), transform)
                direction[rows] = linear(grad.to(weight.dtype), weight.T)
        ctx.transform, ctx.entropy, ctx.has_direction = transform, entropy, direction is not None
        if direction is not None:
            ctx.save_for_backward(direction)
        else:
            ctx.save_for_backward(hidden, weight, bias, targets, normalizers, entropies)
        if not entropy:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropies: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.has_direction:
            (direction,) = ctx.saved_tensors
            return (direction * grad_logprobs[:, None].to(direction.dtype), None, None, None, None, None)
        hidden, weight, bias, targets, normalizers, entropies = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for rows in _chunks(len(targets), weight.shape[0]):
            logits = _logits(hidden[rows], weight, bias, ctx.transform)
            extra = (grad_entropies[rows], entropies[rows]) if ctx.entropy else None
            grad = _grad_logits(
                logits, normalizers[rows], targets[rows], grad_logprobs[rows], ctx.transform, extra
            )
            if grad_bias is not None:
                grad_bias += grad.sum(0).to(grad_bias.dtype)
            grad = grad.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = linear(grad, weight.T)
            if grad_weight is not None:
                grad_weight += linear(grad.T, hidden[rows].T)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _grad_logits(
    logits: Tensor,
    normalizer: Tensor,
    targets: Tensor,
    grad: Tensor,
    transform: LogitTransform,
    entropy: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Gradient of Σ gradᵢ·logπᵢ (+ Σ g_H·H) with respect to the raw logits, (rows, V).

    ∂logπ_y/∂z = 1[y] − p and ∂H/∂z = −p·(log p + H).
    """
    keep = logits.clone() if transform.softcap is not None else logits
    log_p = logits.sub_(normalizer[:, None])
    if entropy is None:
        result = log_p.exp_().mul_(-grad[:, None])
    else:
        grad_entropy, value = entropy
        p = log_p.exp()
        result = -p * (grad[:, None] + grad_entropy[:, None] * (log_p + value[:, None]))
    result.scatter_add_(1, targets[:, None], grad[:, None])
    return transform.backward(result, keep)
