"""Weights in another type, as transformers itself loads them in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignloop.model.cast import cast
from alignloop.model.load import load_model
from bench import zoo


def test_a_type_is_given_to_weights_and_not_to_rotary_frequencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded frequencies turn position 1000 by another angle; 32 of them here, the slowest 1e-4 and less."""
    monkeypatch.setattr("alignloop.model.load.bf16_is_native", lambda: True)
    made = load_model("tiny")
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    own: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    own = own.get_decoder().rotary_emb
    assert not torch.equal(own.inv_freq, own.inv_freq.bfloat16())
    for name in ("tiny", str(tmp_path)):
        model: Any = load_model(name, dtype="bfloat16", device="cpu").model
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert torch.equal(model.get_decoder().rotary_emb.inv_freq, own.inv_freq)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", ["openai-gpt", "xglm", "gpt_neo", "llama", "inkling2_text", "gemma3_text"])
def test_a_cast_model_is_the_one_that_transformers_loads_in_the_type(name: str, tmp_path: Path) -> None:
    """Masks and tables of positions that are not saved are float32 in a model that was built in it."""
    model: Any = zoo.tiny(name)
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    cast(model, torch.bfloat16)
    ours = dict([*model.named_parameters(), *model.named_buffers()])
    theirs = dict([*loaded.named_parameters(), *loaded.named_buffers()])
    assert ours.keys() == theirs.keys()
    assert {n: t.dtype for n, t in ours.items()} == {n: t.dtype for n, t in theirs.items()}
    assert all(torch.equal(tensor, theirs[n]) for n, tensor in ours.items())
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, loaded.eval()(ids).logits)


def test_what_a_class_keeps_in_float32_stays_so() -> None:
    model = zoo.tiny("inkling2_text", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16, torch.float32}
    assert model(torch.arange(3, 20)[None]).logits.isfinite().all()


def test_saved_buffers_are_cast_with_the_weights_and_others_are_not() -> None:
    module: Any = torch.nn.BatchNorm1d(3)
    module.register_buffer("frequencies", torch.rand(3), persistent=False)
    cast(module, torch.bfloat16)
    assert module.weight.dtype == module.running_mean.dtype == torch.bfloat16
    assert module.frequencies.dtype == torch.float32
    assert module.num_batches_tracked.dtype == torch.int64
