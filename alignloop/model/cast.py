"""A model's weights in another floating-point type, as transformers loads them in it."""

from __future__ import annotations

import re

import torch
from torch import nn
from transformers import PreTrainedModel


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Give weights and saved buffers this type, in place; shared ones stay shared.

    `Module.to` would also round what transformers computes in float32 when it builds a model: with rotary
    frequencies in bfloat16 the angles of token 1000 are off by a radian. Modules that their class keeps
    in float32 stay so. A model that is of this type already is left as it is.

    Args:
        model: any module.
        dtype: a floating-point type.
    """
    if isinstance(model, PreTrainedModel) and model.dtype == dtype:
        return
    narrow = dtype in (torch.bfloat16, torch.float16)
    kept = list(getattr(model, "_keep_in_fp32_modules_strict", None) or ()) if narrow else []
    saved = {
        f"{prefix}.{name}".removeprefix("."): buffer
        for prefix, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }
    for name, tensor in (*model.named_parameters(), *saved.items()):
        if tensor.is_floating_point() and not any(re.search(rf"(^|\.){k}($|\.)", name) for k in kept):
            tensor.data = tensor.data.to(dtype)
