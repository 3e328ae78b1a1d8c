"""Which metrics are drawn together, under which title."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignloop.report.folder import Json, number
from alignloop.report.names import name_of
from alignloop.report.plot import SMOOTH_FROM, Point, Series

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


_AUDIT = {
    "proxy_gain": "proxy",
    "gold_gain": "gold",
    "fit_best_of_n": "d(α − β·d)",
    "fit_rl": "d(α − β·ln d)",
}


def audit_plots(rows: Json) -> list[Plot]:
    """The over-optimisation curve of an audit's results: gains and fits against √KL."""
    if not isinstance(rows, list):
        return []
    points: dict[str, list[Point]] = {}
    for row in rows:
        found = row if isinstance(row, dict) else {}
        x = number(found.get("sqrt_kl"))
        for name in _AUDIT:
            y = number(found.get(name))
            if x is not None and y is not None:
                points.setdefault(name, []).append((x, y))
    series = tuple(Series(_AUDIT[name], tuple(sorted(found))) for name, found in points.items())
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
