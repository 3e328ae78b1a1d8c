import numpy as np
import pytest

from alignloop.data.packing import Group, completion
from alignloop.evaluation.reward_bench import Comparisons
from alignloop.evaluation.reward_choice import best_of, bootstrap_interval, tie_separation


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


def test_bootstrap_draws_whole_prompts() -> None:
    found = compared([0, 0, 1, 1], [1.0] * 4, ["a", "a", "b", "b"])
    seen: set[float] = set()

    def mean(drawn: Comparisons) -> float:
        assert len(drawn) == 4
        seen.add(float(drawn.margin.mean()))
        return float(drawn.margin.mean())

    assert bootstrap_interval(found, mean, replicates=200) == [0.0, 1.0]
    assert seen == {0.0, 0.5, 1.0}  # never ¼: the two rows of a prompt come together
    assert bootstrap_interval(found.rows(np.array([0, 1])), mean) is None
