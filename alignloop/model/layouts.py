"""A batch run through the decoder: as the packed row it is, as padded rows, or row by row; rows of one kind
at a time.

N tokens in the packed row, B completions, T tokens of the longest, R rows of hidden states.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from alignloop.data.packing import Batch, Segments, Span
from alignloop.model.head import decoder_of
from alignloop.model.rope import length_kinds

Layout = Literal["packed", "padded", "alone"]
"""Each prompt once for its completions; each completion with its whole prompt, side by side; one by one."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Hidden states, and where in them the batch's tokens are.

    Attributes:
        hidden: (R, h), after the model's final norm.
        predict: int64 (B, T), the row that predicts each counted token, 0 where none counts.
        last: int64 (B,), the row of each completion's last token.
        places: int64 (N,), the row of each token of the packed row (a prompt that runs more than once:
            one of its rows, the shortest kind's); None if token i is row i.
    """

    hidden: Tensor
    predict: Tensor
    last: Tensor
    places: Tensor | None = None


class Reader:
    """Runs batches through a model's decoder.

    Arguments:
        hf: a transformers causal language model.
    """

    def __init__(self, hf: PreTrainedModel) -> None:
        self.decoder = decoder_of(hf)
        self.kinds = length_kinds(hf)
        parameters = inspect.signature(type(self.decoder).forward).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._taken = None if open_ended else set(parameters)

    def read(self, batch: Batch, layout: Layout) -> Rows:
        """Run a batch, with the attention that its layout needs already set.

        Where rotary frequencies depend on a row's length, completions that would change each other's
        run one kind after another, each kind with its own copy of the prompt.
        """
        if self.kinds is None:
            return self._run(batch, layout)
        lengths = [span.prompt_length + length for span in batch.segments.spans for length in span.lengths]
        of = [self.kinds.of(length) for length in lengths]
        different = sorted(set(of))
        if len(different) == 1:
            self.kinds.reset()
            return self._run(batch, layout)
        parts = []
        for kind in different:
            kept = [number for number, found in enumerate(of) if found == kind]
            part, tokens = _part(batch, kept)
            self.kinds.reset()
            parts.append((kept, tokens, self._run(part, layout)))
        self.kinds.reset()
        return _joined(batch, parts)

    def _run(self, batch: Batch, layout: Layout) -> Rows:
        if layout == "packed":
            out = self.decoder(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                segments=batch.segments,
                use_cache=False,
            )
            return Rows(out.last_hidden_state[0], batch.predict_index, batch.last_index)
        ids, mask, positions, places = padded(batch)
        if layout == "alone":
            hidden = self._one_by_one(ids, mask)
        else:
            named = {"attention_mask": mask, "position_ids": positions, "use_cache": False}
            # a decoder that takes neither mask nor positions counts from 0 and looks back only
            hidden = self.decoder(input_ids=ids, **self._known(named)).last_hidden_state
        last = places[batch.last_index]
        steps = torch.arange(batch.mask.shape[1], device=last.device)
        # a row's own copy of the prompt predicts its first token
        predict = torch.where(batch.mask, (last - batch.lengths)[:, None] + steps, 0)
        return Rows(hidden.flatten(0, 1), predict, last, places)

    def _one_by_one(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (B, L, h) of padded rows, each run by itself without its padding, which gets 0."""
        states: list[Tensor] = []
        for row, length in zip(ids, mask.sum(1).tolist(), strict=True):
            if self.kinds is not None:
                self.kinds.reset()
            out = self.decoder(input_ids=row[None, :length], **self._known({"use_cache": False}))
            states.append(F.pad(out.last_hidden_state[0], (0, 0, 0, len(row) - length)))
        return torch.stack(states)

    def _known(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Those arguments that the decoder takes."""
        return {name: x for name, x in arguments.items() if self._taken is None or name in self._taken}


def padded(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Padded rows of a packed batch, one for each completion with its whole prompt.

    Returns:
        input_ids, attention mask and position ids, (B, L) each, and for every place of the packed
        row its place among the B·L padded ones (prompt tokens: those of the first completion).
    """
    rows: list[tuple[int, int, int, int]] = []
    for span in batch.segments.spans:
        start = span.start + span.prompt_length
        for length in span.lengths:
            rows.append((span.start, span.prompt_length, start, length))
            start += length
    longest = max(prompt + length for _, prompt, _, length in rows)
    device = batch.input_ids.device
    ids = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    places = torch.zeros(batch.num_tokens, dtype=torch.long, device=device)
    for row, (first, prompt, start, length) in reversed(list(enumerate(rows))):
        total = prompt + length
        ids[row, :prompt] = batch.input_ids[0, first : first + prompt]
        ids[row, prompt:total] = batch.input_ids[0, start : start + length]
        mask[row, :total] = 1
        base = row * longest
        places[first : first + prompt] = torch.arange(base, base + prompt, device=device)
        places[start : start + length] = torch.arange(base + prompt, base + total, device=device)
    positions = torch.arange(longest, device=device).expand(len(rows), -1)
    return ids, mask, positions, places


def _part(batch: Batch, kept: Sequence[int]) -> tuple[Batch, Tensor]:
    """The batch with these of its completions only.

    Returns:
        The smaller batch (without extras), and for each of its tokens the place in the whole row.
    """
    tokens: list[int] = []
    spans: list[Span] = []
    shift, number = [], 0  # how far each kept completion, and its prompt, move to the front
    for span in batch.segments.spans:
        start = span.start + span.prompt_length
        mine: list[tuple[int, int]] = []
        for length in span.lengths:
            if number in kept:
                mine.append((start, length))
            start, number = start + length, number + 1
        if not mine:
            continue
        first = len(tokens)
        tokens += range(span.start, span.start + span.prompt_length)
        for place, length in mine:
            shift.append((span.start - first, place - len(tokens)))
            tokens += range(place, place + length)
        spans.append(Span(first, span.prompt_length, tuple(length for _, length in mine)))
    device = batch.input_ids.device
    at = torch.tensor(tokens, device=device)
    old = batch.segments
    segments = Segments(tuple(spans), old.group[at], old.branch[at], old.position[at])
    rows = torch.tensor(kept, device=device)
    of_prompt, own = torch.tensor(shift, device=device).unbind(1)
    mask, before = batch.mask[rows], batch.predict_index[rows] - own[:, None]
    before[:, 0] = batch.predict_index[rows, 0] - of_prompt
    part = replace(
        batch,
        input_ids=batch.input_ids[:, at],
        position_ids=batch.position_ids[:, at],
        segments=segments,
        predict_index=torch.where(mask, before, 0),
        target_ids=batch.target_ids[rows],
        mask=mask,
        last_index=batch.last_index[rows] - own,
        lengths=batch.lengths[rows],
        group=batch.group[rows],
        extras={},
    )
    return part, at


def _joined(batch: Batch, parts: Sequence[tuple[Sequence[int], Tensor, Rows]]) -> Rows:
    """One set of rows out of those of the parts: (completions, places of the tokens, rows) each."""
    predict, last = torch.zeros_like(batch.predict_index), torch.zeros_like(batch.last_index)
    places = torch.zeros(batch.num_tokens, dtype=torch.long, device=last.device)
    first = sum(len(rows.hidden) for _, _, rows in parts)
    for kept, tokens, rows in reversed(parts):  # so that a prompt's place is in the shortest kind's row
        first -= len(rows.hidden)
        own = torch.arange(len(tokens), device=last.device) if rows.places is None else rows.places
        places[tokens] = own + first
        number = torch.tensor(kept, device=last.device)
        predict[number], last[number] = (
            torch.where(batch.mask[number], rows.predict + first, 0),
            rows.last + first,
        )
    return Rows(torch.cat([rows.hidden for _, _, rows in parts]), predict, last, places)
