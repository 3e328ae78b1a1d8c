"""GGUF files: read again by transformers they are the same model, tokenizer and template."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from alignloop.data.chat import load_template
from alignloop.errors import ModelError
from alignloop.model.load import LoadedModel, load_model
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.serve.gguf_file import _split, write_gguf
from tests.helpers_models import random_model

ENDS = ("eos", "eot", "eom")
TEXT = "안녕하세요, the rain falls 1234 times <|im_start|>on hills\n\n  twice 🙂"


def llama(**settings: object) -> LoadedModel:
    model, tokenizer = tiny_model()
    if settings:
        model = random_model(LlamaConfig(**{**model.config.to_dict(), **settings}))  # pyright: ignore
    return LoadedModel(model, tokenizer, "tiny")


def qwen2() -> LoadedModel:
    """Untied, with biases, and with more embeddings than tokens, as Qwen2's checkpoints have."""
    _, tokenizer = tiny_model()
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 7,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    model = random_model(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    return LoadedModel(model, tokenizer, "qwen2")


def written(loaded: LoadedModel, folder: Path, storage: str = "f32") -> LoadedModel:
    file = folder / "모델.gguf"
    template = load_template("tokenizer", loaded.tokenizer)
    write_gguf(loaded, template, file, name="한국어 model", storage=storage)  # pyright: ignore[reportArgumentType]
    return load_model(file, dtype="float32", device="cpu")


def test_reading_shows_no_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written(llama(), tmp_path)
    assert capfd.readouterr().err == ""


def test_ends_beside_eos_are_in_the_file(tmp_path: Path) -> None:
    loaded = llama()
    loaded.tokenizer.eos_token = "<|endoftext|>"
    loaded.model.generation_config.eos_token_id = [0, 1]  # <|im_start|> as a third end
    written(loaded, tmp_path)
    reader = GGUFReader(tmp_path / "모델.gguf")
    found = {name: int(reader.fields[f"tokenizer.ggml.{name}_token_id"].contents()) for name in ENDS}
    assert found == {"eos": 0, "eot": 2, "eom": 1}


def logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


@pytest.mark.parametrize("make", [llama, qwen2, lambda: llama(head_dim=24, num_key_value_heads=1)])
def test_read_again_it_is_the_same_model(make, tmp_path: Path) -> None:
    loaded = make()
    again = written(loaded, tmp_path)
    ids = loaded.tokenizer.encode(TEXT)
    assert again.tokenizer.encode(TEXT) == ids
    assert again.tokenizer.decode(ids) == TEXT
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template
    assert (again.tokenizer.eos_token, again.tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")
    assert again.model.config.max_position_embeddings == loaded.model.config.max_position_embeddings
    torch.testing.assert_close(logits(again.model, ids), logits(loaded.model, ids), rtol=0, atol=1e-6)


def test_it_is_read_by_itself_whatever_lies_beside_it(tmp_path: Path) -> None:
    loaded = llama()
    save_model(loaded.model, loaded.tokenizer, tmp_path / "out")
    again = written(loaded, tmp_path / "out")
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template


@pytest.mark.parametrize(("storage", "bits"), [("f16", 16), ("bf16", 16), ("q8_0", 8.5)])
def test_smaller_storage_is_near_and_small(storage: str, bits: float, tmp_path: Path) -> None:
    loaded = llama()
    again = written(loaded, tmp_path, storage)
    ids = loaded.tokenizer.encode(TEXT)
    want = logits(loaded.model, ids)
    assert (logits(again.model, ids) - want).abs().max() < 0.02 * want.abs().max()
    matrices = sum(p.numel() for p in loaded.model.parameters() if p.ndim > 1)
    assert 0 < (tmp_path / "모델.gguf").stat().st_size - matrices * bits / 8 < 20_000


def test_q8_0_rows_that_are_no_whole_blocks_are_float16(tmp_path: Path) -> None:
    loaded = llama(hidden_size=48, head_dim=12, intermediate_size=80)
    again = written(loaded, tmp_path, "q8_0")
    ids = loaded.tokenizer.encode(TEXT)
    want = logits(loaded.model, ids)
    assert (logits(again.model, ids) - want).abs().max() < 0.02 * want.abs().max()


def gpt2() -> LoadedModel:
    _, tokenizer = tiny_model()
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2)
    return LoadedModel(random_model(config), tokenizer, "gpt2")


def word_level() -> LoadedModel:
    plain = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>")
    tokenizer.chat_template = tiny_model()[1].chat_template
    return LoadedModel(tiny_model()[0], tokenizer, "words")


LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
UNSUPPORTED = {
    "another architecture": (gpt2, "type 'gpt2' are not supported; those of type llama, mistral, qwen2 are"),
    "rotary scaling": (lambda: llama(rope_parameters=LINEAR), "rotary scaling 'linear'"),
    "biases": (lambda: llama(attention_bias=True), "attention biases"),
    "activation": (lambda: llama(hidden_act="gelu"), "activation 'gelu'"),
    "tokenizer": (word_level, "kind WordLevel is not supported"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_it_cannot_hold_is_one_sentence_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    make, words = UNSUPPORTED[name]
    with pytest.raises(ModelError, match=words):
        written(make(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ways_to_split_text_have_llama_cpps_names() -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    assert _split(level) == "gpt-2"
    assert _split({"type": "Sequence", "pretokenizers": [digits, level]}) == "smollm"
    split = {"type": "Split", "pattern": {"Regex": r"\s+"}}
    for unknown in (
        {**level, "add_prefix_space": True},
        {"type": "Metaspace"},
        {},
        {"type": "Sequence", "pretokenizers": [split, {**level, "use_regex": False}]},
    ):
        with pytest.raises(ModelError, match="splits text in a way"):
            _split(unknown)
