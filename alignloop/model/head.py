"""What a model does between its decoder and its logits, found out from the model itself.

Its own forward runs once on a few tokens. The decoder's hidden states and the vocabulary head's output
are replaced on the way by chosen numbers, so the logits show how hidden states reach the head and what
happens to raw logits afterwards: a scale, a soft cap, columns that are cut off. No name of a
configuration field is read. M rows, h hidden size, V outputs of the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignloop.errors import ModelError, first_line
from alignloop.model import attention
from alignloop.model.logprobs import LogitTransform

_SMALL, _LARGE = 2.0**-14, 1e8
"""Raw logits that show the slope at 0 and the soft cap."""
_VALUES = (0.0, _SMALL, _LARGE, -_LARGE, -1.0, 2.5, -7.3, 11.0, 20.0, -30.0, 60.0, -200.0, 1000.0)
_ROWS = 4
"""Tokens of the pass; each column of the logits shows so many of the values, neighbouring columns others."""
_MASKED = -1e4
"""Columns whose every logit is at most this cannot be sampled and are left out."""

FOREIGN = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a model's code raises for inputs it was not written for (NotImplementedError is a RuntimeError)."""

_known: WeakKeyDictionary[PreTrainedModel, LogitTransform] = WeakKeyDictionary()


def head_transform(hf: PreTrainedModel) -> LogitTransform:
    """How the raw products of hidden states and vocabulary head become this model's logits.

    The one place that says so: training reads log-probs through it, and whoever computes logits from
    hidden states (generation with a head of its own) must apply it as well. Logits that
    `hf(...)` returns are transformed already. Cached while the model lives.

    Args:
        hf: a transformers causal language model. On the meta device nothing can be found out and
            nothing is computed with it: the identity is returned.

    Returns:
        The transform with temperature 1.

    Raises:
        ModelError: the model has no vocabulary head of its own, or does something else than to scale,
            to cap and to cut off logits.
    """
    if hf not in _known:
        _known[hf] = LogitTransform() if hf.device.type == "meta" else _examine(hf)
    return _known[hf]


def plain_attention(hf: PreTrainedModel) -> str:
    """The attention a model has by itself, also where another role on it has switched to packed rows."""
    current = str(hf.config._attn_implementation)
    if current != attention.SHARED_PREFIX:
        return current
    return "sdpa" if hf._supports_sdpa else "eager"


def decoder_of(hf: PreTrainedModel) -> PreTrainedModel:
    """The part of a model that ends with the last hidden states.

    Raises:
        ModelError: no part of it is one. (`get_decoder` alone gives Llama 4's whole model and
            ModernBERT's vocabulary head.)
    """
    for part in (hf.get_decoder(), hf.base_model, getattr(hf, "model", None)):
        if isinstance(part, PreTrainedModel) and part is not hf and part.get_output_embeddings() is None:
            return part
    raise ModelError(f"{type(hf).__name__} has no decoder of its own below its vocabulary head")


@contextmanager
def without_dropout(hf: nn.Module) -> Iterator[None]:
    """The model in eval mode; modules that were training do so again on leaving."""
    training = [module for module in hf.modules() if module.training]
    hf.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def as_published(hf: PreTrainedModel) -> Iterator[None]:
    """The model with its own attention and without dropout; both are put back on leaving."""
    current = str(hf.config._attn_implementation)
    if current == attention.SHARED_PREFIX:
        hf.set_attn_implementation(plain_attention(hf))
    try:
        with without_dropout(hf):
            yield
    finally:
        if current == attention.SHARED_PREFIX:
            hf.set_attn_implementation(current)


@dataclass(slots=True)
class _Seen:
    """What the hooks gave and got: hidden states (1, M, h), the head's input, its raw output (1, M, V), and
    whether what the head itself gave was its input times its weight."""

    hidden: Tensor | None = None
    entering: list[Tensor] = field(default_factory=list)
    raw: Tensor | None = None
    is_product: bool = False


def _examine(hf: PreTrainedModel) -> LogitTransform:
    name = type(hf).__name__
    head = hf.get_output_embeddings()
    if not isinstance(head, nn.Module) or not isinstance(getattr(head, "weight", None), Tensor):
        raise ModelError(f"{name} has no vocabulary head that turns a hidden state into logits")
    seen = _Seen()
    hooks = [
        decoder_of(hf).register_forward_hook(lambda _m, _i, out: _replace_hidden(seen, out)),
        head.register_forward_hook(lambda m, inputs, out: _replace_raw(seen, m, inputs, out)),  # pyright: ignore[reportArgumentType]
    ]
    vocabulary = hf.config.get_text_config(decoder=True).vocab_size
    ids = torch.arange(_ROWS, device=hf.device)[None] % vocabulary
    try:
        with as_published(hf), torch.enable_grad():
            logits = hf(input_ids=ids, use_cache=False).logits
    except FOREIGN as error:
        dtype = str(hf.dtype).removeprefix("torch.")
        raise ModelError(f"{name} cannot run a row of tokens in {dtype}: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if seen.hidden is None or seen.raw is None or len(seen.entering) != 1:
        raise ModelError(
            f"{name} does not compute its logits from its decoder's last hidden states in its vocabulary "
            "head; its log-probs cannot be trained here"
        )
    if not seen.is_product:
        raise ModelError(f"{name} has a vocabulary head that is more than a product with its weights")
    if logits.requires_grad:
        raise ModelError(f"{name} has trained weights between its vocabulary head and its logits")
    before = _scale_before(seen.hidden, seen.entering[0])
    if before is None or (before != 1.0 and getattr(head, "bias", None) is not None):
        raise ModelError(
            f"{name} changes hidden states between its decoder and its vocabulary head by more than a "
            "factor; its log-probs cannot be trained here"
        )
    after = _after(seen.raw[0], logits.detach()[0])
    if after is None:
        raise ModelError(
            f"{name} does something else to its logits than to scale, cap and cut them off; its log-probs "
            "cannot be trained here"
        )
    return LogitTransform(before * after.scale, after.softcap, vocabulary=after.vocabulary)


def _replace_hidden(seen: _Seen, output: Any) -> Any:
    """The decoder's output with other last hidden states, which no gradient goes through."""
    old = output[0] if isinstance(output, tuple) else output.last_hidden_state
    generator = torch.Generator().manual_seed(0)
    seen.hidden = torch.randn(old.shape, generator=generator).to(old)
    if isinstance(output, tuple):
        return (seen.hidden, *output[1:])
    output.last_hidden_state = seen.hidden
    return output


def _replace_raw(seen: _Seen, head: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """Raw logits that hold every value in some columns."""
    seen.entering.append(inputs[0].detach())
    few = inputs[0].detach().flatten(0, -2)[:2]
    product = F.linear(few.to(head.weight.dtype), head.weight, getattr(head, "bias", None)).detach()
    off = (output.detach().flatten(0, -2)[:2] - product).abs().max()
    seen.is_product = bool(off <= 16 * torch.finfo(head.weight.dtype).eps * product.abs().max())
    rows, columns = output.shape[-2:]
    values = torch.tensor(_VALUES, dtype=torch.float32, device=output.device)
    place = torch.arange(rows, device=output.device)[:, None] + torch.arange(columns, device=output.device)
    seen.raw = values[place % len(_VALUES)].expand(output.shape)
    return seen.raw.clone()


def _scale_before(hidden: Tensor, entering: Tensor) -> float | None:
    """The factor between decoder and head, None if they differ by more."""
    if hidden.shape != entering.shape:
        return None
    if torch.equal(hidden.to(entering.dtype), entering):
        return 1.0
    old, new = hidden.double(), entering.double()
    factor = float((old * new).sum() / old.square().sum())
    close = (new - factor * old).abs().max() <= 2 * torch.finfo(entering.dtype).eps * new.abs().max()
    return factor if close and factor != 0 else None


def _after(raw: Tensor, logits: Tensor) -> LogitTransform | None:
    """The transform that makes `logits` (M, V′ ≤ V) of `raw` (M, V), None if there is none."""
    if logits.dim() != 2 or len(logits) != len(raw) or logits.shape[1] > raw.shape[1]:
        return None
    width = logits.shape[1]
    free = (logits > _MASKED).any(0)
    width = int(free.sum())
    if width == 0 or not bool(free[:width].all()):
        return None
    z, y = raw[:, :width].double(), logits[:, :width].double()
    slope = float(y[z == _SMALL].mean()) / _SMALL
    top = float(y[z == _LARGE].mean())
    if not slope > 0 or not top > 0:
        return None
    capped = top < 0.5 * slope * _LARGE
    expected = top * torch.tanh(z * (slope / top)) if capped else z * slope
    limit = 4 * torch.finfo(logits.dtype).eps * expected.abs().clamp(min=min(slope, 1.0) * 1e-6)
    if not bool(((y - expected).abs() <= limit.clamp(min=1e-30)).all()):
        return None
    vocabulary = None if width == raw.shape[1] else width
    return LogitTransform(slope, top if capped else None, vocabulary=vocabulary)
