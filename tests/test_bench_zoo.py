"""The tiny models that benchmarks and tests use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bench import zoo


def test_every_entry_of_transformers_is_in_the_zoo_or_left_out_with_a_reason() -> None:
    assert not set(zoo.SKIPPED) - set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert set(zoo.names()) - set(zoo.VARIANTS) == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(zoo.SKIPPED)
    assert len(set(zoo.names())) == len(zoo.names())


@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "deepseek_v3", "mamba", "qwen2_moe-sliding", "phi3-longrope"]
)
def test_models_are_tiny_reproducible_and_far_from_uniform(name: str) -> None:
    ids = torch.arange(3, 27)[None]
    model, again = zoo.tiny(name, seed=1), zoo.tiny(name, seed=1)
    assert sum(p.numel() for p in model.parameters()) < 1e6
    with torch.no_grad():
        logits, repeated = (m(ids, use_cache=False).logits for m in (model, again))
    assert torch.equal(logits, repeated)
    assert logits.log_softmax(-1).std() > 0.2


@pytest.mark.parametrize("name", ["gemma2", "qwen2_moe-sliding", "phimoe-sliding", "llama4_text", "gpt_neo"])
def test_windows_bind(name: str) -> None:
    """Up to the window all sizes of it give the same logits, from there on others."""
    ids = torch.arange(3, 27)[None]
    model = zoo.tiny(name)
    fields: dict[str, Any] = {field: 200 for field in zoo.WINDOWS if hasattr(model.config, field)}
    wide = zoo.tiny(name, **fields)
    with torch.no_grad():
        logits, others = (m(ids, use_cache=False).logits[0] for m in (model, wide))
    assert (logits[: zoo.WINDOW] - others[: zoo.WINDOW]).abs().max() < 1e-5
    assert (logits[zoo.WINDOW :] - others[zoo.WINDOW :]).abs().max() > 1e-2
