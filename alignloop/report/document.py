"""The same report as Markdown (for a pull request or a terminal) and as JSON (for scripts)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from alignloop.io import plain
from alignloop.report.comparison import markdown_tables
from alignloop.report.figures import MeasureLine
from alignloop.report.plot import Series, sparkline
from alignloop.report.samples import visible
from alignloop.report.scale import rounded
from alignloop.report.view import ReportView, RunView
from alignloop.runs.json_values import Span

_MARKDOWN_SAMPLES = 5


def as_json(view: ReportView) -> dict[str, Any]:
    """The report as a JSON object; values that are not finite become None."""
    nodes = [asdict(node) for node in view.lineage.nodes.values()]
    nodes = [{"id": node.pop("key"), **node} for node in nodes]
    return plain(
        {
            "schema": 1,
            "title": view.title,
            "problems": view.problems,
            "runs": [_run_json(run) for run in view.runs],
            "lineage": {"nodes": nodes, "edges": view.lineage.edges},
        }
    )


_SIDES = {"before", "after", "before_interval", "after_interval", "change_interval"}


def _run_json(run: RunView) -> dict[str, Any]:
    return {
        "name": run.name,
        "stage": run.stage,
        "status": run.status,
        "error": run.error,
        "said": run.said,
        "next": [command for command, _ in run.commands],
        "facts": dict(run.facts),
        "warnings": run.warnings,
        "simulated_labels": run.simulated,
        "evaluation": {
            m.name: {**m.row.model_dump(include=_SIDES), "unit": visible(m.row.unit), "verdict": m.verdict}
            for m in run.measures
        },
        "win_rates": [{"judge": w.judge, **w.rate.model_dump(), "verdict": w.verdict} for w in run.win_rates],
        "audit": None if run.audit is None else run.audit.row(),
        "comparison": None if run.comparison is None else asdict(run.comparison),
        "results": {fact.key: fact.text for fact in (*run.held_out, *run.results)},
        "tables": {t.name: [dict(zip(t.columns, row, strict=True)) for row in t.rows] for t in run.tables},
        "curves": {
            f"{plot.title}: {series.name}": _summary(series)
            for plot in (*run.main_plots, *run.lesser_plots)
            for series in plot.series
        },
        "data": [{**asdict(one), "dropped": dict(one.dropped)} for one in run.data],
        "num_samples": run.samples.total,
        "origin": dict(run.origin),
    }


def _summary(series: Series) -> dict[str, float | int | None]:
    values = [y for _, y in series.points]
    finite = [y for y in values if math.isfinite(y)]
    return {
        "points": len(values),
        "first": values[0],
        "last": values[-1],
        "min": min(finite, default=None),
        "max": max(finite, default=None),
    }


def as_markdown(view: ReportView) -> str:
    """The report as Markdown with tables and block-letter curves; all text escaped."""
    parts = [f"# {_escape(view.title)}"]
    parts += [f"> **Note:** {_escape(problem)}" for problem in view.problems]
    if view.is_pipeline:
        rows = [
            (run.name, run.stage, run.status, dict(run.facts).get("Duration", ""), next(iter(run.said), ""))
            for run in view.runs
        ]
        parts.append(_table(("Run", "Stage", "Status", "Duration", "Outcome"), rows))
    if view.is_pipeline:
        parts += [_escape(line) for line in view.said]
    for run in view.runs:
        if view.is_pipeline:
            parts.append(f"## {_escape(run.name)}")
        parts += _run_markdown(run)
    if view.commands:
        lines = "\n".join(f"    {command}    # {purpose}" for command, purpose in view.commands)
        parts.append(f"Next:\n\n{lines}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _run_markdown(run: RunView) -> list[str]:
    head = f"**{_escape(run.stage or 'run')}**, {_escape(run.status)}"
    parts = [head + "".join(f" · {_escape(name)} {_escape(value)}" for name, value in run.facts)]
    parts += [f"**{_escape(line)}**" if not n else _escape(line) for n, line in enumerate(run.said)]
    if run.error:
        parts.append(f"> **Error:** {_escape(run.error)}")
    if run.simulated:
        parts.append("> **Simulated labels:** made by a simulated annotator, not by people.")
    parts += [f"> **Warning:** {_escape(warning)}" for warning in run.warnings]
    for w in run.win_rates:
        ends = w.rate.interval
        interval = f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
        count = f", n = {rounded(w.rate.n)}" if w.rate.n is not None else ""
        judge = f" by {_escape(w.judge)}" if w.judge else ""
        share = f"{100 * (w.rate.value or 0.0):.1f} %{interval}"
        parts.append(f"**Win rate against the start{judge}: {share}**{count}; {w.verdict}.")
    if run.audit is not None:
        parts.append(f"**{_escape(run.audit.verdict)}**: {_escape(run.audit.text)}")
        rows = [(found.name, found.level, found.text) for found in run.audit.findings]
        parts.append(_table(("Looked at", "Level", "Finding"), rows))
    if run.comparison is not None:
        parts += [_table(header, rows) for header, rows in markdown_tables(run.comparison)]
    if run.measures:
        header = ("Metric", "Before", "After", "Verdict")
        parts.append(_table(header, [_measure_row(measure) for measure in run.measures]))
    rows = [(fact.label, fact.text) for fact in (*run.held_out, *run.results)]
    parts.append(_table(("Result", "Value"), rows))
    parts += [_table(t.columns, t.rows) for t in run.tables]
    curves = [
        (plot.title if len(plot.series) == 1 else f"{plot.title}: {series.name}", series)
        for plot in run.main_plots
        for series in plot.series
    ]
    rows = [
        (title, rounded(s.points[0][1]), rounded(s.points[-1][1]), sparkline([y for _, y in s.points]))
        for title, s in curves
    ]
    parts.append(_table(("Curve", "First", "Last", "Course"), rows))
    data = [
        (
            d.name + (" (simulated labels)" if d.simulated else ""),
            d.kinds,
            rounded(d.rows),
            ", ".join(f"{reason}: {rounded(count)}" for reason, count in d.dropped),
        )
        for d in run.data
    ]
    parts.append(_table(("Data", "Kinds", "Rows", "Dropped"), data))
    for sample in run.samples.shown[:_MARKDOWN_SAMPLES]:
        parts.append(f"**Prompt:** {_escape(sample.prompt[-1].content if sample.prompt else '')}")
        if sample.before:
            before = _escape("".join(p.text for p in sample.before))
            parts.append(f"- {_escape(sample.before_label)}: {before}")
        parts.append(f"- completion: {_escape(''.join(p.text for p in sample.after))}")
    return parts


def _measure_row(measure: MeasureLine) -> tuple[str, ...]:
    def cell(value: float | None, interval: Span | None) -> str:
        shown = measure.shown(value)
        return f"{shown} [{measure.shown(interval[0])}, {measure.shown(interval[1])}]" if interval else shown

    return (
        f"{measure.name} ({measure.unit})" if measure.unit else measure.name,
        *(cell(value, interval) for _, value, interval in measure.sides),
        measure.verdict,
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [
        [_escape(name) for name in header],
        ["---"] * len(header),
        *[[_escape(cell) for cell in row] for row in rows],
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(content: str) -> str:
    """One line of Markdown in which nothing is markup, HTML or a table border."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", " ".join(content.split()))
