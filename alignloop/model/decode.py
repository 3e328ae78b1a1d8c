"""Attention of the generation engine, registered with transformers as `alignloop_decode`.

The model runs with `use_cache=False` on one packed row of N tokens while a step is running (see `step`),
to which its attention layers hand their tensors. A `Prefill` stores prompts, a `Decode` advances one
token per running completion. H query heads, K key heads (r = H / K), D head size,
S slots, m cells per slot, P prompt tokens, T own tokens, R completions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from alignloop.errors import ModelError
from alignloop.model.head import without_dropout
from alignloop.model.kv import Cell, Pool, Prefix
from alignloop.model.lean import use_lean_forms
from alignloop.model.onednn import put_back, replace_forwards, use_fast_linears
from alignloop.model.rotary import attention_of
from alignloop.model.step import Rules, attend, marked_mask, masked, refused

DECODE = "alignloop_decode"


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The attention function transformers calls. (1, H, N, D), (1, K, N, D), (1, K, N, D) → (1, N, H, D).

    transformers hands down every argument of the model call; those that do not concern attention are
    ignored here.
    """
    if s_aux is not None:
        raise refused(f"{type(module).__name__} has attention sinks, which the local engine does not apply")
    layer = module.layer_idx
    if not isinstance(layer, int):
        raise refused(f"{type(module).__name__} carries no layer_idx, which the local engine needs")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # under autocast the rotary embedding leaves queries and keys in float32
    query, key = query.to(value.dtype), key.to(value.dtype)
    rules = masked(Rules(scale, sliding_window, softcap), attention_mask, module)
    out = attend(layer, query[0], key[0], value[0], rules)  # pyright: ignore[reportCallIssue]
    # some architectures view the heads as one, as transformers' own functions let them
    return out.unsqueeze(0).contiguous(), None


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """A prompt to be stored. Its first `shared` tokens are those of `source`, whose keys are copied.

    The source is stored already or is one of the prompts before it in the same row. The `read` tokens
    that follow it in the row see it and are run; a lone completion's room keeps their keys.
    """

    prefix: Prefix
    source: Prefix | None = None
    shared: int = 0
    read: int = 0


@dataclass(slots=True)
class Prefill:
    """Prompts packed one after another, without what they share; each sees itself only, causally."""

    prompts: Sequence[NewPrompt]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        outputs, start = [], 0
        for prompt in self.prompts:
            prefix, shared = prompt.prefix, prompt.shared
            part = slice(start, start + prefix.length - shared)
            after = slice(part.stop, part.stop + prompt.read)
            kept = slice(part.start, after.stop) if prefix.pool.lone else part
            length = shared + kept.stop - kept.start
            keys, values = (x[:, :length] for x in prefix.stored(layer, key, value))
            keys[:, shared:], values[:, shared:] = key[:, kept], value[:, kept]
            if prompt.source is not None:
                from_keys, from_values = prompt.source.stored(layer, key, value)
                keys[:, :shared], values[:, :shared] = from_keys[:, :shared], from_values[:, :shared]
            if kept.stop < after.stop:
                keys, values = torch.cat([keys, key[:, after]], 1), torch.cat([values, value[:, after]], 1)
            outputs.append(_causal(query[:, start : after.stop], keys, values, rules))
            start = after.stop
        return torch.cat(outputs, 1).transpose(0, 1)


def _causal(query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
    """Causal attention of a prompt's last N tokens. (H, N, D), (K, L, D), (K, L, D) → (H, N, D)."""
    count, length = query.shape[1], key.shape[1]
    window = rules.window if rules.window is not None and rules.window < length else None
    if rules.softcap is None and window is None and count == length:
        return F.scaled_dot_product_attention(
            query[None], key[None], value[None], is_causal=True, scale=rules.scaling, enable_gqa=True
        )[0]
    place = torch.arange(length, device=query.device)
    distance = place[length - count :, None] - place
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    bias = torch.zeros(count, length, dtype=query.dtype, device=query.device).masked_fill_(hidden, -math.inf)
    if rules.softcap is None:
        return F.scaled_dot_product_attention(
            query[None], key[None], value[None], attn_mask=bias, scale=rules.scaling, enable_gqa=True
        )[0]
    grouped = query.unflatten(0, (key.shape[0], -1))
    outputs = []
    for q, k, v in zip(grouped, key, value, strict=True):  # by key head, to hold fewer scores at once
        scores = q @ k.T * (rules.scaling / rules.softcap)
        scores = scores.tanh_().mul_(rules.softcap) + bias
        outputs.append(torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype) @ v)
    return torch.cat(outputs)


@dataclass(slots=True)
class _PoolStep:
    """A pool's share of a decoding step: which rows of the packed row sit where.

    Attributes:
        rows: the rows of this pool, neighbours in the packed row.
        slots, prompt, own: S, P and T this step needs of the pool's room; in a pool of lone completions
            their tokens count as the prompt's.
        grid: int64 (S·m,), the row at each place of the grid, 0 where there is none; None if row i is
            at place i everywhere.
        places: int64 (R,), the place of each row, None likewise.
        prompt_lengths: int64 (S,).
        own_lengths: int64 (S, m), own tokens before this step; −1 for a lone completion, whose new token
            is the last of the prompt's.
        coordinates: int64 (3, R): slot, column and place among the cell's tokens of each row's new token.
    """

    pool: Pool
    rows: slice
    slots: int
    prompt: int
    own: int
    grid: Tensor | None
    places: Tensor | None
    prompt_lengths: Tensor
    own_lengths: Tensor
    coordinates: Tensor
    biases: dict[int | None, Tensor] = field(default_factory=dict)
    targets: dict[int, Tensor] = field(default_factory=dict)

    def bias(self, window: int | None, like: Tensor) -> Tensor:
        """0 where a query may look and −∞ elsewhere, (S, 1, m, 1, P + T), one per window size."""
        if window not in self.biases:
            in_prompt = torch.arange(self.prompt, device=like.device)
            in_own = torch.arange(self.own, device=like.device)
            lengths, own = self.prompt_lengths[:, None, None], self.own_lengths[:, :, None]
            seen_prompt = (in_prompt < lengths).expand(-1, own.shape[1], -1)
            seen_own = in_own <= own
            if window is not None:
                seen_prompt = seen_prompt & (lengths + own - in_prompt < window)
                seen_own = seen_own & (own - in_own < window)
            seen = torch.cat([seen_prompt, seen_own], -1)[:, None, :, None]
            self.biases[window] = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(
                ~seen, -math.inf
            )
        return self.biases[window]

    def target(self, num_heads: int, room: int) -> Tensor:
        """Rows of a store of keys, flattened to (S·K·m·room, D), that receive the new ones; int64 (R·K,)."""
        if num_heads not in self.targets:
            slot, column, length = self.coordinates[:, :, None]
            head = torch.arange(num_heads, device=slot.device)
            cell = (slot * num_heads + head) * self.pool.width + column
            self.targets[num_heads] = (cell * room + length).flatten()
        return self.targets[num_heads]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        """(H, R, D), (K, R, D), (K, R, D) → (R, H, D)."""
        num_keys, _, size = key.shape
        slots, width, repeats = self.slots, self.pool.width, query.shape[0] // num_keys
        store = self.pool.layer(layer, key, value)
        lone = self.pool.lone
        keys = store.prompt_keys if lone else store.own_keys
        values = store.prompt_values if lone else store.own_values
        target = self.target(num_keys, keys.shape[-2])
        for room, new in ((keys, key), (values, value)):
            rows = new.transpose(0, 1).reshape(-1, new.shape[-1])  # as the projections made them
            room.view(-1, new.shape[-1]).index_copy_(0, target, rows)
        prompt_keys, prompt_values = (
            x[:slots, :, : self.prompt].flatten(0, 1) for x in (store.prompt_keys, store.prompt_values)
        )
        own_keys, own_values = (
            x[:slots, :, :, : self.own].flatten(0, 2) for x in (store.own_keys, store.own_values)
        )
        if self.grid is not None:
            query = query.index_select(1, self.grid)
        # Grid order (S, K, m, r): the rows of a slot's key head are neighbours for the shared product.
        shape = (slots, num_keys, width, repeats)
        query = query.reshape(num_keys, repeats, slots, width, size).permute(2, 0, 3, 1, 4).contiguous()
        per_slot, per_cell = (slots * num_keys, width * repeats), (slots * num_keys * width, repeats)
        joint = _scaled(query.view(*per_slot, size), prompt_keys, rules.scaling).view(*shape, self.prompt)
        if self.own:
            on_own = _scaled(query.view(*per_cell, size), own_keys, rules.scaling).view(*shape, self.own)
            joint = torch.cat([joint, on_own], -1)
        if rules.softcap is not None:
            joint = joint.div_(rules.softcap).tanh_().mul_(rules.softcap)
        joint += self.bias(rules.window, joint)
        weights = torch.softmax(joint, -1, dtype=torch.float32).to(value.dtype)
        on_prompt, on_own = weights.split([self.prompt, self.own], -1)
        out = torch.bmm(on_prompt.flatten(0, 1).flatten(1, 2), prompt_values)
        if self.own:
            out = out.view(*per_cell, -1).baddbmm_(on_own.flatten(0, 2), own_values)
        out = out.view(*shape, -1).permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)
        return out if self.places is None else out.index_select(0, self.places)


def _scaled(query: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """query · keysᵀ · scaling, the factor applied inside the product. (b, q, D), (b, k, D) → (b, q, k)."""
    return torch.baddbmm(query.new_empty(1, 1, 1), query, keys.transpose(1, 2), beta=0, alpha=scaling)


class Decode:
    """One new token for each running completion.

    Arguments:
        cells: where the completions are, those of a pool next to each other; row i of the packed row
            is the newest token of completion i, whose key is not stored yet.
        device: of the model.
    """

    def __init__(self, cells: Sequence[Cell], device: torch.device) -> None:
        self.parts: list[_PoolStep] = []
        start = 0
        for pool, members in groupby(cells, key=lambda cell: cell.prefix.pool):
            group = list(members)
            self.parts.append(_pool_step(pool, group, start, device))
            start += len(group)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0].attend(layer, query, key, value, rules)
        outputs = [
            part.attend(layer, query[:, part.rows], key[:, part.rows], value[:, part.rows], rules)
            for part in self.parts
        ]
        return torch.cat(outputs)


def _pool_step(pool: Pool, cells: Sequence[Cell], start: int, device: torch.device) -> _PoolStep:
    pool.make_room()
    slots = 1 + max(prefix.slot for prefix in pool.prefixes)
    lengths, own = [1] * slots, [[0] * pool.width for _ in range(slots)]
    for prefix in pool.prefixes:
        lengths[prefix.slot] = prefix.length
    places = [cell.prefix.slot * pool.width + cell.column for cell in cells]
    for cell in cells:
        own[cell.prefix.slot][cell.column] = cell.length
    grid: list[int] | None = None
    if places != list(range(slots * pool.width)):
        grid = [0] * (slots * pool.width)
        for row, place in enumerate(places):
            grid[place] = row
    before = [cell.prefix.length if pool.lone else 0 for cell in cells]
    coordinates = [(c.prefix.slot, c.column, b + c.length) for c, b in zip(cells, before, strict=True)]
    if pool.lone:
        for cell in cells:  # the new token included
            lengths[cell.prefix.slot], own[cell.prefix.slot] = cell.prefix.length + cell.length + 1, [-1]
    return _PoolStep(
        pool=pool,
        rows=slice(start, start + len(cells)),
        slots=slots,
        prompt=max(lengths),
        own=0 if pool.lone else 1 + max(cell.length for cell in cells),
        grid=None if grid is None else torch.tensor(grid, device=device),
        places=None if grid is None else torch.tensor(places, device=device),
        prompt_lengths=torch.tensor(lengths, device=device),
        own_lengths=torch.tensor(own, device=device),
        coordinates=torch.tensor(coordinates, device=device).T.contiguous(),
    )


@contextmanager
def decoding(model: PreTrainedModel) -> Iterator[None]:
    """Prepare a model for `Prefill` and `Decode` steps and put everything back on leaving.

    Switches attention to `alignloop_decode`, dropout off, and modules to the same numbers in less time:
    float32 linear layers on a CPU, norms, gated MLPs and rotary attention layers.

    Raises:
        ModelError: an architecture whose attention is not dispatched through transformers' interface,
            or whose layers keep other state than keys and values.
    """
    config = model.config
    kinds = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    if config.is_encoder_decoder or others:
        raise _unsupported(model, f"layers of kind {', '.join(others)}" if others else "an encoder")
    ALL_ATTENTION_FUNCTIONS.register(DECODE, decode_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(DECODE, marked_mask)
    previous = {name: getattr(config, name)._attn_implementation or "eager" for name in config.sub_configs}
    previous[""] = config._attn_implementation or "eager"
    model.set_attn_implementation(DECODE)
    if config._attn_implementation != DECODE:
        raise _unsupported(model, "attention of its own")
    try:
        with (
            without_dropout(model),
            put_back(use_fast_linears(model)),
            put_back(use_lean_forms(model)),
            put_back(replace_forwards(model, attention_of)),
        ):
            yield
    finally:
        model.set_attn_implementation(previous if len(previous) > 1 else previous[""])


def _unsupported(model: PreTrainedModel, reason: str) -> ModelError:
    return refused(
        f"{type(model).__name__} has {reason}, and the local engine runs decoders whose layers keep keys and "
        "values only, through transformers' attention interface"
    )
