"""Choices of a model among scores (experts, indexed tokens): noted in one computation, made again in another.

A choice among nearly equal scores falls otherwise with every rounding, and what follows from it is another
number altogether. So two computations are compared given the same choices, and each choice by how far the
scores it took lie below those it should have taken. F tokens of a pass, n scores, k chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_MASKED = 1e30
"""Scores this far from 0 are those of places that a mask leaves out."""


@dataclass(frozen=True, slots=True)
class Call:
    """One choice for each token of a pass: the scores (F, R, n) and what was taken (F, R, k)."""

    scores: Tensor
    taken: Tensor


@dataclass(slots=True)
class Pass:
    """The calls of one run of the decoder over some tokens.

    Attributes:
        ids: token ids (F,).
        calls: one for each choice of each layer, in order.
    """

    ids: Tensor
    calls: list[Call] = field(default_factory=list)


Given = list[tuple[Tensor, Tensor]]
"""Of one row, for each call: what is taken (tokens, R, k), and of which tokens that is known (tokens,)."""


class Notes(TorchFunctionMode):
    """Keeps every pass of a model, and repeats choices in the next one where they are given.

    Attributes:
        passes: in order.
        given: of the next pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[Pass] = []
        self.given: Given = []

    def begin(self, ids: Tensor) -> None:
        """Start a pass over tokens."""
        self.passes.append(Pass(ids.detach().flatten()))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") != "topk" or not self.passes:
            return out
        scores, (values, taken) = args[0], out
        tokens = len(self.passes[-1].ids)
        if scores.shape[:-1].numel() % tokens or scores.dim() == 1:
            return out
        calls = self.passes[-1].calls
        if len(calls) < len(self.given):
            taken = _given(taken, self.given[len(calls)], tokens, scores.shape[-1])
            values = scores.gather(-1, taken)
            out = torch.return_types.topk((values, taken))
        calls.append(Call(_by_token(scores.detach().double(), tokens), _by_token(taken, tokens)))
        return out


def _by_token(x: Tensor, tokens: int) -> Tensor:
    """(…, n) as (F, R, n); heads stand before tokens in four dimensions (rows, heads, tokens, n)."""
    if x.dim() == 4 and x.shape[0] * x.shape[2] == tokens:
        x = x.transpose(1, 2)
    return x.reshape(tokens, -1, x.shape[-1])


def _given(free: Tensor, given: tuple[Tensor, Tensor], tokens: int, width: int) -> Tensor:
    """What is taken, with the given choices in the place of the free ones where they are known.

    What was taken out of padding beyond `width` was taken because there was nothing else.
    """
    taken, known = given
    flat = _by_token(free, tokens)
    if taken.shape != flat.shape:
        return free
    known = known & (taken < width).all(-1).all(-1)
    flat = torch.where(known[:, None, None], taken, flat)
    if free.dim() == 4 and free.shape[0] * free.shape[2] == tokens:
        rows, heads, length, k = free.shape
        return flat.reshape(rows, length, heads, k).transpose(1, 2)
    return flat.reshape(free.shape)


@contextmanager
def noted(model: Any) -> Iterator[Notes]:
    """Note the choices of a model's passes."""
    notes = Notes()
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _m, args: notes.begin(args[0]))
    try:
        with notes:
            yield notes
    finally:
        hook.remove()


def of_row(passes: Sequence[Pass], places: Sequence[tuple[int, int]], length: int) -> Given:
    """The choices of one row out of the passes that its tokens were in.

    Args:
        passes: the passes, which made as many choices each.
        places: of each token, as far as it ran, its pass and its number there.
        length: tokens of the row.

    Returns:
        What is taken for each call, unknown for tokens that did not run; nothing where passes differ.
    """
    if len({len(one.calls) for one in passes}) != 1:
        return []
    given: Given = []
    for number in range(len(passes[0].calls)):
        some = [passes[p].calls[number].taken[i] for p, i in places]
        if len({x.shape for x in some}) != 1:  # fewer were chosen where a text was shorter
            return []
        taken = torch.zeros(length, *some[0].shape, dtype=some[0].dtype)
        taken[: len(some)] = torch.stack(some)
        given.append((taken, torch.arange(length) < len(some)))
    return given


@dataclass(slots=True)
class Count:
    """How choices fell, and how far below the best scores were what they took.

    Attributes:
        made: choices, one for each token and call.
        others: those that are not the free ones.
        margin: the farthest that a score lies below the one that was free to take.
        spread: largest standard deviation of a token's scores.
    """

    made: int = 0
    others: int = 0
    margin: float = 0.0
    spread: float = 0.0

    def add(self, one: Pass) -> None:
        """Count the choices of a pass that was given some."""
        for call in one.calls:
            k = call.taken.shape[-1]
            least = call.scores.topk(k, -1).values.amin(-1)
            taken = call.scores.gather(-1, call.taken).amin(-1)
            real = least.abs() < _MASKED
            margin = torch.where(real, least - taken, 0.0)
            self.made += margin.numel()
            self.others += int((margin > 0).sum())
            self.margin = max(self.margin, float(margin.max()))
            shown = call.scores.where(call.scores.abs() < _MASKED, torch.nan)
            mean = shown.nanmean(-1, keepdim=True)
            spread = (shown - mean).square().nanmean(-1).sqrt().nan_to_num().max()
            self.spread = max(self.spread, float(spread))


def farthest(passes: Sequence[Pass], exact: Sequence[Pass]) -> float:
    """Largest distance between the scores of two computations of the same rows."""
    far = 0.0
    for one, other in zip(passes, exact, strict=True):
        for a, b in zip(one.calls, other.calls, strict=True):
            real = (a.scores.abs() < _MASKED) & (b.scores.abs() < _MASKED)
            far = max(far, float((a.scores - b.scores).abs().where(real, 0.0).max()))
    return far
