"""Bradley–Terry on pairs and on rankings."""

import itertools
import math

import pytest

from alignloop.objectives.bradley_terry import BradleyTerry


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def pair_loss(first, second, *, p, margin, centring):
    delta = first - second
    return (
        p * softplus(margin - delta) + (1 - p) * softplus(margin + delta) + centring * (first + second) ** 2
    )


@pytest.mark.parametrize("centring", [0.0, 0.01])
@pytest.mark.parametrize(
    ("probability", "margin"), [(None, None), ([1.0, 0.5], [0.0, 0.0]), ([0.9, 0.2], [1.0, 1 / 3])]
)
def test_pairs_against_scalar_reference(assert_matches, make_inputs, uniform, centring, probability, margin):
    extras = {} if probability is None else {"probability": probability, "margin": margin}
    inputs = make_inputs([[1]] * 4, [0, 0, 1, 1], scores=uniform(1, 4, 1, -2, 2), **extras)

    def reference(scores):
        return sum(
            pair_loss(
                scores[2 * k][0],
                scores[2 * k + 1][0],
                p=probability[k] if probability else 1.0,
                margin=margin[k] if margin else 0.0,
                centring=centring,
            )
            for k in (0, 1)
        )

    assert_matches(BradleyTerry(centring=centring), inputs, reference, wrt=("scores",), denominator=2.0)


def test_rankings_against_scalar_reference(assert_matches, make_inputs, uniform):
    """Groups of 4 (with a tie), 2 and 1: all pairs of a group together weigh 1."""
    group, ranks = [0, 0, 0, 0, 1, 1, 2], [2, 1, 2, 4, 2, 1, 1]
    inputs = make_inputs([[1]] * 7, group, scores=uniform(2, 7, 1, -2, 2), ranks=ranks)

    def reference(scores):
        total = 0.0
        for rows in ([0, 1, 2, 3], [4, 5]):
            combinations = list(itertools.combinations(rows, 2))
            for a, b in combinations:
                p = 1.0 if ranks[a] < ranks[b] else 0.0 if ranks[a] > ranks[b] else 0.5
                loss = pair_loss(scores[a][0], scores[b][0], p=p, margin=0.0, centring=0.02)
                total += loss / len(combinations)
        return total

    assert_matches(BradleyTerry(centring=0.02), inputs, reference, wrt=("scores",), denominator=3.0)
    assert BradleyTerry().count(inputs).item() == 3


def test_equal_scores_leave_log_two(make_inputs):
    inputs = make_inputs([[1]] * 2, [0, 0], scores=[[3.0], [3.0]])
    assert BradleyTerry()(inputs, denominator=1.0).loss.item() == pytest.approx(math.log(2), abs=1e-12)


def test_only_differences_count_without_centring(make_inputs):
    low = make_inputs([[1]] * 2, [0, 0], scores=[[0.5], [-0.5]])
    high = make_inputs([[1]] * 2, [0, 0], scores=[[100.5], [99.5]])
    losses = [BradleyTerry()(inputs, denominator=1.0).loss.item() for inputs in (low, high)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    # (100.5 + 99.5)² · 0.01 = 400
    centred = BradleyTerry(centring=0.01)(high, denominator=1.0).loss.item()
    assert centred - losses[1] == pytest.approx(400.0, abs=1e-9)


def test_swapping_a_pair_and_its_probability_changes_nothing(make_inputs):
    one = make_inputs([[1]] * 2, [0, 0], scores=[[1.0], [0.2]], probability=[0.7], margin=[0.5])
    two = make_inputs([[1]] * 2, [0, 0], scores=[[0.2], [1.0]], probability=[0.3], margin=[0.5])
    losses = [BradleyTerry(centring=0.1)(inputs, denominator=1.0).loss.item() for inputs in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


def test_metrics_by_hand(make_inputs):
    """Right by 1, wrong by 3 (the second row is the better one), and a tie, which accuracy leaves out."""
    inputs = make_inputs(
        [[1]] * 6,
        [0, 0, 1, 1, 2, 2],
        scores=[[1.0], [0.0], [2.0], [-1.0], [5.0], [5.0]],
        probability=[1.0, 0.0, 0.5],
    )
    metrics = {k: m.value for k, m in BradleyTerry()(inputs, denominator=3.0).metrics.items()}
    assert metrics == pytest.approx(
        {"accuracy": 0.5, "margin": -2 / 3, "chosen_reward": 5 / 3, "rejected_reward": 7 / 3}
    )
