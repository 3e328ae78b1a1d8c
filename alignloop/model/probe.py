"""The probe that models are compared on, and what the model itself says of it.

Three short rows in two groups, one with two completions. The model runs the first row by itself, then all
three side by side, each continued to one width: where the first row's log-probs differ, they depend on the
rows beside it or on its width, and only rows that run by themselves give the model's own. Windows are made
smaller than the rows for a second pass. B completions, T tokens, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from alignloop.data.packing import Batch, Group, collate, completion
from alignloop.errors import ModelError, first_line
from alignloop.model.finite import non_finite_weight
from alignloop.model.head import FOREIGN, as_published, head_transform
from alignloop.model.positions import max_positions
from alignloop.model.rope import length_kinds

_PROMPTS, _COMPLETIONS = (7, 2), ((5, 4), (3,))
"""Tokens of the probe's prompts, and of the completions of each."""
_WIDTH = 16
"""Tokens of the rows that run side by side."""
_WINDOW = 4
"""What windows are made to be, in tokens."""
_MASKED = 1e30
"""Scores this far from 0 are those of places that a mask leaves out."""
_CHUNK, _LONGEST_CHUNK = 64, 256
"""Tokens that layers take at a time where the configuration does not say, and the most that is tried."""
_FAR = re.compile(
    r"(^|_)(window|window_size|attention_chunk_size|index_topk|local_attention|token_budget|indexer_budget"
    r"|floor_scale|n_floor)$"
)
"""Names of how far a layer sees, or from where on it sees otherwise, in tokens."""
_BLOCKS = re.compile(r"(^|_)topk_blocks$")
"""Names of how many blocks of tokens a layer sees."""
_BLOCK = re.compile(r"(^|_)block_size$")
_PART = 2
"""What blocks and their number are made to be."""
_CHUNK_NAMES = re.compile(r"(^|_)(chunk|block)_size$")

HALF = (torch.bfloat16, torch.float16)

_Row = tuple[np.ndarray, np.ndarray]
"""Token ids of a prompt and of one completion of it."""


@dataclass(frozen=True, slots=True)
class Own:
    """What the model itself says of the probe.

    Attributes:
        batch: the probe, a packed row of two groups.
        logprobs: (B, T), nats, from unpadded rows.
        windowed: (B, T), nats, with small windows; None where no window is larger than the probe, or none
            is used.
        tolerance: nats, root mean square over tokens, that rounding may make.
        varies: why a row's log-probs are the model's own only where it runs by itself; None if they are
            everywhere.
    """

    batch: Batch
    logprobs: Tensor
    windowed: Tensor | None
    tolerance: float
    varies: str | None = None


def own_logprobs(hf: PreTrainedModel) -> Own:
    """The probe's log-probs as the model itself gives them.

    Raises:
        ModelError: the model cannot run a plain row of tokens, or reads later tokens.
    """
    groups = _probe(vocabulary_of(hf))
    batch = collate(groups).to(hf.device)
    rows = [(g.prompt_ids, c.ids) for g in groups for c in g.completions]
    plain = torch.autocast(hf.device.type, enabled=False)
    with torch.no_grad(), plain, as_published(hf), in_float32(hf), _Ties() as ties:
        first = own_table(hf, *rows[0])
        check_finite(hf, [first])
        # half of float32's digits, on the scale on which this model's log-probs differ from each other
        spread = float(first.std(-1).square().mean().sqrt())
        tolerance = torch.finfo(torch.float32).eps ** 0.5 * spread
        tables, varies = _tables(hf, rows, first, tolerance, ties)
        windowed, small = None, None
        with small_windows(hf) as changed:
            try:
                narrow = own_table(hf, *rows[0]) if changed else first
                if not torch.equal(narrow, first):
                    windowed, small = _tables(hf, rows, narrow, tolerance, ties)
            except CannotRunError:  # the model's sizes depend on its window
                windowed = None
    check_finite(hf, [*tables, *(windowed or ())])
    return Own(
        batch,
        _logprobs(tables, rows, batch),
        None if windowed is None else _logprobs(windowed, rows, batch),
        tolerance,
        varies or small,
    )


class CannotRunError(ModelError):
    """A model's own code fails on a plain row of tokens."""


def vocabulary_of(hf: PreTrainedModel) -> int:
    """Tokens that a probe may use: those that have a logit, a thousand at most."""
    vocabulary = hf.config.get_text_config(decoder=True).vocab_size
    return min(vocabulary, head_transform(hf).vocabulary or vocabulary, 1000)


def long_probe(hf: PreTrainedModel) -> Batch:
    """One row longer than the chunks in which layers take tokens, as far as the model has positions."""
    text = hf.config.get_text_config(decoder=True)
    chunks = [v for k, v in vars(text).items() if type(v) is int and _CHUNK_NAMES.search(k)]
    length = max(_CHUNK, *(chunk for chunk in chunks if chunk <= _LONGEST_CHUNK), 0) + 8
    length = max(2, min(length, max_positions(hf.config) or length))
    high = vocabulary_of(hf)
    ids = np.random.default_rng(0).integers(min(3, high - 1), high, length).astype(np.int32)
    half = length // 2
    return collate([Group(ids[:half], (completion(ids[half:]),), 0)]).to(hf.device)


def _probe(high: int) -> list[Group]:
    """Two groups of random tokens below `high`, the first with two completions."""
    generator = np.random.default_rng(0)
    low = min(3, high - 1)
    groups = []
    for prompt, lengths in zip(_PROMPTS, _COMPLETIONS, strict=True):
        ids = [generator.integers(low, high, size) for size in (prompt, *lengths)]
        groups.append(Group(ids[0].astype(np.int32), tuple(completion(x) for x in ids[1:]), len(groups)))
    return groups


def own_table(hf: PreTrainedModel, *parts: np.ndarray) -> Tensor:
    """One row that runs by itself.

    Args:
        hf: the model.
        *parts: token ids of the row, one after another.

    Returns:
        Log-probs of every token at every place, float32 (tokens, V).

    Raises:
        CannotRunError: its code fails on the row.
    """
    try:
        return _tables_of(hf, np.concatenate(parts)[None])[0]
    except FOREIGN as error:
        name = type(hf).__name__
        raise CannotRunError(f"{name} cannot run a row of tokens: {first_line(error)}") from error


def _tables_of(hf: PreTrainedModel, ids: np.ndarray) -> Tensor:
    """Log-probs at every place of rows of one length, (rows, tokens) → float32 (rows, tokens, V)."""
    rows = torch.from_numpy(ids).long().to(hf.device)
    return hf(input_ids=rows, use_cache=False).logits.float().log_softmax(-1)


def _tables(
    hf: PreTrainedModel, rows: Sequence[_Row], first: Tensor, tolerance: float, ties: _Ties
) -> tuple[list[Tensor], str | None]:
    """The probe's rows by themselves and beside each other.

    Args:
        hf: the model.
        rows: the probe's.
        first: log-probs of its first row, which ran by itself.
        tolerance: nats that rounding may make.
        ties: what has been found in the passes so far, and in those of this function.

    Returns:
        Log-probs of each row, and why they are other ones beside other rows or tokens, None if they are not.

    Raises:
        ModelError: log-probs change with the tokens after them.
    """
    whole = [np.concatenate(row) for row in rows]
    width = _common_width(hf, max(len(ids) for ids in whole))
    tails = np.random.default_rng(1).permutation(np.resize(np.concatenate(whole), (len(rows) + 1) * _WIDTH))
    varies: str | None = None
    if width is not None:
        tail = [tails[i * _WIDTH :][: width - len(ids)] for i, ids in enumerate(whole)]
        try:
            wide = [np.concatenate(pair) for pair in zip(whole, tail, strict=True)]
            beside = _tables_of(hf, np.stack(wide[::-1])).flip(0)  # the first as the last, behind the others
        except FOREIGN as error:
            varies = f"cannot run several rows at once ({first_line(error)})"
        else:
            off = difference(first, beside[0, : len(first)])
            if off <= tolerance and not ties.found:
                tables = [table[: len(ids)] for table, ids in zip(beside, whole, strict=True)]
                return [first, *tables[1:]], None
            varies = "chooses among equal scores, which the width of a row decides"
            if off > tolerance:
                other = own_table(hf, whole[0], tails[len(rows) * _WIDTH :][: len(tail[0])])
                ahead = difference(own_table(hf, whole[0], tail[0])[: len(first)], other[: len(first)])
                _refuse_foresight(hf, ahead, tolerance)
                nats = f"{off:.2g} nats off, {tolerance:.1g} would be rounding"
                varies = f"gives a row other log-probs beside other rows or with tokens after it ({nats})"
    tables = [first, *(own_table(hf, ids) for ids in whole[1:])]
    shared = _PROMPTS[0]
    if width is None:
        _refuse_foresight(hf, difference(tables[0][:shared], tables[1][:shared]), tolerance)
    return tables, varies


class _Ties(TorchFunctionMode):
    """Notices a choice of the k largest where the last one chosen equals one that is not.

    Attributes:
        found: whether there was one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "topk" and out[0].numel():
            named = kwargs or {}
            scores = args[0] if args else named["input"]
            dim = args[2] if len(args) > 2 else named.get("dim", -1)
            largest = args[3] if len(args) > 3 else named.get("largest", True)
            last = out[0].amin(dim, keepdim=True) if largest else out[0].amax(dim, keepdim=True)
            as_good = (scores >= last if largest else scores <= last).sum(dim) > out[0].shape[dim]
            self.found |= bool((as_good & (last.squeeze(dim).abs() < _MASKED)).any())
        return out


def _common_width(hf: PreTrainedModel, longest: int) -> int | None:
    """A width to which all rows may be continued; None where frequencies depend on lengths below it."""
    kinds, limit = length_kinds(hf), max_positions(hf.config)
    if kinds is not None and kinds.limit < longest:
        return None
    return max(longest, min(x for x in (_WIDTH, limit, kinds and kinds.limit) if x is not None))


def _refuse_foresight(hf: PreTrainedModel, ahead: float, tolerance: float) -> None:
    if not ahead <= tolerance:
        raise ModelError(
            f"{type(hf).__name__} is not causal: its log-probs of a prompt change by {ahead:.2g} nats with "
            "the tokens after it; it cannot be trained to continue text"
        )


def _logprobs(tables: Sequence[Tensor], rows: Sequence[_Row], batch: Batch) -> Tensor:
    """The log-probs of completions' tokens out of their rows', (rows, T)."""
    out = torch.zeros(len(rows), batch.mask.shape[1], device=batch.mask.device)
    for number, (table, (prompt, ids)) in enumerate(zip(tables, rows, strict=True)):
        targets = torch.from_numpy(ids).long().to(table.device)
        out[number, : len(ids)] = table[len(prompt) - 1 : -1].gather(1, targets[:, None])[:, 0]
    return out


@contextmanager
def small_windows(hf: PreTrainedModel) -> Iterator[bool]:
    """The model with every window, chunk and index of its configuration and layers made small.

    Yields:
        Whether there was any that is larger.
    """
    configs = {id(m.config): m.config for m in hf.modules() if isinstance(m, PreTrainedModel)}
    text = hf.config.get_text_config(decoder=True)
    owners: list[Any] = [*({id(text): text} | configs).values(), *hf.modules()]
    small = [(owner, name, size) for owner in owners for name, size in _smaller(vars(owner))]
    old = [(owner, name, vars(owner)[name]) for owner, name, _ in small]
    for owner, name, size in small:
        setattr(owner, name, size)
    try:
        yield bool(old)
    finally:
        for owner, name, value in old:
            setattr(owner, name, value)


def _smaller(held: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Names and small values of what limits how far a part of a model sees."""
    in_blocks = any(_BLOCKS.search(name) for name in held)
    for name, value in held.items():
        size = 0
        if _FAR.search(name):
            size = _WINDOW
        elif in_blocks and (_BLOCKS.search(name) or _BLOCK.search(name)):
            size = _PART
        if size and type(value) is int and value > size:
            yield name, size


@contextmanager
def in_float32(hf: PreTrainedModel) -> Iterator[None]:
    """The model with 16-bit weights widened, so that a comparison is not lost in their rounding.

    What lies outside of lists of layers is widened at once, a layer while it runs: the additional
    memory is the embeddings, the head and one layer in float32.
    """
    lists = [m for m in hf.modules() if isinstance(m, nn.ModuleList)]
    nested = {id(m) for one in lists for m in one.modules() if m is not one}
    layers = [layer for one in lists if id(one) not in nested for layer in one]
    inside = {id(t) for layer in layers for t in _half_tensors(layer)}
    old: dict[int, tuple[Tensor, Tensor]] = {}

    def widen(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) not in old:
                old[id(tensor)] = tensor, tensor.data
                tensor.data = tensor.data.float()

    def narrow(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.data = old.pop(id(tensor))[1]

    hooks = []
    for layer in layers:
        own = _half_tensors(layer)
        hooks.append(layer.register_forward_pre_hook(lambda *_, own=own: widen(own)))
        hooks.append(layer.register_forward_hook(lambda *_, own=own: narrow(own), always_call=True))
    try:
        widen(t for t in _half_tensors(hf) if id(t) not in inside)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        narrow([tensor for tensor, _ in old.values()])


def _half_tensors(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module.parameters(), *module.buffers()) if t.dtype in HALF]


def check_finite(hf: PreTrainedModel, tables: Sequence[Tensor]) -> None:
    """Refuse a model whose log-probs are NaN: nothing could be compared with it, or trained.

    Raises:
        ModelError: with the damaged weight, if there is one.
    """
    if not any(bool(table.isnan().any()) for table in tables):
        return
    damaged = non_finite_weight(hf)
    if damaged:
        raise ModelError(f"AL303: weight '{damaged}' holds NaN or infinity; use an undamaged copy")
    raise ModelError(f"AL303: {type(hf).__name__} gives log-probs that are NaN with finite weights")


def difference(a: Tensor, b: Tensor) -> float:
    """Root mean square, nats; NaN where either is not finite."""
    return float((a.float() - b.float()).square().mean().sqrt())
