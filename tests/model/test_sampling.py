from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from alignloop.errors import ConfigError
from alignloop.model.sampling import SamplingParams, completion_seeds, sample, truncate, uniforms
from tests.helpers_models import relative_error

PLAIN = SamplingParams()


def draw(logits: torch.Tensor, number: float, params: SamplingParams = PLAIN, seen=None) -> tuple[int, float]:
    """One token with its log-prob from one row of logits."""
    numbers = torch.tensor([number], dtype=torch.float64)
    tokens, logprobs, _ = sample(logits[None].clone(), numbers, [params], [seen], num_best=[0])
    return int(tokens), float(logprobs)


def test_a_number_falls_into_the_interval_of_its_token() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()  # cumulative 0.1, 0.3, 0.6, 1.0
    expected = {0.0: 0, 0.05: 0, 0.15: 1, 0.29: 1, 0.31: 2, 0.59: 2, 0.61: 3, 0.999: 3}
    for number, token in expected.items():
        drawn, logprob = draw(logits, number)
        assert drawn == token
        assert logprob == pytest.approx(math.log([0.1, 0.2, 0.3, 0.4][token]), abs=1e-6)


def test_most_probable_tokens_are_those_of_the_distribution_drawn_from() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().repeat(4, 1)
    params = [PLAIN, SamplingParams(top_k=2), PLAIN, SamplingParams(temperature=0)]
    numbers = torch.full((4,), 0.5, dtype=torch.float64)
    drawn = sample(logits, numbers, params, [None] * 4, num_best=[2, 3, 0, 9])
    expected = [
        {3: 0.4, 2: 0.3},
        {3: 4 / 7, 2: 3 / 7},  # three were wanted, two have a probability
        {},
        {3: 0.4, 2: 0.3, 1: 0.2, 0: 0.1},  # four tokens in all; at temperature 1
    ]
    for best, row, token, logprob in zip(drawn.best, expected, drawn.tokens, drawn.logprobs, strict=True):
        assert [place for place, _ in best] == list(row)
        assert [math.exp(found) for _, found in best] == pytest.approx(list(row.values()), abs=1e-6)
        assert not best or dict(best)[int(token)] == float(logprob)


def test_temperature_divides_the_logits_before_drawing_and_in_the_logprob() -> None:
    # p ∝ (1, 4)^(1/2) = (1, 2): cumulative 1/3, 1.
    logits = torch.tensor([1.0, 4.0]).log()
    half = SamplingParams(temperature=2.0)
    assert draw(logits, 0.3, half) == (0, pytest.approx(math.log(1 / 3), abs=1e-6))
    assert draw(logits, 0.4, half) == (1, pytest.approx(math.log(2 / 3), abs=1e-6))


@pytest.mark.parametrize("vocabulary", [3, 255, 256, 257, 1000, 1024])
def test_blocks_agree_with_a_plain_float64_search(vocabulary: int) -> None:
    logits = torch.randn(64, vocabulary) * 3
    numbers = torch.rand(64, dtype=torch.float64)
    tokens, logprobs, _ = sample(logits.clone(), numbers, [PLAIN] * 64, [None] * 64, num_best=[0] * 64)
    p = torch.softmax(logits.double(), -1).numpy()
    cumulative = p.cumsum(-1)
    reference = [
        int(np.searchsorted(c, u, side="right")) for c, u in zip(cumulative, numbers.tolist(), strict=True)
    ]
    edges = np.abs(cumulative - numbers.numpy()[:, None]).min(-1)
    assert all(a == b or edge < 1e-5 for a, b, edge in zip(tokens.tolist(), reference, edges, strict=True))
    reference = tokens.tolist()  # another one only where rounding decides
    # logits − their maximum, its exponential, sums of blocks and the log-prob itself are rounded to float32
    spread = float(logits.max() - logits.min())
    allowed = 2**-24 * (spread + 4) + relative_error(256) + 2**-24 * -np.log(p.min())
    assert np.abs(logprobs.numpy() - np.log(p[np.arange(64), reference])).max() < allowed < 1e-5


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.full((700,), -math.inf)
    logits[[3, 400]] = 0.0
    assert draw(logits, 0.0)[0] == 3
    assert draw(logits, float(np.nextafter(0.5, 0)))[0] == 3
    assert draw(logits, 0.5)[0] == 400
    assert draw(logits, float(np.nextafter(1.0, 0)))[0] == 400


def test_frequencies_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    number = 20000
    numbers = torch.from_numpy(uniforms(7, number))
    rows = logits.repeat(number, 1)
    tokens = sample(rows, numbers, [PLAIN] * number, [None] * number, num_best=[0] * number).tokens
    expected = torch.softmax(logits, -1) * number
    chi_square = ((tokens.bincount(minlength=5) - expected) ** 2 / expected).sum()
    assert chi_square < 18.5  # 99.9 % quantile of χ² with 4 degrees of freedom


def test_greedy_takes_the_best_and_reports_its_logprob_at_temperature_one() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    greedy = SamplingParams(temperature=0, top_p=0.1)
    assert draw(logits, 0.99, greedy) == (1, pytest.approx(math.log(0.5), abs=1e-6))


def test_rows_keep_their_own_settings() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().repeat(4, 1)
    params = [PLAIN, SamplingParams(top_k=2), SamplingParams(temperature=0), SamplingParams(min_p=0.5)]
    numbers = torch.full((4,), 0.9, dtype=torch.float64)
    tokens, logprobs, _ = sample(logits, numbers, params, [None] * 4, num_best=[0] * 4)
    assert tokens.tolist() == [2, 1, 0, 1]
    # top_k=2 renormalises to (5/8, 3/8); min_p=0.5 keeps p ≥ 0.25, the same two.
    assert logprobs.exp().tolist() == pytest.approx([0.2, 3 / 8, 0.5, 3 / 8], abs=1e-6)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_k=7),
        SamplingParams(top_p=0.3),
        SamplingParams(top_p=0.95),
        SamplingParams(min_p=0.1),
        SamplingParams(temperature=0.7, top_k=50, top_p=0.9, min_p=0.02, repetition_penalty=1.3),
        SamplingParams(temperature=5.0, top_p=0.999),
    ],
    ids=str,
)
def test_truncation_is_that_of_transformers(params: SamplingParams) -> None:
    logits = torch.randn(6, 3000) * 2
    prompt = torch.randint(0, 3000, (6, 20))
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(params.repetition_penalty)])
    steps.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        steps.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        steps.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        steps.append(MinPLogitsWarper(params.min_p))
    expected = torch.log_softmax(steps(prompt, logits.clone()).double(), -1)
    numbers = torch.rand(6, dtype=torch.float64)
    for row in range(6):
        seen = prompt[row].unique()
        cumulative = expected[row].exp().cumsum(-1)
        token, logprob = draw(logits[row], float(numbers[row]), params, seen)
        assert token == int(torch.searchsorted(cumulative, numbers[row], right=True))
        assert logprob == pytest.approx(float(expected[row, token]), abs=5e-6)


def test_top_p_keeps_the_best_token_and_ties() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.3]]).log()
    assert truncate(logits, [SamplingParams(top_p=1e-6)]).isfinite().tolist() == [[True, False, False]]
    assert truncate(logits, [SamplingParams(top_p=0.5)]).isfinite().tolist() == [[True, True, True]]


def test_a_longer_series_begins_alike_and_seeds_differ() -> None:
    assert uniforms(3, 100)[:10].tolist() == uniforms(3, 10).tolist()
    assert not np.isin(uniforms(3, 100), uniforms(4, 100)).any()
    seeds = completion_seeds(5, 20, 8)
    assert [row[:3] for row in seeds[:4]] == completion_seeds(5, 4, 3)
    assert len({seed for row in seeds + completion_seeds(6, 20, 8) for seed in row}) == 320


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"max_tokens": 0},
        {"stop": ("",)},
        {"stop": "text"},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingParams(**wrong)
