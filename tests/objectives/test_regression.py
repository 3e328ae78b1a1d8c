"""Regression on scores with missing attributes."""

import math

from alignloop.objectives.regression import Regression

RATINGS = [[4.0, math.nan, 0.0], [2.5, 1.0, math.nan], [math.nan, math.nan, math.nan]]


def test_against_scalar_reference(assert_matches, make_inputs, uniform):
    def reference(scores):
        return sum(
            (scores[i][a] - RATINGS[i][a]) ** 2
            for i in range(3)
            for a in range(3)
            if not math.isnan(RATINGS[i][a])
        )

    inputs = make_inputs([[1]] * 3, [0, 1, 2], scores=uniform(1, 3, 3, 0, 5), ratings=RATINGS)
    assert Regression().count(inputs).item() == 4
    assert_matches(Regression(), inputs, reference, wrt=("scores",), denominator=4.0)


def test_missing_attributes_have_no_gradient(make_inputs):
    inputs = make_inputs([[1]] * 3, [0, 1, 2], scores=[[1.0] * 3] * 3, ratings=RATINGS)
    inputs.scores.requires_grad_()
    Regression()(inputs, denominator=4.0).loss.backward()
    # 2·(1 − y)/4
    assert inputs.scores.grad.tolist() == [[-1.5, 0.0, 0.5], [-0.75, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_metrics_by_hand(make_inputs):
    inputs = make_inputs([[1]] * 3, [0, 1, 2], scores=[[1.0] * 3] * 3, ratings=RATINGS)
    metrics = {k: m.value for k, m in Regression()(inputs, denominator=4.0).metrics.items()}
    # errors −3, 1, −1.5, 0
    assert metrics == {"squared_error": 12.25 / 4, "absolute_error": 5.5 / 4, "reward": 1.0}
