import numpy as np
import pytest

from alignloop.data.packing import Group, completion
from alignloop.evaluation.reward_bench import Comparisons
from alignloop.evaluation.reward_choice import best_of, tie_separation


def ranked(prompt: int, ranks: list[float]) -> Group:
    items = tuple(completion([1]) for _ in ranks)
    return Group(np.asarray([prompt], np.int32), items, 0, {"ranks": ranks})


def compared(margin: list[float], probability: list[float], prompt: list[str]) -> Comparisons:
    size = len(margin)
    return Comparisons(
        np.asarray(margin), np.asarray(probability), np.zeros(size), tuple(prompt), ("",) * size
    )


def test_best_of_four() -> None:
    groups = [ranked(1, [1, 2, 3, 4]), ranked(2, [1, 2, 3, 4])]
    found = best_of(groups, [np.array([4.0, 3, 2, 1]), np.array([3.0, 4, 2, 1])])
    assert found is not None
    assert (found["accuracy"], found["chance"], found["prompts"]) == (0.5, 0.25, 2)
    assert found["interval"][0] < 0.5 < found["interval"][1]
    narrow = best_of(groups, [np.array([4.0, 3, 2, 1]), np.array([3.0, 4, 2, 1])], level=0.5)
    assert narrow is not None
    assert found["interval"][0] < narrow["interval"][0] < narrow["interval"][1] < found["interval"][1]


def test_best_of_four_out_of_five_is_the_mean_of_all_choices() -> None:
    # the highest reward is the second best answer's: right only where the best is left out, 1 of 5
    group, reward = ranked(1, [2, 1, 3, 4, 5]), np.array([5.0, 1, 2, 3, 4])
    other = ranked(2, [2, 1, 3, 4, 5])
    found = best_of([group, other], [reward, reward])
    assert found is not None
    assert found["accuracy"] == pytest.approx(0.2)


def test_equal_rewards_share_the_credit_and_equal_ranks_have_none() -> None:
    groups = [ranked(1, [1, 2, 2, 2]), ranked(2, [1, 2, 2, 2]), ranked(3, [1, 1, 1, 1]), ranked(4, [1, 2])]
    rewards = [np.array([1.0, 1, 0, 0])] * 3 + [np.array([1.0, 0])]
    found = best_of(groups, rewards)
    assert found is not None
    assert (found["accuracy"], found["prompts"]) == (0.5, 2)
    assert best_of(groups[2:], rewards[2:]) is None


def test_tie_separation_by_hand() -> None:
    # decided |1|, |3| against ties |2|, |1|: 0, ½, 1, 1
    found = compared([1, -3, 2, -1], [1.0, 1.0, 0.5, 0.5], ["a", "b", "c", "d"])
    assert tie_separation(found) == pytest.approx(2.5 / 4)
    assert tie_separation(found.where(found.decided)) is None
