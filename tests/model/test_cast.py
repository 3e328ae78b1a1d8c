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
