"""In which floating-point type a model is kept, and in which its matrix products run.

Two rules hold in every stage. In bfloat16 the weights that train are float32 and `torch.autocast` runs
the matrix products in bfloat16; weights that do not train are bfloat16. A `PackedModel` knows the type of
its products and enters it by itself, so policy, reference, critic and reward model of a run, and every
pass that only reads, use the same one. What has no forward pass of its own (the sampler) enters
`PackedModel.precision`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

import torch

from alignloop.model.load import resolve_device, resolve_dtype

_P = ParamSpec("_P")
_R = TypeVar("_R")


class HasPrecision(Protocol):
    """A model that says in which type it computes."""

    def precision(self) -> AbstractContextManager[Any]: ...


_M = TypeVar("_M", bound=HasPrecision)


class Precision(NamedTuple):
    """The types of a model that trains, or is read beside one that does.

    Attributes:
        weights: of the base model; adapters and scalar heads are float32 always.
        autocast: of the matrix products, None where that is the weights' type.
    """

    weights: torch.dtype
    autocast: torch.dtype | None

    @property
    def weights_name(self) -> str:
        """The weights' type as `load_model` takes it."""
        return str(self.weights).removeprefix("torch.")


def training_precision(dtype: str, device: str | torch.device, *, weights_train: bool) -> Precision:
    """The types a stage uses for a recipe's `dtype`.

    Args:
        dtype: auto, float32 or bfloat16.
        device: where the model will run, as `load_model` takes it.
        weights_train: whether the base model's own weights train; False under LoRA or with a frozen base.

    Returns:
        float32 throughout, or bfloat16 products on float32 weights (on bfloat16 weights if those are frozen).

    Raises:
        ModelError: bfloat16 on a CPU without bfloat16 instructions, or a device that is not there.
    """
    where = device if isinstance(device, torch.device) else resolve_device(device)
    products = resolve_dtype(dtype, where)
    if products != torch.bfloat16:
        return Precision(products, None)
    return Precision(torch.float32 if weights_train else products, products)


def autocast_to(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which matrix products run in `dtype`, in the weights' own type if None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def in_precision(method: Callable[Concatenate[_M, _P], _R]) -> Callable[Concatenate[_M, _P], _R]:
    """Run a model's method in the type the model computes in, whoever calls it."""

    @wraps(method)
    def run(self: _M, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self.precision():
            return method(self, *args, **kwargs)

    return run
