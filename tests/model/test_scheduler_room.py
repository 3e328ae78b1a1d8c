"""Who may begin: the limits of a request, the room of pools, and how many prompts share a pass."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from torch import nn

from alignloop.errors import DataError, ModelError, RunError, UserError
from alignloop.model import scheduler as engine
from alignloop.model.generate import generate
from alignloop.model.kv import Pool
from alignloop.model.resume import load_state_dict, state_dict
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Event, Request, Scheduler
from alignloop.model.tiny import tiny_model
from tests.helpers_models import assert_rows_same_but_for_ties
from tests.model.helpers import NO_END, assert_own_logprobs, small_model, some_prompts

POSITIONS = 256
"""Of the small model."""


def params(count: int, **more: Any) -> SamplingParams:
    return SamplingParams(max_tokens=count, **{"eos": NO_END, **more})


def request(prompt: int, count: int = 10, *, seeds: int = 1, given: int = 0, **more: Any) -> Request:
    """A request of so many tokens each; token ids do not matter."""
    return Request((5,) * prompt, params(count), tuple(range(seeds)), given=(6,) * given, **more)


def waiting(
    *requests: Request, budget: int = 1000, running: int = 0, reserved: int = 0, positions: int | None = None
) -> Scheduler:
    scheduler = Scheduler(small_model(), None, token_budget=budget)
    assert scheduler._max_positions == POSITIONS
    scheduler._max_positions = positions
    for one in requests:
        scheduler.add(one)
    scheduler.running = [None] * running  # type: ignore[list-item]
    scheduler.reserved = reserved
    return scheduler


def test_a_prompt_leaves_room_for_one_token_at_least() -> None:
    scheduler = waiting(positions=POSITIONS)
    number = scheduler.add(request(POSITIONS - 1, 50))
    assert scheduler.groups[number].max_tokens == 1
    assert scheduler.groups[scheduler.add(request(POSITIONS - 50, 50))].max_tokens == 50
    assert scheduler.groups[scheduler.add(request(POSITIONS - 49, 50))].max_tokens == 49
    with pytest.raises(DataError, match="the prompt has 256 tokens and the model 256 positions; shorten"):
        scheduler.add(request(POSITIONS))
    with pytest.raises(DataError, match="the prompt has no tokens"):
        scheduler.add(request(0))
    scheduler.add(request(100, given=156))
    with pytest.raises(
        DataError, match="has 100 tokens, what is given after it 157 and the model 256 positions"
    ):
        scheduler.add(request(100, given=157))


def test_prompt_and_completion_fit_into_the_budget_together() -> None:
    scheduler = waiting(budget=30)
    scheduler.add(request(20, 10))
    with pytest.raises(
        DataError, match=r"prompt \(21 tokens\) and completion \(10\) exceed the token budget of 30"
    ):
        scheduler.add(request(21, 10))
    assert scheduler.next_number == 1
    assert [scheduler.add(request(5)) for _ in range(3)] == [1, 2, 3]
    assert scheduler.add(request(5, seeds=0)) == 4  # nothing is wanted
    assert list(scheduler.groups) == [0, 1, 2, 3]


def test_a_model_without_a_limit_of_positions_has_none() -> None:
    scheduler = waiting(budget=10_000)
    assert scheduler.groups[scheduler.add(request(5000, 3000, given=4000))].max_tokens == 3000


def test_text_and_stop_strings_need_a_tokenizer() -> None:
    for scheduler, setting in (
        (Scheduler(small_model(), None), params(5, stop=("x",))),
        (Scheduler(small_model(), None, text=True), params(5)),
    ):
        with pytest.raises(UserError, match="text and stop strings need a tokenizer"):
            scheduler.add(Request((5,), setting, (1,)))
    with pytest.raises(ModelError, match="generation: Linear is not a transformers model"):
        Scheduler(nn.Linear(2, 2), None)  # type: ignore[arg-type]


def test_nothing_to_do_is_done_at_once() -> None:
    with Scheduler(small_model(), None) as scheduler:
        assert scheduler.idle
        assert scheduler.step() == []
        number = scheduler.add(request(5, seeds=2))
        assert not scheduler.idle
        scheduler.cancel(number)  # before it began
        assert scheduler.idle
        assert scheduler.step() == []
        number = scheduler.add(request(5, seeds=2))
        scheduler.step()
        assert len(scheduler.running) == 2
        assert scheduler.reserved == 5 + 2 * 10
        scheduler.cancel(number)
        assert (scheduler.running, scheduler.reserved, scheduler.pools, scheduler.groups) == ([], 0, {}, {})


@pytest.mark.parametrize(
    ("requests", "running", "later"),
    [
        ([], 80, False),
        ([request(10)], 0, False),
        ([request(10)], 80, False),  # all that wait fit
        ([request(195, 800), request(10)], 7, False),  # one of eight running is not enough to wait for
        ([request(195, 800), request(10)], 8, False),
        ([request(195, 800), request(10)], 15, False),
        ([request(195, 800), request(10)], 16, True),
        ([request(195, 805), request(10)], 16, True),
        ([request(180, 800), request(10)], 16, False),  # both fit, exactly
        ([request(181, 800), request(10)], 16, True),
        ([request(255, 740), request(10)], 16, True),
        ([request(128, 440), request(127, 200), request(100)], 24, True),
        ([request(128, 440), request(128, 200), request(100)], 24, False),  # 256 tokens are worth a pass
        ([request(128, 440, given=1), request(127, 200), request(100)], 24, False),
        ([request(195, 800), request(10), request(10)], 24, True),
    ],
)
def test_a_small_pass_waits_for_others_where_many_run(
    requests: list[Request], running: int, later: bool
) -> None:
    assert waiting(*requests, running=running)._better_later() is later


def test_a_small_pass_waits_only_for_room_and_for_prompts_that_are_not_stored() -> None:
    scheduler = waiting(request(195, 800), request(10), running=16)
    first = scheduler.groups[0]
    first.waiting = deque()
    assert not scheduler._better_later()  # it has begun, and the other fits
    scheduler.reserved = 981
    assert scheduler._better_later()
    scheduler.reserved = 980
    assert not scheduler._better_later()
    first.waiting, first.prefix = deque([0]), Pool(64, 1).add(10)
    scheduler.reserved = 5
    assert not scheduler._better_later()  # another completion of a stored prompt begins at once


@pytest.mark.parametrize(
    ("prompt", "seeds", "count", "kind"),
    [
        (1, 1, 10, (64, 1)),
        (64, 2, 10, (64, 2)),
        (65, 3, 10, (128, 4)),
        (128, 4, 10, (128, 4)),
        (129, 5, 10, (256, 8)),
        (10, 50, 250, (64, 4)),  # four fit into the budget
        (10, 50, 200, (64, 8)),  # five do
        (10, 50, 900, (64, 1)),
    ],
)
def test_pools_are_for_prompts_within_a_factor_of_two(
    prompt: int, seeds: int, count: int, kind: tuple[int, int]
) -> None:
    scheduler = waiting()
    group = scheduler.groups[scheduler.add(request(prompt, count, seeds=seeds))]
    assert scheduler._kind(group) == kind
    assert scheduler._pool(group).key == kind
    assert scheduler._pool(group) is scheduler.pools[kind]


def test_a_new_pool_has_slots_for_those_of_its_kind_that_wait_and_fit() -> None:
    scheduler = waiting(*[request(20, 30)] * 3, request(20, 30, seeds=2), request(100, 30))
    assert scheduler._pool(scheduler.groups[0]).slots == 3
    assert scheduler._pool(scheduler.groups[3]).slots == 1
    scheduler = waiting(*[request(20, 30)] * 9, budget=300, reserved=101)
    assert scheduler._pool(scheduler.groups[0]).slots == 3  # 199 tokens are left, 50 for each
    scheduler = waiting(*[request(20, 30)] * 9, budget=300, reserved=100)
    assert scheduler._pool(scheduler.groups[0]).slots == 4
    scheduler = waiting(*[request(20, 30)] * 3)
    scheduler.groups[1].prefix = Pool(64, 1).add(20)
    assert scheduler._pool(scheduler.groups[0]).slots == 2


@pytest.mark.parametrize(("last", "passes"), [(128, [512]), (129, [384, 129])])
def test_prompts_share_a_pass_up_to_a_number_of_tokens(last: int, passes: list[int]) -> None:
    model, widths = small_model(), []
    model.model.embed_tokens.register_forward_hook(lambda _m, args, _o: widths.append(args[0].numel()))
    assert engine.PREFILL_TOKENS == {"cpu": 512, "cuda": 2048}
    with Scheduler(model, None) as scheduler:
        for number, prompt in enumerate(some_prompts(128, 128, 128, last)):
            scheduler.add(Request(tuple(prompt), params(1), (number,)))
        while not scheduler.idle:
            scheduler.step()
    assert widths == passes


def test_completions_begin_as_long_as_they_fit() -> None:
    """12 tokens and 10 for each of two completions, then 8 and 10 for each of two."""
    model = small_model()
    prompts = some_prompts(12, 8)
    for budget, begun in ((40, 2), (49, 2), (50, 3), (60, 4)):
        with Scheduler(model, None, token_budget=budget) as scheduler:
            for number, prompt in enumerate(prompts):
                scheduler.add(Request(tuple(prompt), params(10), (2 * number, 2 * number + 1)))
            events = scheduler.step()
            assert len(events) == begun, budget
            while not scheduler.idle:
                events += scheduler.step()
                assert scheduler.reserved <= budget
            assert len(events) == 4 * 10


def test_an_end_token_counts_before_the_length_and_is_no_text() -> None:
    model, tokenizer = tiny_model()
    prompt = tokenizer("the sun").input_ids
    (free,) = generate(model, tokenizer, [prompt], params(5, seed=1))[0]
    ended = params(5, seed=1, eos=(free.ids[4],))
    place = free.ids.index(free.ids[4]) + 1
    (row,) = generate(model, tokenizer, [prompt], ended)[0]
    assert (row.ids, row.finish) == (free.ids[:place], "eos")
    assert row.text == tokenizer.decode(row.ids[:-1], skip_special_tokens=True)
    assert free.finish == "length"
    assert free.text == tokenizer.decode(free.ids, skip_special_tokens=True)


def test_a_requests_numbers_are_told_as_they_come() -> None:
    model, (prompt,) = small_model(), some_prompts(9)
    counted, done = [], []
    result = generate(
        model,
        None,
        [prompt],
        params(6),
        n=3,
        on_step=lambda number: counted.append(number),
        on_done=lambda prompt, index, sampled: done.append((len(counted), index)),
    )
    assert counted == [3] * 6
    assert sorted(done) == [(6, 0), (6, 1), (6, 2)]
    assert [len(row.ids) for row in result[0]] == [6] * 3


def test_a_saved_request_keeps_all_that_it_wants() -> None:
    model, (prompt, given) = small_model(), some_prompts(9, 4)
    setting = SamplingParams(max_tokens=6, temperature=0.5, top_k=7, seed=3, eos=NO_END)

    def drain(scheduler: Scheduler) -> list[Event]:
        events = []
        while not scheduler.idle:
            events += scheduler.step()
        return events

    with Scheduler(model, None) as scheduler:
        scheduler.add(Request(tuple(prompt), setting, (4, 5), num_best=3, given=tuple(given)))
        scheduler.add(Request(tuple(given), params(9), (6,)))
        first = scheduler.step()
        meta, tensors = state_dict(scheduler)
        expected = drain(scheduler)
    with Scheduler(model, None) as scheduler:
        load_state_dict(scheduler, meta, tensors)
        assert scheduler.next_number == 2
        assert scheduler.reserved == 9 + 2 * 6 + 4 + 9
        assert scheduler.groups[0].request == Request(tuple(prompt), setting, (4, 5), 3, tuple(given))
        assert drain(scheduler) == expected
    for event in expected:
        if event.sampled is not None and event.request == 0:
            assert_own_logprobs(model, prompt, given, event.sampled.given)
    assert {len(event.best) for event in first if event.request == 0} == {3}
    # a state without what came later into the format
    old = {
        **meta,
        "groups": [
            {k: v for k, v in g.items() if k not in ("num_best", "given", "given_logprobs")}
            for g in meta["groups"]
        ],
    }
    with Scheduler(model, None) as scheduler:
        load_state_dict(scheduler, old, tensors)
        assert scheduler.groups[0].request == Request(tuple(prompt), setting, (4, 5))
        events = drain(scheduler)
        assert [event.token for event in events] == [event.token for event in expected]
        with pytest.raises(RunError, match="the scheduler already has requests"):
            load_state_dict(scheduler, meta, tensors)


@pytest.mark.parametrize("budget", [1000, 35])
def test_several_completions_do_not_follow_what_is_given(budget: int) -> None:
    """Its keys are kept for a lone completion only; here all begin anew, beside or after each other."""
    model, (prompt,) = small_model(), some_prompts(12)
    setting = params(20, temperature=0.7)
    plain = generate(model, None, [prompt], setting, n=3)
    for number in range(3):
        own = plain[0][number].ids
        given = [*own[:7], 5 if own[7] != 5 else 6, 8]  # left after seven tokens
        read = generate(model, None, [prompt], setting, n=3, given=[given], token_budget=budget)
        assert_rows_same_but_for_ties(model, [prompt], setting, plain, read)
        assert_own_logprobs(model, prompt, given, read[0][0].given)
