"""Adapters in use: another one for a while, others deleted, and what a name may be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from alignloop.errors import ModelError
from alignloop.model import adapter_load
from alignloop.model.adapter_load import base_name, fit_vocabulary, load_adapter, merge_adapter, probe
from alignloop.model.adapters import LoraSettings, add_adapter, delete_others, using
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model

IDS = torch.tensor([[5, 17, 30, 8]])


def two_adapters() -> PeftModel:
    model = add_adapter(tiny_model()[0], LoraSettings(r=2), name="one")
    add_adapter(model, LoraSettings(r=2), name="two", seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return model


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_another_adapter_for_a_while() -> None:
    model = two_adapters()
    for name, parameter in model.named_parameters():  # not what set_adapter would make of it
        parameter.requires_grad_("lora_A" in name or "embed" in name)
    before, flags = logits(model), trained(model)
    with using(model, "one"):
        assert model.active_adapter == "one"
        inside = logits(model)
    assert (inside - before).abs().max() > 0.01
    assert model.active_adapter == "two"
    assert torch.equal(logits(model), before)
    assert trained(model) == flags
    with pytest.raises(ZeroDivisionError), using(model, "one"):
        _ = 1 / 0
    assert model.active_adapter == "two"
    assert trained(model) == flags
    model.set_adapter("one")
    assert torch.equal(logits(model), inside)


def test_all_adapters_but_one_are_deleted() -> None:
    model = two_adapters()
    add_adapter(model, LoraSettings(r=2), name="three")
    model.set_adapter("one")
    before = logits(model)
    delete_others(model, "one")
    assert list(model.peft_config) == ["one"]
    assert torch.equal(logits(model), before)
    assert not any("two" in name or "three" in name for name, _ in model.named_parameters())


def test_the_defaults_of_an_adapter() -> None:
    config = add_adapter(tiny_model()[0], LoraSettings()).peft_config["default"]
    assert isinstance(config, LoraConfig)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32.0, 0.0)
    assert config.task_type == "CAUSAL_LM"
    model = add_adapter(
        tiny_model()[0], LoraSettings(dropout=0.25, target_modules=r".*\.(q|v)_proj"), name="x"
    )
    assert model.peft_config["x"].lora_dropout == 0.25
    assert model.active_adapter == "x"
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained(model)} == {"q_proj", "v_proj"}


def test_a_base_is_named_where_it_is(tmp_path: Path) -> None:
    assert base_name(tmp_path) is None
    file = tmp_path / "adapter_config.json"
    for text, expected in (
        ('{"base_model_name_or_path": "a/b"}', "a/b"),
        ("{}", None),
        ('{"base_model_name_or_path": 3}', None),
    ):
        file.write_text(text, encoding="utf-8")
        assert base_name(tmp_path) == expected
    file.write_text("3", encoding="utf-8")
    with pytest.raises(ModelError, match=r"adapter '.*': adapter_config.json holds no object"):
        base_name(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_probe_spreads_over_the_vocabulary(dtype: torch.dtype) -> None:
    model = tiny_model()[0].to(dtype)
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _m, _a, named: seen.append(named["input_ids"]), with_kwargs=True)
    found = probe(model)
    rows = model.config.vocab_size
    assert found.shape == (64, rows)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not found.requires_grad
    ids = seen[0][0]
    assert (int(ids[0]), int(ids[-1])) == (0, rows - 1)
    gaps = ids.diff()
    assert int(gaps.min()) >= math.floor((rows - 1) / 63)
    assert int(gaps.max()) <= math.ceil((rows - 1) / 63)
    wrapped = add_adapter(model, LoraSettings(r=2))
    assert torch.allclose(probe(wrapped), found, atol=1e-2)


def test_an_adapter_is_loaded_in_the_mode_of_the_model(tmp_path: Path) -> None:
    save_model(two_adapters(), tiny_model()[1], tmp_path)
    for training in (True, False):
        model = tiny_model()[0].train(training)
        loaded = load_adapter(model, tmp_path / "one", name="reward")
        assert loaded.training is training
        assert loaded.active_adapter == "reward"
        assert trained(loaded) == set()


def test_what_peft_cannot_merge_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = two_adapters()

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("no way\nsecond line\nsize mismatch for x\n")

    monkeypatch.setattr(type(model.base_model), "merge_and_unload", fail)
    with pytest.raises(
        ModelError, match="adapter 'mine' cannot be merged into its base: size mismatch for x"
    ):
        merge_adapter(model, "mine")


@pytest.mark.parametrize(("error", "refused"), [(0.9e-4, False), (1.5e-4, True), (math.nan, True)])
def test_a_merged_model_may_differ_by_rounding(
    error: float, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(two_adapters(), tiny_model()[1], tmp_path)
    answers = iter([torch.full((4, 4), 2.0), torch.full((4, 4), 2.0) * (1 + error)])
    monkeypatch.setattr(adapter_load, "probe", lambda model: next(answers))
    base = tiny_model()[0].train()
    if refused:
        with pytest.raises(
            ModelError, match=r"merged into its base it is another model \(logits differ by .* 1e-04"
        ):
            adapter_load.merged(base, tmp_path / "one")
    else:
        whole = adapter_load.merged(base, tmp_path / "one")
        assert not isinstance(whole, PeftModel)
        assert not whole.training
        assert not any("lora" in name for name, _ in whole.named_parameters())


def test_a_base_gets_the_rows_that_an_adapter_brings(tmp_path: Path) -> None:
    """Embeddings and head in the adapter's file, under peft's names; tied ones may come as one."""
    from safetensors.torch import save_file

    def file_of(**rows: int) -> None:
        names = {
            "embed": "base_model.model.model.embed_tokens.weight",
            "head": "base_model.model.lm_head.base_layer.weight",
        }
        tensors = {names[name]: torch.zeros(count, 64) for name, count in rows.items()}
        tensors["base_model.model.model.embed_tokens_more.weight"] = torch.zeros(3, 64)
        tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(2, 64)
        tensors["other.lm_head.weight"] = torch.zeros(5, 64)
        save_file(tensors, tmp_path / "adapter_model.safetensors")

    def sized(*, tied: bool = True, **rows: int) -> int:
        model, _ = tiny_model()
        if not tied:
            model.config.tie_word_embeddings = False
            model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        file_of(**rows)
        fit_vocabulary(model, tmp_path)
        return model.get_input_embeddings().weight.shape[0]

    own = tiny_model()[0].config.vocab_size
    assert sized() == own
    assert sized(embed=own) == own
    assert sized(head=own, tied=False) == own
    assert sized(embed=own + 2) == sized(head=own + 2) == own + 2
    assert sized(embed=own - 2, head=own - 2, tied=False) == own - 2
    with pytest.raises(
        ModelError, match=rf"holds {own + 2} rows of the embeddings and the base {own} of each"
    ):
        sized(embed=own + 2, tied=False)
    with pytest.raises(
        ModelError, match=rf"{own} rows of the embeddings and {own + 1} rows of the vocabulary head"
    ):
        sized(embed=own, head=own + 1)


def test_the_same_names_of_other_peoples_adapters(tmp_path: Path) -> None:
    """Loading a third keeps the two that are there, and which of them is active."""
    model = get_peft_model(tiny_model()[0], LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.save_pretrained(str(tmp_path))
    wrapped = two_adapters()
    before = logits(wrapped)
    flags = trained(wrapped)
    loaded = load_adapter(wrapped, tmp_path, name="three")
    assert loaded is wrapped
    assert set(loaded.peft_config) == {"one", "two", "three"}
    assert loaded.active_adapter == "two"
    assert torch.equal(logits(loaded), before)
    assert trained(loaded) == flags
