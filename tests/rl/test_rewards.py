import asyncio
import json
import re
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from alignloop.errors import DataError, EngineError, UserError
from alignloop.records import Message, Prompt
from alignloop.rl.advantages import MissingEOS
from alignloop.rl.rewards import (
    Component,
    Reward,
    RunningMoments,
    Sample,
    check_prompts,
    checked_scores,
    combined,
    function,
    penalty,
    repetition,
    verifier,
)
from alignloop.rl.scores import Scores, joined, unique_names


def samples(*texts: str, finished: bool = True) -> list[Sample]:
    prompt = Prompt((Message("user", "질문"),), answer="42")
    return [Sample(prompt, text, len(text), finished, row=i) for i, text in enumerate(texts)]


def constant(name: str, values: list[float], weight: float = 1.0) -> Component:
    return Component(name, lambda _: values, weight)


def test_weighted_sum_and_each_part_by_itself() -> None:
    reward = Reward([constant("a", [1.0, 2.0], 2.0), constant("b", [10.0, -10.0], 0.5)])
    scores = reward(samples("x", "y"))
    assert scores.total.tolist() == [2 * 1 + 0.5 * 10, 2 * 2 - 0.5 * 10]
    assert {name: part.tolist() for name, part in scores.components.items()} == {
        "a": [1.0, 2.0],
        "b": [10.0, -10.0],
    }
    assert scores.spread is None


def test_ensembles_by_hand() -> None:
    members = np.array([[1.0, 4.0], [3.0, 4.0], [2.0, 1.0]])
    assert combined(members, "mean", 0.5).tolist() == [2.0, 3.0]
    assert combined(members, "min", 0.5).tolist() == [1.0, 1.0]
    # variances (ddof 0): (1 + 1 + 0)/3 and (1 + 1 + 4)/3
    np.testing.assert_allclose(combined(members, "uwo", 0.5), [2 - 0.5 * 2 / 3, 3 - 0.5 * 2], atol=1e-15)
    ensemble = [constant(f"model_{i}", row.tolist()) for i, row in enumerate(members)]
    scores = Reward(ensemble=ensemble, combine="min", ensemble_weight=3.0)(samples("x", "y"))
    assert scores.total.tolist() == [3.0, 3.0]
    assert scores.spread is not None
    np.testing.assert_allclose(scores.spread, [1.0, 3**0.5], atol=1e-15)  # ddof 1
    assert set(scores.components) == {"model", "model_0", "model_1", "model_2"}


def test_missing_eos_and_clipping() -> None:
    part = [constant("a", [5.0, -5.0])]
    cut = samples("x", "y", finished=False)
    assert Reward(part, clip=2.0)(cut).total.tolist() == [2.0, -2.0]
    assert Reward(part, clip=2.0, missing_eos=MissingEOS("penalise", 1.0))(cut).total.tolist() == [1.0, -3.0]
    replaced = Reward(part, missing_eos=MissingEOS("replace", -1.0))(cut)
    assert replaced.total.tolist() == [-1.0, -1.0]
    assert replaced.raw.tolist() == [5.0, -5.0]


def test_running_moments_equal_those_of_all_values_at_once() -> None:
    values = np.random.default_rng(0).normal(3, 2, 50)
    moments = RunningMoments()
    for part in (values[:7], values[7:8], values[8:]):
        moments.update(part)
    assert moments.mean == pytest.approx(values.mean(), abs=1e-12)
    expected = (values - values.mean()) / values.std(ddof=1)
    np.testing.assert_allclose(moments.normalized(values), expected, atol=1e-7)
    other = Reward(moments=RunningMoments())
    other.load_state_dict(Reward(moments=moments).state_dict())
    assert other.moments == moments


def test_one_reward_has_no_spread_to_divide_by() -> None:
    assert Reward([constant("a", [7.0])], moments=RunningMoments())(samples("x")).total.tolist() == [0.0]


def test_verifiers_and_their_check_before_sampling() -> None:
    assert checked_scores(verifier("math"), samples("it is 42", "41")).tolist() == [1.0, 0.0]
    check_prompts(["math"], [samples("x")[0].prompt])
    with pytest.raises(DataError, match="constraints"):
        check_prompts(["constraints"], [samples("x")[0].prompt])
    with pytest.raises(UserError, match="accepted are constraints, math"):
        verifier("maths")


def test_penalties_by_hand() -> None:
    texts = samples("a" * 10, "b" * 6, "c" * 8)
    assert checked_scores(penalty("length", max_tokens=10), texts).tolist() == [-1.0, -0.6, -0.8]
    overlong = checked_scores(penalty("overlong", max_tokens=10, buffer=4), texts)
    assert overlong.tolist() == [-1.0, 0.0, -0.5]
    # 5 trigrams, of which "a b c" occurs twice
    assert repetition("a b c d a b c") == pytest.approx(1 / 5)
    assert repetition("short text") == 0.0
    with pytest.raises(UserError, match="length, repetition, overlong"):
        penalty("rudeness")


async def slow_lengths(found: list[Sample]) -> list[float]:
    await asyncio.sleep(0.001)
    return [float(s.num_tokens) for s in found]


def test_functions_by_name_may_be_async() -> None:
    part = function("tests.rl.test_rewards:slow_lengths", weight=0.5)
    assert Reward([part])(samples("abc", "d")).total.tolist() == [1.5, 0.5]
    with pytest.raises(UserError, match="cannot be imported"):
        function("tests.rl.test_rewards:missing")


def test_async_functions_run_where_an_event_loop_runs_already() -> None:
    async def notebook() -> list[float]:
        return Reward([Component("lengths", slow_lengths)])(samples("abc", "d")).total.tolist()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, notebook()).result() == [3.0, 1.0]


def test_a_function_that_raises_names_the_sample() -> None:
    def picky(found: list[Sample]) -> list[float]:
        return [1 / len(s.completion) for s in found]

    with pytest.raises(EngineError, match=r"'picky' failed on completion 1 \(row 1 .*''.*ZeroDivisionError"):
        checked_scores(Component("picky", picky, timeout_s=5), samples("abc", "", "d"))


def test_a_function_that_fails_on_batches_only() -> None:
    def single(found: list[Sample]) -> list[float]:
        if len(found) > 1:
            raise RuntimeError("too many")
        return [0.0]

    with pytest.raises(EngineError, match="on none of them alone: RuntimeError: too many"):
        checked_scores(Component("single", single), samples("abc", "d"))


def test_a_function_that_hangs() -> None:
    def hangs(_: list[Sample]) -> list[float]:
        time.sleep(3)
        return []

    async def waits(_: list[Sample]) -> list[float]:
        await asyncio.sleep(3)
        return []

    before = set(threading.enumerate())
    for slow in (hangs, waits):
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"'hangs' did not answer within 0\.05 s.*row 0"):
            checked_scores(Component("hangs", slow, timeout_s=0.05), samples("abc"))  # type: ignore[arg-type]
        assert time.monotonic() - started < 2.5  # it sleeps for 3
    left = set(threading.enumerate()) - before
    assert left
    assert all(thread.daemon for thread in left)  # any other would keep the process from ending


def test_a_function_that_leaves_the_interpreter() -> None:
    def leaves(_: list[Sample]) -> list[float]:
        sys.exit(3)

    with pytest.raises(EngineError, match=r"'leaves' failed on completion 0 .*SystemExit: 3"):
        checked_scores(Component("leaves", leaves, timeout_s=5), samples("abc"))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "returned 1 numbers in shape"),
        ([1.0, float("nan")], "gave nan for completion 1 .row 1"),
        ([float("-inf"), 0.0], "gave -inf for completion 0"),
        ([[1.0], [2.0]], "one number for each"),
        ("good", "not a list of numbers"),
        (None, "one number for each|not a list of numbers"),
    ],
)
def test_wrong_answers_of_a_function(returned: object, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        checked_scores(Component("f", lambda _: returned), samples("abc", "d"))  # type: ignore[arg-type]


def test_parts_of_one_name_all_count() -> None:
    parts = [
        constant("score", [1.0, 1.0], 2.0),
        constant("score", [-3.0, -3.0]),
        constant("score", [5.0, 5.0], 0.2),
    ]
    scores = Reward(
        [*parts, Component("score_2", lambda s: [0.5] * len(s)), Component("std", lambda s: [0.1] * len(s))]
    )(samples("x", "y"))
    # 2·1 − 3 + 0.2·5 + 0.5 + 0.1
    assert scores.raw.tolist() == pytest.approx([0.6, 0.6])
    assert {name: float(v[0]) for name, v in scores.components.items()} == {
        "score": 1.0, "score_3": -3.0, "score_4": 5.0, "score_2": 0.5, "std_2": 0.1,
    }  # fmt: skip


def test_a_part_called_model_is_not_taken_for_the_ensemble() -> None:
    own = Component("model", lambda s: [1.0] * len(s), 3.0)
    member = Component("model_0", lambda s: [10.0] * len(s))
    scores = Reward([own], ensemble=[member])(samples("x"))
    assert scores.raw.tolist() == [13.0]
    assert scores.components["model"].tolist() == [10.0]
    assert scores.components["model_2"].tolist() == [1.0]


def test_what_is_judged_leaves_penalties_out() -> None:
    right = Component("exact", lambda s: [float(k == 0) for k in range(len(s))], 2.0)
    reward = Reward([right, penalty("length", weight=0.5, max_tokens=4)])
    scores = reward(samples("x", "yy", "zzz"))
    assert scores.judged.tolist() == [2.0, 0.0, 0.0]
    assert (scores.raw < scores.judged).all()
    only = Reward([penalty("length", max_tokens=4)])(samples("x", "yy", "zzz"))
    assert only.judged.tolist() == only.raw.tolist()


def test_scores_survive_json() -> None:
    scores = Reward([Component("a", lambda s: [0.1] * len(s)), penalty("length")])(samples("x", "y"))
    again = Scores.from_json(json.loads(json.dumps(scores.to_json())))
    assert again.to_json() == scores.to_json()
    assert joined([scores.chosen([1]), scores.chosen([0])]).raw.tolist() == scores.raw[::-1].tolist()


@pytest.mark.parametrize(
    ("names", "reserved", "unique"),
    [
        (["a", "a", "a"], [], ["a", "a_2", "a_3"]),
        (["a", "a", "a_2"], [], ["a", "a_3", "a_2"]),
        (["reward_1", "reward_1", "reward_2"], [], ["reward_1", "reward_1_2", "reward_2"]),
        (["std", "model_0"], ["std", "model_0"], ["std_2", "model_0_2"]),
    ],
)
def test_unique_names(names: list[str], reserved: list[str], unique: list[str]) -> None:
    assert unique_names(names, reserved) == unique


def test_some_scores_in_another_order() -> None:
    """Each table is picked from, those of the ensemble too; weights and penalties are the reward's."""
    ensemble = [constant("a", [1.0, 2.0, 4.0]), constant("b", [3.0, 2.0, 0.0])]
    scores = Reward([penalty("length", max_tokens=4)], ensemble, ensemble_weight=2.0)(
        samples("x", "yy", "zzz")
    )
    picked = scores.chosen([2, 0])
    # means 2 of both members for each completion, twice; minus a quarter for each letter
    assert scores.raw.tolist() == [3.75, 3.5, 3.25]
    assert picked.raw.tolist() == [3.25, 3.75]
    assert picked.total.tolist() == [3.25, 3.75]
    assert picked.components["a"].tolist() == [4.0, 1.0]
    assert picked.spread is not None
    np.testing.assert_allclose(picked.spread, [8**0.5, 2**0.5])
    assert (picked.weights, picked.penalties) == (scores.weights, scores.penalties)
    assert scores.weights == {"length": 1.0, "model": 2.0}
    assert scores.penalties == ("length",)
    again = joined([scores.chosen([0]), scores.chosen([1, 2])])
    assert again.to_json() == scores.to_json()
    assert Scores.from_json(scores.to_json()).to_json() == scores.to_json()
    assert picked.judged.tolist() == [4.0, 4.0]


def test_one_member_has_no_spread_and_is_shown_once() -> None:
    scores = Reward(ensemble=[constant("only", [1.0, 2.0])])(samples("x", "y"))
    assert scores.spread is None
    assert scores.components.keys() == {"model"}
    assert scores.chosen([1]).spread is None
    assert joined([scores, scores]).spread is None


def test_moments_of_two_rewards() -> None:
    """1 and 3: mean 2, std √2 at ddof 1; then 5 alone: mean 3, std 2."""
    moments = RunningMoments()
    reward = Reward([constant("a", [1.0, 3.0])], moments=moments)
    np.testing.assert_allclose(reward(samples("x", "y")).total, [-(0.5**0.5), 0.5**0.5], rtol=1e-7)
    assert (moments.count, moments.mean, moments.squares) == (2.0, 2.0, 2.0)
    moments.update(np.array([5.0]))
    assert (moments.count, moments.mean, moments.squares) == (3.0, 3.0, 8.0)
    np.testing.assert_allclose(moments.normalized(np.array([5.0])), [1.0], rtol=1e-7)
    assert Reward().state_dict() == {}
    assert reward.state_dict() == {"count": 3.0, "mean": 3.0, "squares": 8.0}


def test_equal_rewards_are_only_shifted() -> None:
    reward = Reward([constant("a", [7.0, 7.0])], moments=RunningMoments())
    assert reward(samples("x", "y")).total.tolist() == [0.0, 0.0]


def test_an_overlong_answer_costs_one_at_most() -> None:
    """Free up to 6 tokens of 10, then a quarter each."""
    texts = samples(*("a" * n for n in (5, 6, 7, 10, 11)))
    found = checked_scores(penalty("overlong", max_tokens=10, buffer=4), texts)
    assert found.tolist() == [0.0, 0.0, -0.25, -1.0, -1.0]
    assert repetition("a b c") == 0.0
    assert repetition("a b a b", ngram=2) == pytest.approx(1 / 3)
    assert checked_scores(penalty("length"), samples("a" * 64)).tolist() == [-0.25]
    free = [checked_scores(penalty("overlong"), samples("a" * n))[0] for n in (224, 240, 256)]
    assert free == [0.0, -0.5, -1.0]
    assert penalty("length", weight=3.0).weight == 3.0
    assert penalty("length").is_penalty
    assert not verifier("math").is_penalty


def test_what_is_named_must_be_a_function() -> None:
    with pytest.raises(UserError, match="'math:pi' is not a function"):
        function("math:pi")
    with pytest.raises(UserError, match="cannot be imported"):
        function("math:no_such")
    with pytest.raises(UserError, match="cannot be imported"):
        function("no_such_module:f")
    part = function("math:fsum", weight=2.0)
    assert (part.name, part.weight, part.timeout_s, part.is_penalty) == ("fsum", 2.0, 60.0, False)


@pytest.mark.parametrize(("length", "shown"), [(60, "x" * 60), (61, "x" * 57 + "...")])
def test_a_long_completion_is_shown_cut(length: int, shown: str) -> None:
    part = constant("a", [float("nan")])
    message = f"reward 'a' gave nan for completion 0 (row 0 of the data set): '{shown}'"
    with pytest.raises(EngineError, match=re.escape(message) + "$"):
        checked_scores(part, samples("x" * length))


def test_what_a_part_says_itself_is_told_as_it_is() -> None:
    """A judge that cannot be reached has its own sentence; no single completion is blamed."""
    said = EngineError("the judge does not answer")
    calls: list[int] = []

    def away(given: Sequence[Sample]) -> list[float]:
        calls.append(len(given))
        raise said

    with pytest.raises(EngineError) as caught:
        checked_scores(Component("judge", away), samples("x", "y"))
    assert caught.value is said
    assert calls == [2]
