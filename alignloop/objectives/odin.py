"""Bradley–Terry with a length head, so that the quality head need not count tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from alignloop.objectives.base import Inputs, Mean, Objective, Output, extra, group_count, mean_of, required
from alignloop.objectives.bradley_terry import BradleyTerry

_COLUMNS = ("quality", "length", "tokens")


@dataclass(frozen=True)
class Odin(Objective):
    """BT(q + l) + λ·(|ρ(q, n)| − ρ(l, n)) + μ·|ρ(q, l)|; afterwards the length head l is dropped.

    Chen et al. 2024, arXiv 2402.07319, equations 5 to 8: q and l are two outputs of the head, n the
    tokens of the completion, ρ Pearson's correlation over all completions of the optimizer step. A
    departure: the paper keeps the two heads apart by |w_q·w_l|; here their outputs are decorrelated, which
    is the same for features of equal variance, because an objective sees scores, not weights.

    ρ is not a sum over units, so its gradient is taken from moments of the whole step (step statistics):
    ∂ρ/∂q_i = (ñ_i − ρ·q̃_i) / (N·σ_q) with standardised q̃, ñ. Accumulation thus changes nothing.
    """

    length_weight: Annotated[
        float, Field(ge=0, description="λ, weight of decorrelating quality from length, and length's own fit")
    ] = 1.0
    orthogonality: Annotated[
        float, Field(ge=0, description="μ, weight of decorrelating the quality head from the length head")
    ] = 1.0
    centring: Annotated[
        float, Field(ge=0, description="c, weight of the squared sum of both rewards; 0.01 is common")
    ] = 0.0

    records: ClassVar[tuple[str, ...]] = ("preference", "ranking")
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    statistics_need: ClassVar[frozenset[str]] = frozenset({"scores"})
    auxiliary_outputs: ClassVar[int] = 1

    def count(self, inputs: Inputs) -> Tensor:
        return group_count(inputs)

    def step_statistics(self, inputs: Inputs) -> Mapping[str, Mean]:
        """First and second moments of quality, length score and tokens, and completions per group."""
        columns = _columns(inputs)
        found = {f"odin_{a}": mean_of(columns[a]) for a in _COLUMNS}
        for a, b in combinations_with_replacement(_COLUMNS, 2):
            found[f"odin_{a}_{b}"] = mean_of(columns[a] * columns[b])
        rows = torch.full_like(columns["tokens"][0], len(columns["tokens"]))
        return {**found, "odin_rows": Mean(rows, self.count(inputs).to(rows.dtype))}

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        scores = required(inputs.scores, "scores")
        quality, length = scores[:, 0], scores[:, 1]
        ranking = BradleyTerry(self.centring)
        both = ranking(replace(inputs, scores=(quality + length)[:, None]), denominator=denominator)
        kept = ranking(inputs, denominator=denominator)  # reads the first column, quality
        loss, metrics = both.loss, {**kept.metrics, "accuracy_with_length": both.metrics["accuracy"]}
        for a, b, weight, signed in (
            ("quality", "tokens", self.length_weight, False),
            ("length", "tokens", -self.length_weight, True),
            ("quality", "length", self.orthogonality, False),
        ):
            term, rho = _correlation(inputs, a, b, denominator)
            sign = 1.0 if signed else torch.sign(rho)
            loss = loss + weight * (sign * term).to(loss.dtype)
            metrics[f"{a}_{b}_correlation"] = mean_of(rho.expand(len(quality)))
        return Output(loss, metrics)


def _columns(inputs: Inputs) -> dict[str, Tensor]:
    """Quality, length score and tokens of each completion, float64 (B,), because moments cancel."""
    scores = required(inputs.scores, "scores").double()
    return {"quality": scores[:, 0], "length": scores[:, 1], "tokens": inputs.mask.sum(-1).double()}


def _correlation(inputs: Inputs, a: str, b: str, denominator: Tensor | float) -> tuple[Tensor, Tensor]:
    """This micro-batch's share of ρ(a, b), with the gradient of the step's ρ, and ρ itself, detached.

    The shares of a step's micro-batches add up to ρ, their gradients to its gradient. 0 without spread.
    """
    columns = _columns(inputs)
    share = group_count(inputs).double() / denominator
    size = extra(inputs, "odin_rows") * denominator  # completions of the whole step

    def spread(name: str) -> Tensor:
        variance = extra(inputs, f"odin_{name}_{name}") - extra(inputs, f"odin_{name}") ** 2
        return variance.clamp(min=0).sqrt()

    std = {name: spread(name) for name in (a, b)}
    flat = any(bool(std[name] <= 1e-6 * extra(inputs, f"odin_{name}_{name}").sqrt()) for name in (a, b))
    if flat:
        return 0 * columns[a].sum(), torch.zeros_like(size)
    mean = {name: extra(inputs, f"odin_{name}") for name in (a, b)}
    rho = (extra(inputs, f"odin_{a}_{b}") - mean[a] * mean[b]) / (std[a] * std[b])
    normal = {name: (columns[name].detach() - mean[name]) / std[name] for name in (a, b)}
    term = share * rho
    for one, other in ((a, b), (b, a)):
        slope = (normal[other] - rho * normal[one]) / (size * std[one])
        term = term + (slope * (columns[one] - columns[one].detach())).sum()
    return term, rho
