"""GRPO and its family: aggregation, ratio level, clipping, KL, sampler correction."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from alignloop.errors import ConfigError
from alignloop.objectives.grpo import GRPO, PRESETS, preset

MASK = [[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 0]]
GROUP = [0, 0, 0]
OLD_RANGE = (-1.5, -0.5)


def scalar_loss(logprobs, old, reference, sampler, advantages, *, objective):
    total = 0.0
    for i, row in enumerate(MASK):
        tokens = [t for t, counts in enumerate(row) if counts]
        differences = [logprobs[i][t] - old[i][t] for t in tokens]
        summed = 0.0
        for t in tokens:
            level = objective.ratio_level == "sequence"
            log_ratio = sum(differences) / len(tokens) if level else logprobs[i][t] - old[i][t]
            ratio = math.exp(log_ratio)
            clipped = min(max(ratio, 1 - objective.epsilon_low), 1 + objective.epsilon_high)
            loss = -min(ratio * advantages[i][t], clipped * advantages[i][t])
            if sampler is not None:
                loss *= min(math.exp(old[i][t] - sampler[i][t]), objective.sampler_ratio_cap)
            d = logprobs[i][t] - reference[i][t]
            k = {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[objective.kl_estimator]
            if objective.unbiased_kl:
                k *= math.exp(logprobs[i][t] - old[i][t])
            summed += loss + objective.beta * k
        divisor = {"sequence_mean": len(tokens), "token_mean": 1, "constant": objective.constant_length}
        total += summed / divisor[objective.loss_aggregation]
    return total


def make(make_inputs, uniform, **changes):
    fields = {
        "logprobs": uniform(1, 3, 4, *OLD_RANGE),
        "old_logprobs": uniform(2, 3, 4, *OLD_RANGE),
        "reference_logprobs": uniform(3, 3, 4, *OLD_RANGE),
        "advantages": [[1.3] * 4, [-0.4] * 4, [0.7] * 4],
    } | changes
    return make_inputs(MASK, GROUP, **fields)


@pytest.mark.parametrize(
    ("aggregation", "level", "estimator", "sampled_elsewhere", "unbiased_kl"),
    [
        *itertools.product(
            ["sequence_mean", "token_mean", "constant"], ["token", "sequence"], ["k3"], [False], [False]
        ),
        ("sequence_mean", "token", "k1", True, False),
        ("token_mean", "sequence", "k2", True, False),
        ("sequence_mean", "sequence", "k3", False, True),
    ],
)
def test_against_scalar_reference(
    assert_matches, make_inputs, uniform, aggregation, level, estimator, sampled_elsewhere, unbiased_kl
):
    # differences up to ±1.5 nats, so that the cap of 2 is met on both sides
    sampler = uniform(5, 3, 4, -2.5, -0.5) if sampled_elsewhere else None
    extra = {"sampler_logprobs": sampler} if sampler else {}
    inputs = make(make_inputs, uniform, **extra)
    objective = GRPO(
        loss_aggregation=aggregation,
        ratio_level=level,
        epsilon_low=0.1,
        epsilon_high=0.15,
        beta=0.3,
        kl_estimator=estimator,
        unbiased_kl=unbiased_kl,
        constant_length=7,
    )
    old, reference = inputs.extras["old_logprobs"].tolist(), inputs.reference_logprobs.tolist()
    advantages = inputs.extras["advantages"].tolist()
    assert objective.count(inputs).item() == (8 if aggregation == "token_mean" else 3)
    assert_matches(
        objective,
        inputs,
        lambda lp: scalar_loss(lp, old, reference, sampler, advantages, objective=objective),
        denominator=3.0,
    )


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_cispo_against_its_gradient(make_inputs, uniform, level):
    """∇ = −clip(ratio)·A·∇log π for every token, clipped ones included; the weight has no gradient."""
    objective = GRPO(clip="cispo", ratio_level=level, beta=0.0, loss_aggregation="token_mean")
    inputs = make(make_inputs, uniform)
    inputs.logprobs.requires_grad_()
    output = objective(inputs, denominator=8.0)
    output.loss.backward()
    logprobs, old = inputs.logprobs.tolist(), inputs.extras["old_logprobs"].tolist()
    expected_loss, clipped_tokens = 0.0, 0
    for i, row in enumerate(MASK):
        tokens = [t for t, counts in enumerate(row) if counts]
        mean = sum(logprobs[i][t] - old[i][t] for t in tokens) / len(tokens)
        for t in tokens:
            ratio = math.exp(mean if level == "sequence" else logprobs[i][t] - old[i][t])
            weight = min(max(ratio, 0.8), 1.2)
            clipped_tokens += weight != ratio
            advantage = inputs.extras["advantages"][i][t].item()
            expected_loss -= weight * advantage * logprobs[i][t] / 8
            assert inputs.logprobs.grad[i][t].item() == pytest.approx(-weight * advantage / 8, abs=1e-12)
    assert output.loss.item() == pytest.approx(expected_loss, abs=1e-12)
    assert output.metrics["clip_fraction"].sum.item() == clipped_tokens > 0


@pytest.mark.parametrize("name", PRESETS)
def test_ratio_one_is_reinforce(make_inputs, uniform, name):
    """On the first update of every member ∇ = −A·∇log π, weighted by its aggregation."""
    objective = preset(name).objective
    logprobs = uniform(1, 3, 4, *OLD_RANGE)
    inputs = make(make_inputs, uniform, logprobs=logprobs, old_logprobs=logprobs, reference_logprobs=logprobs)
    inputs.logprobs.requires_grad_()
    objective(inputs, denominator=1.0).loss.backward()
    length = inputs.mask.sum(-1, keepdim=True)
    divisor = {"sequence_mean": length, "token_mean": 1, "constant": objective.constant_length}
    expected = -inputs.extras["advantages"] / divisor[objective.loss_aggregation]
    torch.testing.assert_close(
        inputs.logprobs.grad, torch.where(inputs.mask, expected, 0.0), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("name", PRESETS)
def test_zero_advantages_have_no_gradient(make_inputs, uniform, name):
    inputs = make(make_inputs, uniform, advantages=[[0.0] * 4] * 3)
    inputs.logprobs.requires_grad_()
    objective = preset(name).objective
    if objective.beta:
        inputs.reference_logprobs.copy_(inputs.logprobs.detach())  # k3 has its minimum there
    objective(inputs, denominator=1.0).loss.backward()
    assert (inputs.logprobs.grad == 0).all()


def test_sequence_ratio_is_the_geometric_mean(make_inputs):
    """Log-ratios 0.3 and −0.1 of one completion: e^0.1 for both of its tokens."""
    inputs = make_inputs(
        [[1, 1]],
        [0],
        logprobs=[[-1.0, -1.0]],
        old_logprobs=[[-1.3, -0.9]],
        advantages=[[1.0, 1.0]],
    )
    objective = GRPO(ratio_level="sequence", beta=0.0)
    assert objective(inputs, denominator=1.0).loss.item() == pytest.approx(-math.exp(0.1), abs=1e-12)


def test_asymmetric_clip(make_inputs):
    """Ratio 1.25 is free at ε_high 0.28 and clipped at 0.2; 0.75 at A < 0 is clipped at ε_low 0.2."""
    inputs = make_inputs(
        [[1, 1]],
        [0],
        logprobs=[[math.log(1.25), math.log(0.75)]],
        old_logprobs=[[0.0, 0.0]],
        advantages=[[1.0, -1.0]],
    )
    dapo = preset("dapo").objective(inputs, denominator=2.0)
    assert dapo.loss.item() == pytest.approx((-1.25 + 0.8) / 2, abs=1e-12)
    assert dapo.metrics["clip_fraction"].value == 0.5
    grpo = GRPO(beta=0.0, loss_aggregation="token_mean")(inputs, denominator=2.0)
    assert grpo.loss.item() == pytest.approx((-1.2 + 0.8) / 2, abs=1e-12)


@pytest.mark.parametrize("advantage", [3.0, -0.25])
def test_a_ratio_within_its_range_is_not_clipped_whatever_the_advantage(make_inputs, advantage) -> None:
    """Ratios 1.1 and 1.3 at ε = 0.2: the second binds where A > 0 only."""
    inputs = make_inputs(
        [[1, 1]],
        [0],
        logprobs=[[-1.0, -1.0]],
        old_logprobs=[[-1.0 - math.log(1.1), -1.0 - math.log(1.3)]],
        advantages=[[advantage] * 2],
    )
    metrics = GRPO(beta=0.0)(inputs, denominator=1.0).metrics
    assert metrics["clip_fraction"].value == (0.5 if advantage > 0 else 0.0)


def test_metrics_by_hand(make_inputs):
    """Ratios 1.5 (clipped at A > 0) and ½ (not clipped at A > 0); the sampler's weights e^0.5 and 2."""
    inputs = make_inputs(
        [[1, 1]],
        [0],
        logprobs=[[math.log(1.5), math.log(0.5)]],
        old_logprobs=[[0.0, 0.0]],
        reference_logprobs=[[math.log(0.5), math.log(0.5)]],
        sampler_logprobs=[[-0.5, -3.0]],
        advantages=[[1.0, 1.0]],
        entropy=[[0.2, 0.4]],
    )
    metrics = {k: m.value for k, m in GRPO(kl_estimator="k1")(inputs, denominator=1.0).metrics.items()}
    assert metrics == pytest.approx(
        {
            "ratio": 1.0,
            "clip_fraction": 0.5,
            # r − 1 − log r
            "approx_kl": (0.5 - math.log(1.5) - 0.5 - math.log(0.5)) / 2,
            "sampler_weight": (math.exp(0.5) + 2) / 2,
            # the KL's terms log 3 and 0, weighted with the ratio 1.5
            "kl": 1.5 * math.log(3) / 2,
            "entropy": 0.3,
        },
        abs=1e-12,
    )


@pytest.mark.parametrize("unbiased_kl", [False, True])
def test_the_weighted_k3_has_the_gradient_of_the_kl(make_inputs, unbiased_kl):
    """Every token of a vocabulary of 4, weighted with π_old: Σ π_old·∇(k3·π/π_old) = ∇KL(π‖ref)."""
    scores = torch.tensor([0.3, -0.5, 1.1, 0.2], dtype=torch.float64, requires_grad=True)
    old = torch.log_softmax(torch.tensor([0.1, 0.4, 0.0, -0.7], dtype=torch.float64), 0)
    reference = torch.log_softmax(torch.tensor([-0.2, 0.9, 0.5, 0.0], dtype=torch.float64), 0)
    logprobs = torch.log_softmax(scores, 0)
    expected_kl = (logprobs.exp() * (logprobs - reference)).sum()
    (expected,) = torch.autograd.grad(expected_kl, scores, retain_graph=True)
    objective, total = GRPO(beta=1.0, unbiased_kl=unbiased_kl), torch.zeros((), dtype=torch.float64)
    for token in range(4):
        inputs = make_inputs([[1]], [0], old_logprobs=[[old[token]]], advantages=[[0.0]])
        inputs = replace(
            inputs,
            logprobs=logprobs[token].view(1, 1),
            reference_logprobs=reference[token].view(1, 1),
        )
        total = total + old[token].exp() * objective(inputs, denominator=1.0).loss
    (gradient,) = torch.autograd.grad(total, scores)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-12) == unbiased_kl
    assert (abs((total - expected_kl).item()) < 1e-12) == unbiased_kl


def test_needs_no_reference_without_kl():
    assert GRPO().needs == {"logprobs", "reference_logprobs"}
    assert preset("dapo").objective.needs == {"logprobs"}


def test_a_masked_completion_counts_as_one_without_loss(make_inputs):
    """DAPO-like masking of overlong completions: it stays in the denominator of sequence_mean."""
    inputs = make_inputs(
        [[1], [0]],
        [0, 0],
        logprobs=[[-1.0], [-1.0]],
        old_logprobs=[[-1.0], [-1.0]],
        advantages=[[1.0], [1.0]],
    )
    objective = GRPO(beta=0.0)
    assert objective.count(inputs).item() == 2
    assert objective(inputs, denominator=2.0).loss.item() == pytest.approx(-0.5)


def test_unknown_member():
    with pytest.raises(ConfigError, match="one of: grpo, dr_grpo"):
        preset("grpoo")


def test_the_two_sided_clip_bounds_the_loss_of_a_liked_bad_token(make_inputs) -> None:
    """ratio 5 at A = −1: loss 5 without a bound, 1.5 with δ = 1.5, no gradient; the usual clip at A = 1."""
    fields = {"old_logprobs": [[-3.0, -3.0]], "reference_logprobs": [[-3.0, -3.0]]}
    raised = -3.0 + math.log(5)
    inputs = make_inputs([[1, 1]], [0], logprobs=[[raised, raised]], advantages=[[-1.0, 1.0]], **fields)
    inputs.logprobs.requires_grad_()
    plain = GRPO(beta=0.0, loss_aggregation="token_mean")
    assert plain(inputs, denominator=1.0).loss.item() == pytest.approx(5 - 1.2, abs=1e-12)
    output = GRPO(beta=0.0, loss_aggregation="token_mean", delta=1.5)(inputs, denominator=1.0)
    assert output.loss.item() == pytest.approx(1.5 - 1.2, abs=1e-12)
    assert output.metrics["clip_fraction"].sum.item() == 2
    output.loss.backward()
    assert (inputs.logprobs.grad == 0).all()


def test_the_entropy_bonus_is_subtracted(make_inputs, uniform) -> None:
    inputs = make(make_inputs, uniform, entropy=uniform(8, 3, 4, 0.1, 2.0))
    plain = GRPO(loss_aggregation="token_mean")(inputs, denominator=8.0).loss
    objective = GRPO(loss_aggregation="token_mean", entropy_coefficient=0.25)
    assert "entropy" in objective.needs
    bonus = 0.25 * inputs.entropy[inputs.mask].sum() / 8
    assert objective(inputs, denominator=8.0).loss.item() == pytest.approx((plain - bonus).item(), abs=1e-12)
