"""Whether the numbers that training reads are the model's own, found out before they are used.

The log-probs that `hf(...)` itself gives for a few short rows are compared with those of the packed row
(two groups, one with two completions) and, where that is wrong, of padded rows. Windows are made smaller
than the probe meanwhile, so that they bind, and 16-bit weights are widened: in bfloat16 rounding hides
what is wrong by a hundredth. B completions, T tokens, V vocabulary.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignloop.data.packing import Batch, Group, collate, completion
from alignloop.errors import ModelError, first_line
from alignloop.model.finite import non_finite_weight
from alignloop.model.head import FOREIGN, as_published, head_transform, without_dropout

_PROMPTS, _COMPLETIONS = (7, 2), ((5, 4), (3,))
"""Tokens of the probe's prompts, and of the completions of each."""
_WINDOW = 4
"""What windows are made to be, in tokens."""
_WINDOW_NAMES = re.compile(r"(^|_)(window|window_size|attention_chunk_size|index_topk|local_attention)$")

_Row = tuple[np.ndarray, np.ndarray]
"""Token ids of a prompt and of one completion of it."""

Read = Callable[[Batch, bool], Tensor]
"""Log-probs (B, T) of a batch, as a packed row if True, else as padded rows."""

_HALF = (torch.bfloat16, torch.float16)

_verdicts: dict[Any, str | None] = {}
"""Why a model cannot use packed rows, None if it can."""


@dataclass(frozen=True, slots=True)
class Own:
    """What the model itself says of the probe.

    Attributes:
        batch: the probe, a packed row of two groups.
        logprobs: (B, T), nats, from unpadded rows, one at a time.
        windowed: (2, T), nats, those of the last two completions with small windows; None where no
            window is larger than the probe, or none is used.
        tolerance: nats, root mean square over tokens, that rounding may make.
    """

    batch: Batch
    logprobs: Tensor
    windowed: Tensor | None
    tolerance: float


class Verification:
    """Compares a model with itself. Make it before forwards are replaced, ask it afterwards.

    What was found is remembered for the process by class, configuration, type and device.

    Arguments:
        hf: a transformers causal language model. On the meta device nothing can be compared.

    Raises:
        ModelError: the model cannot run a plain row of tokens, or reads later tokens.
    """

    def __init__(self, hf: PreTrainedModel) -> None:
        self.hf = hf
        self._key = (type(hf), hf.config.to_json_string(use_diff=False), hf.dtype, hf.device.type)
        self._meta = hf.device.type == "meta"
        self._own = None if self._meta or self._key in _verdicts else own_logprobs(hf)

    def packed_rows(self, read: Read) -> bool:
        """Compare packed rows, and padded ones if those are wrong, with the model itself.

        Args:
            read: gives log-probs of a batch in either layout.

        Returns:
            Whether packed rows give the model's own log-probs; a warning says so if not.

        Raises:
            ModelError: padded rows do not give them, either.
        """
        if self._meta:
            return True
        if self._own is not None:
            _verdicts[self._key] = _verdict(self.hf, self._own, read)
        reason = _verdicts[self._key]
        if reason is not None:
            warnings.warn(
                f"{type(self.hf).__name__} {reason}; padded rows are used instead, which are slower and "
                "give the model's own log-probs",
                stacklevel=3,
            )
        return reason is None


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


def own_logprobs(hf: PreTrainedModel) -> Own:
    """The probe's log-probs as the model itself gives them.

    Raises:
        ModelError: the model cannot run a plain row of tokens, or reads later tokens.
    """
    name = type(hf).__name__
    vocabulary = hf.config.get_text_config(decoder=True).vocab_size
    groups = _probe(min(vocabulary, head_transform(hf).vocabulary or vocabulary, 1000))
    batch = collate(groups).to(hf.device)
    rows = [(g.prompt_ids, c.ids) for g in groups for c in g.completions]
    with torch.no_grad(), torch.autocast(hf.device.type, enabled=False), as_published(hf), in_float32(hf):
        try:
            tables = [_table(hf, *row) for row in rows]
        except FOREIGN as error:
            raise ModelError(f"{name} cannot run a row of tokens: {first_line(error)}") from error
        check_finite(hf, tables)
        windowed = _windowed(hf, rows[1:], tables[1:], batch)
    # half of float32's digits, on the scale on which this model's log-probs differ from each other
    spread = float(torch.cat(tables).std(-1).square().mean().sqrt())
    tolerance = torch.finfo(torch.float32).eps ** 0.5 * spread
    ahead = _difference(tables[0][: _PROMPTS[0]], tables[1][: _PROMPTS[0]])
    if not ahead <= tolerance:
        raise ModelError(
            f"{name} is not causal: its log-probs of a prompt change by {ahead:.2g} nats with the tokens "
            "after it; it cannot be trained to continue text"
        )
    return Own(batch, _logprobs(tables, rows, batch), windowed, tolerance)


def _probe(high: int) -> list[Group]:
    """Two groups of random tokens below `high`, the first with two completions."""
    generator = np.random.default_rng(0)
    low = min(3, high - 1)
    groups = []
    for prompt, lengths in zip(_PROMPTS, _COMPLETIONS, strict=True):
        ids = [generator.integers(low, high, size) for size in (prompt, *lengths)]
        groups.append(Group(ids[0].astype(np.int32), tuple(completion(x) for x in ids[1:]), len(groups)))
    return groups


def _table(hf: PreTrainedModel, prompt: np.ndarray, ids: np.ndarray) -> Tensor:
    """Log-probs of every token at every place of one row that is not padded, float32 (tokens, V)."""
    row = torch.from_numpy(np.concatenate([prompt, ids])).long().to(hf.device)
    return hf(input_ids=row[None], use_cache=False).logits[0].float().log_softmax(-1)


def _logprobs(tables: Sequence[Tensor], rows: Sequence[_Row], batch: Batch) -> Tensor:
    """The log-probs of completions' tokens out of their rows', (rows, T)."""
    out = torch.zeros(len(rows), batch.mask.shape[1], device=batch.mask.device)
    for number, (table, (prompt, ids)) in enumerate(zip(tables, rows, strict=True)):
        targets = torch.from_numpy(ids).long().to(table.device)
        out[number, : len(ids)] = table[len(prompt) - 1 : -1].gather(1, targets[:, None])[:, 0]
    return out


def _windowed(
    hf: PreTrainedModel, rows: Sequence[_Row], wide: Sequence[Tensor], batch: Batch
) -> Tensor | None:
    """Log-probs with small windows, None if all are as the `wide` ones."""
    with small_windows(hf) as changed:
        if not changed:
            return None
        try:
            tables = [_table(hf, *row) for row in rows]
        except FOREIGN:  # the model's sizes depend on its window
            return None
    alike = all(torch.equal(a, b) for a, b in zip(tables, wide, strict=True))
    return None if alike else _logprobs(tables, rows, batch)


@contextmanager
def small_windows(hf: PreTrainedModel, size: int = _WINDOW) -> Iterator[bool]:
    """The model with every window, chunk and index of its configuration and layers this small.

    Yields:
        Whether there was any that is larger.
    """
    configs = {id(m.config): m.config for m in hf.modules() if isinstance(m, PreTrainedModel)}
    text = hf.config.get_text_config(decoder=True)
    owners: list[Any] = [*({id(text): text} | configs).values(), *hf.modules()]
    old = [
        (owner, name, value)
        for owner in owners
        for name, value in vars(owner).items()
        if type(value) is int and value > size and _WINDOW_NAMES.search(name)
    ]
    for owner, name, _ in old:
        setattr(owner, name, size)
    try:
        yield bool(old)
    finally:
        for owner, name, value in old:
            setattr(owner, name, value)


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
    return [t for t in (*module.parameters(), *module.buffers()) if t.dtype in _HALF]


def _verdict(hf: PreTrainedModel, own: Own, read: Read) -> str | None:
    """Why packed rows cannot be used, None if they can.

    Raises:
        ModelError: padded rows do not give the model's own log-probs, either.
    """
    reason = _fault(hf, own, read, packed=True)
    if reason is None:
        return None
    padded = _fault(hf, own, read, packed=False)
    if padded is None:
        return reason
    raise ModelError(f"{type(hf).__name__} {padded}; this architecture cannot be trained here ({reason})")


def _fault(hf: PreTrainedModel, own: Own, read: Read, *, packed: bool) -> str | None:
    """What is wrong with one layout, None if it gives the model's own log-probs."""
    layout = "packed" if packed else "padded"
    current = str(hf.config._attn_implementation)
    try:
        with without_dropout(hf), torch.no_grad(), torch.autocast(hf.device.type, enabled=False):
            with in_float32(hf):
                off, where = _difference(read(own.batch, packed), own.logprobs), ""
                if own.windowed is not None and off <= own.tolerance:
                    with small_windows(hf):
                        got = read(own.batch, packed)[1:]
                    off, where = _difference(got, own.windowed), " beyond its attention window"
            if hf.dtype in _HALF and not bool(read(own.batch, packed).isfinite().all()):
                return f"gives log-probs on {layout} rows that are not finite"
    except NotImplementedError as error:
        return f"cannot run {layout} rows, {first_line(error)}"
    except FOREIGN as error:
        return f"cannot run {layout} rows, its code fails on them ({first_line(error)})"
    finally:
        hf.set_attn_implementation(current)
    if off <= own.tolerance:
        return None
    nats = f"{off:.2g} nats off, {own.tolerance:.1g} would be rounding"
    return f"gives other log-probs on {layout} rows{where} ({nats})"


def _difference(a: Tensor, b: Tensor) -> float:
    """Root mean square, nats; NaN where either is not finite."""
    return float((a.float() - b.float()).square().mean().sqrt())
