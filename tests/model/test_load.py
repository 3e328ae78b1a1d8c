"""Loading adapters: on the base that they name, `tiny` with its seed among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alignloop.errors import ModelError
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.load import load_model, load_skeleton
from alignloop.model.save import save_model

IDS = torch.tensor([[5, 17, 300, 8]])


@pytest.fixture
def adapter(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """An adapter on the `tiny` of seed 7 that changes it, and the logits it gives there."""
    loaded = load_model("tiny", seed=7)
    wrapped = add_adapter(loaded.model, LoraSettings(r=2))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
        logits = wrapped(input_ids=IDS).logits
    save_model(wrapped, loaded.tokenizer, tmp_path / "model")
    return tmp_path / "model", logits


@pytest.mark.parametrize("seed", [0, 7])
def test_an_adapter_on_tiny_finds_the_tiny_it_was_trained_on(
    adapter: tuple[Path, torch.Tensor], seed: int
) -> None:
    folder, logits = adapter
    again = load_model(folder, seed=seed)  # the seed of what reads it does not matter
    with torch.no_grad():
        torch.testing.assert_close(again.model(input_ids=IDS).logits, logits, rtol=0, atol=1e-4)
    assert load_skeleton(folder).model.num_parameters() == again.model.num_parameters()


def test_the_seed_in_the_name_is_the_seed() -> None:
    named, chosen = load_model("tiny:7"), load_model("tiny", seed=7)
    for one, two in zip(named.model.parameters(), chosen.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_an_adapter_that_names_no_base_is_refused(adapter: tuple[Path, torch.Tensor]) -> None:
    file = adapter[0] / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "base_model_name_or_path": None}), encoding="utf-8")
    for load in (load_model, load_skeleton):
        with pytest.raises(ModelError, match="does not say which model it was trained on"):
            load(adapter[0])
