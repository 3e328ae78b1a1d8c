"""A curve of one or several runs as an SVG file of its own, for slides and documents."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from markupsafe import Markup

from alignloop.errors import UserError
from alignloop.report.curves import plots
from alignloop.report.folder import RunFolder
from alignloop.report.plot import COLOURS, HEIGHT, WIDTH, Series, legend_height, line_plot

_TITLE_HEIGHT = 24


def metric_picture(runs: Sequence[RunFolder], metric: str) -> str:
    """One metric of one or several runs as an SVG document that follows light and dark.

    Args:
        runs: at most six, drawn in this order and named by their names.
        metric: a name in metrics.jsonl.

    Returns:
        The SVG document.

    Raises:
        UserError: more than six runs, or no run has the metric; the message lists those there are.
    """
    if len(runs) > COLOURS:
        raise UserError(f"at most {COLOURS} runs fit into one picture; {len(runs)} were given")
    series = []
    for run in runs:
        rows = [{"step": row.get("step"), "loss": row[metric]} for row in run.metrics if metric in row]
        drawn, _ = plots(rows)
        series += [Series(run.name, s.points) for p in drawn for s in p.series]
    title = metric.replace("_", " ")
    picture = line_plot(series, title=title)
    if not picture:
        known = sorted({name for run in runs for row in run.metrics for name in row} - {"step", "time_s"})
        raise UserError(f"no run has a metric '{metric}'; there are: {', '.join(known) or 'none'}")
    height = HEIGHT + legend_height([one.name for one in series])
    style = files("alignloop.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    heading = f"{title} · {runs[0].name}" if len(runs) == 1 else title
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{w2}" height="{h2}" viewBox="0 {top} {w} {h}"'
        ' font-family="sans-serif" role="img" aria-label="{heading}"><style>{style}</style>'
        '<rect y="{top}" width="{w}" height="{h}" fill="var(--paper)"/><text x="10" y="-6">{heading}</text>'
        '<svg width="{w}" height="{plot_height}" aria-label="{heading}">{picture}</svg></svg>\n'
    ).format(
        w=WIDTH,
        h=height + _TITLE_HEIGHT,
        w2=2 * WIDTH,
        h2=2 * (height + _TITLE_HEIGHT),
        top=-_TITLE_HEIGHT,
        plot_height=height,
        style=Markup(style),
        heading=heading,
        picture=picture,
    )
