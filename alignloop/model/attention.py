"""Shared-prefix attention for packed groups, registered with transformers.

Every Hugging Face decoder that dispatches through the attention interface can run a packed row: a
token sees the tokens of its own branch and of its group's prompt that lie at or before it.
`alignloop.model.verify` compares a packed row's log-probs with the model's own, so an architecture that
cannot do it (state-space layers, attention sinks, learned relative biases) is found out, not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Window:
    """In place of a mask: a query sees keys at distance below `size`, in positions."""

    size: int

    def __getitem__(self, _: object) -> Window:
        """The mask of some of the queries (Gemma 4 asks for it)."""
        return self


@torch.compiler.disable
def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Window | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
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
        attention_mask: None, or the window that the layer's mask has; the layout comes from `segments`.
        segments: the row's layout.
        scaling: factor of the scores, 1/√D if None.
        dropout: attention dropout probability.
        sliding_window: a query sees keys at distance below this, in positions; None for all.
        softcap: scores become softcap · tanh(score / softcap) (Gemma 2).
        s_aux: None; attention sinks are not known here.

    Returns:
        (1, N, H, D) and None for the weights.

    Raises:
        NotImplementedError: no layout, sinks, or a mask of the layer's own.
    """
    segments, sliding_window = _understood(segments, s_aux, attention_mask, sliding_window)
    if query.is_cuda and dropout == 0.0:
        rules = {"scaling": scaling, "window": sliding_window, "softcap": softcap}
        return packed_flex(query, key, value, segments, **rules).contiguous(), None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    everything = sliding_window is None or all(
        span.prompt_length + max(span.lengths) <= sliding_window for span in segments.spans
    )
    with _float32_on_cpu(query, key, value) as (products, (query, key, value)):
        if dropout == 0.0 and softcap is None and everything and flash_cpu.suits(query, key, value):
            out = flash_cpu.packed_flash(query, key, value, segments.spans, scale)
        else:
            rules = {"scale": scale, "dropout": dropout, "window": sliding_window, "softcap": softcap}
            out = _by_block(query, key, value, segments, partial(_block, segments=segments, **rules))
        return out.to(products).contiguous(), None


@contextmanager
def _float32_on_cpu(*tensors: Tensor) -> Iterator[tuple[torch.dtype, Sequence[Tensor]]]:
    """On a CPU, half-precision attention computes in float32: torch's backward is eight times as slow in
    bfloat16, and takes longer than the matrix products around it (docs/log.md).

    Args:
        *tensors: queries, keys and values.

    Yields:
        The type of the layer's output, and the tensors to compute with.
    """
    if tensors[0].device.type != "cpu":
        yield tensors[0].dtype, tensors
        return
    autocast = torch.is_autocast_enabled("cpu")
    products = torch.get_autocast_dtype("cpu") if autocast else tensors[0].dtype
    if products not in (torch.bfloat16, torch.float16):
        yield products, tensors
        return
    with torch.autocast("cpu", enabled=False):
        yield products, [tensor.float() for tensor in tensors]


def _by_block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    block: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Attention of a row, one block of queries after the other. (1, H, N, D) → (1, N, H, D)."""
    if (repeats := query.shape[1] // key.shape[1]) > 1:
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    # Layers view what they get as (N, H·D), which takes this copy anyway.
    # One split for the row: its backward is one concatenation, that of a slice a zero-filled row each.
    queries = query.split([size for span in segments.spans for size in _query_sizes(span)], dim=2)
    pieces = [block(q, k, v) for q, (k, v) in zip(queries, _seen(key, value, segments), strict=True)]
    return torch.cat(pieces, dim=2).transpose(1, 2)


def _understood(
    segments: Segments | None,
    s_aux: Tensor | None,
    attention_mask: Tensor | Window | None,
    sliding_window: int | None,
) -> tuple[Segments, int | None]:
    """The layout and the window of a layer; raises NotImplementedError for what is not known here."""
    if segments is None:
        raise NotImplementedError("its layers do not hand the layout on to their attention")
    if s_aux is not None:
        raise NotImplementedError("its attention has sinks")
    if isinstance(attention_mask, Window):
        return segments, min(attention_mask.size, sliding_window or attention_mask.size)
    if attention_mask is not None:
        raise NotImplementedError("its attention layers make masks of their own")
    return segments, sliding_window


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


def _mask(
    *_: object, config: Any, local_size: int | None = None, use_vmap: bool = False, **__: object
) -> Window | None:
    """What a model's layers get in place of a mask, from what it asks transformers for one.

    Qwen2-MoE, PhiMoE and others say their window here only, not to the attention function.

    Raises:
        NotImplementedError: chunks, or a mask that the model combines itself.
    """
    if use_vmap:
        raise NotImplementedError("its attention combines masks")
    if local_size is None:
        return None
    if local_size != getattr(config, "sliding_window", None):
        raise NotImplementedError("its attention is cut into chunks")
    if local_size == getattr(config, "attention_chunk_size", None):
        raise NotImplementedError("its attention may be cut into chunks")
    return Window(local_size)


def register() -> None:
    """Make the function known to transformers under the name `SHARED_PREFIX`; safe to repeat."""
    ALL_ATTENTION_FUNCTIONS.register(SHARED_PREFIX, shared_prefix_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(SHARED_PREFIX, _mask)


def enable(model: PreTrainedModel) -> None:
    """Switch a model to shared-prefix attention; its forward then needs `segments=`."""
    register()
    model.set_attn_implementation(SHARED_PREFIX)
