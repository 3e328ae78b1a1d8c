"""Write a model folder whole, and tell two folders apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from alignloop.io import new_folder
from alignloop.model.loading import no_bars


def save_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    extra: Callable[[Path], object] | None = None,
) -> None:
    """Write a plain Hugging Face (or adapter) folder beside its place, synced, then renamed into it.

    An adapter's folder gets `generation_config.json` too, which says what ends its turns.

    Args:
        model: model or LoRA-wrapped model.
        tokenizer: saved with it.
        folder: replaced if it exists.
        extra: writes further files, such as the chat template and the scalar head.

    Raises:
        DiskError: disk full or not writable; an earlier model in the folder stays.
    """
    no_bars()
    with new_folder(folder) as made:
        model.save_pretrained(str(made))
        if isinstance(model, PeftModel):
            settings = model.get_base_model().generation_config
            if isinstance(settings, GenerationConfig):
                settings.save_pretrained(str(made))
        tokenizer.save_pretrained(str(made))
        if extra is not None:
            extra(made)


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
