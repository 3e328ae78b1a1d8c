"""Line plots as SVG, written for this report: no library, no script, no font of their own.

Colours are CSS classes (`s0` … `s5`), so that one picture serves light, dark and print.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from alignloop.report.scale import tick_labels, ticks

Point = tuple[float, float]

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 26, 34
COLOURS = 6
_MAX_POINTS = 240
SMOOTH_FROM = 24
_DOTS_UP_TO = 24


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a name and (x, y) points in the order of x. Values may be NaN or infinite."""

    name: str
    points: tuple[Point, ...]


def smoothed(points: Sequence[Point], *, half_life: float) -> list[Point]:
    """Moving average that weighs both sides alike, so that a trend is not drawn late.

    yₖ' = Σ w^|k−i| yᵢ / Σ w^|k−i| with w = 2^(−1/half_life), over the finite points.

    Args:
        points: (x, y) in the order of x.
        half_life: distance in points at which a value counts half.

    Returns:
        One point for each finite input point.
    """
    finite = [p for p in points if math.isfinite(p[1])]
    weight = 0.5 ** (1 / half_life)

    def one_sided(values: Iterable[float]) -> Iterator[tuple[float, float]]:
        total = norm = 0.0
        for y in values:
            total, norm = weight * total + y, weight * norm + 1
            yield total, norm

    forward = one_sided(y for _, y in finite)
    backward = reversed(list(one_sided(y for _, y in reversed(finite))))
    return [
        (x, (a + b - y) / (n + m - 1))
        for (x, y), (a, n), (b, m) in zip(finite, forward, backward, strict=True)
    ]


def thinned(points: Sequence[Point], *, at_most: int = _MAX_POINTS) -> list[Point]:
    """At most about `at_most` points that keep every bucket's lowest and highest, so spikes stay visible."""
    if len(points) <= at_most:
        return list(points)
    size = math.ceil(2 * len(points) / at_most)
    out: list[Point] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        finite = [p for p in bucket if math.isfinite(p[1])]
        if not finite:
            out.append(bucket[0])
            continue
        ends = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])}
        out.extend(sorted(ends))
    if out[-1] != points[-1]:
        out.append(points[-1])
    return out


@dataclass(frozen=True, slots=True)
class _Frame:
    """The plotting area: data ranges and their pixels."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        return (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return (self.y1 - value) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)


def line_plot(series: Sequence[Series], *, title: str, x_label: str = "step") -> Markup:
    """A line plot with axes, ticks and a legend.

    Lines of 24 points and more are drawn twice, raw (pale) and smoothed. Rare spikes that would more than
    double the vertical axis are cut off; how many points lie beyond it is said.

    Args:
        series: at most six lines; lines without a finite point are left out.
        title: read out by screen readers, and the tooltip.
        x_label: name of the horizontal axis.

    Returns:
        An `<svg>` element, or an empty string if there is nothing to draw.
    """
    lines = [s for s in series if any(math.isfinite(y) for _, y in s.points)][:COLOURS]
    if not lines:
        return Markup("")
    frame, outside = _frame(lines)
    names = [s.name for s in lines]
    top = TOP + legend_height(names)
    parts = [_axes(frame, x_label, top, outside), _legend(names)]
    # A nested svg clips what lies beyond the axes; without outliers the dots at the edges stay whole.
    parts.append(
        Markup(
            '<svg x="{}" y="{}" width="{}" height="{}" class="{}" data-range="{}" data-x="{}"'
            ' aria-label="{}">'
        ).format(
            LEFT,
            top,
            WIDTH - LEFT - RIGHT,
            HEIGHT - TOP - BOTTOM,
            "area" if outside else "area whole",
            " ".join(f"{v:.8g}" for v in (frame.x0, frame.x1, frame.y0, frame.y1)),
            x_label,
            title,
        )
    )
    parts += [_line(number, s, frame) for number, s in enumerate(lines)]
    parts.append(Markup("</svg>"))
    height, label = HEIGHT + legend_height(names), f"{title}: {', '.join(names)}"
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, label, Markup("").join(parts)
    )


def _frame(lines: Sequence[Series]) -> tuple[_Frame, int]:
    xs = [x for s in lines for x, y in s.points if math.isfinite(y)]
    ys = [y for s in lines for _, y in s.points if math.isfinite(y)]
    low, high = math.inf, -math.inf
    for s in lines:
        raw = sorted(y for _, y in s.points if math.isfinite(y))
        tail = len(raw) // 100
        smooth = [y for _, y in _smooth_line(s)] if tail else []
        low, high = min(low, raw[tail], *smooth), max(high, raw[len(raw) - 1 - tail], *smooth)
    if max(ys) - min(ys) <= 2 * (high - low):  # no spike worth cutting
        low, high = min(ys), max(ys)
    # A spread below float noise is a flat line: give it an axis that does not magnify the noise.
    pad = 0.06 * (high - low) if high - low > 1e-9 * max(abs(low), abs(high)) else 0.1 * abs(high) or 1.0
    x0, x1 = min(xs), max(xs)
    frame = _Frame(x0, x1 if x1 > x0 else x0 + 1, low - pad, high + pad)
    return frame, sum(not frame.y0 <= y <= frame.y1 for y in ys)


def _smooth_line(series: Series) -> list[Point]:
    if len(series.points) < SMOOTH_FROM:
        return []
    return smoothed(series.points, half_life=max(2.0, len(series.points) / 40))


def _axes(frame: _Frame, x_label: str, top: float, outside: int) -> Markup:
    right, bottom = WIDTH - RIGHT, top + HEIGHT - TOP - BOTTOM
    parts = []
    rows = ticks(frame.y0, frame.y1, at_most=6)
    for value, label in zip(rows, tick_labels(rows), strict=True):
        y = top + frame.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 3.5:.1f}">{label}</text>')
    columns = ticks(frame.x0, frame.x1, at_most=7)
    for value, label in zip(columns, tick_labels(columns), strict=True):
        x = LEFT + frame.x(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{bottom + 15}">{label}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    below = bottom + BOTTOM - 4
    axis_name = Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(right, below, x_label)
    if outside:
        note = f"{outside} {'point' if outside == 1 else 'points'} beyond the axis"
        axis_name += Markup('<text class="tick" x="{}" y="{}">{}</text>').format(LEFT, below, note)
    return Markup("".join(parts)) + axis_name


def text_width(text: str, *, size: float) -> float:
    """Estimated width in pixels of a sans-serif text; Korean, Chinese and Japanese letters are square."""
    return size * sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.56 for c in text)


def shortened(title: str, *, size: float, width: float) -> str:
    """The text, cut in the middle to a width in pixels: file names differ at both ends."""
    if text_width(title, size=size) <= width:
        return title
    keep = len(title) - 1
    while keep > 2 and text_width(f"{title[: keep // 2]}…{title[-(keep // 2) :]}", size=size) > width:
        keep -= 1
    return f"{title[: keep // 2]}…{title[-(keep // 2) :]}"


_LEGEND_ROW = 16


def _legend_places(names: Sequence[str]) -> list[tuple[str, float, int]]:
    """(text, x, row) of each name; a name that does not fit into a row begins the next one."""
    places, x, row = [], float(LEFT), 0
    for name in names:
        shown = shortened(name, size=12, width=WIDTH - RIGHT - LEFT - 19)
        end = x + 19 + text_width(shown, size=12)
        if end > WIDTH - RIGHT and x > LEFT:
            x, row = float(LEFT), row + 1
            end = x + 19 + text_width(shown, size=12)
        places.append((shown, x, row))
        x = end + 14
    return places


def legend_height(names: Sequence[str]) -> int:
    """Pixels that a legend of several rows adds to a plot's height."""
    return _LEGEND_ROW * max((row for _, _, row in _legend_places(names)), default=0)


def _legend(names: Sequence[str]) -> Markup:
    parts = []
    for number, (shown, x, row) in enumerate(_legend_places(names) if len(names) > 1 else ()):
        y = 12 + _LEGEND_ROW * row  # one line is named by the title
        parts.append(
            Markup(
                '<path class="line s{}" d="M{:.0f} {}h14"/><text class="label" x="{:.0f}" y="{}">'
                "<title>{}</title>{}</text>"
            ).format(number, x, y, x + 19, y + 4, names[number], shown)
        )
    return Markup("").join(parts)


def _path(points: Sequence[Point], frame: _Frame) -> str:
    """SVG path; a value that is not finite interrupts the line."""
    out, pen_down = [], False
    for x, y in points:
        if math.isfinite(y):
            out.append(f"{'L' if pen_down else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}")
        pen_down = math.isfinite(y)
    return "".join(out)


def _line(number: int, series: Series, frame: _Frame) -> Markup:
    smooth = thinned(_smooth_line(series))
    raw = _path(thinned(series.points), frame)
    name = escape(series.name)
    if smooth:
        drawn = (
            f'<path class="raw s{number}" d="{raw}"/>'
            f'<path class="line s{number}" data-name="{name}" d="{_path(smooth, frame)}"/>'
        )
    else:
        drawn = f'<path class="line s{number}" data-name="{name}" d="{raw}"/>'
    if len(series.points) <= _DOTS_UP_TO:
        drawn += "".join(
            f'<circle class="dot s{number}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.6"/>'
            for x, y in series.points
            if math.isfinite(y)
        )
    return Markup(drawn)


def interval_plot(
    before: tuple[float, float, float] | None, after: tuple[float, float, float] | None, *, title: str
) -> Markup:
    """A small picture of two values with their intervals on one scale, before above after.

    Args:
        before: (low, value, high), or None where it was not measured.
        after: likewise.
        title: read out by screen readers.

    Returns:
        An `<svg>` element.
    """
    rows = [(kind, row) for kind, row in (("before", before), ("after", after)) if row is not None]
    values = [v for _, row in rows for v in row if math.isfinite(v)]
    if not values:
        return Markup("")
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    parts = []
    for kind, row in rows:
        if not all(math.isfinite(v) for v in row):
            continue
        left, centre, right = (6 + 108 * (v - low) / span if high > low else 60.0 for v in row)
        y = 7 if kind == "before" else 17
        parts.append(f'<path class="whisker {kind}" d="M{left:.1f} {y}H{right:.1f}"/>')
        parts.append(f'<circle class="point {kind}" cx="{centre:.1f}" cy="{y}" r="3.6"/>')
    return Markup('<svg class="interval" viewBox="0 0 120 24" role="img" aria-label="{}">{}</svg>').format(
        title, Markup("".join(parts))
    )


def sparkline(values: Sequence[float], *, width: int = 24) -> str:
    """A curve of block letters for Markdown and terminals, means of up to `width` buckets."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ""
    count = min(width, len(finite))
    edges = [round(i * len(finite) / count) for i in range(count + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * (m - low) / span))] for m in means)
