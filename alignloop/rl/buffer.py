"""Per-token tables of a rollout, and the rollout as plain tensors for a checkpoint.

B completions in the order of the groups, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from alignloop.data.packing import Completion, Group


def token_mask(groups: Sequence[Group]) -> Tensor:
    """bool (B, T), True at the counted tokens."""
    return _table([item.mask for group in groups for item in group.completions], bool)


def token_values(groups: Sequence[Group], name: str) -> Tensor:
    """float32 (B, T), a per-token value of every completion, 0 beyond its end."""
    return _table([item.values[name] for group in groups for item in group.completions], np.float32)


def group_numbers(groups: Sequence[Group]) -> Tensor:
    """int64 (B,), the number of each completion's group, from 0."""
    sizes = torch.tensor([len(group.completions) for group in groups])
    return torch.repeat_interleave(torch.arange(len(groups)), sizes)


def with_values(groups: Sequence[Group], **tables: Tensor) -> list[Group]:
    """Groups whose completions also hold these (B, T) values."""
    arrays = {name: table.float().cpu().numpy() for name, table in tables.items()}
    result, row = [], 0
    for group in groups:
        items = []
        for item in group.completions:
            values = {name: array[row, : len(item.ids)].copy() for name, array in arrays.items()}
            items.append(replace(item, values={**item.values, **values}))
            row += 1
        result.append(replace(group, completions=tuple(items)))
    return result


def to_tensors(groups: Sequence[Group]) -> dict[str, Tensor]:
    """A rollout buffer as flat tensors; nothing for no groups."""
    if not groups:
        return {}
    items = [item for group in groups for item in group.completions]
    flat = {
        "rollout.index": np.array([group.index for group in groups], dtype=np.int64),
        "rollout.sizes": np.array([len(group.completions) for group in groups], dtype=np.int64),
        "rollout.prompt_lengths": np.array([len(group.prompt_ids) for group in groups], dtype=np.int64),
        "rollout.prompts": np.concatenate([group.prompt_ids for group in groups]),
        "rollout.lengths": np.array([len(item.ids) for item in items], dtype=np.int64),
        "rollout.ids": np.concatenate([item.ids for item in items]),
        "rollout.mask": np.concatenate([item.mask for item in items]),
    }
    for name in items[0].values:
        flat[f"rollout.value.{name}"] = np.concatenate([item.values[name] for item in items])
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in flat.items()}


def from_tensors(tensors: Mapping[str, Tensor]) -> list[Group]:
    """The groups that `to_tensors` wrote, bit for bit; none if there are none."""
    if "rollout.index" not in tensors:
        return []
    flat = {name.removeprefix("rollout."): tensor.numpy() for name, tensor in tensors.items()}
    ends = np.cumsum(flat["lengths"])[:-1]
    columns = {
        name.removeprefix("value."): np.split(array, ends)
        for name, array in flat.items()
        if name.startswith("value.")
    }
    ids, masks = np.split(flat["ids"], ends), np.split(flat["mask"], ends)
    items = [
        Completion(ids[i], masks[i], {name: parts[i] for name, parts in columns.items()})
        for i in range(len(ids))
    ]
    prompts = np.split(flat["prompts"], np.cumsum(flat["prompt_lengths"])[:-1])
    starts = np.concatenate([[0], np.cumsum(flat["sizes"])])
    return [
        Group(prompts[g], tuple(items[starts[g] : starts[g + 1]]), int(index))
        for g, index in enumerate(flat["index"])
    ]


def _table(rows: Sequence[np.ndarray], dtype: type) -> Tensor:
    table = np.zeros((len(rows), max(len(row) for row in rows)), dtype=dtype)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)
