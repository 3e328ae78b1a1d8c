"""torch.compile for the decoder layers, one compiled layer shared by all of them."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def compile_layers(hf: PreTrainedModel, *, backend: str = "inductor") -> list[nn.Module]:
    """Compile each decoder layer in place, for rows of any length.

    Attention stays outside (it is a compiled kernel of its own on a GPU), the rest of a layer, norms,
    rotary embedding and activations, is fused. Weights, names and hooks stay as they are. The first
    steps are slow.

    Args:
        hf: a transformers decoder.
        backend: of torch.compile.

    Returns:
        The layers; none where the architecture does not name them.
    """
    names = set(hf._no_split_modules or ())
    layers = [module for module in hf.get_decoder().modules() if type(module).__name__ in names]
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    return layers
