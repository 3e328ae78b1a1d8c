"""The step that the generation engine is at, to which a model's attention layers hand their tensors.

The step is kept for the thread, not passed through the model's call: some architectures do not hand
the call's other arguments down to their attention. H query heads, K key heads, R rows, D head size.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from alignloop.errors import ModelError

CALLS = 1 << 16
"""Distance between the store numbers of a layer's first and second attention call of one step."""
ELSEWHERE = (
    "use a model of another architecture, or let transformers or vLLM write the answers: 'feedback', 'judge' "
    "and 'compare' read them from a file of prompts with responses, 'compare' also asks an endpoint"
)
"""What can be done with a model that the engine cannot generate from."""
_MARK = torch.int8
"""Type of what stands for a mask, which no mask has."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a layer asks of its attention: factor of the scores, sliding window and soft cap, or None."""

    scaling: float
    window: int | None
    softcap: float | None


def refused(what: str) -> ModelError:
    """The engine cannot generate from a model: one sentence with what can be done."""
    return ModelError(f"generation: {what}; {ELSEWHERE}")


class Step(Protocol):
    """What stores a layer's keys and values and attends."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        """(H, R, D), (K, R, D), (K, R, D) → (R, H, D); `layer` numbers the store."""
        ...


class _Present(threading.local):
    """The step of each thread, and how often each layer has attended in it."""

    step: Step | None = None
    calls: Counter[int] | None = None


_present = _Present()


@contextmanager
def running(step: Step) -> Iterator[None]:
    """Let attention layers that run in this thread hand their tensors to `step`."""
    before = _present.step, _present.calls
    _present.step, _present.calls = step, Counter()
    try:
        yield
    finally:
        _present.step, _present.calls = before


@torch.compiler.disable
def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
    """Attend in the present step; a layer's second call in it has keys and values of its own.

    Raises:
        ModelError: no step is running.
    """
    step, calls = _present.step, _present.calls
    if step is None or calls is None:
        raise ModelError("generation: the model is set up for decoding and was called without a step")
    number = layer + CALLS * calls[layer]
    calls[layer] += 1
    return step.attend(number, query, key, value, rules)


def marked_mask(
    *_: object, local_size: int | None = None, use_vmap: bool = False, **__: object
) -> Tensor | None:
    """What stands for a mask made by transformers' mask functions: its first size is the window's.

    Registered under the engine's name, so that a layer whose window is told by its mask only has it
    too. None for a causal mask without a window; the size 0 stands for one that is anything else.
    """
    if local_size is None and not use_vmap:
        return None
    return torch.zeros((), dtype=_MARK).expand(0 if use_vmap else local_size or 0, 1, 1, 1)


def masked(rules: Rules, mask: Tensor | None, layer: object) -> Rules:
    """The rules with the window that the mask of `layer` carries.

    Raises:
        ModelError: a mask that was not made by `marked_mask`, or that is more than causal and a window.
    """
    if mask is None:
        return rules
    if mask.dtype != _MARK or not len(mask):
        raise refused(f"{type(layer).__name__} has a mask of its own, which the local engine does not apply")
    return rules if rules.window is not None else replace(rules, window=len(mask))
