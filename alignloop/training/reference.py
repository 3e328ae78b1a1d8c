"""Reference log-probs: computed once for offline data, cached by content, or adapters off under LoRA."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from torch import Tensor

from alignloop.data.packing import Batch, Group, collate, pack
from alignloop.model.adapters import adapters_off
from alignloop.model.packed import PackedModel
from alignloop.training.loop import Reference, precision


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
    model_id: str = "",
    autocast: torch.dtype | None = None,
) -> tuple[list[Group], bool]:
    """Every completion with `reference_logprobs` under `model`, from the cache if it holds these groups.

    Args:
        groups: tokenized data set.
        model: the reference; left in eval mode.
        token_budget: tokens of a packed row.
        cache: folder of cached values; None computes always.
        model_id: what identifies the reference's weights; part of the cache key.
        autocast: dtype of the policy's matrix products, so that equal weights give equal log-probs.

    Returns:
        The groups with values, and whether they came from the cache.
    """
    if autocast is not None:
        model_id = f"{model_id} {autocast}"
    file = None if cache is None else cache / f"{_key(groups, model_id)}.safetensors"
    if file is not None and file.is_file():
        flat = load_file(file)["logprobs"]
        return _attach(groups, flat), True
    model.eval()
    by_group: dict[int, list[np.ndarray]] = {}
    numbered = [replace(group, index=number) for number, group in enumerate(groups)]
    with torch.no_grad(), precision(model.device, autocast):
        for chunk in pack(numbered, token_budget):
            batch = collate(chunk)
            logprobs = model(batch).logprobs
            assert logprobs is not None
            table, row = logprobs.float().cpu().numpy(), 0
            for group in chunk:
                rows = [table[row + k, : len(c.ids)].copy() for k, c in enumerate(group.completions)]
                by_group[group.index] = rows
                row += len(rows)
    flat = np.concatenate([part for number in range(len(groups)) for part in by_group[number]])
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".tmp")
        save_file({"logprobs": flat}, scratch)
        scratch.replace(file)
    return _attach(groups, flat), False


def _attach(groups: Sequence[Group], flat: np.ndarray) -> list[Group]:
    result, start = [], 0
    for group in groups:
        completions = []
        for item in group.completions:
            part = flat[start : start + len(item.ids)]
            completions.append(replace(item, values={**item.values, "reference_logprobs": part}))
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
