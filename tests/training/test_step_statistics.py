"""Means over a step that a loss reads: where there is nothing to average, and where no pass is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from alignloop.data.packing import completion
from alignloop.objectives.base import Inputs, Mean, Objective, Output, mean_of
from alignloop.training.loop import train_step
from tests.training.helpers import pair_groups, plain_descent, weights


@dataclass(frozen=True)
class MeanPosition(Objective):
    """A loss per token with a statistic over the step's counted tokens, as PPO's mean return is."""

    records: ClassVar[tuple[str, ...]] = ("prompt",)
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    statistics_need: ClassVar[frozenset[str]] = frozenset()

    def count(self, inputs: Inputs) -> torch.Tensor:
        return inputs.mask.sum().float()

    def step_statistics(self, inputs: Inputs) -> dict[str, Mean]:
        return {"length": mean_of(inputs.mask.sum(-1, keepdim=True).expand(inputs.mask.shape), inputs.mask)}

    def __call__(self, inputs: Inputs, *, denominator: torch.Tensor | float) -> Output:
        moved = (inputs.logprobs * inputs.mask).sum() * inputs.extras["length"]
        return Output(-moved / denominator, {"length": mean_of(inputs.extras["length"], inputs.mask)})


@pytest.mark.parametrize("budget", [1, 10_000])
def test_a_step_of_masked_completions_alone_has_no_loss(budget: int) -> None:
    """Its statistics have nothing to be a mean of; with one counted token they have."""
    masked = [
        replace(g, completions=tuple(completion(c.ids, mask=[False] * len(c.ids)) for c in g.completions))
        for g in pair_groups(3)
    ]
    trainer = plain_descent(budget=budget)
    before = weights(trainer)
    metrics = train_step(trainer, MeanPosition(), masked).metrics
    assert (metrics["loss"], metrics["grad_norm"]) == (0, 0)
    assert all(torch.equal(before[name], weight) for name, weight in weights(trainer).items())
    counted = [*masked, replace(pair_groups(4, k=1)[3], index=3)]
    length = len(counted[3].completions[0].ids)
    assert train_step(trainer, MeanPosition(), counted).metrics["length"] == length
    assert not all(torch.equal(before[name], weight) for name, weight in weights(trainer).items())


def test_statistics_of_what_is_known_before_cost_no_pass() -> None:
    trainer, passes = plain_descent(budget=1), []
    trainer.model.hf.get_input_embeddings().register_forward_pre_hook(lambda *_: passes.append(1))
    train_step(trainer, MeanPosition(), pair_groups(3, k=1))
    assert len(passes) == 3
