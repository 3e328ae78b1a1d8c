"""Reference log-probs: computed once for offline data, cached by content, or adapters off under LoRA."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from alignloop.data.packing import Batch, Group
from alignloop.model.adapters import adapters_off
from alignloop.model.infer import run_groups
from alignloop.model.packed import Forward, PackedModel
from alignloop.storage import new_file
from alignloop.training.loop import Reference


def adapter_reference(model: PackedModel, peft: PeftModel) -> Reference:
    """The base under a LoRA policy: the same weights with the adapters off. (B, T), nats."""

    def reference(batch: Batch) -> Tensor:
        training = model.training
        model.eval()
        with torch.no_grad(), adapters_off(peft):
            logprobs = model(batch).logprobs
        model.train(training)
        assert logprobs is not None
        return logprobs

    return reference


def frozen_reference(model: PackedModel) -> Reference:
    """A second model that stays in memory. (B, T), nats."""
    model.eval().requires_grad_(False)

    def reference(batch: Batch) -> Tensor:
        with torch.no_grad():
            logprobs = model(batch).logprobs
        assert logprobs is not None
        return logprobs

    return reference


def with_reference_logprobs(
    groups: Sequence[Group],
    model: PackedModel,
    *,
    token_budget: int,
    cache: Path | None = None,
    name: str = "reference_logprobs",
) -> tuple[list[Group], bool]:
    """Every completion with its log-probs under `model`, from the cache if it holds them.

    The key of the cache is content: every weight of the model, every token of the groups, the type that the
    model computes in.
    Another model under the same name, or a data set that was changed, is therefore computed anew.

    Args:
        groups: tokenized data set.
        model: the reference, which computes in the policy's type; left in eval mode.
        token_budget: tokens of a packed row.
        cache: folder of cached values; None computes always.
        name: under which the completions hold the values.

    Returns:
        The groups with values, and whether they came from the cache.
    """
    file = None
    if cache is not None:
        file = cache / f"{_key(groups, f'{weights_sha256(model)} {model.autocast}')}.safetensors"
        flat = _cached(file, groups)
        if flat is not None:
            return _attach(groups, flat, name), True

    def read(out: Forward, batch: Batch, chunk: Sequence[Group]) -> list[list[np.ndarray]]:
        assert out.logprobs is not None
        rows = iter(out.logprobs.float().cpu().numpy())
        return [[next(rows)[: len(c.ids)].copy() for c in group.completions] for group in chunk]

    title = name.replace("_", " ").replace("logprobs", "log-probs")
    rows = run_groups(model, groups, token_budget, model, read, title=title)
    flat = np.concatenate([part for parts in rows for part in parts])
    if file is not None:
        _keep(file, flat)
    return _attach(groups, flat, name), False


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and values of every parameter and buffer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _cached(file: Path, groups: Sequence[Group]) -> np.ndarray | None:
    """The values of a cache file, None if it is absent or damaged."""
    try:
        flat = load_file(file)["logprobs"]
    except (OSError, KeyError, SafetensorError):
        return None
    wanted = (sum(len(c.ids) for g in groups for c in g.completions),)
    return flat if flat.shape == wanted and flat.dtype == np.float32 else None


def _keep(file: Path, flat: np.ndarray) -> None:
    with new_file(file) as made:
        save_file({"logprobs": flat}, made)


def _attach(groups: Sequence[Group], flat: np.ndarray, name: str) -> list[Group]:
    result, start = [], 0
    for group in groups:
        completions = []
        for item in group.completions:
            part = flat[start : start + len(item.ids)]
            completions.append(replace(item, values={**item.values, name: part}))
            start += len(item.ids)
        result.append(replace(group, completions=tuple(completions)))
    return result


def _key(groups: Sequence[Group], model_id: str) -> str:
    digest = hashlib.sha256(model_id.encode())
    for group in groups:
        for ids in (group.prompt_ids, *(c.ids for c in group.completions)):
            digest.update(np.int64(len(ids)).tobytes())
            digest.update(ids.tobytes())
        for item in group.completions:
            digest.update(item.mask.tobytes())
    return digest.hexdigest()
