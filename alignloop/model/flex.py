"""Shared-prefix attention as one flex-attention kernel, for GPUs.

The kernel skips blocks of the score matrix that nobody sees and masks only those that are seen in part.
Which is which follows from the layout of the row, so that no mask of N × N entries is ever made.
N tokens in the row, M = N/128 blocks, H query heads, K key heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from alignloop.data.packing import Segments, Span

BLOCK = 128


def packed_flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Attention of one packed row; see `alignloop.model.attention.shared_prefix_attention`.

    Args:
        query: (1, H, N, D).
        key: (1, K, N, D), K divides H.
        value: (1, K, N, D).
        segments: the row's layout, on the tensors' device.
        scaling: factor of the scores, 1/√D if None.
        window: a query sees keys at distance below this, in positions; None for all.
        softcap: scores become softcap · tanh(score / softcap).

    Returns:
        (1, N, H, D).
    """
    name = ("flex", window)
    mask = segments.cache.get(name)
    if not isinstance(mask, BlockMask):
        mask = segments.cache[name] = block_mask(segments, window)
    # Under autocast the rotary embedding leaves queries and keys in float32; the kernel wants one dtype.
    query, key = query.to(value.dtype), key.to(value.dtype)
    kernel = _compiled() if query.is_cuda else flex_attention
    out = kernel(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)
    return out.transpose(1, 2)


def block_mask(segments: Segments, window: int | None) -> BlockMask:
    """The kernel's mask of a packed row: for each block of queries the blocks of keys it looks at."""
    group, branch, position = segments.group, segments.branch, segments.position

    def visible(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same = (group[q] == group[k]) & ((branch[k] == 0) | (branch[k] == branch[q])) & (q >= k)
        return same if window is None else same & (position[q] - position[k] < window)

    some, whole = block_layout(segments.spans, window)
    partial, full = _indices(some & ~whole, group.device), _indices(whole, group.device)
    num = len(group)
    return BlockMask.from_kv_blocks(
        *partial, *full, BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=(num, num)
    )


def block_layout(spans: tuple[Span, ...], window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Which blocks of keys a block of queries sees at all, and which it sees whole.

    A pair of tokens is visible if the key is in the query's own branch or in its prompt, not after it,
    and nearer than the window. With a window a block may be called seen of which nothing is.

    Args:
        spans: layout of the row.
        window: distance in positions, or None.

    Returns:
        Two bool arrays (M, M), queries × keys.
    """
    num_blocks = -(-spans[-1].stop // BLOCK)
    some = np.zeros((num_blocks, num_blocks), dtype=bool)
    area = np.zeros((num_blocks, num_blocks), dtype=np.int64)  # pairs known to be visible
    for span in spans:
        prompt = (span.start, span.start + span.prompt_length, 0)
        _add(some, area, prompt, prompt, window)
        start = prompt[1]
        for length in span.lengths:
            # the third number is what is taken from a place in the row to give its position
            branch = (start, start + length, start - span.prompt_length - span.start)
            _add(some, area, branch, branch, window)
            _add(some, area, branch, prompt, window)
            start += length
    return some, area == BLOCK * BLOCK


def _add(
    some: np.ndarray,
    area: np.ndarray,
    queries: tuple[int, int, int],
    keys: tuple[int, int, int],
    window: int | None,
) -> None:
    """Mark the blocks that a piece of queries and a piece of keys have in common."""
    (q_blocks, q_low, q_high), (k_blocks, k_low, k_high) = _pieces(*queries), _pieces(*keys)
    if not len(q_low) or not len(k_low):
        return
    nearest = (q_low - queries[2])[:, None] - (k_high - 1 - keys[2])[None]
    farthest = (q_high - 1 - queries[2])[:, None] - (k_low - keys[2])[None]
    seen, whole = farthest >= 0, nearest >= 0
    if window is not None:
        seen, whole = seen & (nearest < window), whole & (farthest < window)
    some[q_blocks, k_blocks] |= seen
    area[q_blocks, k_blocks] += np.where(whole, (q_high - q_low)[:, None] * (k_high - k_low)[None], 0)


def _pieces(start: int, stop: int, _shift: int) -> tuple[slice, np.ndarray, np.ndarray]:
    """The blocks that a run of tokens lies in, and its first and one past its last place in each."""
    first, last = start // BLOCK, -(-stop // BLOCK) if stop > start else start // BLOCK
    lows = np.arange(first, last) * BLOCK
    return slice(first, last), np.maximum(lows, start), np.minimum(lows + BLOCK, stop)


def _indices(blocks: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each row has, and their numbers first: (1, 1, M) and (1, 1, M, M), int32."""
    order = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    counts = blocks.sum(1).astype(np.int32)
    return torch.from_numpy(counts).to(device)[None, None], torch.from_numpy(order).to(device)[None, None]


@cache
def _capped(softcap: float) -> Callable[..., Tensor]:
    """The change of a score; one function for each cap, so that the kernel is compiled once."""

    def cap(score: Tensor, _b: Tensor, _h: Tensor, _q: Tensor, _k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return cap


@cache
def _compiled() -> Callable[..., Tensor]:
    """flex_attention compiled once for the process; uncompiled it stores the score matrix."""
    return torch.compile(flex_attention, dynamic=True)  # pyright: ignore[reportReturnType]
