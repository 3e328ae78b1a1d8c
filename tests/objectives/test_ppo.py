"""PPO: surrogate, value loss, and the extra terms."""

import math

import pytest
import torch

from alignloop.objectives.base import add_means, with_statistics
from alignloop.objectives.ppo import PPO

MASK = [[1, 1, 1, 0], [1, 0, 1, 1]]
GROUP = [0, 1]
COUNTED = [(i, t) for i in (0, 1) for t in range(4) if MASK[i][t]]


def scalar_loss(logprobs, values, entropy, extras, reference, *, estimator, kl, bonus):
    total = 0.0
    for i, t in COUNTED:
        advantage = extras["advantages"][i][t]
        ratio = math.exp(logprobs[i][t] - extras["old_logprobs"][i][t])
        clipped = min(max(ratio, 0.8), 1.2)
        weight = 1.0
        if "sampler_logprobs" in extras:
            weight = min(math.exp(extras["old_logprobs"][i][t] - extras["sampler_logprobs"][i][t]), 2.0)
        total -= weight * min(ratio * advantage, clipped * advantage)
        old, target = extras["old_values"][i][t], extras["returns"][i][t]
        near = old + min(max(values[i][t] - old, -0.3), 0.3)
        total += 0.25 * 0.5 * max((values[i][t] - target) ** 2, (near - target) ** 2)
        d = logprobs[i][t] - reference[i][t]
        total += kl * {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[estimator]
        total -= bonus * entropy[i][t]
    return total


def make(make_inputs, uniform, **changes):
    fields = {
        "logprobs": uniform(1, 2, 4, -1.5, -0.5),
        "old_logprobs": uniform(2, 2, 4, -1.5, -0.5),
        "reference_logprobs": uniform(3, 2, 4, -1.5, -0.5),
        "advantages": uniform(4, 2, 4, -2, 2),
        "values": uniform(5, 2, 4, -1, 1),
        "old_values": uniform(6, 2, 4, -1, 1),
        "returns": uniform(7, 2, 4, -1, 1),
        "entropy": uniform(8, 2, 4, 0.1, 2),
    } | changes
    return make_inputs(MASK, GROUP, **fields)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize(
    ("kl", "bonus", "sampled_elsewhere"),
    [(0.0, 0.0, False), (0.2, 0.05, False), (0.0, 0.05, False), (0.2, 0.05, True)],
)
def test_against_scalar_reference(
    assert_matches, make_inputs, uniform, estimator, kl, bonus, sampled_elsewhere
):
    # differences up to ±1.5 nats, so that the cap of 2 is met on both sides
    sampler = {"sampler_logprobs": uniform(9, 2, 4, -2.5, -0.5)} if sampled_elsewhere else {}
    inputs = make(make_inputs, uniform, **sampler)
    objective = PPO(
        value_epsilon=0.3,
        value_coefficient=0.25,
        kl_coefficient=kl,
        kl_estimator=estimator,
        entropy_coefficient=bonus,
    )
    extras = {name: tensor.tolist() for name, tensor in inputs.extras.items()}
    reference = inputs.reference_logprobs.tolist()
    assert objective.count(inputs).item() == 6
    assert_matches(
        objective,
        inputs,
        lambda lp, v, h: scalar_loss(lp, v, h, extras, reference, estimator=estimator, kl=kl, bonus=bonus),
        wrt=("logprobs", "values", "entropy"),
        denominator=6.0,
    )


def test_the_reference_data_reach_every_branch(make_inputs, uniform):
    """Otherwise the comparison above would prove less than it says."""
    inputs = make(make_inputs, uniform)
    ratio = (inputs.logprobs - inputs.extras["old_logprobs"]).exp()[inputs.mask]
    assert (ratio < 0.8).any()
    assert (ratio > 1.2).any()
    assert ((ratio > 0.8) & (ratio < 1.2)).any()
    moved = (inputs.values - inputs.extras["old_values"])[inputs.mask].abs()
    assert (moved > 0.3).any()
    assert (moved < 0.3).any()


def test_ratio_one_is_reinforce(make_inputs, evaluate, uniform):
    """∇ = −A·∇log π, and the surrogate's value is −mean A."""
    inputs = make(make_inputs, uniform, old_logprobs=uniform(1, 2, 4, -1.5, -0.5))
    inputs.logprobs.requires_grad_()
    evaluate(PPO(value_coefficient=0.0), inputs, 6.0).loss.backward()
    expected = torch.where(inputs.mask, -inputs.extras["advantages"] / 6, 0.0)
    torch.testing.assert_close(inputs.logprobs.grad, expected, rtol=0, atol=1e-15)


def test_zero_advantage_moves_no_policy(make_inputs, evaluate, uniform):
    inputs = make(make_inputs, uniform, advantages=[[0.0] * 4] * 2)
    inputs.logprobs.requires_grad_()
    evaluate(PPO(value_coefficient=0.0), inputs, 6.0).loss.backward()
    assert (inputs.logprobs.grad == 0).all()


def test_huge_log_ratios_are_bounded(make_inputs, evaluate):
    inputs = make_inputs(
        [[1, 1]],
        [0],
        logprobs=[[-1.0, -5000.0]],
        old_logprobs=[[-5000.0, -1.0]],
        advantages=[[-1.0, 1.0]],
        values=[[0.0, 0.0]],
        old_values=[[0.0, 0.0]],
        returns=[[0.0, 1.0]],
    )
    # ratios e^20 and e^−20; the first is not clipped, as its advantage is negative
    loss = evaluate(PPO(value_coefficient=0.0), inputs, 1.0).loss.item()
    assert loss == pytest.approx(math.exp(20) - math.exp(-20), rel=1e-12)


def test_needs_follow_the_coefficients(make_inputs, evaluate, uniform):
    assert PPO().needs == {"logprobs", "values"}
    assert PPO(kl_coefficient=0.1).needs == {"logprobs", "values", "reference_logprobs"}
    assert PPO(entropy_coefficient=0.1).needs == {"logprobs", "values", "entropy"}


def test_turns_add_up_and_need_only_their_own(make_inputs):
    """Each role's part from its own outputs alone; together they are the loss, its metrics and its needs."""
    objective = PPO(entropy_coefficient=0.1, kl_coefficient=0.2)
    fields = {
        "logprobs": [[-1.0, -0.5]],
        "reference_logprobs": [[-1.2, -0.1]],
        "entropy": [[0.7, 0.9]],
        "values": [[0.1, 0.4]],
    }
    known = {"old_logprobs": [[-1.1, -0.4]], "advantages": [[1.0, -2.0]]}
    known |= {"old_values": [[0.0, 0.0]], "returns": [[1.0, 0.5]]}

    def inputs(names):
        own = make_inputs([[1, 1]], [0], **known, **{name: fields[name] for name in names})
        return with_statistics(own, objective.step_statistics(own))

    whole = objective(inputs(fields), denominator=2.0)
    parts = [part.loss(inputs(part.needs), denominator=2.0) for part in objective.parts]
    assert [part.needs for part in objective.parts] == [
        {"logprobs", "reference_logprobs", "entropy"},
        {"values"},
    ]
    assert sum(float(part.loss) for part in parts) == pytest.approx(float(whole.loss), rel=1e-7)
    assert {**parts[0].metrics, **parts[1].metrics} == whole.metrics
    assert parts[0].metrics.keys().isdisjoint(parts[1].metrics)


def test_metrics_by_hand(make_inputs):
    """Two tokens in two micro-batches: statistics and metrics are those of the step."""

    def batch(advantage, ratio, value, target):
        return make_inputs(
            [[1]],
            [0],
            logprobs=[[math.log(ratio)]],
            old_logprobs=[[0.0]],
            advantages=[[advantage]],
            values=[[value]],
            old_values=[[0.0]],
            returns=[[target]],
        )

    objective = PPO()
    micro_batches = [batch(1.0, 1.5, 0.5, 1.0), batch(1.0, 0.5, 2.0, 3.0)]
    statistics, metrics = {}, {}
    for inputs in micro_batches:
        statistics = add_means(statistics, objective.step_statistics(inputs))
    for inputs in micro_batches:
        output = objective(with_statistics(inputs, statistics), denominator=2.0)
        metrics = add_means(metrics, output.metrics)
    got = {name: mean.value for name, mean in metrics.items()}
    assert got == pytest.approx(
        {
            "policy_loss": -(1.2 + 0.5) / 2,
            "ratio": 1.0,
            "clip_fraction": 0.5,
            # r − 1 − log r
            "approx_kl": (0.5 - math.log(1.5) - 0.5 - math.log(0.5)) / 2,
            # clipped values 0.2: ½·0.8² and ½·2.8²
            "value_loss": (0.32 + 3.92) / 2,
            "value_clip_fraction": 1.0,
            "value": 1.25,
            "return": 2.0,
            # 1 − (0.25 + 1)/(1 + 1)
            "explained_variance": 0.375,
        },
        abs=1e-12,
    )


def test_explained_variance_of_equal_returns_is_undefined(make_inputs, evaluate, uniform):
    inputs = make(make_inputs, uniform, returns=[[1.0] * 4] * 2)
    assert math.isnan(evaluate(PPO(), inputs, 6.0).metrics["explained_variance"].value)
