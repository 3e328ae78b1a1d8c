"""Tokenizers of model folders, and whether a model has an embedding for each of their tokens."""

from __future__ import annotations

import base64
import binascii
import importlib.util
import warnings
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from alignloop.errors import ModelError, first_line
from alignloop.model.loading import FAULTS

_SHOWN = 4
"""Tokens that a sentence names."""


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, or of a hub id.

    Raises:
        ModelError: there is none, or it needs a package that is not installed.
    """
    _check_packages(Path(source))
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except FAULTS as error:
        # What transformers says of a SentencePiece file without sentencepiece is that tiktoken is missing.
        missing = _missing("sentencepiece") if "tiktoken" in str(error) else []
        hint = f"; a SentencePiece tokenizer needs: pip install {' '.join(missing)}" if missing else ""
        raise ModelError(f"tokenizer of '{source}' cannot be loaded: {first_line(error)}{hint}") from error


def _check_packages(folder: Path) -> None:
    """Refuse a folder whose only tokenizer is a file for which a package is missing."""
    file = folder / "tokenizer.model"
    if (folder / "tokenizer.json").exists() or not file.is_file():
        return
    kind = "tiktoken" if _is_tiktoken(file) else "sentencepiece"
    missing = _missing(kind)
    if missing:
        raise ModelError(
            f"tokenizer of '{folder}': tokenizer.model is of the kind {kind}, which cannot be read here; "
            f"pip install {' '.join(missing)}, or save the tokenizer as tokenizer.json"
        )


def _missing(kind: str) -> list[str]:
    """Packages that reading a tokenizer of this kind needs and that are not installed."""
    needed = {"tiktoken": {"tiktoken": "tiktoken"}}.get(
        kind, {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
    )
    return [package for module, package in needed.items() if not _is_installed(module)]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def _is_tiktoken(file: Path) -> bool:
    """Whether the first line is a token in base64 and its rank; SentencePiece's file is binary."""
    with file.open("rb") as handle:
        token, _, rank = handle.readline(1 << 16).strip().partition(b" ")
    try:
        return rank.isdigit() and bool(base64.b64decode(token, validate=True))
    except binascii.Error:
        return False


def fit_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, *, grow: bool = False
) -> None:
    """See that a model has an embedding for each token of its tokenizer.

    More embeddings than tokens are fine, and so is a padding token without one: nothing is ever padded
    with it here.

    Args:
        model: changed in place where it grows.
        tokenizer: the model's.
        name: what the model is called in messages.
        grow: add the missing rows, each the mean of the others, for a training that trains them.

    Raises:
        ModelError: tokens beyond the embeddings, and `grow` is False.
    """
    rows = embedding_rows(model)
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    others = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
    only_pads = list(beyond) == [tokenizer.pad_token_id] and tokenizer.pad_token_id not in others
    if not beyond or only_pads:
        return
    some = ", ".join(repr(beyond[number]) for number in sorted(beyond)[:_SHOWN])
    more = ", …" if len(beyond) > _SHOWN else ""
    sentence = (
        f"model '{name}': {len(beyond)} of its tokenizer's tokens ({some}{more}) are beyond the model's "
        f"{rows} embeddings"
    )
    if not grow:
        raise ModelError(
            f"{sentence}; add the rows by training all weights (lora_r: 0), or save the model after "
            "resize_token_embeddings, or take these tokens out of the tokenizer"
        )
    resize(model, max(beyond) + 1)
    warnings.warn(f"{sentence}; rows were added for them, to be trained from the others' mean", stacklevel=3)


def embedding_rows(model: PreTrainedModel) -> int:
    """Tokens that the model has an embedding for."""
    return int(model.get_input_embeddings().weight.shape[0])  # pyright: ignore[reportIndexIssue]


@torch.no_grad()
def resize(model: PreTrainedModel, rows: int) -> None:
    """Give embeddings and vocabulary head `rows` rows; new ones are the mean of the others."""
    before = embedding_rows(model)
    model.resize_token_embeddings(rows, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for weight in () if layer is None else layer.parameters():
            if len(weight) == rows > before:
                weight[before:] = weight[:before].mean(0)
