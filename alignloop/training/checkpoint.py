"""Checkpoints that survive anything: written beside, synced, renamed; a damaged one is passed over.

A checkpoint is a folder `step-00000042` with safetensors and JSON only: the trainable weights, the
optimizer's moments, every random state, the position in the data, and a list of sizes and digests.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.errors import RunError
from alignloop.foreign import loads, read_state
from alignloop.io import new_folder, sweep
from alignloop.training.distributed import on_first_rank

MANIFEST = "checkpoint.json"
SCHEMA = 2


class File(TypedDict):
    """Size and digest that a file of a checkpoint was written with."""

    bytes: int
    blake2b: str


class Manifest(TypedDict):
    """checkpoint.json. `blake2b` is the digest of all the rest; schema 1 had none."""

    schema: int
    step: int
    state: dict[str, Any]
    files: dict[str, File]
    blake2b: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Restored:
    """What a checkpoint held besides weights and optimizer: the step and the caller's own state.

    `skipped` names damaged checkpoints that were passed over.
    """

    step: int
    state: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    skipped: tuple[str, ...] = ()


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    keep: int = 2,
) -> Path:
    """Write `folder/step-XXXXXXXX` and remove all but the newest `keep`; every rank calls, the first writes.

    Args:
        folder: the run's checkpoints folder.
        step: optimizer steps done.
        modules: by name; only parameters that require a gradient, and buffers of heads, are written.
        optimizers: by name; their parameters must belong to `modules`.
        state: JSON-serialisable state of the caller (data cursor, controllers).
        tensors: further tensors (rollout buffers).
        keep: number of checkpoints that stay.

    Returns:
        The checkpoint's folder.

    Raises:
        DiskError: the disk is full or not writable; older checkpoints are untouched.
    """
    target = folder / f"step-{step:08d}"

    def write() -> None:
        _save(folder, target, step, modules, optimizers, state or {}, tensors or {})
        for old in _checkpoints(folder)[: -max(1, keep)]:
            shutil.rmtree(old, ignore_errors=True)

    on_first_rank(write)
    return target


def _save(
    folder: Path,
    target: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    last = [path.name for path in _checkpoints(folder)][-1:]
    kept = (
        f"the last good one is {last[0]}, the same command continues from it" if last else "none exists yet"
    )
    sweep(folder)  # of a kill in the middle of a save
    with new_folder(target, f"checkpoint of step {step} in {folder}", kept) as made:
        _write(made, step, modules, optimizers, state, tensors)


def load_checkpoint(
    folder: Path,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> Restored | None:
    """Restore the newest intact checkpoint into modules and optimizers; None if there is none.

    Raises:
        RunError: checkpoints exist and none is intact, or one belongs to another model.
    """
    skipped: list[str] = []
    found = _checkpoints(folder) if folder.is_dir() else []
    for path in reversed(found):
        fault = damage(path)
        if fault is None:
            manifest = read_manifest(path)
            tensors = _read(path, manifest, modules, optimizers)
            return Restored(manifest["step"], manifest["state"], tensors, tuple(skipped))
        skipped.append(f"{path.name} ({fault})")
    if skipped:
        raise RunError(
            f"no intact checkpoint in {folder}: {'; '.join(skipped)}; remove {folder} and the same command "
            "starts from the beginning"
        )
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None if every file has the size and digest it was written with."""
    try:
        manifest = read_manifest(path)
    except RunError as error:
        return str(error)
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != expected["bytes"]:
            return f"{name} is missing or cut short"
        if _digest(file) != expected["blake2b"]:
            return f"{name} has changed since it was written"
    return None


def read_manifest(path: Path) -> Manifest:
    """The content of a checkpoint's manifest.

    Raises:
        RunError: it is missing, cut short, of another shape, or has changed since it was written.
    """
    remedy = "this checkpoint cannot be used"
    manifest = read_state(path / MANIFEST, Manifest, remedy=remedy)
    written = manifest.get("blake2b")
    if manifest["schema"] not in (1, SCHEMA) or (written is None) != (manifest["schema"] == 1):
        raise RunError(
            f"{path / MANIFEST}: schema {manifest['schema']} is not one of this version's; {remedy}"
        )
    if written is not None and written != _self_digest(manifest):
        raise RunError(f"{path / MANIFEST} has changed since it was written; {remedy}")
    return manifest


def _self_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of everything in the manifest but the digest."""
    rest = {key: value for key, value in manifest.items() if key != "blake2b"}
    text = json.dumps(rest, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _write(
    scratch: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    for name, module in modules.items():
        save_file(_weights(module), scratch / f"weights-{name}.safetensors")
    for name, optimizer in optimizers.items():
        save_file(_moments(optimizer), scratch / f"optimizer-{name}.safetensors")
    random = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    save_file({**{f"random.{k}": v for k, v in random.items()}, **tensors}, scratch / "state.safetensors")
    files = {
        path.name: {"bytes": path.stat().st_size, "blake2b": _digest(path)}
        for path in sorted(scratch.iterdir())
    }
    manifest = {"schema": SCHEMA, "step": step, "state": state, "files": files}
    manifest = loads(json.dumps(manifest))  # as it will be read: tuples are lists, keys are texts
    manifest["blake2b"] = _self_digest(manifest)
    (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _read(
    path: Path,
    manifest: Manifest,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> dict[str, Tensor]:
    """Restore modules, optimizers and random states; returns the caller's tensors.

    Raises:
        RunError: the checkpoint is of another model or of a stage with other parts.
    """
    needed = (
        [f"weights-{name}" for name in modules] + [f"optimizer-{name}" for name in optimizers] + ["state"]
    )
    missing = [name for name in needed if f"{name}.safetensors" not in manifest["files"]]
    if missing:
        raise RunError(f"checkpoint {path} is of another kind of run: it has no {missing[0]}.safetensors")
    for name, module in modules.items():
        saved, own = load_file(path / f"weights-{name}.safetensors"), _weights(module)
        if saved.keys() != own.keys() or any(saved[k].shape != own[k].shape for k in own):
            raise RunError(f"checkpoint {path} belongs to another model than '{name}'")
        with torch.no_grad():
            for key, tensor in own.items():
                tensor.copy_(saved[key])
    for name, optimizer in optimizers.items():
        _restore_moments(optimizer, load_file(path / f"optimizer-{name}.safetensors"))
    tensors = load_file(path / "state.safetensors")
    torch.set_rng_state(tensors.pop("random.torch"))
    if "random.cuda" in tensors:
        cuda = tensors.pop("random.cuda")
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(cuda)
    return tensors


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, once each (tied ones share storage), detached."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat names `<parameter number>.<entry>`."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value.contiguous() for i, entry in state.items() for key, value in entry.items()}


def _restore_moments(optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    nested: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        number, key = name.split(".", 1)
        nested.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": nested, "param_groups": optimizer.state_dict()["param_groups"]})


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
