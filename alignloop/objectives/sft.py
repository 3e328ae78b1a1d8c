"""Supervised fine-tuning, and pre-training on raw documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from alignloop.objectives.base import Inputs, Mean, Objective, Output, required, sequence_sum


@dataclass(frozen=True)
class SFT(Objective):
    """Mean negative log-likelihood: −Σ log π(token) / number of counted tokens.

    One unit is one counted token, so long completions weigh more than short ones, and the loss of a
    step does not depend on how it is cut into micro-batches.
    """

    records: ClassVar[tuple[str, ...]] = ("demonstration", "document")
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def count(self, inputs: Inputs) -> Tensor:
        return inputs.mask.sum().float()

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        nll = -sequence_sum(required(inputs.logprobs, "logprobs"), inputs.mask).sum()
        return Output(nll / denominator, {"nll": Mean(nll.detach(), self.count(inputs))})
