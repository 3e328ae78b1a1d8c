"""Numbers for people: axis ticks, labels and rounded values."""

from __future__ import annotations

import math
from collections.abc import Sequence


def ticks(low: float, high: float, *, at_most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) inside [low, high], ascending.

    Args:
        low: lower end, finite.
        high: upper end, finite and above `low`.
        at_most: upper bound on their number, at least 2.

    Returns:
        Between 2 and `at_most` values.
    """
    exponent = math.floor(math.log10((high - low) / at_most))
    for step in (m * 10.0**e for e in (exponent, exponent + 1) for m in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= at_most:
            return [k * step for k in range(first, last + 1)]
    return [low, high]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Labels with the decimals that tell neighbours apart: 0.25, 1 500, 2k, 1e-05."""
    largest = max(abs(v) for v in values)
    step = abs(values[1] - values[0]) if len(values) > 1 else largest or 1.0

    def decimals(unit: float) -> int:
        return max(0, -math.floor(math.log10(step / unit) + 1e-9))

    def label(value: float) -> str:
        if value == 0:
            return "0"
        if largest < 1e-3 or largest >= 1e7:
            power = math.floor(math.log10(largest))
            return f"{value / 10.0**power:.{decimals(10.0**power)}f}e{power:+03d}"
        if largest >= 10_000:
            return f"{value / 1000:.{decimals(1000)}f}k"
        return f"{value:.{decimals(1)}f}"

    return [label(v).replace("-", "−", 1) if v < 0 else label(v) for v in values]


def rounded(value: float | None) -> str:
    """Four significant digits: 0.6931, 12.5, 1,234, 2e-05; – for None."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e9:
        shown = f"{value:.3g}"
    elif size >= 1000:
        shown = f"{value:,.0f}"
    else:
        shown = f"{value:.{max(0, 3 - math.floor(math.log10(size)))}f}"
        shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    return shown.replace("-", "−", 1) if value < 0 else shown


def duration(seconds: float | None) -> str:
    """Seconds as 42 s, 3 min 20 s or 2 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
