"""ODIN against its definition in float64 with autograd through the correlations of the whole step."""

import math

import pytest
import torch
import torch.nn.functional as F

from alignloop.objectives.base import Inputs, add_means, with_statistics
from alignloop.objectives.odin import Odin

QUALITY = [0.3, -0.7, 1.1, 0.4, -0.2, 0.9]
LENGTH = [0.1, 0.8, -0.5, 0.6, 0.0, -1.2]
TOKENS = [4, 2, 5, 1, 3, 6]


def make(rows: list[int], scores: torch.Tensor) -> Inputs:
    mask = torch.arange(6)[None] < torch.tensor([TOKENS[r] for r in rows])[:, None]
    group = torch.arange(len(rows)) // 2
    return Inputs(mask=mask, group=group, scores=scores[rows])


def leaf() -> torch.Tensor:
    return torch.tensor([QUALITY, LENGTH], dtype=torch.float64).T.clone().requires_grad_()


def pearson(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()


def reference(scores: torch.Tensor, lam: float, mu: float) -> torch.Tensor:
    q, le = scores[:, 0], scores[:, 1]
    n = torch.tensor(TOKENS, dtype=torch.float64)
    total = q + le
    ranking = -F.logsigmoid(total[0::2] - total[1::2]).mean()
    return ranking + lam * (pearson(q, n).abs() - pearson(le, n)) + mu * pearson(q, le).abs()


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3, 4, 5]], [[0, 1], [2, 3, 4, 5]], [[0, 1], [2, 3], [4, 5]]])
def test_value_and_gradient_are_those_of_the_whole_step(parts: list[list[int]]) -> None:
    objective, scores, expected = Odin(length_weight=0.7, orthogonality=0.4), leaf(), leaf()
    loss = reference(expected, 0.7, 0.4)
    loss.backward()
    statistics: dict = {}
    for rows in parts:
        statistics = add_means(statistics, objective.step_statistics(make(rows, scores)))
    total = 0.0
    for rows in parts:
        output = objective(with_statistics(make(rows, scores), statistics), denominator=3.0)
        output.loss.backward()
        total += output.loss.item()
    assert total == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(scores.grad, expected.grad, rtol=1e-9, atol=1e-12)


def test_without_its_weights_it_is_bradley_terry_on_the_sum() -> None:
    objective, scores = Odin(length_weight=0.0, orthogonality=0.0), leaf()
    inputs = make([0, 1], scores)
    output = objective(with_statistics(inputs, objective.step_statistics(inputs)), denominator=1.0)
    # (0.3 + 0.1) − (−0.7 + 0.8) = 0.3
    assert output.loss.item() == pytest.approx(math.log(1 + math.exp(-0.3)), rel=1e-12)
    assert output.metrics["margin"].value == pytest.approx(1.0)  # of quality alone: 0.3 + 0.7


def test_completions_of_one_length_cost_nothing_more() -> None:
    objective, scores = Odin(orthogonality=0.0), leaf()
    inputs = Inputs(mask=torch.ones(2, 3, dtype=torch.bool), group=torch.zeros(2).long(), scores=scores[:2])
    output = objective(with_statistics(inputs, objective.step_statistics(inputs)), denominator=1.0)
    assert output.loss.item() == pytest.approx(math.log(1 + math.exp(-0.3)), rel=1e-12)
    assert output.metrics["quality_tokens_correlation"].value == 0
