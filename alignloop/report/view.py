"""What a report says about a run, gathered once for HTML, Markdown and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignloop.report.comparison import KEYS, Comparison, read_comparison
from alignloop.report.curves import Plot, audit_plots, plots
from alignloop.report.findings import KEYS as AUDIT_KEYS
from alignloop.report.findings import Audit, read_audit
from alignloop.report.folder import Json, PipelineFolder, RunFolder, ends_of, mapping, number, text
from alignloop.report.lineage import Lineage, holds_simulated, trace
from alignloop.report.samples import Samples, choose_samples, visible
from alignloop.report.scale import duration, rounded

Interval = tuple[float, float]
Facts = tuple[tuple[str, str], ...]

MAX_SAMPLES, MAX_CHARACTERS = 120, 400_000
PIPELINE_SAMPLES, PIPELINE_CHARACTERS = 40, 120_000
"""Per stage; a character takes a few bytes in the page at most, so ten stages stay below 5 MB."""


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
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    before_interval: Interval | None
    after_interval: Interval | None
    higher_is_better: bool | None

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
    def verdict(self) -> str:
        """better, worse, intervals overlap, no change, or "" where nothing can be said."""
        if self.change is None or self.higher_is_better is None or not math.isfinite(self.change):
            return ""
        if self.change == 0:
            return "no change"
        a, b = self.before_interval, self.after_interval
        if a and b and a[0] <= b[1] and b[0] <= a[1]:
            return "intervals overlap"
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


@dataclass(frozen=True, slots=True)
class DataRow:
    """One data set a run read.

    Attributes:
        name, path, sha256: of the input.
        kinds: kinds of records, and who labelled them.
        rows, used: rows in the file, and those trained on.
        dropped: rows by the reason why they were not.
        tokens: those of prompts and completions together.
        simulated: labels in it come from a simulated annotator.
    """

    name: str
    path: str
    kinds: str
    rows: float | None
    used: float | None
    tokens: float | None
    dropped: tuple[tuple[str, float], ...]
    sha256: str
    simulated: bool

    @property
    def num_dropped(self) -> float:
        counted = sum(count for _, count in self.dropped)
        return counted if self.rows is None or self.used is None else max(counted, self.rows - self.used)


@dataclass(frozen=True, slots=True)
class Table:
    """A result that is a list of equal rows, the best-of-n curve for example."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything a report shows of one run; the texts are clean of control characters."""

    name: str
    stage: str
    status: str
    error: str
    duration_s: float | None
    facts: Facts
    warnings: tuple[str, ...]
    simulated: bool
    measures: tuple[Measure, ...]
    win_rates: tuple[WinRate, ...]
    comparison: Comparison | None
    audit: Audit | None
    results: Facts
    tables: tuple[Table, ...]
    main_plots: tuple[Plot, ...]
    lesser_plots: tuple[Plot, ...]
    samples: Samples
    data: tuple[DataRow, ...]
    recipe: str
    origin: Facts


@dataclass(frozen=True, slots=True)
class ReportView:
    """One run (`is_pipeline` False) or several, with their common lineage."""

    title: str
    is_pipeline: bool
    runs: tuple[RunView, ...]
    lineage: Lineage
    own: tuple[str, ...]
    recipe: str
    problems: tuple[str, ...]


def view_run(run: RunFolder) -> ReportView:
    """The view of a single run."""
    lineage = trace([run])
    shown = _view(run, lineage, at_most=MAX_SAMPLES, characters=MAX_CHARACTERS)
    return ReportView(shown.name, False, (shown,), lineage, (_key(run),), "", ())


def view_pipeline(pipeline: PipelineFolder) -> ReportView:
    """The view of a pipeline; each stage shows fewer samples than a report of its own would."""
    lineage = trace(pipeline.runs)
    runs = tuple(
        _view(run, lineage, at_most=PIPELINE_SAMPLES, characters=PIPELINE_CHARACTERS) for run in pipeline.runs
    )
    own = tuple(_key(run) for run in pipeline.runs)
    problems = tuple(visible(p) for p in pipeline.problems)
    return ReportView(visible(pipeline.name), True, runs, lineage, own, visible(pipeline.recipe), problems)


def _key(run: RunFolder) -> str:
    return str(Path(run.path).resolve())


def _view(run: RunFolder, lineage: Lineage, *, at_most: int, characters: int) -> RunView:
    results = mapping(run.info.get("results"))
    comparison = read_comparison(results)
    if comparison is not None:
        results = {name: value for name, value in results.items() if name not in KEYS}
    audit, gains = read_audit(results), audit_plots(results.get("curve"))
    if audit is not None:
        results = {name: value for name, value in results.items() if name not in AUDIT_KEYS}
    tables = {name: rows for name, rows in results.items() if _is_table(rows)}
    rest = {k: v for k, v in results.items() if k not in ("metrics", "data", *tables) and k[:8] != "win_rate"}
    main, lesser = plots(run.metrics)
    main += gains
    stated = run.info.get("warnings")
    warnings = [text(w) for w in stated] if isinstance(stated, list) else []
    return RunView(
        name=visible(run.name),
        stage=visible(run.stage),
        status=visible(run.status),
        error=visible(text(run.info.get("error"))),
        duration_s=number(run.info.get("duration_s")),
        facts=_facts(run),
        warnings=tuple(visible(w) for w in [*warnings, *run.problems]),
        simulated=lineage.simulated(_key(run)),
        measures=_measures(mapping(results.get("metrics"))),
        win_rates=_win_rates(results),
        comparison=comparison,
        audit=audit,
        results=_flat(rest),
        tables=tuple(_table(name, rows) for name, rows in tables.items()),
        main_plots=tuple(main),
        lesser_plots=tuple(lesser),
        samples=choose_samples(run.samples, at_most=at_most, characters=characters),
        data=_data(mapping(run.info.get("inputs")), mapping(results.get("data"))),
        recipe=visible(run.recipe),
        origin=_origin(run.info),
    )


def last_value(run: RunFolder | Sequence[Mapping[str, Json]], name: str) -> float | None:
    """The metric's value in the last row that has it."""
    rows = run.metrics if isinstance(run, RunFolder) else run
    values = (number(row.get(name)) for row in reversed(rows))
    return next((v for v in values if v is not None), None)


def _facts(run: RunFolder) -> Facts:
    steps = last_value(run, "step")
    measured = (run.info.get("peak_memory_gb"), *(row.get("memory_gb") for row in run.metrics))
    memory = max((v for value in measured if (v := number(value)) is not None), default=None)
    speed = last_value(run, "tokens_per_s")
    environment = mapping(run.info.get("environment"))
    facts = (
        ("Duration", duration(number(run.info.get("duration_s"))) if "duration_s" in run.info else ""),
        ("Steps", rounded(steps) if steps is not None else ""),
        ("Tokens/s", rounded(speed) if speed is not None else ""),
        ("Peak memory", f"{rounded(memory)} GB" if memory is not None else ""),
        ("Seed", text(run.info.get("seed"))),
        ("Device", text(environment.get("device"))),
        ("Started", _moment(run.info.get("started") or run.info.get("created"))),
    )
    return tuple((name, visible(value)) for name, value in facts if value)


def _moment(value: Json) -> str:
    """An ISO time without its fraction of a second."""
    shown = text(value)
    return shown[:19].replace("T", " ") + (" UTC" if shown[19:].endswith(("Z", "+00:00")) else "")


def _measures(metrics: Mapping[str, Json]) -> tuple[Measure, ...]:
    out = []
    for name, value in metrics.items():
        entry = mapping(value)
        better = entry.get("higher_is_better")
        out.append(
            Measure(
                name=visible(text(name)).replace("_", " "),
                unit=visible(text(entry.get("unit"))),
                before=number(entry.get("before")),
                after=number(entry.get("after") if entry else value),
                before_interval=ends_of(entry.get("before_interval")),
                after_interval=ends_of(entry.get("after_interval")),
                higher_is_better=better if isinstance(better, bool) else None,
            )
        )
    return tuple(out)


def _win_rates(results: Mapping[str, Json]) -> tuple[WinRate, ...]:
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


def _is_table(value: Json) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(row, dict) and row for row in value)


def _table(name: str, rows: Sequence[Mapping[str, Json]]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Json) -> str:
        figure = number(value)
        return visible(text(value))[:300] if figure is None else rounded(figure)

    shown = tuple(tuple(cell(row.get(column)) for column in columns) for row in rows[:200])
    return Table(visible(text(name)), tuple(visible(column) for column in columns), shown)


def _flat(value: Mapping[str, Json], prefix: str = "", depth: int = 0) -> Facts:
    """Nested results as (dotted name, text) pairs; long lists are cut."""
    out: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix}{visible(text(key))}"
        if isinstance(inner, dict) and inner and depth < 3:
            out += _flat(inner, f"{name}.", depth + 1)
            continue
        figure = number(inner)
        shown = visible(text(inner)) if figure is None else rounded(figure)
        out.append((name, shown if len(shown) <= 300 else shown[:300] + " …"))
    return tuple(out)


def _data(inputs: Mapping[str, Json], results: Mapping[str, Json]) -> tuple[DataRow, ...]:
    """Data sets of run.json's inputs.

    results["data"] adds what the stage counted: of the input `dataset`, or by input name.
    """
    counted = {"dataset": results} if "rows" in results or "kind" in results else results
    rows = []
    for name in [*inputs, *(name for name in counted if name not in inputs)]:
        entry = {**mapping(inputs.get(name)), **mapping(counted.get(name))}
        tokens = [number(entry.get(f"{part}_tokens")) for part in ("prompt", "completion")]
        described = [_counts(entry.get("kinds", entry.get("kind"))), _counts(entry.get("origins"))]
        rows.append(
            DataRow(
                name=visible(text(name)),
                path=visible(text(entry.get("path"))),
                kinds=" · ".join(part for part in described if part),
                rows=number(entry.get("rows")),
                used=number(entry.get("used")),
                tokens=None if None in tokens else sum(t for t in tokens if t is not None),
                dropped=tuple(
                    (visible(text(reason)), number(count) or 0.0)
                    for reason, count in mapping(entry.get("dropped")).items()
                ),
                sha256=visible(text(entry.get("sha256"))),
                simulated=holds_simulated(entry),
            )
        )
    return tuple(rows)


def _counts(value: Json) -> str:
    """A name, several names, or counts by name as text."""
    if isinstance(value, dict):
        return visible(", ".join(f"{text(name)} {text(count)}" for name, count in value.items()))
    return visible(", ".join(text(name) for name in value) if isinstance(value, list) else text(value))


def _origin(info: Mapping[str, Json]) -> Facts:
    """Versions, machine and hashes: what is needed to do it again."""
    facts = [
        *((k, v) for k, v in mapping(info.get("environment")).items()),
        *((f"code {k}", v) for k, v in mapping(info.get("code")).items()),
        ("config_sha256", info.get("config_sha256")),
        ("schema", info.get("schema")),
    ]
    return tuple((visible(name), visible(text(value))) for name, value in facts if value is not None)
