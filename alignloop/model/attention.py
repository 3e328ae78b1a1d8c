"""Shared-prefix attention for packed groups, registered with transformers.

Every Hugging Face decoder that dispatches through the attention interface can run a packed row: a
token sees the tokens of its own branch and of its group's prompt that lie at or before it. `verify`
compares the packed row with plain padded rows on the model at hand, so an architecture that cannot
do it (state-space layers, attention sinks, learned relative biases) is found out, not guessed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from alignloop.data.packing import Segments, Span
from alignloop.model import flash_cpu
from alignloop.model.flex import packed_flex

SHARED_PREFIX = "alignloop_shared_prefix"


@torch.compiler.disable
def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of one packed row.

    H query heads, K key heads, N tokens, D head size. transformers hands the caller's keyword
    arguments of the model call through to here; those that do not concern attention are ignored.

    Args:
        module: the attention layer (not read).
        query: (1, H, N, D).
        key: (1, K, N, D), K divides H.
        value: (1, K, N, D).
        attention_mask: None; the layout comes from `segments`.
        segments: the row's layout.
        scaling: factor of the scores, 1/√D if None.
        dropout: attention dropout probability.
        sliding_window: a query sees keys at distance below this, in positions; None for all.
        softcap: scores become softcap · tanh(score / softcap) (Gemma 2).

    Returns:
        (1, N, H, D) and None for the weights.
    """
    if query.is_cuda and dropout == 0.0:
        out = packed_flex(
            query, key, value, segments, scaling=scaling, window=sliding_window, softcap=softcap
        )
        return out, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    everything = sliding_window is None or all(
        span.prompt_length + max(span.lengths) <= sliding_window for span in segments.spans
    )
    if dropout == 0.0 and softcap is None and everything and flash_cpu.suits(query, key, value):
        return flash_cpu.packed_flash(query, key, value, segments.spans, scale), None
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key = key.repeat_interleave(repeats, dim=1)
        value = value.repeat_interleave(repeats, dim=1)
    # One split for the row: its backward is one concatenation, that of a slice a zero-filled row each.
    queries = query.split([size for span in segments.spans for size in _query_sizes(span)], dim=2)
    pieces = [
        _block(q, k, v, segments, scale, dropout, sliding_window, softcap)
        for q, (k, v) in zip(queries, _seen(key, value, segments), strict=True)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2), None


def _seen(key: Tensor, value: Tensor, segments: Segments) -> list[tuple[Tensor, Tensor]]:
    """The keys and values that each block of queries sees."""
    sizes = [size for span in segments.spans for size in flash_cpu.key_sizes(span)]
    keys, values = iter(key.split(sizes, dim=2)), iter(value.split(sizes, dim=2))
    blocks = []
    for span in segments.spans:
        keys_of, values_of = (
            [next(keys) for _ in flash_cpu.key_sizes(span)],
            [next(values) for _ in flash_cpu.key_sizes(span)],
        )
        if len(span.lengths) == 1:
            blocks.append((keys_of[0], values_of[0]))
        else:
            blocks += [
                (torch.cat([keys_of[0], k], 2), torch.cat([values_of[0], v], 2))
                for k, v in zip(keys_of[1:], values_of[1:], strict=True)
            ]
    return blocks


def _query_sizes(span: Span) -> list[int]:
    """Tokens of each block of queries: the prompt with completion 1, then the other completions."""
    return [span.prompt_length + span.lengths[0], *span.lengths[1:]]


def _block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scale: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention whose last query sees the last key. (1, H, Q, D), (1, H, K, D) → (1, H, Q, D)."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    if window is not None and window >= num_keys:
        window = None
    if softcap is None and window is None and num_queries == num_keys:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, dropout_p=dropout
        )
    name = (num_queries, num_keys, window, query.dtype)
    bias = segments.cache.get(name)
    if not isinstance(bias, Tensor):
        distance = torch.arange(num_keys - num_queries, num_keys, device=query.device)[:, None]
        distance = distance - torch.arange(num_keys, device=query.device)
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        bias = torch.zeros(num_queries, num_keys, dtype=query.dtype, device=query.device)
        segments.cache[name] = bias.masked_fill_(hidden, -math.inf)
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scale, dropout_p=dropout
        )
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * (scale / softcap)) + bias
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return F.dropout(weights, p=dropout) @ value


def register() -> None:
    """Make the function known to transformers under the name `SHARED_PREFIX`; safe to repeat."""
    ALL_ATTENTION_FUNCTIONS.register(SHARED_PREFIX, shared_prefix_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(SHARED_PREFIX, lambda *args, **kwargs: None)


def enable(model: PreTrainedModel) -> None:
    """Switch a model to shared-prefix attention; its forward then needs `segments=`."""
    register()
    model.set_attn_implementation(SHARED_PREFIX)
