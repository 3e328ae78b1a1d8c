"""Model folders: written whole, and told apart by what is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GenerationConfig

from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.save import fingerprint, save_model
from alignloop.model.tiny import tiny_model


def test_a_fingerprint_is_of_names_and_contents_of_what_makes_the_model(tmp_path: Path) -> None:
    files = {
        "model.safetensors": b"ab",
        "config.json": b"{}",
        "tokenizer.model": b"x",
        "chat.jinja": b"y",
        "m.gguf": b"z",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    first = fingerprint(tmp_path)
    assert len(first) == 64
    (tmp_path / "README.md").write_text("not the model", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("nor this", encoding="utf-8")
    assert fingerprint(tmp_path) == first
    seen = {first}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content + b"!")
        seen.add(fingerprint(tmp_path))
        (tmp_path / name).write_bytes(content)
    assert fingerprint(tmp_path) == first
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    seen.add(fingerprint(tmp_path))
    assert len(seen) == len(files) + 2
    other = tmp_path / "same"
    other.mkdir()
    for name in reversed(files):  # the order of writing does not matter
        (other / name).write_bytes(files[name])
    assert fingerprint(other) == first


def test_a_plain_model_an_adapter_and_what_is_written_besides(tmp_path: Path) -> None:
    model, tokenizer = tiny_model()
    wrapped = add_adapter(model, LoraSettings(r=2))
    model.generation_config = GenerationConfig(eos_token_id=[2, 7])
    save_model(wrapped, tokenizer, tmp_path / "adapter", extra=_write)
    names = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "generation_config.json",
        "tokenizer.json",
    } <= names
    assert (tmp_path / "adapter" / "more").read_bytes() == b"x"
    assert GenerationConfig.from_pretrained(tmp_path / "adapter").eos_token_id == [2, 7]
    model.generation_config = None
    save_model(wrapped, tokenizer, tmp_path / "adapter")
    names = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert "generation_config.json" not in names
    assert "more" not in names  # the folder is replaced
    with pytest.raises(RuntimeError, match="stop"):
        save_model(wrapped, tokenizer, tmp_path / "adapter", extra=_fail)
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == names


def _fail(_: Path) -> None:
    raise RuntimeError("stop")


def _write(made: Path) -> None:
    (made / "more").write_bytes(b"x")
