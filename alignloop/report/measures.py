"""What an evaluation measured: metrics before and after, and win rates, with one rule for better or worse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from alignloop.report.figures import Interval
from alignloop.report.folder import Json, ends_of, mapping, number, text
from alignloop.report.names import name_of
from alignloop.report.samples import visible
from alignloop.report.scale import rounded

_SHARES = ("share", "fraction", "rate", "probability")
"""Units of values between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the evaluation table.

    Attributes:
        name, unit: of the metric.
        before, after: values, None where not measured.
        before_interval, after_interval: their intervals, or None.
        higher_is_better: None where unknown.
        change_interval: of the paired change, or None; it alone says better or worse where it is known.
        relative: the change is relative to before, as for a perplexity.
        tip: what the metric means.
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    before_interval: Interval | None
    after_interval: Interval | None
    higher_is_better: bool | None
    change_interval: Interval | None = None
    relative: bool = False
    tip: str = ""

    def shown(self, value: float | None, *, signed: bool = False) -> str:
        """A value, or with `signed` a change, as text; shares as percentages, their changes as points."""
        plus = "+" if signed and value is not None and value > 0 else ""
        if value is None or self.unit not in _SHARES:
            return plus + rounded(value)
        return f"{plus}{rounded(round(100 * value, 1))} {'points' if signed else '%'}"

    @property
    def shown_unit(self) -> str:
        return "" if self.unit in _SHARES else self.unit

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def shown_change(self) -> str:
        """The change, with its interval where it is known."""
        if self.change is None:
            return "–"
        if self.change_interval is None or self.relative:
            return self.shown(self.change, signed=True)
        low, high = (self.shown(end, signed=True).removesuffix(" points") for end in self.change_interval)
        return f"{self.shown(self.change, signed=True)} [{low}, {high}]"

    @property
    def verdict(self) -> str:
        """better, worse, no difference shown, no change, or "" where nothing can be said.

        By the interval of the paired change, as `compare` does. Results without one (of unpaired rows) are
        told apart only where the two intervals do not overlap.
        """
        if self.change is None or self.higher_is_better is None or not math.isfinite(self.change):
            return ""
        if self.change == 0:
            return "no change"
        if self.change_interval is not None:
            if self.change_interval[0] <= 0 <= self.change_interval[1]:
                return "no difference shown"
            return "better" if (self.change_interval[0] > 0) == self.higher_is_better else "worse"
        a, b = self.before_interval, self.after_interval
        if a and b and a[0] <= b[1] and b[0] <= a[1]:
            return "no difference shown"
        return "better" if (self.change > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True, slots=True)
class WinRate:
    """Share of prompts on which the model beats the start, ties half; `judge` is "" for the main one."""

    judge: str
    value: float
    interval: Interval | None
    level: float | None
    num_prompts: int | None

    @property
    def verdict(self) -> str:
        if self.interval is None:
            return "no interval was computed"
        if self.interval[0] > 0.5:
            return "better than the start: the whole interval lies above 50 %"
        if self.interval[1] < 0.5:
            return "worse than the start: the whole interval lies below 50 %"
        return "undecided: the interval contains 50 %"


def read_measures(metrics: Mapping[str, Json]) -> tuple[Measure, ...]:
    """The metrics of an evaluation, in their order."""
    out = []
    for name, value in metrics.items():
        entry = mapping(value)
        better = entry.get("higher_is_better")
        called = name_of(text(name))
        out.append(
            Measure(
                name=visible(called.label),
                unit=visible(text(entry.get("unit"))),
                before=number(entry.get("before")),
                after=number(entry.get("after") if entry else value),
                before_interval=ends_of(entry.get("before_interval")),
                after_interval=ends_of(entry.get("after_interval")),
                higher_is_better=better if isinstance(better, bool) else None,
                change_interval=ends_of(entry.get("change_interval")),
                relative=entry.get("change_is_relative") is True,
                tip=called.tip,
            )
        )
    return tuple(out)


def read_win_rates(results: Mapping[str, Json]) -> tuple[WinRate, ...]:
    """The results named win_rate and win_rate_JUDGE."""
    out = []
    for name, value in results.items():
        entry = mapping(value)
        share, count = number(entry.get("value")), number(entry.get("n"))
        if name.startswith("win_rate") and share is not None:
            judge = visible(name.removeprefix("win_rate").strip("_").replace("_", " "))
            prompts = int(count) if count is not None and math.isfinite(count) else None
            interval, level = ends_of(entry.get("interval")), number(entry.get("level"))
            out.append(WinRate(judge, share, interval, level, prompts))
    return tuple(out)
