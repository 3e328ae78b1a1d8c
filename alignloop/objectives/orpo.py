"""Odds Ratio Preference Optimization: fine-tuning and preferences in one stage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from alignloop.objectives.base import (
    Inputs,
    Objective,
    Output,
    UsualRange,
    extra,
    group_count,
    mean_of,
    pair_metrics,
    pairs,
    required,
    sequence_mean,
    sequence_sum,
)

CERTAIN = -1e-6
"""Nats. A mean log-prob above it counts as it, for log-odds are infinite at probability 1."""


@dataclass(frozen=True)
class ORPO(Objective):
    """NLL(y_w) − λ·log σ(log-odds(y_w) − log-odds(y_l)), log-odds(l) = l − log(1 − eˡ).

    Hong et al. 2024, arXiv 2403.07691, equations 6 and 7; l is the mean log-prob per token. No
    reference model: it starts from a base model. The NLL is the mean over the chosen completion's
    tokens, or over the prompt's and the completion's (`prompt_logprob`, `extras["prompt_tokens"]`).
    With probability p that chosen is better the odds term is mixed over both directions. One unit is
    one pair, so the NLL is a mean per pair (TRL: per token of the micro-batch).
    """

    lam: Annotated[float, Field(gt=0, description="λ, weight of the odds-ratio term")] = 0.1
    nll: Annotated[
        Literal["completion", "prompt_and_completion"],
        Field(description="which tokens the NLL term covers; TRL covers the prompt too"),
    ] = "completion"

    records: ClassVar[tuple[str, ...]] = ("preference",)
    usual: ClassVar[UsualRange | None] = UsualRange("lam", 1e-3, 2.0, "0.1")

    @property
    def needs(self) -> frozenset[str]:
        prompt = {"prompt_logprob"} if self.nll == "prompt_and_completion" else set()
        return frozenset({"logprobs"} | prompt)

    def count(self, inputs: Inputs) -> Tensor:
        return group_count(inputs)

    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        logprobs = required(inputs.logprobs, "logprobs")
        logprob, mean_logprob = sequence_sum(logprobs, inputs.mask), sequence_mean(logprobs, inputs.mask)
        bounded = mean_logprob.clamp(max=CERTAIN)
        chosen_odds, rejected_odds = pairs(bounded - log1mexp(bounded))
        log_odds_ratio = chosen_odds - rejected_odds
        p = inputs.extras.get("probability", 1.0)
        odds_loss = -p * F.logsigmoid(log_odds_ratio) - (1 - p) * F.logsigmoid(-log_odds_ratio)
        nll = self._nll(inputs, pairs(logprob)[0], pairs(inputs.mask.sum(-1))[0])
        metrics = pair_metrics(inputs, self.lam * mean_logprob, logprob)
        metrics |= {"nll": mean_of(nll), "log_odds_ratio": mean_of(log_odds_ratio)}
        return Output((nll + self.lam * odds_loss).sum() / denominator, metrics)

    def _nll(self, inputs: Inputs, logprob: Tensor, tokens: Tensor) -> Tensor:
        """Mean NLL per token of the chosen sequences, (P,)."""
        if self.nll == "prompt_and_completion":
            logprob = logprob + required(inputs.prompt_logprob, "prompt_logprob")
            tokens = tokens + extra(inputs, "prompt_tokens")
        return -logprob / tokens.clamp(min=1)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x ≤ `CERTAIN` without cancellation (Mächler 2012). Any shape."""
    near_zero = x > -math.log(2)
    # both branches are finite up to CERTAIN, so that torch.where lets no NaN into the gradient
    return torch.where(near_zero, torch.log(-torch.expm1(x)), torch.log1p(-x.exp()))
