"""Which metrics are drawn together; one metric of several runs as a file of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

from alignloop.errors import UserError
from alignloop.report.folder import RunFolder
from alignloop.report.names import name_of
from alignloop.report.plot import (
    COLOURS,
    HEIGHT,
    SMOOTH_FROM,
    WIDTH,
    Point,
    Series,
    legend_height,
    line_plot,
)
from alignloop.runs.evaluation_results import CurvePoint
from alignloop.runs.json_values import Json, number

# Title and the metrics of one picture. A metric's held-out twin `eval_…` is drawn with it.
PLOTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Loss (nats)", ("loss",)),
    ("Accuracy", ("accuracy",)),
    ("Reward", ("reward", "gold")),
    ("Reward of chosen and rejected", ("chosen_reward", "rejected_reward")),
    ("Margin, chosen over rejected", ("margin",)),
    ("Log-probability (nats per completion)", ("chosen_logprob", "rejected_logprob")),
    ("KL from the reference (nats)", ("kl",)),
    ("Completion length (tokens)", ("completion_length",)),
    ("Entropy (nats per token)", ("entropy",)),
    ("Tokens per second", ("tokens_per_s",)),
    ("Memory (GB)", ("memory_gb",)),
)
LESSER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Learning rate", ("learning_rate",)),
    ("Gradient norm before clipping", ("grad_norm",)),
    ("Seconds per step", ("step_s",)),
)
NOT_DRAWN = frozenset({"step", "time_s", "epoch"})
_TITLE_HEIGHT = 24
_ENDS = re.compile(r"eval_.+_(low|high)")  # of the intervals of held-out means


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture: a title and its lines."""

    title: str
    series: tuple[Series, ...]
    x_label: str = "step"
    tip: str = ""

    @property
    def is_smoothed(self) -> bool:
        """Whether a line is drawn twice, raw and smoothed."""
        return any(len(s.points) >= SMOOTH_FROM for s in self.series)


def plots(metrics: Sequence[Mapping[str, Json]]) -> tuple[list[Plot], list[Plot]]:
    """The pictures of a run.

    Args:
        metrics: rows of metrics.jsonl.

    Returns:
        (main pictures, lesser ones); metrics without a place of their own are among the lesser.
    """
    lines = _lines(metrics)
    main = [_plot(title, names, lines) for title, names in PLOTS]
    if "reward" in lines or "gold" in lines:  # learned by reward: the loss says nothing about success
        main.sort(key=lambda plot: not plot.title.startswith(("Reward", "KL")))
    lesser = [_plot(title, names, lines) for title, names in LESSER]
    placed = {name for _, names in PLOTS + LESSER for name in names}
    others = {name.removeprefix("eval_"): None for name in lines if name.removeprefix("eval_") not in placed}
    lesser += [_plot(name_of(name).label, (name,), lines) for name in others]
    return [p for p in main if p.series], [p for p in lesser if p.series]


def _lines(metrics: Sequence[Mapping[str, Json]]) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for position, row in enumerate(metrics):
        step = number(row.get("step"))
        x = step if step is not None and math.isfinite(step) else float(position)
        for name, value in row.items():
            y = number(value)
            if y is not None and name not in NOT_DRAWN and not _ENDS.fullmatch(name):
                lines.setdefault(name, []).append((x, y))
    return lines


def audit_plots(curve: Sequence[CurvePoint]) -> list[Plot]:
    """The over-optimisation curve of an audit's results: gains and fits against √KL."""
    lines: dict[str, list[Point]] = {}
    for point in curve:
        gains = (point.proxy_gain, point.gold_gain, point.fit_best_of_n, point.fit_rl)
        for name, y in zip(("proxy", "gold", "d(α − β·d)", "d(α − β·ln d)"), gains, strict=True):
            if point.sqrt_kl is not None and y is not None:
                lines.setdefault(name, []).append((point.sqrt_kl, y))
    series = tuple(Series(name, tuple(sorted(points))) for name, points in lines.items())
    return [Plot("Gain against √KL from the start (√nats)", series, "√KL")] if series else []


def _plot(title: str, names: Sequence[str], lines: Mapping[str, list[Point]]) -> Plot:
    series = []
    for name in names:
        for key, label in ((name, _label(name)), (f"eval_{name}", f"{_label(name)}, held out")):
            if key in lines:
                # A resumed run may log a step twice; the later row is the one that counts.
                series.append(Series(label, tuple(sorted(dict(lines[key]).items()))))
    return Plot(title, tuple(series), tip=name_of(names[0]).tip)


def _label(name: str) -> str:
    """Legend text: the title already says reward, log-probability and so on."""
    for side in ("chosen", "rejected"):
        if name.startswith(side):
            return side
    return name.replace("_", " ")


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
