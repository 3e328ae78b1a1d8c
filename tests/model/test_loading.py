"""Model folders of strangers: refused in one sentence, nothing executed, nothing drawn at random."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from alignloop.errors import ModelError
from alignloop.model.load import load_model, load_skeleton
from alignloop.model.save import save_model
from alignloop.model.scorer import HEAD_FILE, load_head
from alignloop.model.tiny import tiny_model
from bench.attack_models import VARIANTS, mark


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    save_model(*tiny_model(), folder)
    return folder


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "weights that are no numbers"])
def test_a_strangers_model_is_refused_in_one_sentence(
    name: str, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(start, folder)
    VARIANTS[name](folder)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert not mark(folder).exists()
    assert "[y/N]" not in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in VARIANTS if "config.json" in name or "auto_map" in name])
def test_its_shape_alone_is_refused_likewise(name: str, start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(start, folder)
    VARIANTS[name](folder)
    with pytest.raises(ModelError):
        load_skeleton(folder)
    assert not mark(folder).exists()


def test_a_model_without_its_head_is_no_policy_but_may_be_a_rewards_base(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(start, folder)
    tensors = load_file(folder / "model.safetensors")
    gone = [name for name in tensors if name.startswith("lm_head")]
    config = (folder / "config.json").read_text(encoding="utf-8")
    if not gone:  # the head is tied: parted here
        config = config.replace('"tie_word_embeddings": true', '"tie_word_embeddings": false')
    for name in gone:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(ModelError, match=r"lacks 1 of its tensors, such as 'lm_head\.weight'"):
        load_model(folder)
    (folder / "config.json").write_text(config.replace("ForCausalLM", "Model"), encoding="utf-8")
    assert load_model(folder).model.config.vocab_size > 0


def test_a_damaged_head_is_one_sentence(tmp_path: Path) -> None:
    for content in (b"", b"\xff" * 100):
        (tmp_path / HEAD_FILE).write_bytes(content)
        with pytest.raises(ModelError, match=r"cannot be loaded: its \.safetensors file is damaged"):
            load_head(tmp_path)
    import torch

    save_file({"weight": torch.zeros(3)}, tmp_path / HEAD_FILE)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_head(tmp_path)
