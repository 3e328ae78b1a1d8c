"""What a report says about a run, gathered once for HTML, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alignloop.report.comparison import KEYS, Comparison, read_comparison
from alignloop.report.curves import Plot, audit_plots, plots
from alignloop.report.figures import figures
from alignloop.report.findings import KEYS as AUDIT_KEYS
from alignloop.report.findings import Audit, read_audit
from alignloop.report.folder import Json, PipelineFolder, RunFolder, mapping, number, text
from alignloop.report.lineage import Lineage, holds_simulated, trace
from alignloop.report.measures import Measure, WinRate, read_measures, read_win_rates
from alignloop.report.names import name_of
from alignloop.report.outcome import outcome, overall
from alignloop.report.samples import Samples, choose_samples, visible
from alignloop.report.scale import duration, rounded

Facts = tuple[tuple[str, str], ...]

MAX_SAMPLES, MAX_CHARACTERS = 120, 400_000
PIPELINE_SAMPLES, PIPELINE_CHARACTERS = 40, 120_000
"""Per stage; a character takes a few bytes in the page at most, so ten stages stay below 5 MB."""


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


class Fact(NamedTuple):
    """One result: its key, what it is called, what that means, and its value as text."""

    key: str
    label: str
    tip: str
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A result that is a list of equal rows, the best-of-n curve for example."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything a report shows of one run; the texts are clean of control characters.

    `said` are sentences on what came out, the most important first; `commands` what may be typed next;
    `held_out` the figures measured on rows that were not trained on.
    """

    name: str
    stage: str
    status: str
    error: str
    duration_s: float | None
    facts: Facts
    warnings: tuple[str, ...]
    simulated: bool
    said: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]
    held_out: tuple[Fact, ...]
    measures: tuple[Measure, ...]
    win_rates: tuple[WinRate, ...]
    comparison: Comparison | None
    audit: Audit | None
    results: tuple[Fact, ...]
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
    said: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]


def view_run(run: RunFolder) -> ReportView:
    """The view of a single run."""
    lineage = trace([run])
    shown = _view(run, lineage, at_most=MAX_SAMPLES, characters=MAX_CHARACTERS)
    return ReportView(shown.name, False, (shown,), lineage, (_key(run),), "", (), shown.said, shown.commands)


def view_pipeline(pipeline: PipelineFolder) -> ReportView:
    """The view of a pipeline; each stage shows fewer samples than a report of its own would."""
    lineage = trace(pipeline.runs)
    runs = tuple(
        _view(run, lineage, at_most=PIPELINE_SAMPLES, characters=PIPELINE_CHARACTERS) for run in pipeline.runs
    )
    own = tuple(_key(run) for run in pipeline.runs)
    problems = tuple(visible(p) for p in pipeline.problems)
    verdict = overall([(run.name, outcome(run)) for run in pipeline.runs])
    return ReportView(
        visible(pipeline.name), True, runs, lineage, own, visible(pipeline.recipe), problems,
        tuple(map(visible, verdict)), runs[-1].commands,
    )  # fmt: skip


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
    came_out = outcome(run)
    tables = {name: rows for name, rows in results.items() if _is_table(rows)}
    rest = {k: v for k, v in results.items() if k not in ("metrics", "data", *tables) and k[:8] != "win_rate"}
    facts = _results(rest)
    in_table = {row.name for row in comparison.rows} if comparison is not None else set[str]()
    metrics = {k: v for k, v in mapping(results.get("metrics")).items() if k not in in_table}
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
        said=tuple(map(visible, came_out.lines)),
        commands=tuple(
            (visible(command), purpose)
            for command, purpose in came_out.commands
            if not command.startswith("alignloop report ")  # this is it
        ),
        held_out=_held_out(facts),
        measures=read_measures(metrics),
        win_rates=() if comparison is not None and comparison.wins else read_win_rates(results),
        comparison=comparison,
        audit=audit,
        results=tuple(fact for fact in facts if not _is_held_out(fact.key)),
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


def _is_table(value: Json) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(row, dict) and row for row in value)


def _table(name: str, rows: Sequence[Mapping[str, Json]]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Json) -> str:
        figure = number(value)
        return visible(text(value))[:300] if figure is None else rounded(figure)

    shown = tuple(tuple(cell(row.get(column)) for column in columns) for row in rows[:200])
    return Table(visible(text(name)), tuple(visible(column) for column in columns), shown)


_HELD_OUT = ("held_out_", "held_out.", "eval_")


def _is_held_out(key: str) -> bool:
    return key.startswith(_HELD_OUT)


def _held_out(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """Figures of held-out rows; one that stages write in two places stands there once."""
    found: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        start = next((start for start in _HELD_OUT if fact.key.startswith(start)), None)
        if start is not None:
            found.setdefault((fact.key.removeprefix(start), fact.text.partition(" [")[0]), fact)
    return tuple(found.values())


def _results(results: Mapping[str, Json]) -> tuple[Fact, ...]:
    """Every number with its interval, then what is no number; each once."""
    numbers = [Fact(visible(f.key), visible(f.label), f.tip, visible(f.text)) for f in figures(results)]
    return (*numbers, *_texts(results))


def _texts(value: Mapping[str, Json], prefix: str = "", depth: int = 0) -> Iterator[Fact]:
    """Texts and lists under their names; the ends of intervals stand beside their numbers."""
    for key, inner in value.items():
        name = f"{prefix}{visible(text(key))}"
        if isinstance(inner, dict) and inner and depth < 3 and number(inner.get("value")) is None:
            yield from _texts(inner, f"{name}.", depth + 1)
        elif number(inner) is None and not isinstance(inner, dict) and not name.endswith("interval"):
            shown, called = visible(text(inner)), name_of(name)
            yield Fact(name, called.label, called.tip, shown if len(shown) <= 300 else shown[:300] + " …")


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
