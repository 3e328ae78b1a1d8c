"""LoRA adapters: several roles on one base.

Policy, critic and reward model are adapters on the same weights; the reference is the base with all
adapters off. Hu et al. 2021, arXiv 2106.09685, through the peft library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.errors import ModelError
from alignloop.storage import read_state

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Rank, scale and places of an adapter; scale of the update is alpha / r."""

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = ALL_LINEAR


def add_adapter(
    model: PreTrainedModel | PeftModel, settings: LoraSettings, *, name: str = "default", seed: int = 0
) -> PeftModel:
    """Put a fresh adapter on a model and make it the active one. B starts at 0: the model is unchanged.

    Raises:
        ModelError: no layer matches `target_modules`.
    """
    modules = (
        settings.target_modules if isinstance(settings.target_modules, str) else list(settings.target_modules)
    )
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=settings.dropout,
        target_modules=modules,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            if isinstance(model, PeftModel):
                model.add_adapter(name, config)
                wrapped = model
            else:
                wrapped = PeftModel(model, config, adapter_name=name)
        except ValueError as error:
            raise ModelError(f"LoRA target_modules {modules!r}: {error}") from error
    activate(wrapped, name)
    return wrapped


def activate(model: PeftModel, name: str, *, trainable: bool = True) -> None:
    """Use one adapter in the forward pass; it alone requires gradients if `trainable`."""
    model.set_adapter(name)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(trainable and f".{name}." in key and "lora_" in key)


@contextmanager
def adapters_off(model: PeftModel) -> Iterator[None]:
    """The base alone: the reference of a LoRA policy."""
    with model.disable_adapter():
        yield


@contextmanager
def using(model: PeftModel, name: str) -> Iterator[None]:
    """Another adapter for a while; afterwards the active one, and what requires gradients, are as before."""
    before = str(model.active_adapter)
    flags = [(p, p.requires_grad) for key, p in model.named_parameters() if "lora_" in key]
    model.set_adapter(name)
    try:
        yield
    finally:
        model.set_adapter(before)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


class AdapterFile(TypedDict):
    """The keys of an adapter_config.json that are read here."""

    base_model_name_or_path: NotRequired[str | None]


def base_name(folder: Path) -> str | None:
    """Name or path of the model an adapter was trained on; None if the folder does not tell.

    Raises:
        ModelError: adapter_config.json is damaged.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        return None
    remedy = "save the adapter again"
    return read_state(file, AdapterFile, remedy=remedy, error=ModelError).get("base_model_name_or_path")


def load_adapter(model: PreTrainedModel | PeftModel, folder: Path, *, name: str) -> PeftModel:
    """Put a saved adapter on a model. The adapters that were there stay as they are; the new one is frozen.

    Raises:
        ModelError: no adapter weights in the folder, or weights of another shape.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"adapter '{folder}' has no adapter_model.safetensors (pickled weights are not read)"
        )
    try:
        if not isinstance(model, PeftModel):
            return PeftModel.from_pretrained(model, str(folder), adapter_name=name)
        training = model.training
        flags = [(p, p.requires_grad) for key, p in model.named_parameters() if "lora_" in key]
        model.load_adapter(str(folder), name, torch_device=str(model.device))
    except (ValueError, RuntimeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"adapter '{folder}' does not fit this base: {reason}") from error
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    return model.train(training)


def delete_others(model: PeftModel, keep: str) -> None:
    """Remove every adapter but one, before that one is saved."""
    for name in [name for name in model.peft_config if name != keep]:
        model.delete_adapter(name)
