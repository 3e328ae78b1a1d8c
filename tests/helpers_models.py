"""Small random models of any architecture."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig


def random_model(config: PreTrainedConfig, *, scale: float = 1.0, seed: int = 0) -> Any:
    """A model of this configuration in eval mode.

    Args:
        config: of any decoder that transformers knows.
        scale: of matrices; 3 makes attention and logits far from uniform.
        seed: its weights are drawn from; it becomes the global one.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model
