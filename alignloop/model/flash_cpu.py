"""Attention of a packed row on a CPU: all completions of a group read their prompt's keys together.

A completion's token sees the prompt and the earlier tokens of its own branch. Its attention over each
of the two is a flash attention of its own with the log of its normaliser; the two are then weighted by
their shares of the joint normaliser. In backward each part gets the joint output and normaliser, which
makes its gradients those of the joint softmax (as in ring attention, Liu et al. 2023, arXiv 2310.01889).
Keys are kept once, neither copied for each completion nor repeated for grouped query heads.
H query heads, K key heads, N tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alignloop.data.packing import Span

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def suits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """True for tensors of one float type and head size on a CPU."""
    return (
        query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype
        and query.shape[-1] == value.shape[-1]
    )


def packed_flash(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scale: float) -> Tensor:
    """Attention without dropout, window or soft cap, differentiable.

    Args:
        query: (1, H, N, D).
        key: (1, K, N, D), K divides H.
        value: (1, K, N, D).
        spans: the row's groups.
        scale: factor of the scores.

    Returns:
        (1, N, H, D).
    """
    out: Tensor = _PackedFlash.apply(query, key, value, spans, scale)  # type: ignore[assignment]
    return out


class _PackedFlash(torch.autograd.Function):
    """Keeps the inputs, the output and the normalisers. Inside, rows are (K, H/K, N, D)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scale: float
    ) -> Tensor:
        q, k, v = _by_key_head(query, key, value)
        out = query.new_empty(query.transpose(1, 2).shape)
        to = _heads(out.transpose(1, 2), key)
        normalizers = q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))
        for rows in _causal_blocks(spans):
            part, logs = _forward(q[:, :, rows], k[:, :, rows], v[:, :, rows], 0.0, True, scale=scale)
            to[:, :, rows], normalizers[:, :, rows] = part, logs
        for prompt, rows in _onto_prompts(spans):
            part, logs = _forward(q[:, :, rows], k[:, :, prompt], v[:, :, prompt], 0.0, False, scale=scale)
            joint = torch.logaddexp(normalizers[:, :, rows], logs)
            to[:, :, rows].lerp_(part, (logs - joint).exp_()[..., None].to(part.dtype))
            normalizers[:, :, rows] = joint
        ctx.save_for_backward(query, key, value, out, normalizers)
        ctx.spans, ctx.scale = spans, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, normalizers = ctx.saved_tensors
        q, k, v = _by_key_head(query, key, value)
        out, grad = (_heads(x.transpose(1, 2), key) for x in (out, grad))
        grads = [torch.empty_like(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value)]
        to_q, to_k, to_v = _heads(grads[0], key), grads[1][0], grads[2][0]

        def parts(rows: slice, seen: slice, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            of_rows = (x[:, :, rows] for x in (grad, q))
            of_seen = (x[:, :, seen] for x in (k, v))
            joint = (x[:, :, rows] for x in (out, normalizers))
            return _backward(*of_rows, *of_seen, *joint, 0.0, causal, scale=ctx.scale)

        for rows in _causal_blocks(ctx.spans):
            to_q[:, :, rows], of_keys, of_values = parts(rows, rows, True)
            torch.sum(of_keys, 1, out=to_k[:, rows])
            torch.sum(of_values, 1, out=to_v[:, rows])
        for prompt, rows in _onto_prompts(ctx.spans):
            of_queries, of_keys, of_values = parts(rows, prompt, False)
            to_q[:, :, rows] += of_queries
            to_k[:, prompt] += of_keys.sum(1)
            to_v[:, prompt] += of_values.sum(1)
        return *grads, None, None


def _heads(rows: Tensor, key: Tensor) -> Tensor:
    """(1, H, N, D) → (K, H/K, N, D), a view."""
    return rows[0].unflatten(0, (key.shape[1], -1))


def _by_key_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as (K, H/K, N, D) without copies: queries of a key head see the same one."""
    queries = _heads(query, key)
    return queries, key[0][:, None].expand_as(queries), value[0][:, None].expand_as(queries)


def key_sizes(span: Span) -> list[int]:
    """Tokens of each piece of a group's keys: the whole group if it has one completion, else the prompt and
    each completion."""
    sizes = [span.prompt_length, *span.lengths]
    return sizes if len(span.lengths) > 1 else [sum(sizes)]


def _causal_blocks(spans: Sequence[Span]) -> Iterator[slice]:
    """Tokens that see the earlier ones among them and nothing else but, perhaps, their prompt."""
    for span in spans:
        start = span.start
        for size in key_sizes(span):
            if size:
                yield slice(start, start + size)
            start += size


def _onto_prompts(spans: Sequence[Span]) -> Iterator[tuple[slice, slice]]:
    """The prompt, and all tokens of its completions, of each group with several."""
    for span in spans:
        end = span.start + span.prompt_length
        if len(span.lengths) > 1 and span.prompt_length:
            yield slice(span.start, end), slice(end, span.stop)
