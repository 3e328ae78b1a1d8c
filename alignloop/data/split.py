"""Divide records so that no prompt is on both sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from alignloop.content import number_of
from alignloop.data.columns import content_of
from alignloop.data.normal import prompt_key
from alignloop.errors import DataError
from alignloop.records import Record

T = TypeVar("T")


def split(
    records: Sequence[Record],
    fractions: Mapping[str, float],
    seed: int = 0,
    by: Literal["prompt", "record"] = "prompt",
) -> dict[str, list[Record]]:
    """Divide records into named parts by a hash of their prompt and the seed.

    Where a record goes depends on its own prompt only (normalised: case, white space and Unicode
    form do not matter), so added rows move no other, and equal prompts stay together. Parts are
    therefore only about as large as their fraction.

    Args:
        records: what to divide.
        fractions: size of each part by name; they sum to 1.
        seed: another seed, another division.
        by: `prompt`, or `record` to divide by the whole content.

    Returns:
        The records of each part, in their order.

    Raises:
        DataError: fractions that are negative or do not sum to 1, or an unknown `by`.
    """
    if (
        not fractions
        or min(fractions.values()) < 0
        or not math.isclose(sum(fractions.values()), 1, abs_tol=1e-9)
    ):
        raise DataError(
            "expected fractions from 0 up that sum to 1", field="fractions", value=dict(fractions)
        )
    if by not in ("prompt", "record"):
        raise DataError("expected prompt or record", field="by", value=by)
    parts: dict[str, list[Record]] = {name: [] for name in fractions}
    last = [name for name, fraction in fractions.items() if fraction > 0][-1]
    for record in records:
        place = _place(prompt_key(record) if by == "prompt" else content_of(record, provenance=False), seed)
        upper = 0.0
        for name, fraction in fractions.items():
            upper += fraction
            if place < upper or name == last:  # the last takes what rounding leaves
                parts[name].append(record)
                break
    return parts


def drawn_share(
    items: Iterable[T],
    fraction: float,
    seed: int,
    *,
    most: int | None = None,
    key: Callable[[T], Any] | None = None,
) -> set[T]:
    """A seeded share of the distinct items.

    Args:
        items: such as the prompts of rows, in any order.
        fraction: the share; above 0 it is one item at least.
        seed: of the draw.
        most: largest number of items, None for any.
        key: orders the items before the draw; by default they order themselves.

    Returns:
        round(fraction · distinct items) of them.
    """
    distinct = sorted(set(items), key=key)  # pyright: ignore[reportArgumentType, reportCallIssue]
    count = max(1, round(fraction * len(distinct))) if fraction > 0 else 0
    count = count if most is None else min(count, most)
    return {distinct[k] for k in np.random.default_rng(seed).permutation(len(distinct))[:count]}


def _place(key: str, seed: int) -> float:
    """A number in [0, 1), evenly distributed over keys."""
    return number_of(f"{seed}\x1d{key}") / 2**64
