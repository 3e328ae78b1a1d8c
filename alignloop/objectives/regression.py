"""Regression reward model on scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from alignloop.objectives.base import Inputs, Mean, Objective, Output, extra, mean_of, required


@dataclass(frozen=True)
class Regression(Objective):
    """Mean squared error (r − y)² between each head output and its attribute's score.

    One output per attribute, scores on the scale of the file (0–5), as HelpSteer2 (arXiv 2406.08673)
    does on 0–4. NaN in `extras["ratings"]` (B, A) marks an attribute that was not rated; it costs
    nothing and has no gradient. One unit is one score that is there.
    """

    records: ClassVar[tuple[str, ...]] = ("rating",)
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})

    def count(self, inputs: Inputs) -> Tensor:
        return (~extra(inputs, "ratings").isnan()).sum().float()

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        scores, ratings = required(inputs.scores, "scores"), extra(inputs, "ratings")
        rated = ~ratings.isnan()
        error = torch.where(rated, scores - ratings, 0.0)
        squared = error.square().sum()
        metrics = {
            "squared_error": Mean(squared.detach(), self.count(inputs)),
            "absolute_error": mean_of(error.abs(), rated),
            "reward": mean_of(scores),
        }
        return Output(squared / denominator, metrics)
