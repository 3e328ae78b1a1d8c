"""Values out of JSON files whose kind is not known before they are looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

Json = Any
"""A value out of a JSON file: nothing about its type is known before it is looked at."""
Span = tuple[float, float]
"""Both ends of an interval."""


def text(value: Json) -> str:
    """Any JSON value as text that can be encoded; None is ""."""
    if value is None:
        return ""
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return shown.encode("utf-8", "replace").decode("utf-8")


def mapping(value: Json) -> Mapping[str, Json]:
    """The value if it is a JSON object, else {}."""
    return value if isinstance(value, dict) else {}


def number(value: Json) -> float | None:
    """The value if it is a number (not a boolean), else None; beyond ±1e300 it counts as infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None  # of numpy
    if -1e300 < value < 1e300 or value != value:
        return value
    return math.inf if value > 0 else -math.inf


def ends_of(value: Json) -> Span | None:
    """The value's two ends if it is a list of two numbers, else None."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)
