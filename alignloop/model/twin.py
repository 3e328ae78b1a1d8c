"""A small random model of an architecture, to try what its code does without reading its weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from alignloop.model.head import FOREIGN

VOCABULARY = 96
LARGEST = 50_000_000
"""Parameters of a twin at most."""
MOST_LAYERS = 12
_SMALL: Mapping[str, int] = {
    "vocab_size": VOCABULARY,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
_NARROW: Mapping[str, int] = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16}


def small_twin(config: PreTrainedConfig) -> PreTrainedModel | None:
    """A float32 model of the same architecture on the CPU with few layers and words and random weights.

    It has a layer of each kind. It is narrow where the architecture allows it; positions, windows and
    scales are the model's own. Weights are drawn so that attention and logits vary.

    Args:
        config: the model's; of a model of several parts the text decoder's counts.

    Returns:
        The twin, in eval mode; None where none can be made or run by itself.
    """
    for sizes in ({**_SMALL, **_NARROW}, _SMALL):
        with suppress(*FOREIGN, StrictDataclassError):
            small = shrunk(config, sizes)
            if sum(p.numel() for p in outline(small).parameters()) > LARGEST:
                continue
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                twin: PreTrainedModel = AutoModelForCausalLM.from_config(small)
                _draw(twin.float().eval())
            with torch.no_grad():
                logits = twin(input_ids=torch.arange(8)[None] + VOCABULARY // 2, use_cache=False).logits
            if bool(logits.isfinite().all()):
                return twin
    return None


def outline(config: PreTrainedConfig) -> PreTrainedModel:
    """The model that a configuration describes, without values."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def shrunk(config: PreTrainedConfig, sizes: Mapping[str, int]) -> PreTrainedConfig:
    """A copy with few layers and the given sizes where the configuration has them."""
    small = copy.deepcopy(config.get_text_config(decoder=True))
    small._attn_implementation = None  # the trainer's, while the model trains
    shorten(small)
    heads, keys = (getattr(small, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    for name, size in sizes.items():
        if isinstance(getattr(small, name, None), int):
            setattr(small, name, size)
    if "num_attention_heads" in sizes and isinstance(heads, int) and isinstance(keys, int):
        small.num_key_value_heads = 4 if keys == heads else 1 if keys == 1 else 2
    for token, name in enumerate(("pad_token_id", "bos_token_id", "eos_token_id")):
        if isinstance(getattr(small, name, None), int):
            setattr(small, name, token)
    return small


def shorten(config: Any) -> None:
    """Keep the first layers of each kind, two at least; lists with a value for each layer are cut alike."""
    depth = config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or []
    first = {kind: kinds.index(kind) + 1 for kind in kinds}
    layers = min(depth, max([2, *first.values()]))
    if layers > MOST_LAYERS:
        raise ValueError(f"{layers} layers")
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == depth:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    if getattr(config, "num_kv_shared_layers", 0):
        config.num_kv_shared_layers = 0  # the last layers, which see the keys of others


@torch.no_grad()
def _draw(twin: nn.Module) -> None:
    """Matrices of a variance that keeps states of size one, embeddings of size one, and vectors (norms,
    biases, sinks) off what they begin with, so that a part left out shows."""
    for module in twin.modules():
        for weight in module.parameters(recurse=False):
            if weight.dim() < 2:
                weight.add_(torch.randn_like(weight), alpha=0.1)
            else:
                scale = 1.0 if isinstance(module, nn.Embedding) else 1.5 / math.sqrt(weight.shape[-1])
                weight.normal_(std=scale)
