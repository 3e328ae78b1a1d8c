"""Rotary frequencies that depend on how long a row is, and which rows may therefore run together.

transformers chooses them once per call from the longest position in it (longrope: one of two sets;
dynamic: a set of its own for each length beyond the trained one, and remembered). A long row beside a
short one would change the short one's numbers, so `PackedModel` runs rows of one kind at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from alignloop.errors import ModelError

_SHORT, _FAR = 4, 2**20
"""Lengths between which frequencies are looked for that change, in tokens."""


@dataclass(frozen=True, slots=True)
class LengthKinds:
    """Which lengths share their frequencies.

    Attributes:
        limit: rows of up to so many tokens share one set.
        each: whether every greater length has a set of its own; else they share one, too.
        reset: puts remembered frequencies back to those of short rows.
    """

    limit: int
    each: bool
    reset: Callable[[], object]

    def of(self, length: int) -> int:
        """A number that is the same for lengths that may run together."""
        return 0 if length <= self.limit else length if self.each else 1


def length_kinds(hf: PreTrainedModel) -> LengthKinds | None:
    """Which lengths may run together; None where all may, as with most models.

    Found out by calling the rotary modules with positions far apart, not from the configuration.

    Raises:
        ModelError: frequencies that change with the length inside of layers, where gradient
            checkpointing would compute a layer again with those of another row.
    """
    if hf.device.type == "meta":
        return None
    kinds: LengthKinds | None = None
    inside = {
        id(m) for part in hf.modules() if isinstance(part, GradientCheckpointingLayer) for m in part.modules()
    }
    for module in hf.modules():
        for layer_type in _layer_types(module):
            frequencies = _Frequencies(module, layer_type, hf.device)
            if not frequencies.change(_FAR):
                continue
            if id(module) in inside:
                raise ModelError(
                    f"{type(hf).__name__} chooses rotary frequencies by a row's length inside of its "
                    "layers; rows of different lengths cannot be trained together"
                )
            found = frequencies.kinds()
            if kinds is not None and (kinds.limit, kinds.each) != (found.limit, found.each):
                raise ModelError(
                    f"{type(hf).__name__} has layers with rotary frequencies that change at different lengths"
                )
            kinds = found if kinds is None else _both(kinds, found)
    return kinds


def _both(a: LengthKinds, b: LengthKinds) -> LengthKinds:
    return LengthKinds(a.limit, a.each, lambda: (a.reset(), b.reset()))


def _layer_types(module: nn.Module) -> list[str | None]:
    """The layer types a rotary module has frequencies for; [None] for one set, [] for other modules."""
    kind = module.__dict__.get("rope_type")
    if isinstance(kind, dict):
        return [name for name, value in kind.items() if value is not None]
    return [None] if isinstance(kind, str) else []


@dataclass(frozen=True, slots=True)
class _Frequencies:
    module: nn.Module
    layer_type: str | None
    device: torch.device

    @torch.no_grad()
    def angles(self, length: int) -> Tensor:
        """Cosines of the first positions in a row of this length, without what was remembered."""
        if length != _SHORT:
            self.angles(_SHORT)
        positions = torch.tensor([[1, 2, 3, length - 1]], device=self.device)
        x = torch.zeros(1, 4, 1, device=self.device)
        more = {} if self.layer_type is None else {"layer_type": self.layer_type}
        return self.module(x, positions, **more)[0][..., :3, :].clone()

    def change(self, length: int, other: int = _SHORT) -> bool:
        """Whether rows of these two lengths have different frequencies."""
        there = self.angles(length)
        here = self.angles(other)
        self.angles(_SHORT)
        return not torch.equal(here, there)

    def kinds(self) -> LengthKinds:
        """The last length that has the short rows' frequencies, by halving, and what comes after."""
        low, high = _SHORT, _FAR
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.change(middle) else (middle, high)
        return LengthKinds(low, self.change(_FAR, high), lambda: self.angles(_SHORT))
