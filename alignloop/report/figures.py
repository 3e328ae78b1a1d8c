"""The figures of a run's results: each number with its interval, its name for people and its unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from alignloop.report.folder import Json, ends_of, number
from alignloop.report.names import name_of
from alignloop.report.scale import rounded

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Figure:
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
    interval: Interval | None = None

    @property
    def text(self) -> str:
        """Value, interval and unit."""
        return with_interval(self.value, self.interval, percent=self.unit == "share") + (
            f" {self.unit}" if self.unit not in ("", "share") else ""
        )


def with_interval(value: float, interval: Interval | None, *, percent: bool = False) -> str:
    """A value with its interval: `57.5 % [42.0, 71.6]`."""
    scale, unit = (100, " %") if percent else (1, "")
    shown = f"{rounded(round(scale * value, 1) if percent else value)}{unit}"
    if interval is None:
        return shown
    low, high = (f"{scale * end:.1f}" if percent else rounded(end) for end in interval)
    return f"{shown} [{low}, {high}]"


def figures(results: Mapping[str, Json]) -> tuple[Figure, ...]:
    """Every number in the results, in their order, each once.

    A number's interval stands where stages write it: {value, interval}, or `NAME_interval` beside NAME.
    Before and after of a metric are two figures.

    Args:
        results: of run.json.

    Returns:
        The figures; lists and texts are none.
    """
    return tuple(_figures(results, ""))


def _figures(results: Mapping[str, Json], prefix: str) -> Iterator[Figure]:
    for name, value in results.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            own = number(value.get("value"))
            if own is not None:
                yield _figure(key, own, ends_of(value.get("interval")))
            else:
                yield from _figures(value, f"{key}.")
            continue
        found = number(value)
        if found is not None:
            yield _figure(key, found, ends_of(results.get(f"{name}_interval")))


def _figure(key: str, value: float, interval: Interval | None) -> Figure:
    side = key.rpartition(".")[2]
    if side in ("before", "after", "change") and "." in key:
        name = name_of(key.rpartition(".")[0].removeprefix("metrics."))
        return Figure(key, f"{name.label}, {side}", name.tip, name.unit, value, interval)
    name = name_of(key.removeprefix("metrics."))
    return Figure(key, name.label, name.tip, name.unit, value, interval)


def first_figures(results: Mapping[str, Json], at_most: int) -> list[tuple[str, str]]:
    """(label, text) of the first figures at the top level of the results, for where there is little room."""
    found = [(one.label, one.text) for one in figures(results) if "." not in one.key]
    return found[:at_most]
