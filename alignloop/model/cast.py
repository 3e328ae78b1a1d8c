"""A model's weights in another floating-point type, as transformers loads them in it."""

from __future__ import annotations

import copy
import re
from contextlib import suppress

import torch
from torch import nn
from transformers import PreTrainedModel

from alignloop.model.head import FOREIGN


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Give weights and saved buffers this type, in place; shared ones stay shared.

    Buffers that are not saved get the type that their class gives them when it is built in `dtype`: masks
    and tables of positions take it in some classes, rotary frequencies stay float32 (in bfloat16 the angles
    of token 1000 are off by a radian). Modules that their class keeps in float32 stay so. A model that is
    of this type already is left as it is.

    Args:
        model: any module.
        dtype: a floating-point type.
    """
    if isinstance(model, PreTrainedModel) and model.dtype == dtype:
        return
    narrow = dtype in (torch.bfloat16, torch.float16)
    kept = list(getattr(model, "_keep_in_fp32_modules_strict", None) or ()) if narrow else []
    built = _built_types(model, dtype)
    for name, tensor in (*model.named_parameters(), *_buffers(model, saved=True).items()):
        if tensor.is_floating_point() and not any(re.search(rf"(^|\.){k}($|\.)", name) for k in kept):
            tensor.data = tensor.data.to(dtype)
    for name, buffer in _buffers(model, saved=False).items():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(built.get(name, buffer.dtype))


def _built_types(model: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Types of a model's unsaved buffers by name, were it built in `dtype`; none for other modules."""
    if not isinstance(model, PreTrainedModel) or not _buffers(model, saved=False):
        return {}
    with suppress(*FOREIGN), torch.device("meta"):
        outline = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
        return {name: buffer.dtype for name, buffer in _buffers(outline, saved=False).items()}
    return {}


def _buffers(model: nn.Module, *, saved: bool) -> dict[str, torch.Tensor]:
    """Buffers by name that `state_dict` holds, or those that it leaves out."""
    return {
        f"{prefix}.{name}".removeprefix("."): buffer
        for prefix, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if (name not in module._non_persistent_buffers_set) == saved
    }
