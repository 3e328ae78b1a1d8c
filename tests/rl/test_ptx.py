import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignloop.data.packing import Group, collate, completion
from alignloop.objectives.base import Inputs, with_statistics
from alignloop.objectives.ppo import MEAN_RETURN, PPO
from alignloop.rl.ptx import WEIGHT, WithPretraining, mixed_in

VALUES = ("advantages", "returns", "old_values", "old_logprobs")


def sampled_group(index: int, tokens: int = 3) -> Group:
    values = {name: np.full(tokens, 0.5, np.float32) for name in VALUES}
    return Group(np.array([5, 6], np.int32), (completion(range(7, 7 + tokens), **values),), index)


def demonstration(index: int, tokens: int) -> Group:
    return Group(np.array([8], np.int32), (completion(range(9, 9 + tokens)),), index)


def test_the_loss_is_that_of_the_samples_and_the_weighted_nll() -> None:
    """Two demonstrations of 2 and 4 tokens: each of their 6 tokens weighs γ/6."""
    groups, gamma = [sampled_group(0), sampled_group(1)], 3.0
    mixed = mixed_in(groups, [demonstration(2, 2), demonstration(3, 4)], coefficient=gamma, seed=(0, 0))
    batch = collate(mixed)
    assert batch.mask.sum() == 3 + 3 + 2 + 4
    torch.manual_seed(0)
    logprobs = -torch.rand(batch.mask.shape, dtype=torch.float64) * batch.mask
    extras = {**{k: v.double() for k, v in batch.extras.items()}, MEAN_RETURN: torch.tensor(0.5)}
    inputs = Inputs(
        mask=batch.mask,
        group=batch.group,
        logprobs=logprobs.requires_grad_(),
        values=torch.zeros_like(logprobs),
        extras=extras,
    )
    objective = WithPretraining(PPO())
    assert objective.count(inputs) == 6
    out = objective(inputs, denominator=6.0)
    nll, plain = 0.0, 0.0
    for row in range(4):
        for t in range(int(batch.mask[row].sum())):
            lp = logprobs[row, t].item()
            if row >= 2:
                nll -= lp
            else:
                ratio = math.exp(lp - 0.5)
                plain -= min(ratio * 0.5, min(max(ratio, 0.8), 1.2) * 0.5)
                plain += 0.1 * 0.5 * max((0.0 - 0.5) ** 2, (0.5 - 0.2 - 0.5) ** 2)
    assert float(out.loss) == pytest.approx(plain / 6 + gamma * nll / 6, abs=1e-7)
    out.loss.backward()
    demo = logprobs.grad[2:][batch.mask[2:]]
    torch.testing.assert_close(demo, torch.full_like(demo, -gamma / 6), rtol=1e-6, atol=0)


def test_the_draw_depends_on_the_seed_only() -> None:
    pool = [demonstration(i, 2) for i in range(20)]
    draws = [
        [g.index for g in mixed_in([sampled_group(0)] * 4, pool, coefficient=1.0, seed=seed)][4:]
        for seed in ((0, 1), (0, 1), (0, 2))
    ]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 4
    assert mixed_in([sampled_group(0)], [], coefficient=1.0, seed=(0,))[0].completions[
        0
    ].values.keys() == set(VALUES)
    weights = [
        g.completions[0].values[WEIGHT]
        for g in mixed_in([sampled_group(0)], pool, coefficient=1.0, seed=(1,))
    ]
    assert weights[0].tolist() == [0, 0, 0]
    assert weights[1].tolist() == [0.5, 0.5]


def test_it_is_asked_as_the_objective_itself() -> None:
    plain = PPO(kl_coefficient=0.1, entropy_coefficient=0.1)
    mixed = WithPretraining(plain)
    assert (mixed.records, mixed.needs, mixed.statistics_need) == (
        ("prompt",),
        {"logprobs", "values", "entropy", "reference_logprobs"},
        frozenset(),
    )
    assert [part.needs for part in mixed.parts] == [part.needs for part in plain.parts]


def test_turns_add_up_and_the_nll_is_in_the_first() -> None:
    """Demonstrations count in no metric of the objective; their own NLL is 0.5 per token."""
    mixed = mixed_in([sampled_group(0)], [demonstration(1, 2)], coefficient=3.0, seed=(0,))
    batch = collate(mixed)
    objective = WithPretraining(PPO())
    logprobs = torch.full(batch.mask.shape, -0.5)
    inputs = Inputs(batch.mask, batch.group, logprobs, values=torch.ones_like(logprobs), extras=batch.extras)
    statistics = objective.step_statistics(inputs)
    assert (float(statistics[MEAN_RETURN].sum), float(statistics[MEAN_RETURN].count)) == (1.5, 3.0)
    inputs = with_statistics(inputs, statistics)
    whole = objective(inputs, denominator=3.0)
    policy, critic = (part.loss(inputs, denominator=3.0) for part in objective.parts)
    assert float(policy.loss + critic.loss) == pytest.approx(float(whole.loss), rel=1e-6)
    assert {**policy.metrics, **critic.metrics}.keys() == whole.metrics.keys()
    assert policy.metrics["ptx_nll"] == (1.0, 2.0)
    assert "ptx_nll" not in critic.metrics
    plain = PPO()(replace(inputs, mask=inputs.mask & (inputs.group == 0)[:, None]), denominator=3.0)
    assert float(whole.loss - plain.loss) == pytest.approx(3.0 * 0.5, rel=1e-6)
    assert {name: mean for name, mean in whole.metrics.items() if name != "ptx_nll"} == plain.metrics


def test_as_many_demonstrations_as_there_are() -> None:
    """Only counted tokens share γ; values of the groups stay behind, each demonstration comes once."""
    masked = Group(np.array([8], np.int32), (completion([9, 10, 11], mask=[True, False, True]),), 7)
    groups = [sampled_group(i) for i in range(3)]
    mixed = mixed_in(groups, [masked], coefficient=1.0, seed=(0,))
    assert [group.index for group in mixed] == [0, 1, 2, 7]
    values = mixed[-1].completions[0].values
    assert values[WEIGHT].tolist() == [0.5] * 3
    assert all(values[name].tolist() == [0.0] * 3 for name in VALUES)
    assert all(array.dtype == np.float32 for array in values.values())
    assert mixed[0].completions[0].values[WEIGHT].tolist() == [0.0] * 3
    assert mixed[0].completions[0].values["returns"].tolist() == [0.5] * 3
