"""Exported folders: the same model for other programs, with a card that tells where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.data.chat import load_template
from alignloop.errors import ModelError, UserError
from alignloop.model.load import load_model
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.runs import Input, Run
from alignloop.serve import export as exporting
from alignloop.serve.export import export, file_stem

IDS = torch.tensor([[5, 17, 300, 8]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DPO run with its ancestors and an evaluation, as a pipeline leaves them."""
    root = tmp_path_factory.mktemp("파이프라인")
    model, tokenizer = tiny_model()
    template = load_template("chatml", tokenizer)
    rows = Input(str(root / "비공개" / "rows.jsonl"), "ab" * 32, 51)
    with Run.create(root / "feedback", stage="feedback", config={}, seed=1, inputs={"dataset": rows}) as run:
        run.finish({"data": {"origins": {"simulated": 51}}})
        feedback = run
    config = {"model_name_or_path": "tiny", "beta": 0.25, "learning_rate": 1e-4}
    with Run.create(root / "dpo", stage="dpo", config=config, seed=2, parents=[feedback]) as run:
        save_model(model, tokenizer, run.model, extra=template.save)
        run.warn("a | b")
        run.finish({"loss": 0.5, "data": {"origins": {"simulated": 51}}})
        dpo = run
    with Run.create(root / "평가", stage="evaluate", config={}, seed=3, parents=[dpo]) as run:
        metric = {"before": 1.5, "after": 2.25, "before_interval": [1, 2], "after_interval": [2, 2.5]}
        rate = {"value": 0.75, "interval": [0.6, 0.9], "n": 40}
        run.finish({"metrics": {"reward": {**metric, "unit": "reward"}}, "win_rate": rate, "num_prompts": 40})
    return root / "dpo"


def test_the_folder_is_the_model_for_transformers(trained: Path, tmp_path: Path) -> None:
    done = export(trained, tmp_path / "out", gguf="f32")
    assert done.same_tokens == 1
    names = {path.name for path in done.folder.iterdir()}
    assert names >= {"README.md", "Modelfile", "dpo.gguf", "chat_template.jinja", "model.safetensors"}
    again = AutoModelForCausalLM.from_pretrained(done.folder)
    source = load_model(trained)
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, source.model(IDS).logits)
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    assert tokenizer.chat_template == load_template("chatml", tiny_model()[1]).source
    assert "FROM ./dpo.gguf" in (done.folder / "Modelfile").read_text(encoding="utf-8")


def test_the_card_tells_lineage_and_evaluation(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "out", name="말하는 모델")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["alignloop", "feedback", "dpo"],
        "base_model": "tiny",
    }
    assert "# 말하는 모델\n" in body
    assert "labels in its training are simulated" in body
    assert f"| feedback | feedback | dataset: rows.jsonl, 51 rows, sha256 `{'ab' * 6}` | 1 |" in body
    assert "| dpo | dpo | runs feedback | 2 |" in body
    assert "| beta | 0.25 |" in body
    assert "## What came out\n\nloss 0.5\n" in body
    assert "**평가**, 40 prompts" in body
    assert "| reward | 1.5 [1, 2] | 2.25 [2, 2.5] | reward |" in body
    assert "| win_rate over before | – | 0.75 [0.6, 0.9] | share |" in body
    assert "- a \\| b" in body
    assert "비공개" not in body  # folders of this machine stay private


def test_a_plain_model_has_a_card_too(tmp_path: Path) -> None:
    done = export("tiny", tmp_path / "out", dtype="bfloat16")
    assert (done.gguf, done.same_tokens) == (None, None)
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    assert "it started from tiny" in card
    assert "Not known" in card
    assert json.loads((done.folder / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(done.folder, dtype="auto").dtype == torch.bfloat16


def test_what_cannot_be_exported_leaves_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="has no model/ folder"):
        export(trained.parent / "feedback", tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        export(trained, tmp_path / "taken")
    monkeypatch.setattr(exporting, "same_greedy_tokens", lambda policy, file: 0.5)
    with pytest.raises(ModelError, match="gives 50% of the model's greedy tokens"):
        export(trained, tmp_path / "out", gguf="f32")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_command(trained: Path, tmp_path: Path) -> None:
    def call(*words: str):
        return CliRunner().invoke(app, ["export", str(trained), "--to", str(tmp_path / "out"), *words])

    assert call("--gguf", "--gguf-type", "q3").exit_code == 2
    assert "--dtype is one of float32, bfloat16, float16, not 'int4'" in call("--dtype", "int4").output
    done = call("--gguf", "--name", "a/b 모델")
    assert done.exit_code == 0, done.output
    assert "a-b-모델.gguf read again: 100% of greedy tokens as the model's" in done.output
    done = CliRunner().invoke(app, ["export", f"{trained}/"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{trained}-export: ")


@pytest.mark.parametrize(
    ("name", "stem"), [("a/b c", "a-b-c"), ("../..", "model"), ("비", "비"), ("", "model")]
)
def test_file_names(name: str, stem: str) -> None:
    assert file_stem(name) == stem
