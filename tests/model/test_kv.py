"""Where keys and values lie: each stays with its prompt and its completion, whatever comes and goes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignloop.model.kv import COMMON_TOKENS, OWN_TOKENS, Cell, Pool, Prefix, close, common_start

HEADS, SIZE = 2, 3
CAPACITY = 6


def heads(value: float, count: int = 1) -> Tensor:
    """Keys (K, count, D) that all hold one number."""
    return torch.full((HEADS, count, SIZE), float(value))


class Filled:
    """A pool, and beside it the number that each stored token holds; values are the keys' plus a half."""

    def __init__(self, width: int, slots: int = 0) -> None:
        self.pool = Pool(CAPACITY, width, slots=slots)
        self.prompts: dict[Prefix, list[float]] = {}
        self.own: dict[Cell, list[float]] = {}
        self.next = 1.0

    def number(self) -> float:
        self.next += 1
        return self.next

    def add(self, length: int, own: int = 0) -> Prefix:
        prefix = self.pool.add(length, own)
        self.prompts[prefix] = [self.number() for _ in range(length)]
        keys, values = prefix.stored(0, heads(0), heads(0))
        for place, number in enumerate(self.prompts[prefix]):
            keys[:, place], values[:, place] = number, number + 0.5
        return prefix

    def open(self, prefix: Prefix) -> Cell:
        cell = self.pool.open(prefix)
        self.own[cell] = []
        return cell

    def step(self) -> None:
        """One token more for each completion, as a decoding step stores it."""
        self.pool.make_room()
        layer = self.pool.layer(0, heads(0), heads(0))
        for cell, numbers in self.own.items():
            number, slot = self.number(), cell.prefix.slot
            for prompt, own, stored in (
                (layer.prompt_keys, layer.own_keys, number),
                (layer.prompt_values, layer.own_values, number + 0.5),
            ):
                if self.pool.lone:
                    prompt[slot, :, cell.prefix.length + cell.length] = stored
                else:
                    own[slot, :, cell.column, cell.length] = stored
            numbers.append(number)
            cell.length += 1

    def end(self, cell: Cell) -> None:
        close(cell)
        del self.own[cell]
        if not cell.prefix.cells:
            self.pool.drop(cell.prefix)
            del self.prompts[cell.prefix]

    def check(self) -> None:
        pool = self.pool
        assert pool.prefixes == list(self.prompts)
        assert sorted(prefix.slot for prefix in pool.prefixes) == list(range(len(pool.prefixes)))
        assert len(pool.prefixes) <= pool.slots
        for prefix, numbers in self.prompts.items():
            assert len({cell.column for cell in prefix.cells}) == len(prefix.cells) <= pool.width
            layer = pool.layer(0, heads(0), heads(0))
            assert layer.prompt_keys.shape[0] == layer.own_values.shape[0] == pool.slots
            for offset, prompt, own in (
                (0.0, layer.prompt_keys, layer.own_keys),
                (0.5, layer.prompt_values, layer.own_values),
            ):
                assert torch.isfinite(prompt).all()
                wanted = torch.tensor(numbers)[:, None] + offset
                assert (prompt[prefix.slot, :, : prefix.length] == wanted).all()
                for cell in prefix.cells:
                    wanted = torch.tensor(self.own[cell])[:, None] + offset
                    after = prompt[prefix.slot, :, prefix.length :]
                    found = after if pool.lone else own[prefix.slot, :, cell.column]
                    assert (found[:, : cell.length] == wanted).all()


@given(
    width=st.sampled_from([1, 2, 4]),
    steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=50),
)
@settings(deadline=None, max_examples=60)
def test_no_number_is_lost_or_moved_to_another(width: int, steps: list[tuple[int, int]]) -> None:
    filled = Filled(width)
    for kind, number in steps:
        cells, prefixes = list(filled.own), list(filled.prompts)
        if kind < 3 or not prefixes:
            prefix = filled.add(1 + number % CAPACITY, number)
            for _ in range(1 if width == 1 else 1 + number % 3):
                filled.open(prefix)
        elif kind < 4 and width > 1:
            filled.open(prefixes[number % len(prefixes)])
        elif kind < 7:
            filled.end(cells[number % len(cells)])
        else:
            for _ in range(1 + 7 * (kind == 9)):
                filled.step()
        filled.check()


def test_a_pool_grows_by_doubling_and_keeps_what_there_is() -> None:
    filled = Filled(4)
    first = filled.add(3)
    assert (filled.pool.slots, filled.pool.width, filled.pool.own_capacity) == (1, 1, OWN_TOKENS)
    slots, widths = [], []
    for _ in range(4):
        filled.add(2)
        slots.append(filled.pool.slots)
    assert slots == [2, 4, 4, 8]
    for _ in range(5):
        filled.open(first)
        widths.append(filled.pool.width)
    assert widths == [1, 2, 4, 4, 8]
    filled.check()
    layer = filled.pool.layer(0, heads(0), heads(0))
    assert layer.prompt_keys.shape == (8, HEADS, CAPACITY, SIZE)
    assert layer.own_values.shape == (8, HEADS, 8, OWN_TOKENS, SIZE)


def test_room_for_one_token_more_is_made_before_a_step() -> None:
    filled = Filled(2, slots=1)
    filled.open(filled.add(2))
    for _ in range(OWN_TOKENS):
        filled.step()
    assert filled.pool.own_capacity == OWN_TOKENS
    filled.step()
    assert filled.pool.own_capacity == 2 * OWN_TOKENS
    filled.check()


@pytest.mark.parametrize(("own", "capacity"), [(0, 32), (32, 32), (33, 64), (64, 64), (65, 128), (300, 512)])
def test_a_lone_completion_has_room_for_the_tokens_that_are_read_with_its_prompt(
    own: int, capacity: int
) -> None:
    filled = Filled(1, slots=2)
    filled.open(filled.add(4))
    filled.step()
    filled.add(CAPACITY, own)
    assert filled.pool.own_capacity == capacity
    assert filled.pool.slots == 2  # there was a free one
    layer = filled.pool.layer(0, heads(0), heads(0))
    assert layer.prompt_keys.shape == (2, HEADS, CAPACITY + capacity, SIZE)
    assert layer.own_keys.shape == (2, HEADS, 1, 0, SIZE)
    filled.check()
    shared = Pool(CAPACITY, 2, slots=1)
    shared.add(4, own)
    assert shared.own_capacity == OWN_TOKENS


@pytest.mark.parametrize(
    ("left", "slots", "width"),
    # completions left of each of four prompts with four each
    [
        ((4, 4, 1, 0), 4, 4),  # 9 of 12 places are in use
        ((3, 3, 2, 1), 4, 4),  # 9 of 16
        ((3, 3, 1, 1), 4, 3),  # 8 of 16
        ((2, 2, 2, 2), 4, 2),
        ((4, 1, 1, 1), 4, 4),  # 7 of 16, but one prompt needs them all
        ((4, 4, 0, 0), 4, 4),
        ((4, 1, 0, 0), 4, 4),  # 5 of 8
        ((3, 1, 0, 0), 2, 3),  # 4 of 8
        ((1, 0, 0, 0), 1, 1),
    ],
)
def test_a_pool_is_made_smaller_where_half_is_unused(left: tuple[int, ...], slots: int, width: int) -> None:
    filled = Filled(4)
    prefixes = [filled.add(3) for _ in range(4)]
    cells = [[filled.open(prefix) for _ in range(4)] for prefix in prefixes]
    filled.step()
    assert (filled.pool.slots, filled.pool.width) == (4, 4)
    for row, count in zip(cells, left, strict=True):
        for cell in row[: 4 - count]:  # the first ones, so that others have to move
            filled.end(cell)
    filled.check()
    filled.step()
    assert (filled.pool.slots, filled.pool.width) == (slots, width)
    filled.check()


def test_two_layers_and_keys_of_another_size_than_values() -> None:
    pool = Pool(4, 2, slots=1)
    prefix = pool.add(2)
    first = pool.layer(0, heads(0), torch.zeros(HEADS, 1, 5))
    second = pool.layer(1, torch.zeros(1, 1, 7), torch.zeros(1, 1, 7))
    assert first.prompt_keys.shape == (1, 2, 4, 3)
    assert first.prompt_values.shape == (1, 2, 4, 5)
    assert first.own_keys.shape == (1, 2, 1, OWN_TOKENS, 3)
    assert second.own_values.shape == (1, 1, 1, OWN_TOKENS, 7)
    assert pool.layer(0, heads(0), heads(0)) is first
    keys, values = prefix.stored(0, heads(0), heads(0))
    assert keys.data_ptr() == first.prompt_keys.data_ptr()
    assert values.data_ptr() == first.prompt_values.data_ptr()


def stored(*prompts: tuple[int, ...]) -> list[tuple[Prefix, tuple[int, ...]]]:
    pool = Pool(64, 2)
    return [(pool.add(len(prompt)), prompt) for prompt in prompts]


@given(
    st.lists(st.integers(0, 1), max_size=20),
    st.lists(st.tuples(st.integers(0, 24), st.integers(0, 2**20)), max_size=5),
)
@settings(deadline=None, max_examples=150)
def test_the_common_start_is_the_longest_one(prompt: list[int], others: list[tuple[int, int]]) -> None:
    """Others begin like the prompt for a while and go on in bits of a number."""
    rows = [tuple(prompt[:n]) + tuple(bits >> i & 1 for i in range(6)) for n, bits in others]
    kept = stored(*rows)
    common = [
        next(
            (i for i, (a, b) in enumerate(zip(prompt[:-1], row, strict=False)) if a != b),
            min(len(prompt[:-1]), len(row)),
        )
        for row in rows
    ]
    found, length = common_start(tuple(prompt), kept)
    best = max([n for n in common if n >= COMMON_TOKENS], default=0)
    assert length == best
    assert (found is None) == (best == 0)
    if found is not None:  # the first of several
        assert found is kept[common.index(best)][0]
