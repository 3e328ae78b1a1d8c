"""A batch in its layouts: where each token's row is, and what a decoder is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from alignloop.data.packing import Batch, Group, collate, completion
from alignloop.model import layouts
from alignloop.model.layouts import Reader, Rows, padded
from alignloop.model.rope import LengthKinds

SHAPES = st.lists(
    st.tuples(st.integers(0, 5), st.lists(st.integers(1, 6), min_size=1, max_size=4)), min_size=1, max_size=4
)


def batch_of(shapes: list[tuple[int, list[int]]], *, skip: int = 0) -> Batch:
    """Token ids count from 10, so each is known by its id; the first `skip` of a completion do not count."""
    number, groups = 10, []
    for index, (prompt, lengths) in enumerate(shapes):
        pieces = []
        for length in (prompt, *lengths):
            pieces.append(np.arange(number, number + length, dtype=np.int32))
            number += length
        counted = [completion(ids, [place >= skip for place in range(len(ids))]) for ids in pieces[1:]]
        groups.append(Group(pieces[0], tuple(counted), index))
    return collate(groups)


class Echo:
    """A decoder whose hidden state at a place is the token there, its position, and the row's length."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def run(self, ids: Tensor, positions: Tensor | None, mask: Tensor | None) -> BaseModelOutputWithPast:
        if positions is None:
            positions = torch.arange(ids.shape[1]).expand(ids.shape)
        lengths = (
            torch.full(ids.shape, ids.shape[1]) if mask is None else mask.sum(1)[:, None].expand(ids.shape)
        )
        self.rows += [row.tolist() for row in ids]
        hidden = torch.stack([ids, positions, lengths], -1).double()
        return BaseModelOutputWithPast(last_hidden_state=hidden)


class Open(Echo):
    def forward(self, input_ids: Tensor, **named: Any) -> BaseModelOutputWithPast:
        assert named.pop("use_cache") is False
        named.pop("segments", None)
        return self.run(input_ids, named.pop("position_ids", None), named.pop("attention_mask", None))

    __call__ = forward


class Closed(Echo):
    """Knows neither masks nor positions."""

    def forward(self, input_ids: Tensor, use_cache: bool = True) -> BaseModelOutputWithPast:
        assert use_cache is False
        return self.run(input_ids, None, None)

    __call__ = forward


class Barest(Echo):
    def forward(self, input_ids: Tensor) -> BaseModelOutputWithPast:
        return self.run(input_ids, None, None)

    __call__ = forward


def reader(decoder: Any, kinds: LengthKinds | None = None) -> Reader:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "decoder_of", lambda hf: decoder)
        patch.setattr(layouts, "length_kinds", lambda hf: kinds)
        return Reader(None)  # type: ignore[arg-type]


def check(batch: Batch, rows: Rows) -> None:
    """Every place that is told holds the token that is meant, at its position."""
    position = batch.position_ids[0]
    places = torch.arange(batch.num_tokens) if rows.places is None else rows.places
    assert torch.equal(rows.hidden[places, 0], batch.input_ids[0].double())
    assert torch.equal(rows.hidden[places, 1], position.double())
    assert torch.equal(rows.hidden[rows.last, 0], batch.input_ids[0, batch.last_index].double())
    counted = batch.mask
    assert torch.equal(
        rows.hidden[rows.predict[counted], 0], batch.input_ids[0, batch.predict_index[counted]].double()
    )
    assert not rows.predict[~counted].any()


@given(shapes=SHAPES, skip=st.integers(0, 2), layout=st.sampled_from(["packed", "padded", "alone"]))
@settings(deadline=None, max_examples=80)
def test_each_token_is_where_the_rows_say(
    shapes: list[tuple[int, list[int]]], skip: int, layout: Any
) -> None:
    batch = batch_of(shapes, skip=skip)
    for decoder in (Open(), Closed(), Barest()):
        if layout == "packed" and not isinstance(decoder, Open):
            continue
        rows = reader(decoder).read(batch, layout)
        check(batch, rows)
        assert (rows.places is None) == (layout == "packed")
        wanted = [prompt + length for prompt, lengths in shapes for length in lengths]
        longest = max(wanted)
        sizes = {"packed": [batch.num_tokens], "padded": [longest] * len(wanted), "alone": wanted}[layout]
        assert [len(row) for row in decoder.rows] == sizes
        if layout == "alone":  # the padding's states are 0
            assert len(rows.hidden) == longest * len(wanted)
            assert int((rows.hidden[:, 0] == 0).sum()) == sum(longest - length for length in wanted)


@given(
    shapes=SHAPES,
    skip=st.integers(0, 2),
    layout=st.sampled_from(["packed", "padded", "alone"]),
    limit=st.integers(1, 11),
    each=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_rows_of_one_kind_run_together_and_no_others(
    shapes: list[tuple[int, list[int]]], skip: int, layout: Any, limit: int, each: bool
) -> None:
    batch = batch_of(shapes, skip=skip)
    decoder, resets = Open(), []
    kinds = LengthKinds(limit, each, lambda: resets.append(len(decoder.rows)))
    rows = reader(decoder, kinds).read(batch, layout)
    check(batch, rows)
    wanted = [(kinds.of(p + n), p + n) for p, lengths in shapes for n in lengths]
    assert 0 in resets  # before the first row of all
    if layout == "padded":
        different = sorted({kind for kind, _ in wanted})
        assert len(decoder.rows) == len(wanted)
        longest = [max(n for of, n in wanted if of == kind) for kind in different]
        counts = [sum(of == kind for of, _ in wanted) for kind in different]
        sizes = [size for size, count in zip(longest, counts, strict=True) for _ in range(count)]
        assert [len(row) for row in decoder.rows] == sizes
        # before each kind, and where there are several, after the last
        ends = [0, *np.cumsum(counts).tolist()] if len(different) > 1 else [0]
        assert resets == ends


def test_of_a_prompt_that_runs_twice_the_shortest_kinds_row_is_told() -> None:
    batch = batch_of([(4, [9, 2])])
    rows = reader(Open(), LengthKinds(8, False, lambda: None)).read(batch, "padded")
    assert rows.places is not None
    # two rows: 4 + 2 tokens, then 4 + 9
    assert rows.places[:4].tolist() == [0, 1, 2, 3]
    assert rows.last.tolist() == [6 + 12, 5]
    assert len(rows.hidden) == 6 + 13


@given(SHAPES)
@settings(deadline=None, max_examples=40)
def test_padded_rows_hold_each_completion_with_its_prompt(shapes: list[tuple[int, list[int]]]) -> None:
    batch = batch_of(shapes)
    ids, mask, positions, places = padded(batch)
    number, wanted = 10, []
    for prompt, lengths in shapes:
        head = list(range(number, number + prompt))
        number += prompt
        for length in lengths:
            wanted.append(head + list(range(number, number + length)))
            number += length
    longest = max(map(len, wanted))
    assert ids.tolist() == [row + [0] * (longest - len(row)) for row in wanted]
    assert mask.tolist() == [[1] * len(row) + [0] * (longest - len(row)) for row in wanted]
    assert positions.tolist() == [list(range(longest))] * len(wanted)
    # a prompt's tokens are told in its first completion's row
    flat = [
        row.index(token) + longest * at
        for token in batch.input_ids[0].tolist()
        for at, row in _first(wanted, token)
    ]
    assert places.tolist() == flat


def _first(rows: list[list[int]], token: int) -> list[tuple[int, list[int]]]:
    return [(at, row) for at, row in enumerate(rows) if token in row][:1]
