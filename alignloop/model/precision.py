"""In which floating-point type a model is kept, and in which its matrix products run.

Two rules hold in every stage. In bfloat16 the weights that train are float32 and `torch.autocast` runs
the matrix products in bfloat16; weights that do not train are bfloat16. A `PackedModel` knows the type of
its products and enters it by itself, so policy, reference, critic and reward model of a run, and every
pass that only reads, use the same one. What has no forward pass of its own (the sampler) enters
`PackedModel.precision`.

Products read a float32 weight rounded to bfloat16, whose neighbours are 2⁻⁸ of it apart: 100 times a usual
step. A checkpoint's weights are bfloat16 numbers, so none of them would change for its first reader until
it had drifted half that way, and a dequantised checkpoint's often lie halfway between two, so the first
step, however small, would throw each of those over. `spread_weights` moves each to a random place among the
float32 numbers that round as it does: the model computes the same, and a small step changes what it
computes by as much as it would in float32, on average over the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

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
    def rounds_what_trains(self) -> bool:
        """Whether products round weights that train, so that these need `spread_weights`."""
        return self.autocast is not None and self.autocast != self.weights

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


@torch.no_grad()
def spread_weights(model: nn.Module) -> int:
    """Move each weight of a linear layer at random within the float32 numbers of one bfloat16 rounding.

    In place. Left alone are embeddings (also where a vocabulary head shares them) and norms, which are read
    unrounded, and a matrix whose weights have float32's full length, as training leaves them. The places
    are drawn from a fixed seed, so runs from one checkpoint start alike.

    Args:
        model: a model with float32 weights.

    Returns:
        Number of matrices that were changed.
    """
    read = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    distinct = {id(weight): weight for weight in linear if id(weight) not in read}
    changed = [weight for weight in distinct.values() if _is_coarse(weight)]
    for number, weight in enumerate(changed):
        generator = torch.Generator(weight.device).manual_seed(number)
        rounded = weight.bfloat16().float()
        # of the 32 bits rounding drops 16: it goes to the number within half of 2¹⁶ steps
        steps = torch.randint(
            1 - 2**15, 2**15, weight.shape, dtype=torch.int32, device=weight.device, generator=generator
        )
        spread = (rounded.view(torch.int32) + steps).view(torch.float32)
        weight.copy_(torch.where(rounded.isfinite() & (rounded != 0), spread, weight))
    return len(changed)


def _is_coarse(weight: torch.Tensor) -> bool:
    """Whether most of its float32 numbers end in four zero bits, of which a sixteenth do by chance."""
    if weight.dtype != torch.float32 or not weight.numel():
        return False
    ends = weight.detach().contiguous().view(torch.int32) & 15
    return float((ends == 0).float().mean()) > 0.5


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
