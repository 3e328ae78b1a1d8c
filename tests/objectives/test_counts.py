"""What an objective's loss is divided by, counted by hand: groups, tokens, completions or ratings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from alignloop.data.packing import Group, completion
from alignloop.objectives import registry
from alignloop.objectives.base import Inputs
from alignloop.objectives.grpo import GRPO, PRESETS, Preset

# five completions of three prompts, the middle token of the first and the padding uncounted: 8 tokens
MASK = torch.tensor([[1, 0, 1], [1, 0, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]]).bool()
INPUTS = Inputs(
    mask=MASK,
    group=torch.tensor([0, 0, 1, 1, 2]),
    extras={
        "mismatched": torch.tensor([False, True, True, True, True]),
        "ratings": torch.tensor(
            [[1.0, torch.nan], [2.0, 3.0], [torch.nan, torch.nan], [4.0, 5.0], [6.0, 7.0]]
        ),
    },
)
GROUPS, TOKENS, COMPLETIONS, OWN, RATINGS = 3.0, 8.0, 5.0, 1.0, 7.0
COUNTS: dict[str, float] = {
    "bradley_terry": GROUPS,
    "dpo": GROUPS,
    "grpo": COMPLETIONS,
    "ipo": GROUPS,
    "kto": OWN,
    "listwise": GROUPS,
    "odin": GROUPS,
    "orpo": GROUPS,
    "plackett_luce": GROUPS,
    "ppo": TOKENS,
    "regression": RATINGS,
    "sft": TOKENS,
    "simpo": GROUPS,
}


@pytest.mark.parametrize("name", registry.names())
def test_units_of_the_loss(name: str) -> None:
    assert float(registry.load(name)().count(INPUTS)) == COUNTS[name]


def test_units_follow_the_aggregation() -> None:
    counts: dict[Any, float] = {"sequence_mean": COMPLETIONS, "token_mean": TOKENS, "constant": COMPLETIONS}
    for aggregation, number in counts.items():
        assert float(GRPO(loss_aggregation=aggregation).count(INPUTS)) == number


def test_members_of_the_family_are_those_of_their_papers() -> None:
    base = GRPO(
        ratio_level="token",
        loss_aggregation="sequence_mean",
        clip="ppo",
        epsilon_low=0.2,
        epsilon_high=0.2,
        delta=0.0,
        entropy_coefficient=0.0,
        beta=0.04,
        kl_estimator="k3",
        unbiased_kl=True,
        constant_length=256,
        sampler_ratio_cap=2.0,
    )
    free = replace(base, beta=0.0)
    tokens = replace(free, loss_aggregation="token_mean")
    assert {
        "grpo": Preset(base, "group_std"),
        "dr_grpo": Preset(replace(free, loss_aggregation="constant"), "group_mean"),
        "dapo": Preset(replace(tokens, epsilon_high=0.28), "group_std"),
        "gspo": Preset(
            replace(free, ratio_level="sequence", epsilon_low=3e-4, epsilon_high=4e-4), "group_std"
        ),
        "cispo": Preset(replace(tokens, clip="cispo", epsilon_low=1.0, epsilon_high=4.0), "group_std"),
        "rloo": Preset(replace(free, loss_aggregation="constant", constant_length=1), "leave_one_out"),
        "reinforce_pp": Preset(tokens, "token"),
    } == PRESETS


def test_idle_completions_have_no_advantage_where_they_count() -> None:
    advantages = np.array([[0.0, 9.0, 0.0], [0.5, 0, 0], [0, 0, -1], [0, 0, 0], [0, 3, 3]])
    items = [
        completion(np.arange(3), mask, advantages=row)
        for mask, row in zip(MASK.numpy(), advantages, strict=True)
    ]
    group = Group(np.arange(2), tuple(items))
    passes = GRPO(beta=0.0).passes(group)
    assert passes is not None
    assert (passes.loss.tolist(), passes.statistics) == ([False, True, True, False, False], None)
    for other in (GRPO(beta=0.04), GRPO(beta=0.0, entropy_coefficient=0.1)):
        assert other.passes(group) is None
