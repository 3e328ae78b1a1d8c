"""How many positions a model has, and how many of them it turns alike whatever the text's length is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def max_positions(config: Any) -> int | None:
    """The longest text the model was made for, in tokens.

    Args:
        config: a transformers configuration; of a model of several parts the text decoder's counts.

    Returns:
        A number of tokens; None where the configuration names no limit.
    """
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def steady_positions(config: Any) -> int | None:
    """The longest text in which a token's position means the same as in every shorter one, in tokens.

    LongRoPE (Ding et al. 2024, arXiv 2402.13753, as in Phi-3) turns all tokens of a text otherwise once it
    is longer than the length of the first training. Keys that were stored before are then others than
    `model(ids)` computes, so no engine with a cache gives the model's own numbers beyond. None as
    `max_positions`.
    """
    text = config.get_text_config(decoder=True)
    limits = [limit for limit in (max_positions(config), *_changes(text)) if limit is not None]
    return min(limits, default=None)


def _changes(text: Any) -> Iterator[int | None]:
    """Lengths at which rotary frequencies change for the whole text."""
    parameters = getattr(text, "rope_parameters", None)
    if not isinstance(parameters, Mapping):
        return
    for one in (parameters, *parameters.values()):
        if isinstance(one, Mapping) and one.get("rope_type") == "longrope":
            first = one.get("original_max_position_embeddings")
            yield first or getattr(text, "original_max_position_embeddings", None)
