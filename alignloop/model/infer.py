"""Passes without gradient over packed groups: pack, collate, run, results in the order of the groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from alignloop.data.packing import Batch, Group, collate, pack
from alignloop.progress import Progress

F = TypeVar("F")
T = TypeVar("T")
_EVERY_S = 2.0


def run_groups(
    model: nn.Module,
    groups: Sequence[Group],
    token_budget: int,
    forward: Callable[[Batch], F],
    read: Callable[[F, Batch, Sequence[Group]], Sequence[T]],
    *,
    title: str = "",
) -> list[T]:
    """A result for each group, with a bar where it takes long.

    Args:
        model: put into eval mode and left there.
        groups: tokenized rows.
        token_budget: tokens of a packed row.
        forward: runs the model on a batch.
        read: takes a chunk's results out of the output, one for each of its groups.
        title: what the bar calls the work.

    Returns:
        In the order of the groups.
    """
    model.eval()
    numbered = [Group(g.prompt_ids, g.completions, place) for place, g in enumerate(groups)]
    found: dict[int, T] = {}
    shown = Progress(len(groups), description=title, unit="row", every_s=_EVERY_S, brief=True)
    with torch.no_grad(), shown as progress:
        for chunk in pack(numbered, token_budget):
            batch = collate(chunk)
            results = read(forward(batch), batch, chunk)
            found |= {group.index: one for group, one in zip(chunk, results, strict=True)}
            progress.update(len(found))
    return [found[place] for place in range(len(groups))]
