"""Models out of GGUF files, de-quantised by transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)

from alignloop.errors import ModelError, first_line
from alignloop.model.loading import FAULTS, no_bars

T = TypeVar("T")


def from_gguf(file: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model in a GGUF file, as a plain one in eval mode.

    Raises:
        ModelError: transformers cannot read it.
    """
    no_bars()
    try:
        with _without_bar():
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)
    except FAULTS as error:
        raise ModelError(f"GGUF file '{file}' cannot be loaded: {first_line(error)}") from error
    _clear_quantization(model)
    return model.eval()


def gguf_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file.

    Raises:
        ModelError: transformers cannot read it.
    """
    try:
        with tempfile.TemporaryDirectory() as alone:  # files of an exported folder would be read in its place
            (Path(alone) / file.name).symlink_to(file.resolve())
            return AutoTokenizer.from_pretrained(alone, gguf_file=file.name)
    except FAULTS as error:
        raise ModelError(f"tokenizer in '{file}' cannot be read: {first_line(error)}") from error


@contextmanager
def _without_bar() -> Iterator[None]:
    """Leave out the bar of transformers' conversion, which its own switch for bars does not reach."""

    def silent(items: Iterable[T], **_: object) -> Iterable[T]:
        return items

    module: Any = modeling_gguf_pytorch_utils
    bar, module.tqdm = module.tqdm, silent
    try:
        yield
    finally:
        module.tqdm = bar


def _clear_quantization(model: PreTrainedModel) -> None:
    """A de-quantised model is a plain one; the marks would forbid saving and training it."""
    if getattr(model.config, "quantization_config", None) is not None:
        delattr(model.config, "quantization_config")
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(model):
            delattr(model, name)
