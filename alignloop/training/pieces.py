"""A group that is longer than the token budget, run in pieces; loss and gradient stay those of the whole.

An objective may couple all completions of a group (a ranking), so the loss cannot be cut. The forward
pass can: every completion sees the prompt and itself only. The group therefore runs twice. The first
pass, without gradient, yields the log-probs and scores of all completions, piece by piece; the loss of
the whole group gives their gradients; the second pass computes each piece again and carries its share of
them into the weights (as gradient caching does, Gao et al. 2021, arXiv 2101.06983). Memory is that of
the longest piece, the price is one more forward pass. K completions, B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from alignloop.data.packing import Batch, Group, collate
from alignloop.model.packed import Forward

_PER_TOKEN = ("logprobs", "entropy", "values")
_FIELDS = (*_PER_TOKEN, "scores", "prompt_logprob")


def split_group(group: Group, token_budget: int) -> list[Group]:
    """The group's completions in runs that fit the budget beside the prompt.

    Args:
        group: a prompt with K completions.
        token_budget: tokens of a piece. A completion that alone exceeds it is a piece of its own.

    Returns:
        Groups with the same prompt and without values, in the order of the completions.
    """
    runs: list[list] = [[]]
    room = token_budget - len(group.prompt_ids)
    for item in group.completions:
        if runs[-1] and sum(len(c.ids) for c in runs[-1]) + len(item.ids) > room:
            runs.append([])
        runs[-1].append(replace(item, values={}))
    return [Group(group.prompt_ids, tuple(items), group.index) for items in runs]


def run_in_pieces(
    run: Callable[[Batch], Forward], group: Group, token_budget: int, device: torch.device
) -> tuple[Forward, Callable[[], None]]:
    """The forward pass of one group in pieces.

    Args:
        run: the forward pass of a batch.
        group: a group longer than the budget.
        token_budget: tokens of a piece.
        device: where the model draws its random numbers (dropout), which are drawn again alike.

    Returns:
        What one pass over the whole group yields, as leaves that collect a gradient; and a function that,
        called after the loss's backward, carries these gradients into the weights.
    """
    pieces = [collate([part]) for part in split_group(group, token_budget)]
    states, outs = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(_random_state(device))
            outs.append(run(piece))
    leaves = _joined(outs)

    def backward() -> None:
        first = 0
        for number, (piece, state) in enumerate(zip(pieces, states, strict=True)):
            with _replayed(state, device):
                out = run(piece)
            rows = slice(first, first + len(piece.lengths))
            _backward(out, leaves, rows, is_first=number == 0)
            first = rows.stop

    return leaves, backward


def _joined(outs: Sequence[Forward]) -> Forward:
    """The pieces' rows below each other, padded to the longest; the prompt's log-prob once."""
    fields: dict[str, Tensor] = {}
    for name in _FIELDS:
        parts = [value for out in outs if (value := getattr(out, name)) is not None]
        if not parts:
            continue
        if name == "prompt_logprob":
            whole = parts[0]
        elif name in _PER_TOKEN:
            longest = max(part.shape[1] for part in parts)
            whole = torch.cat([F.pad(part, (0, longest - part.shape[1])) for part in parts])
        else:
            whole = torch.cat(parts)
        fields[name] = whole.detach().requires_grad_()
    return Forward(**fields)


def _backward(out: Forward, leaves: Forward, rows: slice, *, is_first: bool) -> None:
    """Carry the leaves' gradients of these rows into the weights."""
    tensors, gradients = [], []
    for name in _FIELDS:
        tensor, leaf = getattr(out, name), getattr(leaves, name)
        if tensor is None or leaf.grad is None or not tensor.requires_grad:
            continue
        if name == "prompt_logprob":
            if not is_first:
                continue
            gradient = leaf.grad
        else:
            gradient = leaf.grad[rows, : tensor.shape[1]]
        tensors.append(tensor)
        gradients.append(gradient)
    if tensors:
        torch.autograd.backward(tensors, gradients)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _replayed(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """The random numbers that followed `state`; afterwards the generators are where they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], device)
        yield
