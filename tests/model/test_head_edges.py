"""What the head's examination takes for a transform, at the edges of what it can tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignloop.errors import ModelError
from alignloop.model import attention, head
from alignloop.model.head import (
    _after,
    _scale_before,
    as_published,
    decoder_of,
    head_transform,
    plain_attention,
    without_dropout,
)
from alignloop.model.logprobs import LogitTransform
from bench import zoo

COLUMNS = 40


def raw_values(columns: int = COLUMNS) -> Tensor:
    """As the examination puts them in the head's place."""
    place = torch.arange(head._ROWS)[:, None] + torch.arange(columns)
    return torch.tensor(head._VALUES)[place % len(head._VALUES)]


@pytest.mark.parametrize(
    ("change", "scale", "softcap", "vocabulary"),
    [
        (lambda z: z, 1.0, None, None),
        (lambda z: 0.01 * z, 0.01, None, None),
        (lambda z: 300 * z, 300.0, None, None),
        (lambda z: 30 * torch.tanh(z / 30), 1.0, 30.0, None),
        (lambda z: 2 * torch.tanh(z * 5), 10.0, 2.0, None),
        (lambda z: z[:, :30], 1.0, None, 30),
        (lambda z: z[:, :1], 1.0, None, 1),
        (lambda z: torch.cat([z[:, :30], torch.full((4, 10), -1e4)], 1), 1.0, None, 30),
        (lambda z: torch.cat([z[:, :30], torch.full((4, 10), -torch.inf)], 1), 1.0, None, 30),
    ],
)
def test_scales_caps_and_columns(
    change: Any, scale: float, softcap: float | None, vocabulary: int | None
) -> None:
    raw = raw_values()
    found = _after(raw, change(raw))
    assert found is not None
    assert found.scale == pytest.approx(scale, rel=1e-5)
    assert found.softcap == (None if softcap is None else pytest.approx(softcap, rel=1e-5))
    assert found.vocabulary == vocabulary


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z + 1e-3,
        lambda z: -z,
        lambda z: 0 * z,
        lambda z: z.abs(),
        lambda z: z.clamp(max=50),
        lambda z: z.clamp(min=-50),
        lambda z: 30 * torch.atan(z / 30),
        lambda z: torch.where(z.abs() < 5, z * 1.001, z),
        lambda z: z[0],
        lambda z: z[:2],
        lambda z: torch.cat([z, z[:, :1]], 1),
        lambda z: torch.full_like(z, -1e4),
        lambda z: torch.cat([torch.full((4, 1), -1e4), z[:, 1:]], 1),
        lambda z: z * torch.nan,
    ],
)
def test_anything_else_is_no_transform(change: Any) -> None:
    raw = raw_values()
    assert _after(raw, change(raw)) is None


def test_the_factor_between_decoder_and_head() -> None:
    hidden = torch.randn(1, 4, 8)
    assert _scale_before(hidden, hidden.clone()) == 1.0
    assert _scale_before(hidden, hidden.bfloat16()) == 1.0
    assert _scale_before(hidden, 0.25 * hidden) == pytest.approx(0.25)
    assert _scale_before(hidden, -3 * hidden) == pytest.approx(-3)
    assert _scale_before(hidden, 0 * hidden) is None
    assert _scale_before(hidden, hidden + 1e-3) is None
    assert _scale_before(hidden, hidden[:, :3]) is None
    assert _scale_before(hidden, hidden * torch.tensor([1.0] * 7 + [1.001])) is None


def with_forward(model: Any, forward: Any) -> Any:
    model.forward = forward
    return model


def test_a_model_without_a_head_or_with_one_of_another_kind_is_refused() -> None:
    for wrong in (None, nn.ReLU(), SimpleNamespace(weight=torch.ones(2))):
        model: Any = zoo.tiny("llama")
        model.get_output_embeddings = lambda wrong=wrong: wrong
        with pytest.raises(
            ModelError, match="LlamaForCausalLM has no vocabulary head that turns a hidden state"
        ):
            head_transform(model)


def test_a_model_that_fails_or_goes_around_its_head_is_refused_and_left_without_hooks() -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError("no such row\nmore")

    cases = [
        (fails, r"LlamaForCausalLM cannot run a row of tokens in float32: no such row$"),
        (
            lambda *_, **__: SimpleNamespace(logits=torch.zeros(1, 4, 128)),
            "does not compute its logits from its",
        ),
    ]
    for forward, sentence in cases:
        model = with_forward(zoo.tiny("llama"), forward)
        with pytest.raises(ModelError, match=sentence):
            head_transform(model)
        assert not any(module._forward_hooks for module in model.modules())
    model: Any = zoo.tiny("llama")
    own = model.forward

    def twice(*args: Any, **named: Any) -> Any:
        out = own(*args, **named)
        model.lm_head(model.model.norm.weight[None, None])
        return out

    with pytest.raises(ModelError, match="does not compute its logits from its decoder's last hidden states"):
        head_transform(with_forward(model, twice))


def test_a_head_with_a_bias_behind_a_factor_is_refused_and_without_it_is_not() -> None:
    for bias, sentence in ((True, "by more than a factor"), (False, "")):
        model: Any = zoo.tiny("llama")
        model.lm_head = nn.Linear(32, zoo.VOCABULARY, bias=bias)
        model.lm_head.register_forward_pre_hook(lambda _m, inputs: (inputs[0] * 0.5,))
        if sentence:
            with pytest.raises(ModelError, match=sentence):
                head_transform(model)
        else:
            assert head_transform(model) == LogitTransform(0.5)
    model = zoo.tiny("llama")
    model.lm_head = nn.Linear(32, zoo.VOCABULARY, bias=True)
    assert head_transform(model) == LogitTransform()


def test_a_decoder_that_gives_a_tuple_is_examined_too() -> None:
    model: Any = zoo.tiny("llama")
    inner = model.model.forward
    model.model.forward = lambda *args, **named: inner(*args, **named).to_tuple()

    def forward(*args: Any, **named: Any) -> Any:
        return SimpleNamespace(logits=2 * model.lm_head(model.model(*args, **named)[0]))

    assert head_transform(with_forward(model, forward)) == LogitTransform(2.0)


def test_what_was_found_is_remembered_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = zoo.tiny("llama"), zoo.tiny("llama")
    first = head_transform(model)
    monkeypatch.setattr(head, "_examine", lambda hf: LogitTransform(7.0))
    assert head_transform(model) is first
    assert head_transform(other) == LogitTransform(7.0)


def test_a_model_in_which_no_part_is_a_decoder() -> None:
    model: Any = zoo.tiny("llama")
    model.get_decoder = lambda: model
    assert decoder_of(model) is model.model
    model.base_model_prefix, model.model = "none", nn.Identity()
    with pytest.raises(
        ModelError, match="LlamaForCausalLM has no decoder of its own below its vocabulary head"
    ):
        decoder_of(model)


def test_the_attention_that_a_model_has_by_itself() -> None:
    model: Any = zoo.tiny("llama")
    model.set_attn_implementation("eager")
    assert plain_attention(model) == "eager"
    attention.enable(model)
    assert plain_attention(model) == "sdpa"
    with as_published(model):
        assert model.config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == attention.SHARED_PREFIX
    with pytest.raises(ZeroDivisionError), as_published(model):
        _ = 1 / 0
    assert model.config._attn_implementation == attention.SHARED_PREFIX
    model._supports_sdpa = False
    assert plain_attention(model) == "eager"
    model.set_attn_implementation("eager")
    with as_published(model):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "eager"


def test_dropout_is_off_for_a_while() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()), nn.Dropout())
    model[2].eval()
    with without_dropout(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, True, True, False]
    with pytest.raises(ZeroDivisionError), without_dropout(model):
        _ = 1 / 0
    assert [module.training for module in model.modules()] == [True, True, True, True, False]
