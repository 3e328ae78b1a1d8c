"""Keys and values of running completions: a prompt's are stored once for all its completions.

A pool holds prompts of similar length in S slots, each with m cells for completions, so that one
matrix product per layer serves all of them. Where a prompt has one completion only, that one's tokens
follow the prompt's in the same store. K key heads, D head size, P prompt tokens, T own tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

OWN_TOKENS = 32
"""Room for own tokens a pool starts with; it doubles as completions grow."""
COMMON_TOKENS = 8
"""Fewest first tokens in common with a stored prompt for which its keys are copied."""


@dataclass(eq=False, slots=True)
class Prefix:
    """A stored prompt: its pool, slot, length in tokens, and the cells of its running completions."""

    pool: Pool
    slot: int
    length: int
    cells: list[Cell] = field(default_factory=list)

    def stored(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Its slot's keys and values of a layer, (K, P, D), as views; arguments as of `Pool.layer`."""
        store = self.pool.layer(layer, key, value)
        return store.prompt_keys[self.slot], store.prompt_values[self.slot]


@dataclass(eq=False, slots=True)
class Cell:
    """Place of one running completion; `length` counts its tokens whose keys are stored."""

    prefix: Prefix
    column: int
    length: int = 0


@dataclass(slots=True)
class Layer:
    """One layer's keys and values: prompts (S, K, P, D), own tokens (S, K, m, T, D).

    In a pool of lone completions (S, K, P + T, D), and no own tokens.
    """

    prompt_keys: Tensor
    prompt_values: Tensor
    own_keys: Tensor
    own_values: Tensor


class Pool:
    """Slots for prompts of at most `prompt_capacity` tokens, with cells for their completions.

    Unused room is zero, never uninitialised: a hidden key has weight 0, and 0 · NaN would be NaN.
    `expected_width` completions per prompt are only a name, pools of one kind share it, but for 1: a
    completion that stays alone.
    """

    def __init__(self, prompt_capacity: int, expected_width: int, *, slots: int = 0) -> None:
        self.key = (prompt_capacity, expected_width)
        self.prompt_capacity = prompt_capacity
        self.lone = expected_width == 1
        self.slots, self.width, self.own_capacity = slots, 1, OWN_TOKENS
        self.prefixes: list[Prefix] = []
        self.layers: dict[int, Layer] = {}

    def add(self, length: int, own: int = 0) -> Prefix:
        """Take a slot for a prompt of `length` tokens with room for `own` ones of its lone completion."""
        used = {prefix.slot for prefix in self.prefixes}
        slot = next(number for number in range(len(used) + 1) if number not in used)
        capacity = self.own_capacity
        while self.lone and capacity < own:
            capacity *= 2
        if slot >= self.slots or capacity != self.own_capacity:
            slots = self.slots if slot < self.slots else max(slot + 1, 2 * self.slots)
            self._resize(slots, self.width, capacity)
            slot = len(self.prefixes)
        prefix = Prefix(self, slot, length)
        self.prefixes.append(prefix)
        return prefix

    def open(self, prefix: Prefix) -> Cell:
        """Take a cell for a completion of `prefix`."""
        used = {cell.column for cell in prefix.cells}
        column = next(number for number in range(len(used) + 1) if number not in used)
        if column >= self.width:
            self._resize(self.slots, max(column + 1, 2 * self.width), self.own_capacity)
            column = len(prefix.cells)
        cell = Cell(prefix, column)
        prefix.cells.append(cell)
        return cell

    def drop(self, prefix: Prefix) -> None:
        """Give a prompt's slot back; the last slot's prompt moves there: a step runs no gaps."""
        self.prefixes.remove(prefix)
        last = max(self.prefixes, key=lambda other: other.slot, default=None)
        if last is None or last.slot < prefix.slot:
            return
        for layer in self.layers.values():
            for store in (layer.prompt_keys, layer.prompt_values, layer.own_keys, layer.own_values):
                store[prefix.slot] = store[last.slot]
        last.slot = prefix.slot

    def make_room(self) -> None:
        """Before a decoding step: room for one more token in every cell; compact if half is unused."""
        cells = [cell for prefix in self.prefixes for cell in prefix.cells]
        longest = max((cell.length for cell in cells), default=0)
        used_slots = 1 + max((prefix.slot for prefix in self.prefixes), default=-1)
        width = max((len(prefix.cells) for prefix in self.prefixes), default=1)
        tight = len(self.prefixes) * width
        compact = 2 * len(cells) <= used_slots * self.width and tight < used_slots * self.width
        capacity = self.own_capacity if longest < self.own_capacity else 2 * self.own_capacity
        if compact:
            self._resize(len(self.prefixes), width, capacity)
        elif capacity != self.own_capacity:
            self._resize(self.slots, self.width, capacity)

    def layer(self, index: int, key: Tensor, value: Tensor) -> Layer:
        """The stores of a layer, made at its first use in the shapes of `key` and `value`, (K, N, D)."""
        if index not in self.layers:
            prompt_room, own_room = self._rooms
            self.layers[index] = Layer(
                *(self._zeros(x, prompt_room) for x in (key, value)),
                *(self._zeros(x, self.width, own_room) for x in (key, value)),
            )
        return self.layers[index]

    @property
    def _rooms(self) -> tuple[int, int]:
        """Tokens that a slot of the prompts' store and a cell of the own tokens' store hold."""
        if self.lone:
            return self.prompt_capacity + self.own_capacity, 0
        return self.prompt_capacity, self.own_capacity

    def _zeros(self, like: Tensor, *middle: int) -> Tensor:
        return like.new_zeros(self.slots, like.shape[0], *middle, like.shape[-1])

    def _resize(self, slots: int, width: int, own_capacity: int) -> None:
        """Change the room; prompts move to the first slots and completions to the first columns."""
        places = [
            (prefix.slot, cell.column, new_slot, new_column)
            for new_slot, prefix in enumerate(self.prefixes)
            for new_column, cell in enumerate(prefix.cells)
        ]
        sources = [prefix.slot for prefix in self.prefixes]
        same_prompts = slots == self.slots and sources == list(range(len(sources)))
        same_prompts = same_prompts and not (self.lone and own_capacity != self.own_capacity)
        self.slots, self.width, self.own_capacity = slots, width, own_capacity
        longest = max((cell.length for prefix in self.prefixes for cell in prefix.cells), default=0)
        for layer in self.layers.values():
            if not same_prompts:
                layer.prompt_keys = self._moved_prompts(layer.prompt_keys, sources)
                layer.prompt_values = self._moved_prompts(layer.prompt_values, sources)
            layer.own_keys = self._moved_cells(layer.own_keys, places, longest)
            layer.own_values = self._moved_cells(layer.own_values, places, longest)
        for new_slot, prefix in enumerate(self.prefixes):
            prefix.slot = new_slot
            for new_column, cell in enumerate(prefix.cells):
                cell.column = new_column

    def _moved_prompts(self, old: Tensor, sources: Sequence[int]) -> Tensor:
        new = old.new_zeros(self.slots, old.shape[1], self._rooms[0], old.shape[-1])
        new[: len(sources), :, : old.shape[2]] = old[sources]
        return new

    def _moved_cells(self, old: Tensor, places: Sequence[tuple[int, ...]], longest: int) -> Tensor:
        new = old.new_zeros(self.slots, old.shape[1], self.width, self._rooms[1], old.shape[-1])
        if places:
            old_slot, old_column, new_slot, new_column = torch.tensor(places, device=old.device).T
            moved = old[:, :, :, :longest].transpose(1, 2)[old_slot, old_column]
            new[:, :, :, :longest].transpose(1, 2)[new_slot, new_column] = moved
        return new


def close(cell: Cell) -> None:
    """Give a completion's cell back."""
    cell.prefix.cells.remove(cell)


def common_start(
    prompt: Sequence[int], stored: Iterable[tuple[Prefix, Sequence[int]]]
) -> tuple[Prefix | None, int]:
    """The stored prompt that begins most like a new one, and how many first tokens they have in common.

    The new prompt's last token never counts: it must run, for its logits.
    """
    best, most, inner = None, 0, prompt[:-1]
    for prefix, other in stored:
        enough = max(most + 1, COMMON_TOKENS)
        if len(inner) < enough or other[:enough] != inner[:enough]:
            continue
        pairs = enumerate(zip(inner, other, strict=False))
        shorter = min(len(inner), len(other))
        best, most = prefix, next((place for place, (a, b) in pairs if a != b), shorter)
    return best, most
