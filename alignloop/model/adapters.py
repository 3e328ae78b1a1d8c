"""LoRA adapters: several roles on one base.

Policy, critic and reward model are adapters on the same weights; the reference is the base with all
adapters off. Hu et al. 2021, arXiv 2106.09685, through the peft library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel

from alignloop.errors import ModelError

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
