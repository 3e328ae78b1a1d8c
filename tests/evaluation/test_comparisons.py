from functools import partial

import numpy as np
import pytest
from scipy import stats

from alignloop.errors import DataError, EngineError
from alignloop.evaluation.comparisons import (
    all_pairs,
    ask,
    by_labels,
    by_score,
    ratings,
    simultaneous_win_rates,
    win_rates,
)
from alignloop.judges.pairwise import judge_pairs_by
from alignloop.records import Message, Preference
from alignloop.runs.value_cache import ValueCache

PROMPTS = [(Message("user", f"질문 {i}"),) for i in range(40)]


def longer(pairs):
    return [0.5 + 0.5 * np.sign(len(p.first) - len(p.second)) for p in pairs]


def test_a_judge_is_asked_in_both_orders_and_disagreement_is_a_tie():
    answers = {"new": ["long answer"] * 40, "old": ["short"] * 40}
    (fair,) = ask(partial(judge_pairs_by, longer), PROMPTS, answers, [("new", "old")])
    assert fair.scores == (1.0,) * 40
    assert fair.consistency == 1.0
    (biased,) = ask(
        partial(judge_pairs_by, lambda pairs: [1.0] * len(pairs)), PROMPTS, answers, [("new", "old")]
    )
    assert biased.scores == (0.5,) * 40
    assert biased.consistency == 0.0


def test_empty_and_equal_answers_are_decided_without_asking():
    seen = []

    def judge(pairs):
        seen.extend(pairs)
        return [1.0] * len(pairs)

    answers = {"new": ["", "a", " ", "same"], "old": ["b", "", "", "same"]}
    (found,) = ask(partial(judge_pairs_by, judge), PROMPTS[:4], answers, [("new", "old")])
    assert found.scores == (0.0, 1.0, 0.5, 0.5)
    assert seen == []
    assert found.consistency is None


def test_a_judge_that_fails_midway_goes_on_where_it_was(tmp_path):
    answers = {"new": [f"a{i} long" for i in range(40)], "old": [f"b{i}" for i in range(40)]}
    calls = []

    def judge(pairs):
        calls.append(len(pairs))
        if len(calls) == 2:
            raise EngineError("judge: no answer")
        return longer(pairs)

    file = tmp_path / "verdicts.jsonl"
    with pytest.raises(EngineError, match="no answer"):
        ask(partial(judge_pairs_by, judge, cache=ValueCache(file)), PROMPTS, answers, [("new", "old")])
    (found,) = ask(partial(judge_pairs_by, judge, cache=ValueCache(file)), PROMPTS, answers, [("new", "old")])
    assert found.scores == (1.0,) * 40
    assert sum(calls) - calls[1] == 80  # every pair in both orders, once


def test_pairs_without_verdict_are_left_out_and_counted():
    answers = {"new": [f"a{i}" for i in range(40)], "old": [f"bb{i}" for i in range(40)]}

    def judge(pairs):
        return [None if p.prompt == PROMPTS[3] else 1.0 if p.first.startswith("a") else 0.0 for p in pairs]

    (found,) = ask(partial(judge_pairs_by, judge), PROMPTS, answers, [("new", "old")])
    assert (found.without_verdict, len(found.scores)) == (1, 39)
    assert 3 not in found.prompts
    with pytest.raises(EngineError, match=r"1, 0\.5, 0 or None for each"):
        ask(partial(judge_pairs_by, lambda pairs: [0.7] * len(pairs)), PROMPTS, answers, [("new", "old")])
    with pytest.raises(DataError, match="40 prompts, but new answered 39"):
        ask(
            partial(judge_pairs_by, judge), PROMPTS, {**answers, "new": answers["new"][:39]}, [("new", "old")]
        )


def test_labels_are_found_by_their_texts_and_contradictions_average_to_a_tie():
    answers = {"new": ["a0", "a1", "same"], "old": ["b0", "b1", "same"]}
    labels = [
        Preference(PROMPTS[0], "a0", "b0"),
        Preference(PROMPTS[0], "b0", "a0"),
        Preference(PROMPTS[1], "b1", "a1", probability=0.5),
        Preference(PROMPTS[1], "a1", "b1"),
        Preference(PROMPTS[2], "x", "y"),
    ]
    (found,) = by_labels(labels, PROMPTS[:3], answers, [("new", "old")])
    assert found.scores == (1.0, 0.0, 0.5, 1.0)
    assert found.prompts == (0, 0, 1, 1)
    assert found.contradictory == 1
    with pytest.raises(DataError, match="none of 1 labels is about"):
        by_labels(labels[4:], PROMPTS[:3], answers, [("new", "old")])


def test_win_rates_are_simultaneous():
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    scores = {"start": base, "good": base + 0.8 + rng.normal(size=200), "same": base + rng.normal(size=200)}
    answers = {name: ["x"] * 200 for name in scores}
    pairs = [("good", "start"), ("same", "start")]
    good, same = win_rates(by_score(scores, pairs, answers), answers)
    (alone,) = win_rates(by_score(scores, pairs[:1], answers), answers)
    assert good.value.low > 0.5 > same.value.low
    assert good.value.high - good.value.low > alone.value.high - alone.value.low
    assert good.p < 0.01 < same.p
    assert good.needed < 200 < (same.needed or 10**9)


def test_win_rates_cover_all_models_at_once():
    rng = np.random.default_rng(1)
    truth = np.array([0.5, 0.6, 0.75])
    names = ["a", "b", "c"]
    hits = 0
    for _ in range(500):
        # One model's win makes another's likelier: latent normals with correlation ½.
        latent = (rng.normal(size=(150, 1)) + rng.normal(size=(150, 3))) / np.sqrt(2)
        wins = latent < stats.norm.ppf(truth)
        scores = {"start": np.zeros(150), **{n: np.where(wins[:, k], 1.0, -1.0) for k, n in enumerate(names)}}
        answers = {name: ["x"] * 150 for name in scores}
        found = simultaneous_win_rates(by_score(scores, [(n, "start") for n in names], answers))
        hits += all(i.low <= t <= i.high for (i, _), t in zip(found, truth, strict=True))
    assert 0.93 <= hits / 500 <= 0.97


def told(scores):
    """Answers that say something."""
    return {name: ["x"] * len(row) for name, row in scores.items()}


def test_an_empty_answer_loses_whatever_a_reward_model_thinks_of_it():
    scores = {"new": [5.0, 1.0, 9.0, 2.0], "old": [1.0, 5.0, 3.0, 2.0]}
    answers = {"new": ["", "b", " ", "d"], "old": ["a", "", "", "d"]}
    (verdicts,) = by_score(scores, [("new", "old")], answers)
    assert verdicts.scores == (0.0, 1.0, 0.5, 0.5)


@pytest.mark.parametrize("num_models", [1, 3])
def test_p_and_the_win_rates_interval_agree(num_models):
    rng = np.random.default_rng(2)
    names = [f"m{k}" for k in range(num_models)]
    found = []
    for _ in range(150):
        base = rng.normal(size=80)
        scores = {"start": base, **{n: base + rng.normal(0.25, 1, 80) for n in names}}
        answers = {name: ["x"] * 80 for name in scores}
        rates = win_rates(by_score(scores, [(n, "start") for n in names], answers), answers)
        found += [(rate.p < 0.05, not rate.value.low <= 0.5 <= rate.value.high) for rate in rates]
    assert all(p == excludes for p, excludes in found)
    assert len(set(found)) == 2


def test_no_length_control_where_all_verdicts_are_alike():
    answers = {"new": ["long answer"] * 40, "old": ["short"] * 40}
    tied = by_score({"new": [1.0] * 40, "old": [1.0] * 40}, [("new", "old")], answers)
    (found,) = win_rates(tied, answers)
    assert found.length_controlled is None
    assert found.needed is None
    assert found.value.low < 0.5 < found.value.high


def test_ratings_put_the_baseline_at_1000_and_say_when_a_sweep_needed_ties():
    rng = np.random.default_rng(2)
    scores = {"start": rng.normal(size=100), "dpo": rng.normal(0.5, 1, 100), "ppo": rng.normal(0.2, 1, 100)}
    pairs = all_pairs(["start", "dpo", "ppo"], "start")
    assert pairs == [("dpo", "start"), ("ppo", "start"), ("dpo", "ppo")]
    found, swept = ratings(by_score(scores, pairs, told(scores)), anchor="start")
    assert not swept
    assert {r.model: r.rating for r in found}["start"] == 1000.0
    assert found[0].model == "dpo"
    found, swept = ratings(
        by_score(lost := {**scores, "ppo": np.full(100, -9.0)}, pairs, told(lost)), anchor="start"
    )
    assert swept
    assert found[-1].model == "ppo"
