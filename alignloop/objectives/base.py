"""The objective contract: tensors in, loss and metrics out.

B sequences (completions), T tokens, P groups (prompts). An objective is a frozen dataclass whose
fields are its hyperparameters (annotated with `pydantic.Field`, so they are its recipe keys), and
which is called with `Inputs`. It knows no model, device, configuration or file.

An objective's loss is a *sum over units divided by a denominator that is passed in*. What a unit is
(a counted token, a pair, a completion) the objective says in `count`, from tensors that are known
before the forward pass. The loop adds the counts of all micro-batches and ranks of one optimizer
step, so k micro-batches of 1 give the same gradient as one batch of k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an objective may read. Completions of one group are neighbouring rows.

    Attributes:
        mask: bool (B, T), True where a completion token counts.
        group: int64 (B,), ascending from 0; rows of the same prompt share a number. For pairs the
            rows are chosen, rejected, chosen, rejected, … ; for rankings they are in the order of
            the file with `extras["ranks"]`.
        logprobs: float32 (B, T), log π of each completion token in nats, with gradient; 0 where masked.
        reference_logprobs: the same under the reference, without gradient.
        scores: float32 (B, A), scalar head read at each completion's last token (reward models).
        values: float32 (B, T), scalar head at each position that predicts a token (critic).
        entropy: float32 (B, T), entropy of the policy in nats, if the objective asks for it.
        extras: further tensors by name, (B,), (B, T) or (P,): `margin` (P,), `probability` (P,),
            `ranks` (B,), `desirable` (B,), `mismatched` (B,) bool, `ratings` (B, A), `advantages`
            (B, T), `old_logprobs` (B, T), `returns` (B, T), `old_values` (B, T), …
    """

    mask: Tensor
    group: Tensor
    logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None
    scores: Tensor | None = None
    values: Tensor | None = None
    entropy: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


class Mean(NamedTuple):
    """A metric as sum and count, so that it averages correctly over micro-batches and ranks."""

    sum: Tensor
    count: Tensor


@dataclass(frozen=True, slots=True)
class Output:
    """`loss`: float32 scalar, already divided by the denominator. `metrics`: detached."""

    loss: Tensor
    metrics: Mapping[str, Mean]


class Objective(Protocol):
    """What the training loop needs of an objective.

    Class attributes:
        records: the kinds of record it trains on, for example `("preference",)`.
        needs: the optional `Inputs` fields it reads: `logprobs`, `reference_logprobs`, `scores`, ….
    """

    records: ClassVar[tuple[str, ...]]
    needs: ClassVar[frozenset[str]]

    def count(self, inputs: Inputs) -> Tensor:
        """Number of units in this micro-batch, a float32 scalar, from mask, group and extras only."""
        ...

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        """Loss: sum over this micro-batch's units / `denominator`."""
        ...


def required(tensor: Tensor | None, name: str) -> Tensor:
    """The tensor, or a ValueError that names what the caller forgot."""
    if tensor is None:
        raise ValueError(f"this objective reads Inputs.{name}, which was not given")
    return tensor


def sequence_sum(per_token: Tensor, mask: Tensor) -> Tensor:
    """Sum over counted tokens. (B, T), bool (B, T) → (B,)."""
    return torch.where(mask, per_token, torch.zeros_like(per_token)).sum(-1)


def sequence_mean(per_token: Tensor, mask: Tensor) -> Tensor:
    """Mean over counted tokens, 0 for a row without any. (B, T), bool (B, T) → (B,)."""
    return sequence_sum(per_token, mask) / mask.sum(-1).clamp(min=1)


def mean_of(values: Tensor) -> Mean:
    """A metric from a tensor of any shape: its sum and its number of elements, detached."""
    return Mean(values.detach().sum(), torch.tensor(float(values.numel()), device=values.device))


def group_count(inputs: Inputs) -> Tensor:
    """Number of groups P in the micro-batch, float32 scalar."""
    return inputs.group.unique().numel() * torch.ones((), device=inputs.group.device)


def pairs(per_sequence: Tensor) -> tuple[Tensor, Tensor]:
    """Split (B,) into (chosen, rejected), each (B/2,), from the row order chosen, rejected, …."""
    return per_sequence[0::2], per_sequence[1::2]
