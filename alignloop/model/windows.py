"""Sliding windows made small for a while, so that a short probe is longer than they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

SMALL_WINDOW = 4
"""Tokens that a layer with a window sees while the windows are small."""
_FIELD = "sliding_window"


@contextmanager
def small_windows(model: PreTrainedModel, size: int = SMALL_WINDOW) -> Iterator[None]:
    """Let every sliding window of `model` be `size` tokens, and what it was on leaving.

    A window that is as long as the model's positions hides nothing in the model's use and is left alone.
    Configurations (from which transformers makes masks) and attention layers (which may hand the window
    to their attention) are changed; an attention layer keeps its distance from the configuration's value.
    """
    config = model.config.get_text_config(decoder=True)
    positions, window = getattr(config, "max_position_embeddings", None), getattr(config, _FIELD, None)
    if type(window) is not int or not _binds(window, positions) or window <= size:
        yield
        return
    changed: list[tuple[object, int]] = []
    holders = {id(holder): holder for holder in (config, *model.modules(), *_configs(model))}
    try:
        for holder in holders.values():
            own = vars(holder).get(_FIELD)
            if type(own) is int and _binds(own, positions):
                changed.append((holder, own))
                setattr(holder, _FIELD, max(1, own - window + size))
        yield
    finally:
        for holder, own in changed:
            setattr(holder, _FIELD, own)


def _binds(window: int, positions: int | None) -> bool:
    """Whether a window hides anything from a text that the model has positions for."""
    return window > 0 and (positions is None or window < positions)


def _configs(model: nn.Module) -> list[object]:
    """Configurations that modules keep, which may be others than the model's."""
    found = (module.__dict__.get("config") for module in model.modules())
    return [config for config in found if config is not None]
