"""Damaged files in one sentence, packages that tokenizers need, and an embedding for each token."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignloop.errors import ModelError
from alignloop.model import tokenizer_load
from alignloop.model.loading import loading
from alignloop.model.tiny import tiny_model
from alignloop.model.tokenizer_load import fit_tokens, load_tokenizer, resize


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ValueError("use ignore_mismatched_sizes=True"),
            "its weights have other shapes than its config.json says",
        ),
        (RecursionError("depth"), "a file is nested too deeply"),
        (OSError("no file\nsecond line"), "no file"),
        (ValueError("x" * 300), "x" * 300),
        (KeyError("key"), "KeyError: 'key'"),
        (TypeError("y" * 300), "TypeError: " + "y" * 200),
        (RuntimeError(), "RuntimeError: RuntimeError"),
    ],
)
def test_why_a_file_cannot_be_loaded_is_one_sentence(error: Exception, said: str) -> None:
    with pytest.raises(ModelError) as caught, loading("model 'm'"):
        raise error
    assert str(caught.value) == f"model 'm' cannot be loaded: {said}"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), ModelError("own"), ZeroDivisionError(), KeyboardInterrupt()]
)
def test_what_is_no_fault_of_a_file_is_not_said_of_it(error: BaseException) -> None:
    expected = ModelError if isinstance(error, ZeroDivisionError) else type(error)
    with pytest.raises(expected) as caught, loading("model 'm'"):
        raise error
    assert isinstance(error, ZeroDivisionError) or caught.value is error


def test_packages_that_are_there_and_not() -> None:
    installed = tokenizer_load._is_installed
    assert installed("json")
    assert installed("json.decoder")
    assert not installed("no_such_package")
    assert not installed("no_such_package.inside")
    assert not installed("json.no_such_module")


@pytest.mark.parametrize(
    ("first", "is_one"),
    [
        (b"IQ== 0\n", True),
        (b"IQ== x\n", False),
        (b"I!== 0\n", False),
        (b" 0\n", False),
        (b"IQ==\n", False),
        (b"", False),
        (b"IQ== 12\r\nother", True),
    ],
)
def test_a_tiktoken_file_begins_with_a_token_and_its_rank(first: bytes, is_one: bool, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(first)
    assert tokenizer_load._is_tiktoken(tmp_path / "f") is is_one


def test_what_a_tokenizer_says_of_tiktoken_is_about_sentencepiece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["`tiktoken` is required\nmore"]

    def fail(*_: object, **__: object) -> Any:
        raise ValueError(said[0])

    monkeypatch.setattr(tokenizer_load.AutoTokenizer, "from_pretrained", fail)
    monkeypatch.setattr(tokenizer_load, "_is_installed", lambda module: module == "google.protobuf")
    start = rf"tokenizer of '{tmp_path}' cannot be loaded: `tiktoken` is required"
    with pytest.raises(
        ModelError, match=rf"{start}; a SentencePiece tokenizer needs: pip install sentencepiece$"
    ):
        load_tokenizer(tmp_path)
    monkeypatch.setattr(tokenizer_load, "_is_installed", lambda module: True)
    with pytest.raises(ModelError, match=rf"{start}$"):
        load_tokenizer(tmp_path)
    said[0] = "other"
    monkeypatch.setattr(tokenizer_load, "_is_installed", lambda module: False)
    with pytest.raises(ModelError, match=r"cannot be loaded: other$"):
        load_tokenizer(tmp_path)


def words(rows: int, *, pad: int | None = None, eos: int | None = None) -> Any:
    vocabulary = {f"<{number}>": number for number in reversed(range(rows))}
    ids = {"pad_token_id": pad, "eos_token_id": eos, "bos_token_id": None, "unk_token_id": None}
    return SimpleNamespace(get_vocab=lambda: vocabulary, **ids)


def test_tokens_without_an_embedding_are_named_in_order_and_few_of_them() -> None:
    model, _ = tiny_model()
    rows = model.get_input_embeddings().weight.shape[0]
    fit_tokens(model, words(rows), "m")
    fit_tokens(model, words(rows + 1, pad=rows), "m")
    for tokenizer in (words(rows + 1), words(rows + 1, pad=rows, eos=rows), words(rows + 2, pad=rows)):
        with pytest.raises(ModelError, match=f"'<{rows}>'"):
            fit_tokens(model, tokenizer, "m")
    shown = ", ".join(f"'<{rows + number}>'" for number in range(4))
    for extra, more in ((4, ""), (5, ", …")):
        sentence = rf"model 'm': {extra} of its tokenizer's tokens \({shown}{more}\) are beyond .* {rows} emb"
        with pytest.raises(ModelError, match=sentence):
            fit_tokens(model, words(rows + extra), "m")


@pytest.mark.parametrize("by", [-2, 0, 3])
def test_rows_are_cut_or_added_as_the_mean(by: int) -> None:
    model, _ = tiny_model()
    rows = model.get_input_embeddings().weight.shape[0]
    model.config.tie_word_embeddings = False
    model.lm_head = torch.nn.Linear(64, rows, bias=True)
    parts = [model.get_input_embeddings().weight, model.lm_head.weight, model.lm_head.bias]
    before = [part.detach().clone() for part in parts]
    resize(model, rows + by)
    parts = [model.get_input_embeddings().weight, model.lm_head.weight, model.lm_head.bias]
    for part, old in zip(parts, before, strict=True):
        assert len(part) == rows + by
        assert torch.equal(part[:rows], old[: rows + by])
        new = part[rows:]
        assert torch.allclose(new, old.mean(0).expand_as(new))
