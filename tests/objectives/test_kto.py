"""KTO: z per step, class weights."""

import math

import numpy as np
import pytest
import torch

from alignloop.data.packing import Group, completion
from alignloop.errors import DataError
from alignloop.objectives.base import add_means, with_statistics
from alignloop.objectives.kto import KTO, REFERENCE_POINT, weight_advice, with_mismatched

MASK = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]
GROUP = [0, 0, 1, 1, 2, 2]
MISMATCHED = [False, True] * 3
DESIRABLE = [True, False, False, False, True, False]  # meaningless on mismatched rows


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def log_ratios(logprobs, reference):
    return [
        sum(logprobs[row][t] - reference[row][t] for t in range(4) if MASK[row][t])
        for row in range(len(MASK))
    ]


def scalar_loss(logprobs, reference, *, beta, desirable_weight, undesirable_weight, z):
    total = 0.0
    for row, ratio in enumerate(log_ratios(logprobs, reference)):
        if MISMATCHED[row]:
            continue
        if DESIRABLE[row]:
            total += desirable_weight * (1 - sigmoid(beta * (ratio - z)))
        else:
            total += undesirable_weight * (1 - sigmoid(beta * (z - ratio)))
    return total


def make(make_inputs, logprobs, reference):
    return make_inputs(
        MASK,
        GROUP,
        logprobs=logprobs,
        reference_logprobs=reference,
        mismatched=MISMATCHED,
        desirable=DESIRABLE,
    )


@pytest.mark.parametrize(("shift", "clamped"), [(0.4, False), (-0.4, True)])
def test_against_scalar_reference(assert_matches, make_inputs, uniform, shift, clamped):
    """z is a constant for the gradient, and never below 0."""
    reference = uniform(2, 6, 4, -3, -0.1)
    logprobs = [[x + shift + 0.2 * (i - j) for j, x in enumerate(row)] for i, row in enumerate(reference)]
    ratios = log_ratios(logprobs, reference)
    mean = sum(ratios[1::2]) / 3
    assert (mean < 0) == clamped
    objective = KTO(beta=0.5, desirable_weight=1.3, undesirable_weight=0.8)
    assert_matches(
        objective,
        make(make_inputs, logprobs, reference),
        lambda lp: scalar_loss(
            lp, reference, beta=0.5, desirable_weight=1.3, undesirable_weight=0.8, z=max(0.0, mean)
        ),
        denominator=3.0,
    )


def test_policy_equal_to_reference(make_inputs, evaluate, uniform):
    logprobs = uniform(3, 6, 4, -3, 0)
    output = evaluate(KTO(), make(make_inputs, logprobs, logprobs), 3.0)
    assert output.loss.item() == pytest.approx(0.5, abs=1e-12)
    assert output.metrics["reference_point"].value == 0.0


def test_mismatched_rows_get_no_gradient(make_inputs, evaluate, uniform):
    inputs = make(make_inputs, uniform(4, 6, 4, -2, 0), uniform(5, 6, 4, -3, -1))
    inputs.logprobs.requires_grad_()
    evaluate(KTO(), inputs, 3.0).loss.backward()
    gradient = inputs.logprobs.grad
    assert (gradient[1::2] == 0).all()
    assert (gradient[0][inputs.mask[0]] < 0).all()  # desirable: more likely
    assert (gradient[2][inputs.mask[2]] > 0).all()  # undesirable: less likely


def test_unit_is_a_labelled_row(make_inputs, uniform):
    inputs = make(make_inputs, uniform(4, 6, 4, -2, 0), uniform(5, 6, 4, -3, -1))
    assert KTO().count(inputs).item() == 3


def test_reference_point_is_the_mean_over_the_step(make_inputs):
    """Mismatched log-ratios 3, 1 and −1 in two micro-batches: z = 1, not the mean of 2 and −1."""
    objective = KTO(beta=1.0)

    def batch(ratios):
        rows = [[r] for ratio in ratios for r in (0.0, ratio)]
        num = len(ratios)
        return make_inputs(
            [[1]] * 2 * num,
            [g for g in range(num) for _ in (0, 1)],
            logprobs=rows,
            reference_logprobs=[[0.0]] * 2 * num,
            mismatched=[False, True] * num,
            desirable=[True] * 2 * num,
        )

    micro_batches = [batch([3.0, 1.0]), batch([-1.0])]
    statistics = {}
    for inputs in micro_batches:
        statistics = add_means(statistics, objective.step_statistics(inputs))
    losses = [objective(with_statistics(i, statistics), denominator=3.0).loss.item() for i in micro_batches]
    assert sum(losses) == pytest.approx(1 - sigmoid(-1.0), abs=1e-12)


def test_statistics_are_not_forgotten(make_inputs, uniform):
    inputs = make(make_inputs, uniform(4, 6, 4, -2, 0), uniform(5, 6, 4, -3, -1))
    with pytest.raises(ValueError, match=REFERENCE_POINT):
        KTO()(inputs, denominator=3.0)


def test_a_step_without_mismatched_rows_is_refused(make_inputs):
    inputs = make_inputs(
        [[1]], [0], logprobs=[[-1.0]], reference_logprobs=[[-1.0]], mismatched=[False], desirable=[True]
    )
    with pytest.raises(ValueError, match="nothing to average"):
        with_statistics(inputs, KTO().step_statistics(inputs))


def test_one_class_only(make_inputs, evaluate):
    inputs = make_inputs(
        [[1], [1]],
        [0, 0],
        logprobs=[[-1.0], [-1.0]],
        reference_logprobs=[[-1.0], [-1.0]],
        mismatched=[False, True],
        desirable=[True, True],
    )
    output = evaluate(KTO(), inputs, 1.0)
    assert output.loss.item() == 0.5
    assert output.metrics["rejected_reward"].count == 0
    assert math.isnan(output.metrics["rejected_reward"].value)


@pytest.mark.parametrize(
    ("desirable", "undesirable", "weights", "fine"),
    [
        (100, 100, (1.0, 1.0), True),
        (400, 300, (1.0, 1.0), True),
        (401, 300, (1.0, 1.0), False),
        (99, 100, (1.0, 1.0), False),
        (10, 40, (4.0, 1.0), True),
        (40, 10, (1.0, 4.0), True),
        (10, 0, (1.0, 1.0), False),
        (0, 10, (1.0, 1.0), False),
        (10, 10, (1.0, 0.0), False),
    ],
)
def test_weight_advice(desirable, undesirable, weights, fine):
    objective = KTO(desirable_weight=weights[0], undesirable_weight=weights[1])
    advice = weight_advice(objective, num_desirable=desirable, num_undesirable=undesirable)
    assert (advice is None) == fine


def test_weight_advice_asks_for_both_classes():
    for numbers in ({"num_desirable": 0, "num_undesirable": 5}, {"num_desirable": 5, "num_undesirable": 0}):
        advice = weight_advice(KTO(), **numbers)
        assert advice is not None
        assert "only one class is present" in advice


def test_the_range_of_weights_contains_its_ends():
    # 3 · λ_D against 2 · λ_U: the ratio is 1 at λ_D = 2/3 and 4/3 at λ_D = 8/9
    for weight, fine in ((2 / 3, True), (8 / 9, True), (0.999 * 2 / 3, False), (1.001 * 8 / 9, False)):
        advice = weight_advice(KTO(desirable_weight=weight), num_desirable=3, num_undesirable=2)
        assert (advice is None) == fine
    assert advice is not None
    assert "between 0.667 and 0.889" in advice


def test_weight_advice_names_the_range():
    advice = weight_advice(KTO(), num_desirable=10, num_undesirable=30)
    assert "between 3 and 4" in advice


def test_statistic_is_detached(make_inputs, uniform):
    inputs = make(make_inputs, uniform(4, 6, 4, -2, 0), uniform(5, 6, 4, -3, -1))
    inputs.logprobs.requires_grad_()
    assert not KTO().step_statistics(inputs)[REFERENCE_POINT].sum.requires_grad
    assert isinstance(KTO().step_statistics(inputs)[REFERENCE_POINT].count, torch.Tensor)


def labelled(number: int) -> list[Group]:
    """Rows whose prompt is [k] and whose completion is [100 + k], desirable where k is even."""
    return [
        Group(
            np.asarray([k], np.int32),
            (completion([100 + k]),),
            10 * k,
            {"desirable": np.asarray([k % 2 == 0])},
        )
        for k in range(number)
    ]


@pytest.mark.parametrize("number", [2, 3, 5, 16])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_mismatched_completion_is_another_rows(number: int, seed: int) -> None:
    groups = labelled(number)
    result = with_mismatched(groups, seed)
    partners = []
    for k, (before, after) in enumerate(zip(groups, result, strict=True)):
        assert after.index == 10 * k
        assert after.prompt_ids.tolist() == [k]
        own, other = after.completions
        assert own is before.completions[0]
        assert other.ids.tolist() != own.ids.tolist()
        assert other is groups[other.ids[0] - 100].completions[0]
        partners.append(int(other.ids[0]) - 100)
        assert after.values["desirable"].tolist() == [k % 2 == 0, False]
        assert after.values["mismatched"].tolist() == [False, True]
    assert sorted(partners) == list(range(number))  # each completion serves once


PAIRS_OF_16 = [1, 11, 10, 2, 12, 6, 15, 0, 5, 4, 13, 14, 3, 8, 9, 7]


def test_pairs_hang_on_the_seed_alone() -> None:
    def partners(seed: int) -> list[int]:
        return [int(group.completions[1].ids[0]) for group in with_mismatched(labelled(16), seed)]

    assert partners(3) == partners(3)
    assert partners(3) != partners(4)
    assert partners(0) == [int(g.completions[1].ids[0]) for g in with_mismatched(labelled(16))]
    # the pairs of runs that an earlier version began
    assert [p - 100 for p in partners(0)] == PAIRS_OF_16
    # not simply the next row of the file, whose completions may be of one topic
    assert partners(0) != [100 + (k + 1) % 16 for k in range(16)]


def test_one_row_has_no_partner() -> None:
    for number in (0, 1):
        with pytest.raises(DataError, match="at least two rows") as caught:
            with_mismatched(labelled(number))
        assert caught.value.reason == "no_rows"
