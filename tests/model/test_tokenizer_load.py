"""Tokenizers: the packages they need, and an embedding for each of their tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken

from alignloop.data.chat import load_template
from alignloop.errors import ModelError
from alignloop.model import tokenizer_load
from alignloop.model.generate import generate
from alignloop.model.load import load_model, load_skeleton
from alignloop.model.sampling import SamplingParams
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.model.tokenizer_load import embedding_rows, load_tokenizer
from alignloop.records import Message
from alignloop.serve.served import open_policy
from alignloop.stages.common import inference_encoder
from tests.helpers_scripted import DOCUMENT_END, base_tokenizer, scripted_model
from tests.stages.task import run_stage

QUESTION = "<|im_start|>user\nsay<|im_end|>\n<|im_start|>assistant\n"


def save_beyond(folder: Path, *tokens: str, pad: str | None = None) -> Path:
    """A tiny model whose tokenizer got tokens that its embeddings know nothing of."""
    model, tokenizer = tiny_model()
    tokenizer.add_tokens([AddedToken(token, special=True) for token in tokens])
    if pad is not None:
        tokenizer.pad_token = pad
    save_model(model, tokenizer, folder)
    return folder


def test_tokens_beyond_the_embeddings_are_refused(tmp_path: Path) -> None:
    folder = save_beyond(tmp_path / "m", "<tool>", "<more>")
    sentence = (
        r"model '.*m': 2 of its tokenizer's tokens \('<tool>', '<more>'\) are beyond the model's \d+ "
        r"embeddings; add the rows by training all weights \(lora_r: 0\)"
    )
    for door in (load_model, load_skeleton, open_policy):
        with pytest.raises(ModelError, match=sentence):
            door(folder)


def test_a_training_of_all_weights_adds_rows(tmp_path: Path) -> None:
    folder = save_beyond(tmp_path / "m", "<tool>", "<more>")
    rows = embedding_rows(tiny_model()[0])
    with pytest.warns(UserWarning, match="2 of its tokenizer's tokens .* rows were added"):
        loaded = load_model(folder, grow=True)
    for layer in (loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()):
        assert layer.weight.shape[0] == rows + 2
        torch.testing.assert_close(layer.weight[rows:], layer.weight[:rows].mean(0).expand(2, -1))
    assert loaded.model.config.vocab_size == rows + 2
    with pytest.warns(UserWarning, match="rows were added"):
        assert embedding_rows(load_skeleton(folder, grow=True).model) == rows + 2


@pytest.mark.filterwarnings("ignore:model .* rows were added")
def test_a_trained_model_has_the_rows_and_an_adapter_is_refused(tmp_path: Path) -> None:
    folder = save_beyond(tmp_path / "m", "<tool>")
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"prompt": "call <tool>", "response": "<tool> now"}) + "\n", encoding="utf-8"
    )
    keys = {
        "model_name_or_path": str(folder),
        "dataset": str(tmp_path / "rows.jsonl"),
        "output_dir": str(tmp_path / "run"),
        "max_steps": 1,
        "learning_rate": 1e-3,
    }
    run = run_stage("sft", keys)
    made = load_model(run.path)
    before = tiny_model()[0].get_input_embeddings().weight
    assert embedding_rows(made.model) == len(made.tokenizer) == len(before) + 1
    mean = before.mean(0)
    assert (made.model.get_input_embeddings().weight[-1] - mean).abs().max() > 1e-4  # it was trained
    with pytest.raises(ModelError, match="beyond the model's"):
        run_stage("sft", {**keys, "output_dir": str(tmp_path / "lora"), "lora_r": 2})


def test_a_padding_token_needs_no_embedding(tmp_path: Path) -> None:
    folder = save_beyond(tmp_path / "m", "[PAD]", pad="[PAD]")
    assert load_model(folder).tokenizer.pad_token == "[PAD]"


def test_more_embeddings_than_tokens_are_fine(tmp_path: Path) -> None:
    model, tokenizer = tiny_model()
    model.resize_token_embeddings(len(tokenizer) + 1000)
    save_model(model, tokenizer, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert embedding_rows(loaded.model) == len(tokenizer) + 1000
    one = generate(loaded.model, loaded.tokenizer, [[5, 6]], SamplingParams(max_tokens=8, eos=()))[0][0]
    assert len(one.ids) == 8  # tokens without a text are drawn too, and show as nothing


@pytest.mark.parametrize(
    ("content", "kind", "packages"),
    [
        (b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02", "sentencepiece", "sentencepiece protobuf"),
        (b"IQ== 0\nIg== 1\n", "tiktoken", "tiktoken"),
    ],
)
def test_a_tokenizer_whose_package_is_missing_names_it(
    content: bytes, kind: str, packages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_model()
    save_model(model, tokenizer, tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "m" / name).unlink(missing_ok=True)
    (tmp_path / "m" / "tokenizer.model").write_bytes(content)
    monkeypatch.setattr(tokenizer_load, "_is_installed", lambda module: False)
    for door in (load_tokenizer, load_model, load_skeleton):
        with pytest.raises(ModelError, match=f"of the kind {kind}, .*; pip install {packages}, or save"):
            door(tmp_path / "m")


@pytest.mark.parametrize("missing", ["pad_token", "bos_token", "eos_token"])
def test_a_model_without_special_tokens_writes(missing: str, tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    script = tokenizer.encode("okay<|im_end|>", add_special_tokens=False)
    model = scripted_model(tokenizer, QUESTION, script, eos=None if missing == "eos_token" else DOCUMENT_END)
    setattr(tokenizer, missing, None)
    save_model(model, tokenizer, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert getattr(loaded.tokenizer, missing) is None
    encoder = inference_encoder(loaded)
    ids = [encoder.prompt((Message("user", "say"),)).tolist()]
    one = generate(loaded.model, loaded.tokenizer, ids, SamplingParams(temperature=0, max_tokens=24))[0][0]
    assert (one.text, one.finish) == ("okay", "eos")


def test_a_template_that_needs_a_missing_eos_says_what_to_do() -> None:
    tokenizer = base_tokenizer(
        eos=None, template="{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    )
    with pytest.raises(
        ModelError, match=r"'eos_token' is undefined\); give the tokenizer its eos_token, or use"
    ):
        load_template("tokenizer", tokenizer)
