"""SVG documents for docs/, drawn as the project's reports draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

Lines = Mapping[str, Sequence[tuple[float, float]]]


def picture(plots: Sequence[tuple[str, str, Lines]]) -> str:
    """Plots side by side in one SVG document.

    Args:
        plots: title, name of the horizontal axis, and at most six lines of (x, y) points by name.

    Returns:
        The document; it follows light and dark.
    """
    from alignloop.report.plot import HEIGHT, WIDTH, Series, line_plot

    style = files("alignloop.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    heading, parts = 24, []
    for number, (title, x_label, lines) in enumerate(plots):
        series = [Series(name, tuple(points)) for name, points in lines.items()]
        plot = line_plot(series, title=title, x_label=x_label)
        left = number * WIDTH
        parts.append(f'<text x="{left + 10}" y="16">{title}</text>')
        parts.append(f'<svg x="{left}" y="{heading}" width="{WIDTH}" height="{HEIGHT}">{plot}</svg>')
    width, height = len(plots) * WIDTH, HEIGHT + heading
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13"><style>{style}</style>'
        f'<rect width="{width}" height="{height}" fill="var(--paper)"/>{"".join(parts)}</svg>\n'
    )
