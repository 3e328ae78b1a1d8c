"""Choosing what to label from plain numbers."""

from __future__ import annotations

import numpy as np
import pytest

from alignloop.errors import UserError
from alignloop.labels.select import choose, farthest_first, text_features, usefulness


def test_uncertainty_is_the_entropy_of_the_mean_preference():
    # Two models that contradict each other (σ(±2)) average to ½, like one model's tie: entropy log 2.
    scores = np.array([[[1.0, -1.0], [0.0, 0.0], [3.0, 0.0]], [[-1.0, 1.0], [0.0, 0.0], [3.0, 0.0]]])
    value = usefulness("uncertainty", scores, 3)
    p = 1 / (1 + np.exp(-3.0))
    assert value == pytest.approx([np.log(2), np.log(2), -(p * np.log(p) + (1 - p) * np.log(1 - p))])


def test_gap_is_the_largest_mean_difference():
    assert usefulness("gap", [[0.0, 2.0, -1.0], [1.0, 1.0, 1.5]], 2) == pytest.approx([3.0, 0.5])


def test_a_random_arm_is_always_there_and_disjoint():
    scores = np.stack([np.arange(100.0), np.zeros(100)], axis=1)
    chosen = choose("uncertainty", 20, num_candidates=100, scores=scores, random_share=0.25, seed=3)
    assert chosen.arms.count("random") == 5
    assert chosen.arms.count("uncertainty") == 15
    assert len(set(chosen.indices.tolist())) == 20
    control = set(chosen.indices[:5].tolist())
    # Near ties are the smallest margins, here the smallest numbers.
    nearest = [k for k in range(100) if k not in control][:15]
    assert chosen.indices[5:].tolist() == nearest
    with pytest.raises(UserError, match="control"):
        choose("gap", 5, num_candidates=9, scores=scores[:9], random_share=0.0)


def test_gap_takes_the_largest():
    scores = np.stack([np.arange(10.0), np.zeros(10)], axis=1)
    chosen = choose("gap", 5, num_candidates=10, scores=scores, random_share=0.2, seed=0)
    control = int(chosen.indices[0])
    assert chosen.indices[1:].tolist() == [k for k in range(9, -1, -1) if k != control][:4]


def test_the_same_seed_chooses_the_same():
    first = choose("random", 10, num_candidates=50, seed=1)
    assert first.arms == ("random",) * 10
    assert first.indices.tolist() == choose("random", 10, num_candidates=50, seed=1).indices.tolist()
    assert first.indices.tolist() != choose("random", 10, num_candidates=50, seed=2).indices.tolist()


def test_more_wanted_than_there_is():
    assert sorted(choose("random", 10, num_candidates=3).indices.tolist()) == [0, 1, 2]
    assert choose("gap", 10, num_candidates=0, scores=np.zeros((0, 2))).indices.tolist() == []


def test_farthest_first_goes_to_what_is_not_covered():
    points = np.array([[0.0], [1.0], [5.0], [9.0], [10.0]])
    assert farthest_first(points, 3, near=np.array([[0.0]])).tolist() == [4, 2, 1]
    assert farthest_first(points, 9, near=np.array([[0.0]])).tolist()[:1] == [4]
    assert len(farthest_first(points, 9, near=np.array([[0.0]]))) == 5


def test_diversity_avoids_what_was_labelled():
    features = np.concatenate([np.zeros((50, 2)), np.full((50, 2), 9.0)])
    labelled = np.zeros((30, 2))
    chosen = choose(
        "diversity", 4, num_candidates=100, features=features, labelled=labelled, random_share=0.01, seed=1
    )
    assert chosen.indices[0] < 50  # the control fell into what is covered already
    assert chosen.indices[1] >= 50


def test_features_keep_an_uncertain_batch_from_repeating_itself():
    # Four copies of one prompt are the nearest ties, eight others a little less near.
    scores = np.array([[0.0, 0.0]] * 4 + [[0.1, 0.0]] * 8 + [[5.0, 0.0]] * 28)
    features = np.array([[0.0, 0.0]] * 4 + [[float(k), 9.0] for k in range(8)] + [[-9.0, -9.0]] * 28)
    plain = choose("uncertainty", 4, num_candidates=40, scores=scores, random_share=0.01, seed=0)
    spread = choose(
        "uncertainty", 4, num_candidates=40, scores=scores, features=features, random_share=0.01, seed=0
    )
    assert set(plain.indices[1:].tolist()) <= {0, 1, 2, 3}
    assert len(set(spread.indices[1:].tolist()) & {0, 1, 2, 3}) <= 1


def test_text_features_put_like_texts_near():
    texts = ["파이썬으로 정렬하는 방법", "파이썬으로 정렬하는 법", "How do whales sleep?", ""]
    features = text_features(texts)
    near = float(features[0] @ features[1])
    assert near > 0.6 > float(features[0] @ features[2])
    assert np.linalg.norm(features[0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "uncertainty"},
        {"strategy": "diversity"},
        {"strategy": "gap", "scores": np.zeros((4, 2))},
        {"strategy": "gap", "scores": np.zeros((5, 1))},
        {"strategy": "gap", "scores": np.full((5, 2), np.nan)},
        {"strategy": "diversity", "features": np.zeros((4, 2))},
    ],
)
def test_missing_or_misshapen_numbers(wrong):
    strategy = wrong.pop("strategy")
    with pytest.raises(UserError):
        choose(strategy, 3, num_candidates=5, **wrong)
