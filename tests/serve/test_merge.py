"""Merging an adapter: the merged folder is the same model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.data.chat import load_saved, load_template
from alignloop.errors import ModelError, UserError
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.load import load_model
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.serve import merge as merging
from alignloop.serve.merge import merge
from alignloop.stages.reward import HEAD_FILE

IDS = torch.tensor([[5, 17, 300, 8]])


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter with a large effect on a base in a folder of its own."""
    model, tokenizer = tiny_model()
    save_model(model, tokenizer, tmp_path / "base")
    base = load_model(tmp_path / "base")
    wrapped = add_adapter(base.model, LoraSettings(r=4, alpha=8))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    template = load_template("chatml", tokenizer)
    save_model(wrapped, tokenizer, tmp_path / "adapter", extra=template.save)
    with torch.no_grad():
        torch.save(wrapped.double()(IDS).logits, tmp_path / "want.pt")
    return tmp_path / "adapter"


def test_the_merged_model_gives_the_adapters_logits(adapter: Path, tmp_path: Path) -> None:
    difference = merge(adapter, tmp_path / "merged")
    assert 0 < difference <= 1e-5
    want = torch.load(tmp_path / "want.pt", weights_only=True)
    merged, base = (load_model(tmp_path / name).model for name in ("merged", "base"))
    with torch.no_grad():
        assert (merged.double()(IDS).logits - want).abs().max() <= 1e-5 * want.abs().max()
        assert (base.double()(IDS).logits - want).abs().max() > 0.1
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert load_saved(tmp_path / "merged") == load_saved(adapter)


def test_a_difference_leaves_nothing(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "TOLERANCE", 1e-12)
    with pytest.raises(ModelError, match="nothing was written"):
        merge(adapter, tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter", "want.pt"}


def test_what_cannot_be_merged(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no adapter.*see `alignloop export`"):
        merge(tmp_path / "base", tmp_path / "merged")
    with pytest.raises(ModelError, match="holds no adapter"):
        merge(tmp_path / "nowhere", tmp_path / "merged")
    with pytest.raises(UserError, match="exists already"):
        merge(adapter, tmp_path / "base")
    (adapter / HEAD_FILE).write_bytes(b"")
    with pytest.raises(ModelError, match="is a reward model"):
        merge(adapter, tmp_path / "merged")


def test_command(adapter: Path) -> None:
    done = CliRunner().invoke(app, ["merge", str(adapter)])
    assert done.exit_code == 0, done.output
    assert f"{adapter}-merged: logits differ by" in done.output
    assert CliRunner().invoke(app, ["merge", "nowhere"]).exit_code == 2
