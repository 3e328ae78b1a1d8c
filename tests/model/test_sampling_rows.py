"""Rows with settings of their own against a plain float64 reference, and what settings mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignloop.errors import ConfigError
from alignloop.model.sampling import NUCLEUS, SamplingParams, completion_seeds, sample, truncate, uniforms


@pytest.mark.parametrize(
    "fine",
    [
        {"temperature": 0.0},
        {"temperature": 1e9},
        {"top_k": 0},
        {"top_k": 1},
        {"top_p": 1.0},
        {"top_p": 1e-9},
        {"min_p": 0.0},
        {"min_p": 1.0},
        {"repetition_penalty": 1e-9},
        {"max_tokens": 1},
        {"stop": ("a", "b")},
        {"stop": ["a"]},
        {"seed": 0},
    ],
    ids=str,
)
def test_settings_at_the_ends_of_their_range_are_taken(fine: dict[str, Any]) -> None:
    SamplingParams(**fine)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"temperature": math.inf}, "temperature: inf given, a number from 0 needed"),
        ({"temperature": -1e-9}, "temperature: -1e-09 given, a number from 0 needed"),
        ({"top_k": -1}, r"top_k: -1 given, 0 \(off\) or a positive number needed"),
        ({"top_p": 0.0}, "top_p: 0.0 given, above 0 and at most 1 needed"),
        ({"top_p": 1.0001}, "top_p: 1.0001 given, above 0 and at most 1 needed"),
        ({"min_p": -0.1}, "min_p: -0.1 given, between 0 and 1 needed"),
        ({"min_p": 1.0001}, "min_p: 1.0001 given, between 0 and 1 needed"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: 0.0 given, above 0 needed"),
        ({"repetition_penalty": math.inf}, "repetition_penalty: inf given, above 0 needed"),
        ({"max_tokens": 0}, "max_tokens: 0 given, at least 1 needed"),
        ({"stop": "x"}, "stop: 'x' given, non-empty strings needed"),
        ({"stop": ("a", "")}, r"stop: \('a', ''\) given, non-empty strings needed"),
        ({"seed": -1}, "seed: -1 given, a number from 0 needed"),
        ({"seed": -1, "top_k": -2}, r"(?s)top_k: -2 given.*seed: -1 given"),
    ],
    ids=str,
)
def test_settings_beyond_their_range_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        SamplingParams(**wrong)


@pytest.mark.parametrize(
    ("setting", "truncates", "untouched"),
    [
        ({}, False, True),
        ({"temperature": 0.0}, False, True),
        ({"temperature": 0.5}, False, False),
        ({"temperature": 2.0}, False, False),
        ({"top_k": 1}, True, False),
        ({"top_p": 0.99}, True, False),
        ({"min_p": 0.01}, True, False),
        # at temperature 0 log-probs are those of the whole distribution
        ({"temperature": 0.0, "top_k": 1, "top_p": 0.5, "min_p": 0.5}, True, True),
        ({"repetition_penalty": 1.1}, False, False),
        ({"temperature": 0.0, "repetition_penalty": 0.9}, False, False),
    ],
    ids=str,
)
def test_which_settings_leave_the_models_own_log_probs(
    setting: dict[str, Any], truncates: bool, untouched: bool
) -> None:
    params = SamplingParams(**setting)
    assert (params.truncates, params.untouched) == (truncates, untouched)


def kept(p: np.ndarray, setting: SamplingParams) -> np.ndarray:
    """Which tokens top-k, then top-p, then min-p leave, ties with the last one included."""
    stay = np.ones(len(p), dtype=bool)
    if 0 < setting.top_k < len(p):
        stay &= p >= np.sort(p)[-setting.top_k]
    if setting.top_p < 1:
        q = np.where(stay, p, 0) / p[stay].sum()
        order = np.argsort(-q, kind="stable")
        before = np.cumsum(q[order]) - q[order]
        stay &= q >= q[order][before < setting.top_p].min()
    if setting.min_p > 0:
        q = np.where(stay, p, 0)
        stay &= q >= setting.min_p * q.max()
    return stay


SETTING = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 3, 5, 40]),
    top_p=st.sampled_from([1.0, 1.0, 0.05, 0.31, 0.77, 0.95]),
    min_p=st.sampled_from([0.0, 0.0, 0.033, 0.27, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 3**0.5, 0.5**0.5]),
)


@given(
    rows=st.lists(st.tuples(SETTING, st.integers(0, 2**20), st.integers(0, 5)), min_size=1, max_size=5),
    vocabulary=st.sampled_from([7, 23, 300]),
)
@settings(deadline=None, max_examples=120)
def test_each_row_follows_its_own_settings(
    rows: list[tuple[SamplingParams, int, int]], vocabulary: int
) -> None:
    """Logits are eighths, so that there are ties; where p stands at an edge, rounding may decide."""
    logits, numbers, seen = [], [], []
    for _, seed, _ in rows:
        generator = np.random.default_rng(seed)
        logits.append(np.round(generator.normal(0, 2, vocabulary) * 8) / 8)
        numbers.append(generator.random())
        seen.append(torch.from_numpy(np.unique(generator.integers(0, vocabulary, 4))))
    params = [setting for setting, _, _ in rows]
    drawn = sample(
        torch.tensor(np.array(logits), dtype=torch.float32),
        torch.tensor(numbers, dtype=torch.float64),
        params,
        seen,
        num_best=[number for *_, number in rows],
    )
    for row, (setting, _, num_best) in enumerate(rows):
        z = logits[row].copy()
        if setting.repetition_penalty != 1:
            at = seen[row].numpy()
            z[at] = np.where(
                z[at] < 0, z[at] * setting.repetition_penalty, z[at] / setting.repetition_penalty
            )
        greedy = setting.temperature == 0
        p = np.exp(z / (setting.temperature or 1.0))
        p /= p.sum()
        if not greedy:
            p = np.where(kept(p, setting), p, 0)
            p /= p.sum()
        token, logprob = int(drawn.tokens[row]), float(drawn.logprobs[row])
        if greedy:
            assert z[token] == pytest.approx(z.max(), abs=1e-6)
        else:
            edges = np.concatenate([[0], p.cumsum()])
            assert edges[token] - 1e-6 <= numbers[row] <= edges[token + 1] + 1e-6
            assert p[token] > 0
        assert logprob == pytest.approx(math.log(p[token]), abs=3e-5)
        best = drawn.best[row]
        assert len(best) == min(num_best, int((p > 0).sum()))
        found = [value for _, value in best]
        assert found == pytest.approx(np.log(np.sort(p)[::-1][: len(best)]).tolist(), abs=3e-5)
        assert [math.log(p[place]) for place, _ in best] == pytest.approx(found, abs=3e-5)
        assert len({place for place, _ in best}) == len(best)


@pytest.mark.parametrize("p", [0.2, 0.9, 0.999])
@pytest.mark.parametrize("size", [NUCLEUS - 1, NUCLEUS, NUCLEUS + 1, 3 * NUCLEUS])
def test_a_nucleus_of_any_size_is_found(p: float, size: int) -> None:
    """Equal steps of probability, so that every token is known; with a row beside it that needs few."""
    weights = torch.arange(1, size + 1, dtype=torch.float64)
    steep = torch.zeros(size, dtype=torch.float64)
    steep[5] = 40.0
    order = torch.randperm(size)
    logits = torch.stack([weights[order].log(), steep]).float()
    found = truncate(logits, [SamplingParams(top_p=p), SamplingParams(top_p=p)])
    share = weights.flip(0).cumsum(0) / weights.sum()
    wanted = 1 + int((share < p).sum())
    assert abs(int(found[0].isfinite().sum()) - wanted) <= 1  # rounding of the sum may take one more or less
    assert found[1].isfinite().nonzero().flatten().tolist() == [5]
    left = found[0].isfinite()
    assert logits[0][left].min() > logits[0][~left].max()


def test_series_and_seeds_are_what_they_were() -> None:
    """Saved runs go on with them: numbers of NumPy's Philox, a stream for each prompt."""
    wanted = np.random.Generator(np.random.Philox(key=7)).random(5)
    assert np.array_equal(uniforms(7, 5), wanted)
    rows = completion_seeds(7, 3, 2)
    for number, row in enumerate(rows):
        stream = np.random.Generator(np.random.Philox(key=7, counter=[0, number, 0, 0]))
        assert row == stream.integers(2**63, size=2).tolist()
    assert completion_seeds(7, 0, 2) == []
    assert completion_seeds(7, 2, 0) == [[], []]


def test_a_penalty_needs_the_tokens_that_were_seen() -> None:
    logits, numbers = torch.tensor([[2.0, -2.0, 0.0]]), torch.tensor([0.5], dtype=torch.float64)
    setting = SamplingParams(temperature=0, repetition_penalty=2.0)
    drawn = sample(logits.clone(), numbers, [setting], [None], num_best=[3])
    assert [token for token, _ in drawn.best[0]] == [0, 2, 1]
    seen = torch.tensor([0, 1])
    drawn = sample(logits.clone(), numbers, [setting], [seen], num_best=[3])
    p = np.exp([1.0, -4.0, 0.0]) / np.exp([1.0, -4.0, 0.0]).sum()
    assert dict(drawn.best[0]) == pytest.approx({i: math.log(p[i]) for i in range(3)}, abs=1e-6)
    assert drawn.logprobs.dtype == torch.float32
    half = logits.bfloat16()
    drawn = sample(half, numbers, [SamplingParams()], [seen], num_best=[0])
    assert drawn.logprobs.dtype == torch.float32
    assert half.tolist() == logits.tolist()  # only float32 is written over
