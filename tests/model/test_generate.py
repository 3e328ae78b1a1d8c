from __future__ import annotations

import copy
import json
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from alignloop.errors import DataError, NonFiniteError, RunError, UserError
from alignloop.model.generate import generate, stream
from alignloop.model.own_numbers import check_engine
from alignloop.model.resume import load_state_dict, state_dict
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Event, Request, Sampled, Scheduler
from alignloop.model.tiny import tiny_model
from tests.helpers_models import assert_rows_same_but_for_ties, assert_same_but_for_ties, rounding_bound
from tests.model.helpers import (
    CONFIGS,
    NO_END,
    assert_own_logprobs,
    plain_logprobs,
    small_model,
    some_prompts,
)


def all_rows(result: list[list[Sampled]]) -> list[list[int]]:
    return [sampled.ids for row in result for sampled in row]


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_is_that_of_transformers(name: str) -> None:
    model = small_model(name)
    prompts = some_prompts(3, 21, 70, 9)
    params = SamplingParams(temperature=0, max_tokens=40)
    result = generate(model, None, prompts, params, n=2)
    for prompt, (first, second) in zip(prompts, result, strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, use_cache=True)
        for one in (first, second):
            assert_same_but_for_ties(model, prompt, params, one.ids, expected[0, len(prompt) :].tolist())
            assert one.finish == ("eos" if one.ids[-1] == 2 else "length")


def test_a_repetition_penalty_counts_prompt_and_answer() -> None:
    """Divided where positive, multiplied where negative; rows beside it without one are as before."""
    model, prompts = small_model(), some_prompts(5, 12)
    params = SamplingParams(temperature=0, max_tokens=12, repetition_penalty=1.6, eos=NO_END)
    plain = SamplingParams(temperature=0, max_tokens=12, eos=NO_END)
    for prompt, (row,) in zip(prompts, generate(model, None, prompts, params), strict=True):
        ids = list(prompt)
        for token in row.ids:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            seen = torch.tensor(sorted(set(ids)))
            values = logits[seen]
            logits[seen] = torch.where(values > 0, values / 1.6, values * 1.6)
            assert logits[token] > logits.max() - 1e-4
            ids.append(token)
    assert all_rows(generate(model, None, prompts, params)) != all_rows(generate(model, None, prompts, plain))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "gpt2"])
def test_logprobs_are_those_of_a_plain_forward_pass(name: str) -> None:
    model = small_model(name)
    prompts = some_prompts(5, 30, 12)
    result = generate(model, None, prompts, SamplingParams(max_tokens=50), n=3)
    for prompt, row in zip(prompts, result, strict=True):
        for sampled in row:
            assert_own_logprobs(model, prompt, sampled.ids, sampled.logprobs)


def test_logprobs_are_those_of_the_distribution_drawn_from() -> None:
    model, prompts = small_model(), some_prompts(6)
    params = SamplingParams(temperature=1.7, top_k=9, max_tokens=30, eos=NO_END)
    (sampled,) = generate(model, None, prompts, params)[0]
    taken = torch.tensor(sampled.ids)[:, None]

    def read(some_model: PreTrainedModel) -> Tensor:
        best = (plain_logprobs(some_model, prompts[0], sampled.ids) / 1.7).topk(9)
        assert (best.indices == taken).any(-1).all()
        return best.values.log_softmax(-1)[best.indices == taken]

    allowed = rounding_bound(model, read, length=36)
    assert allowed < 1e-3
    assert (torch.tensor(sampled.logprobs) - read(copy.deepcopy(model).double())).abs().max() < allowed


def test_a_completion_does_not_depend_on_what_else_is_in_the_batch() -> None:
    model = small_model()
    prompts = some_prompts(4, 90, 33, 8, 17, 64)
    params = SamplingParams(max_tokens=40, temperature=0.8)
    seeds = [[100 * prompt + index for index in range(3)] for prompt in range(6)]
    together = generate(model, None, prompts, params, n=3, seeds=seeds)
    for prompt, row, drawn in zip(prompts, seeds, together, strict=True):
        for seed, sampled in zip(row, drawn, strict=True):
            ((alone,),) = generate(model, None, [prompt], params, seeds=[[seed]])
            assert_same_but_for_ties(model, prompt, params, sampled.ids, alone.ids, seed=seed)
    assert len({tuple(ids) for ids in all_rows(together)}) == 18


def test_under_a_small_budget_completions_wait_and_come_out_the_same() -> None:
    model = small_model()
    prompts = some_prompts(10, 40, 7, 25)
    params = SamplingParams(max_tokens=20)
    free = generate(model, None, prompts, params, n=6)
    with Scheduler(model, None, token_budget=100) as scheduler:
        for number, prompt in enumerate(prompts):
            seeds = tuple(range(6 * number, 6 * number + 6))
            scheduler.add(Request(tuple(prompt), params, seeds))
        most = 0
        while not scheduler.idle:
            scheduler.step()
            assert scheduler.reserved <= 100
            most = max(most, len(scheduler.running))
        assert scheduler.reserved == 0
        assert not scheduler.pools
        assert 1 < most < 24
    tight = generate(model, None, prompts, params, n=6, token_budget=100)
    assert_rows_same_but_for_ties(model, prompts, params, tight, free)


def test_every_prompt_runs_once_and_finished_rows_leave() -> None:
    model = small_model()
    check_engine(model)
    widths = []
    model.model.embed_tokens.register_forward_hook(lambda _m, args, _o: widths.append(args[0].numel()))
    prompts = some_prompts(11, 30)
    result = generate(model, None, prompts, SamplingParams(max_tokens=80, temperature=2.0), n=8)
    lengths = [len(sampled.ids) for row in result for sampled in row]
    assert min(lengths) < 80  # some ended early
    assert widths[0] == 41
    # The last token of a completion is never run, and no row runs after its end.
    assert widths[1:] == [sum(length > step for length in lengths) for step in range(1, max(lengths))]


def test_completions_end_by_eos_length_or_the_positions_of_the_model() -> None:
    model = small_model()
    (prompt,) = some_prompts(250)
    (sampled,) = generate(model, None, [prompt], SamplingParams(max_tokens=50, eos=NO_END))[0]
    assert (len(sampled.ids), sampled.finish) == (6, "length")  # 256 positions
    ids = generate(model, None, [prompt[:9]], SamplingParams(max_tokens=9, eos=NO_END))[0][0].ids
    ended = generate(model, None, [prompt[:9]], SamplingParams(max_tokens=9, eos=(ids[4],)))[0][0]
    assert (ended.ids, ended.finish) == (ids[: ids.index(ids[4]) + 1], "eos")


def test_stop_strings_end_the_completion_and_cut_the_text() -> None:
    model, tokenizer = tiny_model()
    prompt = tokenizer("the sun").input_ids
    free = SamplingParams(max_tokens=60, eos=NO_END, seed=3)
    (whole,) = generate(model, tokenizer, [prompt], free)[0]
    assert whole.text == tokenizer.decode(whole.ids, skip_special_tokens=True)
    place = next(i for i in range(8, len(whole.text)) if whole.text[i : i + 2].isascii())
    stop = whole.text[place : place + 2]
    cut = SamplingParams(max_tokens=60, eos=NO_END, seed=3, stop=("never to be seen", stop))
    (sampled,) = generate(model, tokenizer, [prompt], cut)[0]
    assert sampled.finish == "stop"
    assert sampled.text == whole.text[: whole.text.index(stop)]
    assert sampled.ids == whole.ids[: len(sampled.ids)]
    assert stop in tokenizer.decode(sampled.ids)
    assert stop not in tokenizer.decode(sampled.ids[:-1])


def test_streamed_pieces_add_up_to_the_text() -> None:
    model, tokenizer = tiny_model()
    prompt = tokenizer("비가 오면").input_ids
    params = SamplingParams(max_tokens=80, temperature=1.5, stop=("zq",), eos=NO_END)
    events = list(stream(model, tokenizer, prompt, params))
    sampled = events[-1].sampled
    assert sampled is not None
    assert sampled == generate(model, tokenizer, [prompt], params, seeds=[[params.seed]])[0][0]
    assert "".join(event.text for event in events) == sampled.text
    assert [event.token for event in events] == sampled.ids
    assert [event.finish for event in events] == [None] * 79 + ["length"]
    assert model.config._attn_implementation != "alignloop_decode"


def test_requests_may_come_and_go_while_others_run() -> None:
    model = small_model()
    first, second, third = (tuple(prompt) for prompt in some_prompts(12, 5, 80))
    params = SamplingParams(max_tokens=30, eos=NO_END)
    ended: dict[int, Sampled] = {}
    with Scheduler(model, None) as scheduler:
        one = scheduler.add(Request(first, params, (1,)))
        two = scheduler.add(Request(second, params, (2, 3)))
        for _ in range(9):
            scheduler.step()
        scheduler.cancel(two)
        scheduler.cancel(99)
        three = scheduler.add(Request(third, params, (4,)))
        events: list[Event] = []
        while not scheduler.idle:
            events += scheduler.step()
        ended = {event.request: event.sampled for event in events if event.sampled}
        assert scheduler.reserved == 0
    assert set(ended) == {one, three}
    for number, prompt, seed in ((one, first, 1), (three, third, 4)):
        ((alone,),) = generate(model, None, [prompt], params, seeds=[[seed]])
        assert_same_but_for_ties(model, prompt, params, ended[number].ids, alone.ids, seed=seed)


def test_pools_shrink_and_grow_without_changing_tokens() -> None:
    model = small_model("gemma3")
    prompts = some_prompts(8, 70, 20, 65, 9, 12)
    params = [SamplingParams(max_tokens=length, eos=NO_END) for length in (3, 70, 5, 40, 33, 2)]
    with Scheduler(model, None) as scheduler:
        for number, (prompt, setting) in enumerate(zip(prompts, params, strict=True)):
            count = 1 + 3 * (number % 3)
            scheduler.add(Request(tuple(prompt), setting, tuple(10 * number + k for k in range(count))))
        sampled: dict[tuple[int, int], Sampled] = {}
        while not scheduler.idle:
            for event in scheduler.step():
                if event.sampled is not None:
                    sampled[event.request, event.index] = event.sampled
    for (number, index), got in sampled.items():
        seed = 10 * number + index
        ((alone,),) = generate(model, None, [prompts[number]], params[number], seeds=[[seed]])
        assert_same_but_for_ties(model, prompts[number], params[number], got.ids, alone.ids, seed=seed)
    assert len(sampled) == sum(1 + 3 * (number % 3) for number in range(6))


def test_a_saved_generation_continues_bit_for_bit(tmp_path) -> None:
    model, tokenizer = tiny_model()
    prompts = [
        tokenizer(text).input_ids for text in ("a good answer", "how do bees", "나무", "list of three")
    ]
    params = SamplingParams(max_tokens=40, temperature=1.3, stop=("xq",))

    def fresh() -> Scheduler:
        return Scheduler(model, tokenizer, token_budget=300)

    def drain(scheduler: Scheduler) -> list[Event]:
        events = []
        while not scheduler.idle:
            events += scheduler.step()
        return events

    for steps in (0, 1, 17, 45):
        with fresh() as scheduler:
            for number, prompt in enumerate(prompts):
                scheduler.add(Request(tuple(prompt), params, tuple(range(4 * number, 4 * number + 4))))
            for _ in range(steps):
                scheduler.step()
            meta, tensors = state_dict(scheduler)
            save_file(tensors, tmp_path / "state.safetensors")
            expected = drain(scheduler)
        with fresh() as scheduler:
            load_state_dict(
                scheduler, json.loads(json.dumps(meta)), load_file(tmp_path / "state.safetensors")
            )
            assert drain(scheduler) == expected
        assert len(expected) > 100
    with fresh() as scheduler, pytest.raises(RunError, match="format"):
        load_state_dict(scheduler, {"format": 0}, {})


def test_lora_runs_unmerged_and_like_merged() -> None:
    model = get_peft_model(small_model(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.train()
    prompts = some_prompts(14, 6)
    params = SamplingParams(temperature=0, max_tokens=30)
    adapted = generate(model, None, prompts, params)
    with model.disable_adapter():
        bare = generate(model, None, prompts, params)
    assert all_rows(adapted) != all_rows(bare)
    assert model.training
    merged = model.merge_and_unload().eval()
    assert_rows_same_but_for_ties(merged, prompts, params, adapted, generate(merged, None, prompts, params))


def test_bfloat16_agrees_with_its_own_forward_pass() -> None:
    model = small_model().to(torch.bfloat16)
    (prompt,) = some_prompts(20)
    for sampled in generate(model, None, [prompt], SamplingParams(max_tokens=30, eos=NO_END), n=4)[0]:
        logprobs = plain_logprobs(model, prompt, sampled.ids).gather(1, torch.tensor(sampled.ids)[:, None])
        # bfloat16 keeps 8 bits, and logits here reach ±10.
        assert (torch.tensor(sampled.logprobs) - logprobs.squeeze(1)).abs().mean() < 0.1


def test_the_model_is_left_as_it_was_even_after_an_error() -> None:
    model = small_model("qwen2")
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    implementation = model.config._attn_implementation
    check_engine(model)  # which refuses a model that is damaged before its first answer
    model.lm_head.weight.data[7] = torch.nan
    with pytest.raises(NonFiniteError, match="not finite at token 0 of completion 0"):
        generate(model, None, some_prompts(5), SamplingParams())
    assert [module.training for module in model.modules()] == before
    assert model.config._attn_implementation == implementation
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_weights_may_change_between_calls() -> None:
    model = small_model()
    prompts, params = some_prompts(5), SamplingParams(temperature=0, max_tokens=12)
    before = all_rows(generate(model, None, prompts, params))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    expected = model.generate(torch.tensor(prompts), max_new_tokens=12, do_sample=False)[0, 5:].tolist()
    (ids,) = all_rows(generate(model, None, prompts, params))
    assert_same_but_for_ties(model, prompts[0], params, ids, expected)
    assert [ids] != before


def test_seeds_from_one_seed_are_stable_in_n_and_differ_between_completions() -> None:
    model, prompts = small_model(), some_prompts(5, 8)
    params = SamplingParams(max_tokens=16, eos=NO_END)
    few = generate(model, None, prompts, params, n=2)
    many = generate(model, None, prompts, params, n=5)
    assert_rows_same_but_for_ties(model, prompts, params, many, few)
    assert all(a != b for a, b in pairwise(sorted(all_rows(many))))


def test_on_done_sees_each_completion_once() -> None:
    seen: dict[tuple[int, int], Sampled] = {}
    result = generate(
        small_model(),
        None,
        some_prompts(5, 6),
        SamplingParams(max_tokens=10),
        n=3,
        on_done=lambda prompt, index, sampled: seen.__setitem__((prompt, index), sampled),
    )
    assert seen == {(p, i): sampled for p, row in enumerate(result) for i, sampled in enumerate(row)}


def test_what_cannot_run_is_refused_with_a_reason() -> None:
    model, params = small_model(), SamplingParams(max_tokens=10)
    with pytest.raises(DataError, match="no tokens"):
        generate(model, None, [[]], params)
    with pytest.raises(DataError, match="300 tokens and the model 256"):
        generate(model, None, some_prompts(300), params)
    with pytest.raises(DataError, match="token budget of 20"):
        generate(model, None, some_prompts(15), params, token_budget=20)
    with pytest.raises(UserError, match="seeds must be 2 rows of 3"):
        generate(model, None, some_prompts(4, 4), params, n=3, seeds=[[1, 2, 3], [1, 2]])
    with pytest.raises(UserError, match="need a tokenizer"):
        generate(model, None, some_prompts(4), SamplingParams(stop=("x",)))
