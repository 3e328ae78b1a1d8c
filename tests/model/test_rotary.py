"""Attention layers with rotary positions in fewer operations: the same numbers, and only where they are."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model

from alignloop.model import rotary
from alignloop.model.decode import decoding
from alignloop.model.rotary import rotated
from tests.model.helpers import CONFIGS, small_model

LAYERS = 4
RECOGNISED = {"llama", "qwen2", "mistral", "gemma", "gemma2", "granite"}
"""The others norm queries and keys, clip them, turn a part of the head, or keep them in one projection."""


def test_rotation_is_a_product_of_complex_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 8, generator=generator, dtype=torch.float64)
    angles = torch.randn(5, 1, 4, generator=generator, dtype=torch.float64)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    found = rotated(x, angles.cos().repeat(1, 1, 2), angles.sin())
    assert (found - torch.cat([turned.real, turned.imag], -1)).abs().max() < 1e-12


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_are_replaced_where_they_compute_the_same(name: str) -> None:
    model = small_model(name)
    with decoding(model):
        names = Counter(type(m).__name__ for m in model.modules() if "forward" in m.__dict__)
    found = sum(number for kind, number in names.items() if kind.endswith("Attention"))
    # every fourth layer of SmolLM3 has no positions
    assert found == (LAYERS if name in RECOGNISED else LAYERS - 1 if name == "smollm3" else 0)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_adapters_run_and_other_dtypes_are_left_alone() -> None:
    adapted = get_peft_model(small_model(), LoraConfig(r=4, target_modules="all-linear"))
    with decoding(adapted.get_base_model()):
        assert _replaced(adapted) == LAYERS
    for dtype in (torch.bfloat16, torch.float64):
        model = small_model().to(dtype)
        with decoding(model):
            assert _replaced(model) == 0
    model = small_model()
    with torch.autocast("cpu", torch.bfloat16), decoding(model):
        assert _replaced(model) == 0


def test_a_layer_is_examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    with decoding(model):
        assert _replaced(model) == LAYERS
    monkeypatch.setattr(rotary, "_Probe", None)
    with decoding(model):
        assert _replaced(model) == LAYERS


def _replaced(model: torch.nn.Module) -> int:
    return sum("forward" in module.__dict__ for module in model.modules() if hasattr(module, "q_proj"))
