"""What the contract itself computes."""

import math
from fractions import Fraction

import pytest
import torch

from alignloop.objectives.base import (
    Inputs,
    Mean,
    add_means,
    bounded_ratio,
    extra,
    group_count,
    kl_estimate,
    mean_of,
    pair_metrics,
    sequence_mean,
    sequence_sum,
    with_statistics,
)
from alignloop.objectives.dpo import DPO
from alignloop.objectives.ppo import PPO


def mean(total, count):
    return Mean(torch.tensor(float(total)), torch.tensor(float(count)))


def test_sequence_reductions_ignore_what_is_masked():
    values = torch.tensor([[1.0, torch.nan, 3.0], [torch.inf, torch.nan, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert sequence_sum(values, mask).tolist() == [4.0, 0.0]
    assert sequence_mean(values, mask).tolist() == [2.0, 0.0]
    sequence_mean(values, mask).sum().backward()
    assert values.grad.tolist() == [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]


def test_means_add_over_micro_batches():
    total = add_means({"a": mean(2, 1)}, {"a": mean(4, 3), "b": mean(0, 0)})
    assert total["a"].value == 1.5
    assert math.isnan(total["b"].value)


def test_mean_of_masked_elements_is_detached():
    values = torch.tensor([1.0, torch.nan, 3.0], requires_grad=True)
    got = mean_of(values, torch.tensor([True, False, True]))
    assert (got.sum.item(), got.count.item(), got.sum.requires_grad) == (4.0, 2.0, False)


def test_statistics_become_extras():
    inputs = Inputs(mask=torch.ones(1, 1).bool(), group=torch.zeros(1).long(), extras={"x": torch.ones(1)})
    extended = with_statistics(inputs, {"z": mean(6, 4)})
    assert extra(extended, "z").item() == 1.5
    assert extra(extended, "x").item() == 1.0
    assert "z" not in inputs.extras
    with pytest.raises(ValueError, match=r"extras\['z'\]"):
        extra(inputs, "z")


def test_accuracy_of_pairs_follows_their_probability():
    """Right; wrong, as rejected should win; a tie, which does not count."""
    mask, group = torch.ones(6, 1).bool(), torch.tensor([0, 0, 1, 1, 2, 2])
    rewards = torch.tensor([2.0, 1.0, 2.0, 1.0, 2.0, 1.0])
    soft = Inputs(mask, group, extras={"probability": torch.tensor([0.9, 0.2, 0.5])})
    accuracy = pair_metrics(soft, rewards, rewards)["accuracy"]
    assert (accuracy.sum.item(), accuracy.count.item()) == (1.0, 2.0)
    hard = pair_metrics(Inputs(mask, group), rewards, rewards)["accuracy"]
    assert (hard.sum.item(), hard.count.item()) == (3.0, 3.0)


def test_equal_rewards_are_no_right_answer():
    """Four pairs: right, equal, wrong, equal where nobody knows."""
    inputs = Inputs(
        mask=torch.ones(8, 1).bool(),
        group=torch.arange(4).repeat_interleave(2),
        extras={"probability": torch.tensor([1.0, 1.0, 0.75, 0.5])},
    )
    rewards = torch.tensor([2.0, 1.0, 3.0, 3.0, 0.0, 1.0, 5.0, 5.0])
    found = pair_metrics(inputs, rewards, torch.zeros(8))
    assert (found["accuracy"].sum.item(), found["accuracy"].count.item()) == (1.0, 3.0)


def test_parts_are_those_of_the_objective_or_the_objective_itself():
    ppo = PPO()
    assert [sorted(part.needs) for part in ppo.parts] == [["logprobs"], ["values"]]
    dpo = DPO()
    (part,) = dpo.parts
    assert (part.needs, part.loss) == (dpo.needs, dpo)


def test_group_count():
    inputs = Inputs(mask=torch.ones(5, 1).bool(), group=torch.tensor([0, 0, 1, 2, 2]))
    assert group_count(inputs).item() == 3


@pytest.mark.parametrize("d", [-3.0, -1e-4, -1e-9, 0.0, 1e-9, 0.5, 40.0])
def test_kl_estimators_against_exact_series(d):
    """k3 by its Taylor series in rationals, so that cancellation near 0 would show."""
    x = -Fraction(d)
    term, k3 = Fraction(1), Fraction(0)
    for n in range(1, 200):
        term = term * x / n
        k3 += term if n > 1 else 0
    leaf = torch.tensor(d, dtype=torch.float64)
    assert kl_estimate(leaf, "k1").item() == d
    assert kl_estimate(leaf, "k2").item() == d * d / 2
    # e^{−d} − 1 and d cancel to about one rounding of d
    assert kl_estimate(leaf, "k3").item() == pytest.approx(float(k3), rel=1e-12, abs=abs(d) * 2e-16)


def test_k3_goes_on_along_its_tangent():
    leaf = torch.tensor([-20.0, -21.0, -1e4], dtype=torch.float64, requires_grad=True)
    kl = kl_estimate(leaf, "k3")
    kl.sum().backward()
    at = math.exp(20) - 21
    slope = math.exp(20) - 1
    assert kl.tolist() == pytest.approx([at, at + slope, at + 9980 * slope], rel=1e-12)
    assert leaf.grad.tolist() == pytest.approx([-slope] * 3, rel=1e-12)


def test_estimators_average_to_the_kl():
    """Over all outcomes of a small distribution k1 and k3 average to KL(π‖ref) exactly; k2 does not."""
    policy, reference = [0.5, 0.3, 0.2], [0.2, 0.5, 0.3]
    kl = sum(p * math.log(p / q) for p, q in zip(policy, reference, strict=True))
    d = torch.tensor([math.log(p / q) for p, q in zip(policy, reference, strict=True)], dtype=torch.float64)
    weights = torch.tensor(policy, dtype=torch.float64)
    for estimator, unbiased in (("k1", True), ("k2", False), ("k3", True)):
        average = (weights * kl_estimate(d, estimator)).sum().item()
        assert (average == pytest.approx(kl, abs=1e-15)) == unbiased


def test_gradient_of_k2_is_that_of_the_kl():
    """E[∇k2] = ∇KL for softmax logits; E[∇k1] = 0; E[∇k3] is another one (arXiv 2510.01555)."""
    logits = torch.tensor([0.3, -0.7, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    logp = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), logits, retain_graph=True)
    gradients = {}
    for estimator in ("k1", "k2", "k3"):
        loss = (logp.exp().detach() * kl_estimate(logp - reference, estimator)).sum()
        (gradients[estimator],) = torch.autograd.grad(loss, logits, retain_graph=True)
    torch.testing.assert_close(gradients["k2"], exact, rtol=0, atol=1e-14)
    torch.testing.assert_close(gradients["k1"], torch.zeros_like(exact), rtol=0, atol=1e-14)
    assert (gradients["k3"] - exact).abs().max() > 1e-2


def test_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="k1, k2 or k3"):
        kl_estimate(torch.zeros(1), "k4")  # pyright: ignore[reportArgumentType]


def test_bounded_ratio():
    got = bounded_ratio(torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64))
    assert got.tolist() == pytest.approx([math.exp(-20), 1.0, math.exp(20)])
