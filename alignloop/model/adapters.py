"""LoRA adapters: several roles on one base.

Policy, critic and reward model are adapters on the same weights; the reference is the base with all
adapters off. Hu et al. 2021, arXiv 2106.09685, through the peft library.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from transformers import PreTrainedModel

from alignloop.errors import ModelError

ALL_LINEAR = "all-linear"
_FUSED = {"gate_up_proj": ("gate_proj", "up_proj")}
"""Fused weights of experts and the layers that they stand for."""


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
        ModelError: a name in `target_modules` that matches no layer; embeddings or vocabulary head, whose
            adapter would not be trained; fused experts that would be left without one.
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
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)  # it asks for `is_gradient_checkpointing`
                    wrapped = PeftModel(model, config, adapter_name=name)
        except ValueError as error:
            raise ModelError(f"lora_target_modules {modules!r}: {_sentence(error)}") from error
    _check_places(wrapped, settings, name)
    activate(wrapped, name)
    return wrapped


def _sentence(error: ValueError) -> str:
    """The first sentence of what peft says, which may show a module over several lines."""
    return " ".join(str(error).split()).partition(". ")[0]


def _check_places(model: PeftModel, settings: LoraSettings, name: str) -> None:
    """Refuse an adapter whose places are not all trained."""
    base, wanted = model.get_base_model(), settings.target_modules
    ends = {
        "the embeddings": base.get_input_embeddings(),  # pyright: ignore[reportCallIssue]
        "the vocabulary head": base.get_output_embeddings(),  # pyright: ignore[reportCallIssue]
    }
    places = {path: layer for path, layer in base.named_modules() if isinstance(layer, LoraLayer)}
    mine = {path: layer for path, layer in places.items() if name in layer.r}
    for path, layer in mine.items():
        found = next((kind for kind, end in ends.items() if layer is end), None)
        if found is not None:
            raise ModelError(
                f"lora_target_modules: '{path.rpartition('.')[2]}' is {found} of this model, "
                "where no adapter is trained; leave it out (all-linear does) or train all weights (lora_r: 0)"
            )
    names = () if isinstance(wanted, str) else wanted
    left_over = model.peft_config[name].target_modules or ()  # pyright: ignore[reportAttributeAccessIssue]
    lost = [n for n in names if n in left_over and not any(f".{path}".endswith(f".{n}") for path in mine)]
    if lost:
        raise ModelError(f"lora_target_modules: {', '.join(map(repr, lost))} matches no layer that takes one")
    _check_experts(base, mine.values(), wanted)


def _check_experts(base: nn.Module, layers: Iterable[LoraLayer], wanted: str | tuple[str, ...]) -> None:
    """Refuse to leave fused experts without the adapter that the recipe means to give them."""
    adapted = {
        (id(layer.get_base_layer()), layer.parameter_name)
        for layer in layers
        if isinstance(layer, ParamWrapper)
    }
    for path, module in base.named_modules():
        if "Expert" not in type(module).__name__:
            continue
        for key, weight in module.named_parameters(recurse=False):
            meant = wanted == ALL_LINEAR or (
                not isinstance(wanted, str) and {key, *_FUSED.get(key, ())}.intersection(wanted)
            )
            if meant and weight.dim() > 1 and (id(module), key) not in adapted:
                raise ModelError(
                    f"lora_target_modules {wanted!r}: the experts' weights ({path}.{key} and its like) are "
                    "no linear layers, and the installed peft puts no adapter on them; name layers outside "
                    "the experts, such as [q_proj, k_proj, v_proj, o_proj], or train all weights (lora_r: 0)"
                )


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


def delete_others(model: PeftModel, keep: str) -> None:
    """Remove every adapter but one, before that one is saved."""
    for name in [name for name in model.peft_config if name != keep]:
        model.delete_adapter(name)
