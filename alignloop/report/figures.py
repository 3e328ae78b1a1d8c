"""Figures for people: every number of a run, and metrics before and after with one rule for better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from alignloop.report.names import name_of
from alignloop.report.samples import visible
from alignloop.report.scale import rounded
from alignloop.runs.evaluation_results import BeforeAfter
from alignloop.runs.json_values import Json, Span
from alignloop.runs.results import Estimate, estimates

_SHARES = ("share", "fraction", "rate", "probability")
"""Units of values between 0 and 1."""


class Figure(NamedTuple):
    """One number of a run.

    Attributes:
        key: where it stands in the results, with dots.
        label: what it is called.
        tip: what it means, "" where the label says it.
        unit: of the value, `share` for one in per cent.
        value: the number.
        interval: its 95 % interval, None if there is none.
    """

    key: str
    label: str
    tip: str
    unit: str
    value: float
    interval: Span | None = None

    @property
    def text(self) -> str:
        """Value, interval and unit."""
        return with_interval(self.value, self.interval, percent=self.unit == "share") + (
            f" {self.unit}" if self.unit not in ("", "share") else ""
        )


def with_interval(value: float, interval: Span | None, *, percent: bool = False) -> str:
    """A value with its interval: `57.5 % [42.0, 71.6]`."""
    scale, unit = (100, " %") if percent else (1, "")
    shown = f"{rounded(round(scale * value, 1) if percent else value)}{unit}"
    if interval is None:
        return shown
    low, high = (f"{scale * end:.1f}" if percent else rounded(end) for end in interval)
    return f"{shown} [{low}, {high}]"


def figures(results: Mapping[str, Json]) -> tuple[Figure, ...]:
    """Every number in the results of run.json, in their order, each once and under its name for people."""
    return tuple(_figure(*found) for found in estimates(results))


def _figure(key: str, value: float, interval: Span | None) -> Figure:
    around, dot, side = key.removeprefix("metrics.").rpartition(".")
    if dot and side in ("before", "after", "change"):
        name = name_of(around)
        return Figure(key, f"{name.label}, {side}", name.tip, name.unit, value, interval)
    name = name_of(key.removeprefix("metrics."))
    return Figure(key, name.label, name.tip, name.unit, value, interval)


def first_figures(results: Mapping[str, Json], at_most: int) -> list[tuple[str, str]]:
    """(label, text) of the first figures at the top level of the results, for where there is little room."""
    found = [(one.label, one.text) for one in figures(results) if "." not in one.key]
    return found[:at_most]


class MeasureLine(NamedTuple):
    """One line of the table of metrics before and after, with what the metric means."""

    name: str
    tip: str
    row: BeforeAfter

    @classmethod
    def of(cls, key: str, row: BeforeAfter) -> MeasureLine:
        """The line of a metric."""
        called = name_of(key)
        return cls(visible(called.label), called.tip, row)

    @property
    def unit(self) -> str:
        """Of the values, "" where they are shown as percentages."""
        return "" if self.row.unit in _SHARES else visible(self.row.unit)

    def shown(self, value: float | None, *, signed: bool = False) -> str:
        """A value, or with `signed` a change, as text; shares as percentages, their changes as points."""
        plus = "+" if signed and value is not None and value > 0 else ""
        if value is None or self.row.unit not in _SHARES:
            return plus + rounded(value)
        return f"{plus}{rounded(round(100 * value, 1))} {'points' if signed else '%'}"

    @property
    def sides(self) -> tuple[tuple[str, float | None, Span | None], ...]:
        """(side, value, interval) before and after."""
        row = self.row
        return ("before", row.before, row.before_interval), ("after", row.after, row.after_interval)

    @property
    def change(self) -> float | None:
        """After minus before, None where one was not measured."""
        before, after = self.row.before, self.row.after
        return None if before is None or after is None else after - before

    @property
    def shown_change(self) -> str:
        """The change, with its interval where it is known."""
        interval = self.row.change_interval
        if self.change is None:
            return "–"
        if interval is None or self.row.change_is_relative:
            return self.shown(self.change, signed=True)
        low, high = (self.shown(end, signed=True).removesuffix(" points") for end in interval)
        return f"{self.shown(self.change, signed=True)} [{low}, {high}]"

    @property
    def verdict(self) -> str:
        """better, worse, no difference shown, no change, or "" where nothing can be said.

        By the interval of the paired change, as `compare` does. Results without one (of unpaired rows) are
        told apart only where the two intervals do not overlap.
        """
        change, higher, paired = self.change, self.row.higher_is_better, self.row.change_interval
        if change is None or higher is None or not math.isfinite(change):
            return ""
        if change == 0:
            return "no change"
        if paired is not None:
            if paired[0] <= 0 <= paired[1]:
                return "no difference shown"
            return "better" if (paired[0] > 0) == higher else "worse"
        a, b = self.row.before_interval, self.row.after_interval
        if a and b and a[0] <= b[1] and b[0] <= a[1]:
            return "no difference shown"
        return "better" if (change > 0) == higher else "worse"


class RateLine(NamedTuple):
    """Share of prompts on which the model beats the start, ties half; `judge` is "" for the main one."""

    judge: str
    rate: Estimate

    @property
    def verdict(self) -> str:
        """What the interval says."""
        return {
            "": "no interval was computed",
            "better": "better than the start: the whole interval lies above 50 %",
            "worse": "worse than the start: the whole interval lies below 50 %",
            "undecided": "undecided: the interval contains 50 %",
        }[self.rate.against_half]
