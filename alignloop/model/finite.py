"""Weights that are not numbers: a damaged model is named, not trained."""

from __future__ import annotations

import torch
from torch import nn


def non_finite_weight(model: nn.Module) -> str:
    """Name of the first parameter or buffer that holds NaN or infinity, "" if there is none.

    Args:
        model: any module; integer buffers and values on the meta device are passed over.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            return name
    return ""
