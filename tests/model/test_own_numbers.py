"""The engine against the models themselves: exact, or refused by name before anything is generated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import transformers as hf

from alignloop.errors import DataError, ModelError
from alignloop.model import decode, own_numbers, packed
from alignloop.model.generate import generate, stream
from alignloop.model.own_numbers import check_engine, check_shape
from alignloop.model.positions import max_positions, steady_positions
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Scheduler
from alignloop.model.tiny import tiny_model
from tests.model.helpers import CONFIGS, NO_END, OTHERS, REFUSED, plain_logprobs, small_model, some_prompts


@pytest.mark.parametrize("name", OTHERS)
def test_every_token_and_logprob_is_the_models_own(name: str) -> None:
    """Greedy and drawn, over prompts and answers that are longer than the windows."""
    model = small_model(name)
    prompts = some_prompts(21, 3, 40)
    greedy = generate(model, None, prompts, SamplingParams(temperature=0, max_tokens=20, eos=NO_END))
    drawn = generate(model, None, prompts, SamplingParams(max_tokens=20, eos=NO_END), n=2)
    for prompt, (first,), rows in zip(prompts, greedy, drawn, strict=True):
        assert first.ids == plain_logprobs(model, prompt, first.ids).argmax(-1).tolist()
        for row in rows:
            own = plain_logprobs(model, prompt, row.ids).gather(1, torch.tensor(row.ids)[:, None])[:, 0]
            assert (own - torch.tensor(row.logprobs)).abs().max() < 1e-4


@pytest.mark.parametrize("name", [*CONFIGS, *OTHERS])
def test_what_is_exact_passes_by_its_shape_and_by_itself(name: str) -> None:
    model = small_model(name)
    check_shape(model.config)
    check_engine(model)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_generated_is_refused_by_its_shape_alone(name: str) -> None:
    config, sentence = REFUSED[name]
    with pytest.raises(ModelError, match=rf"generation: {sentence}.*; use a model of another architecture"):
        check_shape(config())


@pytest.mark.parametrize("name", ["doge", "gpt_oss", "mamba", "bloom"])
def test_what_cannot_be_generated_is_refused_with_the_model_at_hand(name: str) -> None:
    config, sentence = REFUSED[name]
    model = hf.AutoModelForCausalLM.from_config(config()).eval()
    with pytest.raises(ModelError, match=sentence):
        generate(model, None, some_prompts(5), SamplingParams())


@pytest.fixture
def wrong_scale(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An engine that forgets half of its scores' factor."""
    right = decode._PoolStep.attend
    monkeypatch.setattr(
        decode._PoolStep,
        "attend",
        lambda self, layer, q, k, v, rules: right(
            self, layer, q, k, v, replace(rules, scaling=2 * rules.scaling)
        ),
    )
    monkeypatch.setattr(own_numbers, "_known_shapes", set())
    return


@pytest.mark.usefixtures("wrong_scale")
def test_an_engine_that_computes_something_else_is_found_before_the_first_token() -> None:
    sentence = (
        r"does not give LlamaForCausalLM's own log-probs, they differ by up to [0-9.]+ nats where rounding"
    )
    small = small_model()
    half = small_model().bfloat16()
    _, tokenizer = tiny_model()
    with pytest.raises(ModelError, match=sentence):
        generate(small, None, some_prompts(5), SamplingParams())
    with pytest.raises(ModelError, match=sentence):
        generate(small, None, some_prompts(5), SamplingParams())  # not only once
    with pytest.raises(ModelError, match=sentence):
        next(stream(small, tokenizer, [5, 6], SamplingParams()))
    with pytest.raises(ModelError, match=sentence):
        check_shape(small.config)
    # compared in float32, as rounding would hide what is wrong by a few hundredths
    with pytest.raises(ModelError, match=sentence):
        generate(half, None, some_prompts(5), SamplingParams())


def test_an_engine_that_forgets_a_window_is_found_though_the_probe_is_shorter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = hf.MistralConfig(**{**CONFIGS["mistral"]().to_dict(), "sliding_window": 100})
    model = hf.MistralForCausalLM(config).eval()
    check_engine(model)
    monkeypatch.setattr(decode._PoolStep, "bias", _without_window(decode._PoolStep.bias))
    other = hf.MistralForCausalLM(config).eval()
    with pytest.raises(ModelError, match="does not give MistralForCausalLM's own log-probs"):
        check_engine(other)


def _without_window(bias):
    return lambda self, _window, like: bias(self, None, like)


def test_a_model_is_compared_once_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type] = []
    entered = Scheduler.__enter__
    monkeypatch.setattr(
        Scheduler, "__enter__", lambda self: (seen.append(type(self.model)), entered(self))[1]
    )
    model = small_model("gemma3")
    packed.PackedModel(model, shared_prefix=True)  # as in a rollout, where attention is the trainer's
    model.train()
    model.model.layers[0].eval()
    training = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    for _ in range(3):
        check_engine(model)
    assert len(seen) == 1
    assert torch.equal(state, torch.random.get_rng_state())
    assert [module.training for module in model.modules()] == training
    assert model.config._attn_implementation == packed.attention.SHARED_PREFIX
    assert [layer.self_attn.sliding_window for layer in model.model.layers] == [8, None, 8, None]
    assert model.config.sliding_window == 8
    with torch.autocast("cpu", torch.bfloat16):
        check_engine(model)
        check_engine(small_model("gemma3"))
        check_engine(small_model("gemma3").bfloat16())
    assert len(seen) == 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_damaged_model_is_refused_by_the_weights_name(value: float) -> None:
    model = small_model()
    model.model.layers[2].mlp.down_proj.weight.data[1, 3] = value
    sentence = r"AL303: weight 'model.layers.2.mlp.down_proj.weight' holds NaN or infinity"
    for _ in range(2):
        with pytest.raises(ModelError, match=sentence):
            generate(model, None, some_prompts(5), SamplingParams())


def test_log_probs_that_are_nan_with_finite_weights_are_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, out: out - torch.inf * out)
    with pytest.raises(ModelError, match="AL303: LlamaForCausalLM gives log-probs that are NaN with finite"):
        check_engine(model)
    # the engine alone
    right = decode._PoolStep.attend
    monkeypatch.setattr(decode._PoolStep, "attend", lambda *arguments: right(*arguments) * torch.nan)
    with pytest.raises(ModelError, match="the local engine gives log-probs of LlamaForCausalLM that are NaN"):
        check_engine(small_model())


def test_logits_that_a_model_masks_are_compared_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of −∞, as models give for words that stand for padding, is no reason not to look."""

    def masked(module, inputs, out):
        out[..., 7:9] = -torch.inf
        return out

    model = small_model()
    model.lm_head.register_forward_hook(masked)
    check_engine(model)
    right = decode._PoolStep.attend
    monkeypatch.setattr(
        decode._PoolStep, "attend", lambda self, layer, q, *more: right(self, layer, 2 * q, *more)
    )
    wrong = small_model()
    wrong.lm_head.register_forward_hook(masked)
    with pytest.raises(ModelError, match="does not give LlamaForCausalLM's own log-probs"):
        check_engine(wrong)


def test_a_model_without_room_for_a_probe_is_not_compared() -> None:
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(**{**CONFIGS["llama"]().to_dict(), "max_position_embeddings": 3})
    )
    check_engine(model.eval())


def test_longrope_is_exact_up_to_where_frequencies_change_and_refused_beyond() -> None:
    model = small_model("longrope")
    assert (max_positions(model.config), steady_positions(model.config)) == (256, 64)
    (prompt,) = some_prompts(60)
    (row,) = generate(model, None, [prompt], SamplingParams(max_tokens=30, eos=NO_END))[0]
    assert (len(row.ids), row.finish) == (4, "length")
    own = plain_logprobs(model, prompt, row.ids).gather(1, torch.tensor(row.ids)[:, None])[:, 0]
    assert (own - torch.tensor(row.logprobs)).abs().max() < 1e-4
    # one token more and the model itself turns every position otherwise
    longer = plain_logprobs(model, prompt, [*row.ids, 5])[:4]
    assert (longer - plain_logprobs(model, prompt, row.ids)).abs().max() > 0.01
    with pytest.raises(DataError, match="64 tokens and the model 64 positions"):
        generate(model, None, some_prompts(64), SamplingParams())


def test_dynamic_rope_ends_with_the_positions_it_is_exact_for() -> None:
    model = small_model("dynamic")
    (prompt,) = some_prompts(250)
    (row,) = generate(model, None, [prompt], SamplingParams(max_tokens=30, eos=NO_END))[0]
    own = plain_logprobs(model, prompt, row.ids).gather(1, torch.tensor(row.ids)[:, None])[:, 0]
    assert len(row.ids) == 6
    assert (own - torch.tensor(row.logprobs)).abs().max() < 1e-4
