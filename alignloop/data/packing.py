"""Groups of (prompt, completions) packed without padding into one row of tokens.

N tokens in the row, P groups, B completions, T the longest completion. The prompt is stored and
computed once; completions see the prompt and themselves, never each other. The row is

    prompt₀ completion₀₀ completion₀₁ … prompt₁ completion₁₀ …

and the position of a completion's first token is the prompt's length, whichever completion it is.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One tokenized completion.

    Attributes:
        ids: int32 (L,), tokens including the end-of-turn.
        mask: bool (L,), True where the token counts in the objective.
        values: per-token float arrays (L,) by name, such as `old_logprobs` or `advantages`.
    """

    ids: np.ndarray
    mask: np.ndarray
    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def counted(cls, ids: np.ndarray) -> Completion:
        """A completion whose every token counts."""
        return cls(ids, np.ones(len(ids), dtype=bool))


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A tokenized prompt (int32, may be empty) with its completions.

    `index` is the row in the data set. `values` holds what belongs to the group (a float) or to
    its completions (one float or one vector for each), such as `margin` or `ranks`. `key` is what the
    row was asked where that is not its `prompt_ids`, because those were cut or the row is a conversation.
    """

    prompt_ids: np.ndarray
    completions: tuple[Completion, ...]
    index: int = 0
    values: Mapping[str, float | Sequence[float] | np.ndarray] = field(default_factory=dict)
    key: bytes = b""

    @property
    def question(self) -> bytes:
        """What rows with the same first question share; of a row without a prompt its text."""
        return self.key or self.prompt_ids.tobytes() or b"".join(c.ids.tobytes() for c in self.completions)

    @property
    def num_tokens(self) -> int:
        """Tokens the group takes in a packed row."""
        return len(self.prompt_ids) + sum(len(c.ids) for c in self.completions)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a group lies in the row: its start, its prompt's length, its completions' lengths."""

    start: int
    prompt_length: int
    lengths: tuple[int, ...]

    @property
    def stop(self) -> int:
        """One past the group's last token."""
        return self.start + self.prompt_length + sum(self.lengths)


@dataclass(slots=True, eq=False)
class Segments:
    """The row's layout, handed to the attention function through the model call.

    Attributes:
        spans: one for each group.
        group: int32 (N,), number of the group a token belongs to.
        branch: int32 (N,), 0 for prompt tokens, k for the k-th completion of the group.
        position: int32 (N,), position ids.
        cache: masks built by the attention function, shared by the layers of one forward.
    """

    spans: tuple[Span, ...]
    group: Tensor
    branch: Tensor
    position: Tensor
    cache: dict[object, object] = field(default_factory=dict)

    def to(self, device: torch.device) -> Segments:
        """The same layout with its tensors on `device`."""
        return Segments(self.spans, self.group.to(device), self.branch.to(device), self.position.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A micro-batch: what a model and an objective read.

    Attributes:
        input_ids: int64 (1, N).
        position_ids: int64 (1, N).
        segments: the layout of the row.
        predict_index: int64 (B, T), place in the row whose hidden state predicts the token; for the
            first token of a completion the prompt's last token. 0 where `mask` is False.
        target_ids: int64 (B, T), the completion tokens. 0 where there is none.
        mask: bool (B, T), True where a completion token counts.
        last_index: int64 (B,), place of each completion's last token.
        lengths: int64 (B,), completion lengths in tokens.
        group: int64 (B,), ascending group numbers from 0.
        extras: float32 tensors by name, (P,), (B,), (B, A) or (B, T).
        indices: data-set row of each group, P of them.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: Segments
    predict_index: Tensor
    target_ids: Tensor
    mask: Tensor
    last_index: Tensor
    lengths: Tensor
    group: Tensor
    extras: Mapping[str, Tensor]
    indices: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens N in the row."""
        return self.input_ids.shape[1]

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`; itself if it is there already."""
        if self.input_ids.device == device:
            return self
        names = ("input_ids", "position_ids", "segments", "predict_index", "target_ids", "mask")
        names += ("last_index", "lengths", "group")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **moved, extras={k: v.to(device) for k, v in self.extras.items()})


def completion(
    ids: Sequence[int] | np.ndarray, mask: Sequence[bool] | np.ndarray | None = None, **values: np.ndarray
) -> Completion:
    """A Completion from plain sequences; every token counts unless a mask says otherwise."""
    array = np.asarray(ids, dtype=np.int32)
    counted = np.ones(len(array), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if len(counted) != len(array):
        raise ValueError(f"mask has {len(counted)} entries for {len(array)} tokens")
    return Completion(array, counted, values)


def with_completions(group: Group, keep: np.ndarray) -> Group:
    """The group with only some of its completions, and their values.

    Args:
        group: K completions.
        keep: bool (K,), True for those that stay, at least one.

    Returns:
        A group with the same prompt and index.
    """
    completions = tuple(c for c, kept in zip(group.completions, keep, strict=True) if kept)
    values = {n: v if isinstance(v, float) else np.asarray(v)[keep] for n, v in group.values.items()}
    return replace(group, completions=completions, values=values)


def pack(groups: Iterable[Group], token_budget: int) -> list[list[Group]]:
    """Split groups into micro-batches of at most `token_budget` tokens.

    First-fit decreasing says how many; they are then filled evenly, longest group first into the emptiest,
    so that the largest takes no more memory than it must. A group is never divided here; one that alone
    exceeds the budget gets a micro-batch of its own.
    The result depends only on the groups and their order, so it is reproducible.
    """
    ordered = sorted(enumerate(groups), key=lambda pair: (-pair[1].num_tokens, pair[0]))
    sizes = [group.num_tokens for _, group in ordered]
    tight = _first_fit(sizes, token_budget)
    even = _evenly(sizes, max(tight, default=-1) + 1)
    places = even if _fits(even, sizes, token_budget) else tight
    bins: dict[int, list[tuple[int, Group]]] = {}
    for place, pair in zip(places, ordered, strict=True):
        bins.setdefault(place, []).append(pair)
    packed = [sorted(content, key=lambda pair: pair[0]) for content in bins.values()]
    packed.sort(key=lambda content: content[0][0])
    return [[group for _, group in content] for content in packed]


def _first_fit(sizes: Sequence[int], token_budget: int) -> list[int]:
    """The bin of each size, the first with room; sizes descend."""
    room: list[int] = []
    places = []
    for size in sizes:
        place = next((i for i, free in enumerate(room) if free >= size), len(room))
        if place == len(room):
            room.append(token_budget)
        room[place] -= size
        places.append(place)
    return places


def _evenly(sizes: Sequence[int], num_bins: int) -> list[int]:
    """The bin of each size, the emptiest; sizes descend."""
    filled = [(0, i) for i in range(num_bins)]
    places = []
    for size in sizes:
        used, place = heapq.heappop(filled)
        heapq.heappush(filled, (used + size, place))
        places.append(place)
    return places


def _fits(places: Sequence[int], sizes: Sequence[int], token_budget: int) -> bool:
    """Whether every bin is within the budget or holds one size only."""
    totals, counts = Counter[int](), Counter(places)
    for place, size in zip(places, sizes, strict=True):
        totals[place] += size
    return all(total <= token_budget or counts[place] == 1 for place, total in totals.items())


def collate(groups: Sequence[Group]) -> Batch:
    """One packed row from groups, on the CPU.

    Raises:
        ValueError: no group, a group without completions, or a completion without tokens.
    """
    if not groups:
        raise ValueError("collate needs at least one group")
    spans, pieces, group_of, branch_of, positions = [], [], [], [], []
    start = 0
    for number, group in enumerate(groups):
        lengths = tuple(len(c.ids) for c in group.completions)
        if not lengths or min(lengths) == 0:
            raise ValueError(f"group of row {group.index} has no completion, or one without tokens")
        prompt_length = len(group.prompt_ids)
        spans.append(Span(start, prompt_length, lengths))
        parts = [(group.prompt_ids, 0, 0)]
        parts += [(c.ids, prompt_length, k) for k, c in enumerate(group.completions, 1)]
        for ids, offset, branch in parts:
            pieces.append(ids)
            group_of.append(np.full(len(ids), number, dtype=np.int32))
            branch_of.append(np.full(len(ids), branch, dtype=np.int32))
            positions.append(np.arange(offset, offset + len(ids), dtype=np.int32))
        start = spans[-1].stop
    position = torch.from_numpy(np.concatenate(positions))
    segments = Segments(
        tuple(spans),
        torch.from_numpy(np.concatenate(group_of)),
        torch.from_numpy(np.concatenate(branch_of)),
        position,
    )
    input_ids = torch.from_numpy(np.concatenate(pieces).astype(np.int64))
    return Batch(
        input_ids=input_ids[None],
        position_ids=position.long()[None],
        segments=segments,
        **_targets(groups, spans, input_ids),
        extras=_extras(groups),
        indices=tuple(group.index for group in groups),
    )


def _targets(groups: Sequence[Group], spans: Sequence[Span], input_ids: Tensor) -> dict[str, Tensor]:
    """The (B, T) views of a packed row: which place predicts which completion token."""
    num_rows = sum(len(span.lengths) for span in spans)
    longest = max(max(span.lengths) for span in spans)
    predict = np.zeros((num_rows, longest), dtype=np.int64)
    places = np.zeros((num_rows, longest), dtype=np.int64)
    mask = np.zeros((num_rows, longest), dtype=bool)
    present = np.zeros((num_rows, longest), dtype=bool)
    last, lengths, group_of = [], [], []
    row = 0
    for number, (group, span) in enumerate(zip(groups, spans, strict=True)):
        start = span.start + span.prompt_length
        for item, length in zip(group.completions, span.lengths, strict=True):
            place = np.arange(start, start + length)
            before = place - 1
            before[0] = span.start + span.prompt_length - 1
            counted = item.mask.copy()
            if span.prompt_length == 0:  # nothing precedes the first token, so nothing predicts it
                counted[0], before[0] = False, start
            predict[row, :length] = np.where(counted, before, 0)
            places[row, :length] = place
            mask[row, :length], present[row, :length] = counted, True
            last.append(start + length - 1)
            lengths.append(length)
            group_of.append(number)
            start += length
            row += 1
    targets = torch.where(torch.from_numpy(present), input_ids[torch.from_numpy(places)], 0)
    return {
        "predict_index": torch.from_numpy(predict),
        "target_ids": targets,
        "mask": torch.from_numpy(mask),
        "last_index": torch.tensor(last),
        "lengths": torch.tensor(lengths),
        "group": torch.tensor(group_of),
    }


def _extras(groups: Sequence[Group]) -> dict[str, Tensor]:
    """Per-group, per-completion and per-token values as tensors (P,), (B,), (B, A), (B, T)."""
    prompt_tokens = [max(0, len(group.prompt_ids) - 1) for group in groups]  # all but the first are predicted
    extras = {"prompt_tokens": torch.tensor(prompt_tokens, dtype=torch.float32)}
    for name in groups[0].values:
        rows: list[object] = []
        for group in groups:
            value = group.values[name]
            rows.extend([value] if np.ndim(value) == 0 else list(value))  # pyright: ignore[reportArgumentType]
        values = np.asarray(rows)
        extras[name] = torch.from_numpy(values if values.dtype == bool else values.astype(np.float32))
    items = [item for group in groups for item in group.completions]
    longest = max(len(item.ids) for item in items)
    for name in items[0].values:
        table = np.zeros((len(items), longest), dtype=np.float32)
        for row, item in enumerate(items):
            table[row, : len(item.ids)] = item.values[name]
        extras[name] = torch.from_numpy(table)
    return extras
