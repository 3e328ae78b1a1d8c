"""The generation engine with requests of its own: shared first tokens, most probable tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignloop.errors import DataError, UserError
from alignloop.model.generate import Unfinished, generate
from alignloop.model.kv import Pool, common_start
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Event, Request, Scheduler
from tests.helpers_models import assert_rows_same_but_for_ties, assert_same_but_for_ties, rounding_bound
from tests.model.helpers import (
    CONFIGS,
    NO_END,
    assert_own_logprobs,
    plain_logprobs,
    small_model,
    some_prompts,
)


@pytest.mark.parametrize("name", CONFIGS)
def test_first_tokens_in_common_run_once_and_change_nothing(name: str) -> None:
    """With a prompt of the same row, of a shorter pool, wholly contained, or running already."""
    model = small_model(name)
    widths = []
    model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: widths.append(args[0].numel()))
    head, *rest = some_prompts(30, 5, 60, 11)
    prompts = [head + rest[0], head + rest[1], head[:20], head + rest[0] + rest[2], head]
    params = SamplingParams(temperature=0, max_tokens=25, eos=NO_END)
    with Scheduler(model, None) as scheduler:
        events: list[Event] = []
        for number, prompt in enumerate(prompts):
            scheduler.add(Request(tuple(prompt), params, (number,)))
            if number >= 3:
                events += scheduler.step()
        while not scheduler.idle:
            events += scheduler.step()
    # 35 whole, 60 after 30 in common, 1 of 20 (the last token always runs), 11 after 35; then 1 of 30.
    assert widths[:2] == [35 + 60 + 1 + 11, 1]
    for number, prompt in enumerate(prompts):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=25, min_new_tokens=25, do_sample=False, eos_token_id=None
        )
        got = [e.token for e in events if e.request == number]
        assert_same_but_for_ties(model, prompt, params, got, expected[0, len(prompt) :].tolist())


def test_prompts_wait_for_others_while_many_completions_run() -> None:
    """With room for one prompt at a time none runs alone, unless nothing else is left to wait for."""
    model, seen, begun = small_model(), set[int](), []
    with Scheduler(model, None, token_budget=32 * 60) as scheduler:
        for number, prompt in enumerate(some_prompts(*[9] * 60)):
            params = SamplingParams(max_tokens=20 + number, eos=NO_END)
            scheduler.add(Request(tuple(prompt), params, (number,)))
        while not scheduler.idle:
            running = len(scheduler.running)
            fresh = {event.request for event in scheduler.step()} - seen
            seen |= fresh
            if fresh and running and any(group.waiting for group in scheduler.groups.values()):
                begun.append((len(fresh), running))
    assert seen == set(range(60))
    assert all(number >= running // 8 for number, running in begun)
    assert max(running for _, running in begun) >= 16


def test_a_few_tokens_in_common_are_not_worth_copying() -> None:
    pool = Pool(64, 1)
    stored = [(pool.add(20), tuple(range(20))), (pool.add(9), tuple(range(9)))]
    assert common_start((*range(7), 50, 51), stored) == (None, 0)
    assert common_start((*range(8), 50, 51), stored) == (stored[0][0], 8)
    assert common_start(tuple(range(9)), stored) == (stored[0][0], 8)
    assert common_start(tuple(range(40)), stored) == (stored[0][0], 20)
    assert common_start(tuple(range(40)), stored[1:]) == (stored[1][0], 9)


def test_most_probable_tokens_come_with_the_drawn_one() -> None:
    model, (prompt,) = small_model(), some_prompts(6)
    params = SamplingParams(max_tokens=12, eos=NO_END)
    with Scheduler(model, None) as scheduler:
        number = scheduler.add(Request(tuple(prompt), params, (1,), num_best=3))
        scheduler.add(Request(tuple(prompt), params, (1,)))
        events: list[Event] = []
        while not scheduler.idle:
            events += scheduler.step()
    mine = [event for event in events if event.request == number]
    ids = [event.token for event in mine]

    def read(some_model: PreTrainedModel) -> Tensor:
        return plain_logprobs(some_model, prompt, ids)

    expected, allowed = read(copy.deepcopy(model).double()), rounding_bound(model, read, length=18)
    assert allowed < 1e-3
    tokens = torch.tensor([[token for token, _ in event.best] for event in mine])
    found = torch.tensor([[logprob for _, logprob in event.best] for event in mine])
    assert (found - expected.gather(1, tokens)).abs().max() < allowed
    assert (found - expected.topk(3).values).abs().max() < allowed
    assert (found.diff() < 0).all()
    assert all(event.best == () for event in events if event.request != number)


@pytest.mark.parametrize("name", CONFIGS)
def test_given_tokens_are_read_while_their_prompt_runs(name: str) -> None:
    """Their log-probs are the model's own whatever is drawn."""
    model = small_model(name)
    widths = []
    model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: widths.append(args[0].numel()))
    head, one, two, *given = some_prompts(20, 30, 11, 25, 1, 14)
    prompts = [head + one, head + two, [*one]]
    params = SamplingParams(temperature=0.5, top_k=3, max_tokens=20, eos=NO_END)
    plain = generate(model, None, prompts, params, n=2)
    widths.clear()
    read = generate(model, None, prompts, params, n=2, given=given)
    # The shared head runs once; the last token of each that is given predicts nothing.
    assert widths[0] == 50 + 24 + 11 + 30 + 13
    for prompt, other, row, same in zip(prompts, given, read, plain, strict=True):
        assert_own_logprobs(model, prompt, other, row[0].given)
        assert row[0].given == row[1].given
        assert same[0].given == []
    assert_rows_same_but_for_ties(model, prompts, params, read, plain)


def test_what_is_given_survives_a_stop_and_fits_the_model() -> None:
    model, prompts, given = small_model(), some_prompts(9, 12, 30), some_prompts(40, 3, 7)
    params = SamplingParams(max_tokens=20, eos=NO_END)
    whole = generate(model, None, prompts, params, given=given, token_budget=60)
    kept = []
    with pytest.raises(KeyboardInterrupt):
        generate(
            model, None, prompts, params, given=given, token_budget=60, keep=lambda f: _stop_at(5, f, kept)
        )
    rest = generate(model, None, prompts, params, given=given, token_budget=60, begun=kept[-1])
    assert rest == whole
    with pytest.raises(DataError, match="given after it 250 and the model 256 positions"):
        generate(model, None, [[5] * 9], params, given=[[5] * 250])
    with pytest.raises(UserError, match="2 answers given for 1 prompts"):
        generate(model, None, [[5] * 9], params, given=[[5], [6]])


def _stop_at(steps: int, unfinished: Callable[[], Unfinished], kept: list[Unfinished]) -> None:
    kept.append(unfinished())
    if len(kept) == steps:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_completion_runs_from_where_it_leaves_what_was_given(name: str, temperature: float) -> None:
    """Given its own first tokens it draws them without a step of its own, and goes on as without them."""
    model = small_model(name)
    prompts = some_prompts(20, 30, 11, 9)
    params = SamplingParams(temperature=temperature, max_tokens=20, eos=NO_END)
    plain = generate(model, None, prompts, params)
    own = [row[0].ids for row in plain]
    # another token after seven, the whole answer, nothing in common, the answer and more
    given = [[*own[0][:7], _another(own[0][7]), *own[0][8:]], own[1], [_another(own[2][0]), 7, 8]]
    given.append([*own[3], 4, 4])
    rows: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: rows.append(args[0].numel()))
    read = generate(model, None, prompts, params, given=given)
    widths = list(rows)
    assert_rows_same_but_for_ties(model, prompts, params, read, plain)
    drawn = [row[0].ids for row in read]
    steps = [20 - _along(ids, other) for ids, other in zip(drawn, given, strict=True)]
    assert steps == [12, 0, 19, 0] or drawn != own  # a tie that rounding decides
    assert widths[0] == 70 + 19 + 19 + 2 + 21
    assert widths[1:] == [sum(number > step for number in steps) for step in range(max(steps))]
    for prompt, (sampled,) in zip(prompts, read, strict=True):
        if temperature == 0:
            assert_own_logprobs(model, prompt, sampled.ids, sampled.logprobs)


def _another(token: int) -> int:
    return 5 if token != 5 else 6


def _along(ids: list[int], given: list[int]) -> int:
    """Tokens of a completion that need no step: those it has in common with what was given, and one."""
    common = next((i for i, (a, b) in enumerate(zip(ids, given, strict=False)) if a != b), len(ids))
    return min(common + 1, len(ids), len(given))


def test_what_was_given_is_followed_to_an_end_only_once() -> None:
    """An end token ends the completion there; completions that run one after another begin anew."""
    model, (prompt,) = small_model(), some_prompts(12)
    params = SamplingParams(temperature=0.7, max_tokens=20, eos=NO_END)
    (own,) = generate(model, None, [prompt], params)
    ends = replace(params, eos=(own[0].ids[9],))
    (plain,) = generate(model, None, [prompt], ends)
    (read,) = generate(model, None, [prompt], ends, given=[own[0].ids])
    assert plain[0].finish == read[0].finish == "eos"
    assert plain[0].ids == own[0].ids[: len(plain[0].ids)]
    assert_rows_same_but_for_ties(model, [prompt], params, [plain], [read])
    several = generate(model, None, [prompt], params, n=3)
    tight = generate(model, None, [prompt], params, n=3, given=[several[0][1].ids], token_budget=35)
    assert_rows_same_but_for_ties(model, [prompt], params, several, tight)


@pytest.mark.parametrize("width", [1, 2])
def test_slots_of_running_prompts_have_no_gaps(width: int) -> None:
    """The last prompt moves into a freed slot with its keys and its completions' keys."""
    pool = Pool(16, width, slots=4)
    stored = [pool.add(10) for _ in range(3)]
    like = torch.zeros(2, 1, 4)
    for prefix in stored:
        pool.open(prefix)
    layer = pool.layer(0, like, like)
    prompts, own = (layer.prompt_keys, layer.prompt_values), (layer.own_keys, layer.own_values)
    stores = prompts if width == 1 else prompts + own
    for number, store in enumerate(stores):
        for slot in range(3):
            store[slot] = 10 * number + slot
    pool.drop(stored[0])
    assert [prefix.slot for prefix in pool.prefixes] == [1, 0]
    for number, store in enumerate(stores):
        assert store[:2].flatten(1)[:, 0].tolist() == [10 * number + 2, 10 * number + 1]
    stored += [pool.add(10, 40) for _ in range(3)]  # more slots and longer answers than there was room for
    for number, store in enumerate((layer.prompt_keys, layer.prompt_values)):
        assert store.shape == (8, 2, 16 + 64 if width == 1 else 16, 4)
        assert store[:2].flatten(1)[:, 0].tolist() == [10 * number + 1, 10 * number + 2]
    for prefix in stored[1:]:
        pool.drop(prefix)
    assert not pool.prefixes
