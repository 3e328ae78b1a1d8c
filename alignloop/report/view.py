"""What a report says about a run, gathered once for HTML, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alignloop.report.comparison import ComparisonTable, comparison_table
from alignloop.report.curves import Plot, audit_plots, plots
from alignloop.report.figures import MeasureLine, RateLine, figures
from alignloop.report.folder import PipelineFolder, RunFolder
from alignloop.report.lineage import Lineage, holds_simulated, trace
from alignloop.report.names import name_of
from alignloop.report.outcome import outcome, overall
from alignloop.report.samples import Samples, choose_samples, visible
from alignloop.report.scale import duration, rounded
from alignloop.runs.evaluation_results import Audited, Compared, Evaluated, FindingRow
from alignloop.runs.json_values import Json, mapping, number, text
from alignloop.runs.results import DataRead, Trained, read_results

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
class ResultTable:
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
    measures: tuple[MeasureLine, ...]
    win_rates: tuple[RateLine, ...]
    comparison: ComparisonTable | None
    audit: Audited | None
    results: tuple[Fact, ...]
    tables: tuple[ResultTable, ...]
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
    comparison, audit = comparison_table(run.results(Compared)), _audit(run.results(Audited))
    hidden = {"metrics", "data"} | (set() if comparison is None else Compared.in_tables)
    hidden |= set() if audit is None else Audited.in_findings
    results = {name: value for name, value in run.all_results.items() if name not in hidden}
    tables = {name: rows for name, rows in results.items() if _is_table(rows)}
    facts = _facts_of({k: v for k, v in results.items() if k not in tables and k[:8] != "win_rate"})
    found = run.results(Evaluated)
    in_table = {row.name for row in comparison.rows} if comparison is not None else set[str]()
    rates = {} if comparison is not None and comparison.wins else found.known_rates
    main, lesser = plots(run.metrics)
    came_out = outcome(run)
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
        measures=tuple(MeasureLine.of(k, row) for k, row in found.metrics.items() if k not in in_table),
        win_rates=tuple(RateLine(visible(k.replace("_", " ")), rate) for k, rate in rates.items()),
        comparison=comparison,
        audit=audit,
        results=tuple(fact for fact in facts if not fact.key.startswith(_HELD_OUT)),
        tables=tuple(_table(name, rows) for name, rows in tables.items()),
        main_plots=(*main, *audit_plots(run.results(Audited).curve)),
        lesser_plots=tuple(lesser),
        samples=choose_samples(run.samples, at_most=at_most, characters=characters),
        data=_data(mapping(run.info.get("inputs")), run.results(Trained)),
        recipe=visible(run.recipe),
        origin=_origin(run.info),
    )


def _audit(found: Audited) -> Audited | None:
    """The audit with visible texts, the gravest finding first; None where there is none."""
    if not found.verdict or not found.findings:
        return None
    order = {"alarm": 0, "notice": 1, "fine": 2}
    rows = [
        FindingRow(name=visible(row.name), level=visible(row.level), text=visible(row.text))
        for row in sorted(found.findings, key=lambda row: order.get(row.level, 3))
    ]
    return Audited(verdict=visible(found.verdict), text=visible(found.text), findings=tuple(rows))


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


def _table(name: str, rows: Sequence[Mapping[str, Json]]) -> ResultTable:
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Json) -> str:
        figure = number(value)
        return visible(text(value))[:300] if figure is None else rounded(figure)

    shown = tuple(tuple(cell(row.get(column)) for column in columns) for row in rows[:200])
    return ResultTable(visible(text(name)), tuple(visible(column) for column in columns), shown)


_HELD_OUT = ("held_out_", "held_out.", "eval_")
"""How keys of figures of held-out rows begin."""


def _held_out(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """Figures of held-out rows; one that stages write in two places stands there once."""
    found: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        start = next((start for start in _HELD_OUT if fact.key.startswith(start)), None)
        if start is not None:
            found.setdefault((fact.key.removeprefix(start), fact.text.partition(" [")[0]), fact)
    return tuple(found.values())


def _facts_of(results: Mapping[str, Json]) -> tuple[Fact, ...]:
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


def _data(inputs: Mapping[str, Json], found: Trained) -> tuple[DataRow, ...]:
    """Data sets of run.json's inputs, with what the stage counted in them."""
    counted = found.data_by_input
    rows = []
    for name in dict.fromkeys((*inputs, *counted)):
        entry = {**mapping(inputs.get(name)), **mapping(counted.get(name))}
        one = read_results(entry, DataRead)
        described = [_counts(one.kinds if one.kinds is not None else one.kind), _counts(one.origins)]
        tokens = (one.prompt_tokens, one.completion_tokens)
        rows.append(
            DataRow(
                name=visible(text(name)),
                path=visible(one.path),
                kinds=" · ".join(part for part in described if part),
                rows=one.rows,
                used=one.used,
                tokens=None if None in tokens else sum(t for t in tokens if t is not None),
                dropped=tuple((visible(reason), count or 0.0) for reason, count in one.dropped.items()),
                sha256=visible(one.sha256),
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
