"""Small random models of an architecture: of which sizes, with which layers, and off their start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from alignloop.model import twin
from alignloop.model.twin import outline, shorten, shrunk, small_twin

WIDE = {
    "vocab_size": 5000,
    "hidden_size": 512,
    "intermediate_size": 1000,
    "num_hidden_layers": 8,
    "max_position_embeddings": 777,
    "bos_token_id": 3000,
    "eos_token_id": 4000,
    "pad_token_id": 2000,
}


def llama(**more: Any) -> hf.LlamaConfig:
    return hf.LlamaConfig(
        **{**WIDE, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64, **more}
    )


def test_a_twin_is_small_and_keeps_what_is_the_models_own() -> None:
    config = llama(rope_theta=5e4)
    state = torch.random.get_rng_state()
    found = small_twin(config)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found is not None
    small = found.config
    assert (small.vocab_size, small.hidden_size, small.intermediate_size) == (96, 64, 96)
    assert (small.num_attention_heads, small.num_key_value_heads, small.head_dim) == (4, 2, 16)
    assert (small.num_hidden_layers, small.max_position_embeddings) == (2, 777)
    assert (small.pad_token_id, small.bos_token_id, small.eos_token_id) == (0, 1, 2)
    assert (config.vocab_size, config.num_hidden_layers, config.eos_token_id) == (5000, 8, 4000)
    assert not found.training
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert {p.device.type for p in found.parameters()} == {"cpu"}
    again = small_twin(config)
    assert again is not None
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("heads", "keys", "expected"), [(16, 16, 4), (16, 1, 1), (16, 8, 2), (16, 2, 2), (1, 1, 4)]
)
def test_keys_are_shared_as_in_the_model(heads: int, keys: int, expected: int) -> None:
    config = llama(num_attention_heads=heads, num_key_value_heads=keys)
    assert shrunk(config, {"num_attention_heads": 4}).num_key_value_heads == expected
    assert shrunk(config, {"hidden_size": 64}).num_key_value_heads == keys


def test_weights_are_drawn_so_that_each_part_shows() -> None:
    found = small_twin(llama(attention_bias=True, tie_word_embeddings=False))
    assert found is not None
    weights = dict(found.named_parameters())
    # 96 · 64 draws: their spread is known to 1 %
    assert float(weights["model.embed_tokens.weight"].detach().std()) == pytest.approx(1.0, rel=0.05)
    for name, width in (
        ("lm_head", 64),
        ("model.layers.1.mlp.down_proj", 96),
        ("model.layers.0.mlp.up_proj", 64),
    ):
        spread = float(weights[f"{name}.weight"].detach().std())
        assert spread == pytest.approx(1.5 / width**0.5, rel=0.05)
    norm, bias = (
        weights["model.norm.weight"].detach(),
        weights["model.layers.0.self_attn.q_proj.bias"].detach(),
    )
    for vector, start in ((norm, 1.0), (bias, 0.0)):
        assert 0.05 < float((vector - start).std()) < 0.15
        assert abs(float(vector.mean()) - start) < 0.06


@pytest.mark.parametrize(
    ("kinds", "layers"),
    [
        ("ffffffff", 2),
        ("fsfsfsfs", 2),
        ("sssfsssf", 4),
        ("sssssssf", 8),
        ("sfssssss", 2),
    ],
)
def test_a_layer_of_each_kind_stays(kinds: str, layers: int) -> None:
    names = {"f": "full_attention", "s": "sliding_attention"}
    config = hf.Gemma3TextConfig(
        **WIDE, num_attention_heads=16, layer_types=[names[kind] for kind in kinds], sliding_window=99
    )
    shorten(config)
    assert config.num_hidden_layers == layers
    assert config.layer_types == [names[kind] for kind in kinds[:layers]]
    assert config.sliding_window == 99


def test_a_model_of_few_layers_keeps_them_and_one_of_too_many_kinds_has_no_twin() -> None:
    one = llama(num_hidden_layers=1)
    shorten(one)
    assert one.num_hidden_layers == 1
    kinds = ["sliding_attention"] * 12 + ["full_attention"]
    most = hf.Gemma3TextConfig(
        **{**WIDE, "num_hidden_layers": 12}, num_attention_heads=16, layer_types=kinds[1:]
    )
    shorten(most)
    assert most.num_hidden_layers == 12
    more = hf.Gemma3TextConfig(**{**WIDE, "num_hidden_layers": 13}, num_attention_heads=16, layer_types=kinds)
    with pytest.raises(ValueError, match="13 layers"):
        shorten(more)
    assert small_twin(more) is None


def test_lists_for_each_layer_are_cut_and_others_are_not() -> None:
    config = llama()
    config.each, config.other, config.num_kv_shared_layers = list(range(8)), [1, 2, 3], 4
    shorten(config)
    assert (config.each, config.other, config.num_kv_shared_layers) == ([0, 1], [1, 2, 3], 0)


def test_a_twin_that_would_be_large_or_gives_no_numbers_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = sum(p.numel() for p in outline(shrunk(llama(), {**twin._SMALL, **twin._NARROW})).parameters())
    monkeypatch.setattr(twin, "LARGEST", numbers)
    assert small_twin(llama()) is not None
    monkeypatch.setattr(twin, "LARGEST", numbers - 1)
    assert small_twin(llama()) is None
    monkeypatch.undo()
    monkeypatch.setattr(twin, "_draw", lambda model: model.lm_head.weight.fill_(torch.nan))
    with torch.no_grad():
        assert small_twin(llama()) is None


def test_an_outline_has_no_values() -> None:
    assert {p.device.type for p in outline(llama()).parameters()} == {"meta"}
