"""The table of a comparison: models × metrics with intervals, for HTML, Markdown and the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alignloop.report.samples import visible
from alignloop.report.scale import rounded
from alignloop.runs.evaluation_results import CellRow, Compared, MetricRow, RatingRow, WinRow
from alignloop.runs.json_values import Span


@dataclass(frozen=True, slots=True)
class TableCell:
    """One model on one metric, as text.

    Attributes:
        value: with its unit; "–" where not measured.
        interval: "12.3 to 14.5", or "".
        change: from the baseline, with its interval, or "".
        verdict: better, worse, no difference shown, or "".
        tax: of a capability, or "".
        note: why it was not measured, or "".
        order: number to sort by, "" for none.
    """

    value: str
    interval: str = ""
    change: str = ""
    verdict: str = ""
    tax: str = ""
    note: str = ""
    order: float | str = ""


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One metric: what is measured, which way is better, and every model's entry in the table's order."""

    name: str
    hint: str
    entries: tuple[TableCell, ...]


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """A comparison as tables of text.

    Attributes:
        models: names, the baseline first; of more than `FEW` the best first.
        baseline: its name.
        level: of the intervals, as "95 %".
        rows: the metrics.
        wins: (columns, rows) of the win rates.
        ratings: (columns, rows) of the ratings.
        requirements: (sentence, measured, met).
    """

    models: tuple[str, ...]
    baseline: str
    level: str
    rows: tuple[MetricLine, ...]
    wins: tuple[tuple[str, ...], ...]
    ratings: tuple[tuple[str, ...], ...]
    requirements: tuple[tuple[str, str, bool], ...]

    @property
    def by_model(self) -> bool:
        """Whether the table has a row for each model; of few models it has one for each metric."""
        return len(self.models) > FEW

    @property
    def head(self) -> tuple[tuple[str, str], ...]:
        """(name, remark) of the table's columns after the first one."""
        if self.by_model:
            return tuple((row.name, row.hint) for row in self.rows)
        return tuple((model, self._remark(model)) for model in self.models)

    @property
    def lines(self) -> tuple[tuple[str, str, tuple[TableCell, ...]], ...]:
        """(name, remark, entries) of the table's rows."""
        if not self.by_model:
            return tuple((row.name, row.hint, row.entries) for row in self.rows)
        return tuple(
            (model, self._remark(model), tuple(row.entries[place] for row in self.rows))
            for place, model in enumerate(self.models)
        )

    def _remark(self, model: str) -> str:
        return "baseline" if model == self.baseline else ""


TextTable = tuple[Sequence[str], Sequence[Sequence[str]]]
"""A header and rows."""
FEW = 3
"""So many models are columns; more are rows."""
WIN_COLUMNS = (
    "Model",
    "Against",
    "By",
    "Set",
    "Win rate",
    "Interval",
    "p",
    "At equal length",
    "Prompts",
    "Remarks",
)
RATING_COLUMNS = ("Model", "By", "Set", "Rating", "Interval", "Comparisons")


def comparison_table(found: Compared) -> ComparisonTable | None:
    """The tables of a comparison, None where nothing was compared."""
    if not found.comparison or not found.models:
        return None
    models = sorted(found.models, key=lambda name: name != found.baseline)
    if len(models) > FEW:
        models = _best_first(models, found)
    return ComparisonTable(
        models=tuple(visible(name) for name in models),
        baseline=visible(found.baseline),
        level=f"{100 * (found.confidence or 0.95):g} %",
        rows=tuple(_line(row, models) for row in found.comparison),
        wins=tuple(_win(row) for row in found.win_rates),
        ratings=tuple(_rating(row) for row in found.ratings),
        requirements=tuple(
            (visible(r.requirement), rounded(r.measured), r.met is True) for r in found.requirements
        ),
    )


def as_text(results: Compared) -> str:
    """The comparison for a terminal."""
    found = comparison_table(results)
    if found is None:
        return ""
    parts = [_aligned([head, *rows]) for head, rows in _tables(found, remarks=False)]
    for sentence, value, met in found.requirements:
        parts.append(f"{'met' if met else 'NOT MET'}: {sentence} (measured {value})")
    return "\n\n".join(parts)


def markdown_tables(found: ComparisonTable) -> list[TextTable]:
    """(header, rows) of every table, unescaped."""
    tables = _tables(found)
    if found.requirements:
        rows = [(sentence, value, "met" if met else "not met") for sentence, value, met in found.requirements]
        tables.append((("Requirement", "Measured", "Outcome"), rows))
    return tables


def _tables(found: ComparisonTable, *, remarks: bool = True) -> list[TextTable]:
    """The models with their metrics, and win rates and ratings where there are any."""

    def named(name: str, remark: str) -> str:
        return f"{name} ({remark})" if remark and remarks else name

    first = "" if not remarks else "Model" if found.by_model else "Metric"
    body = [(named(name, remark), *map(_one_line, entries)) for name, remark, entries in found.lines]
    tables: list[TextTable] = [((first, *(named(*column) for column in found.head)), body)]
    tables += [(WIN_COLUMNS, found.wins)] if found.wins else []
    return tables + ([(RATING_COLUMNS, found.ratings)] if found.ratings else [])


def _best_first(models: Sequence[str], found: Compared) -> list[str]:
    """By the win rate of the first judge on the first set, where there is one; else by the first metric."""
    rows = found.win_rates
    scores = {r.model: r.value for r in rows if (r.set, r.judge) == (rows[0].set, rows[0].judge)}
    if scores:
        scores[found.baseline] = 0.5
    else:
        metric = next((row for row in found.comparison if row.higher_is_better is not None), MetricRow())
        sign = 1 if metric.higher_is_better else -1
        scores = {n: None if c.value is None else sign * c.value for n, c in metric.models.items()}

    def place(name: str) -> float:
        score = scores.get(name)
        return math.inf if score is None else -score

    return sorted(models, key=place)


def _one_line(entry: TableCell) -> str:
    interval = f"[{entry.interval}]" if entry.interval else ""
    parts = [entry.value, interval, entry.verdict, entry.tax, entry.note]
    return " ".join(part for part in parts if part and part != "no difference shown")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _line(row: MetricRow, models: Sequence[str]) -> MetricLine:
    share, relative = row.unit == "share", row.scale == "log"
    hints = ["" if share else row.unit]
    hints.append({True: "higher is better", False: "lower is better", None: ""}[row.higher_is_better])
    if row.margin is not None:
        hints.append(f"margin {_percent(row.margin) if share or relative else rounded(row.margin)}")
    hints += [f"{rounded(row.num_prompts)} rows", row.note]
    cells = tuple(_cell(row.models.get(name, CellRow()), share=share, relative=relative) for name in models)
    return MetricLine(visible(row.name), visible(", ".join(hint for hint in hints if hint)), cells)


def _cell(cell: CellRow, *, share: bool, relative: bool) -> TableCell:
    if cell.value is None:
        return TableCell("–", note=visible(cell.missing))
    change, tax = "", cell.tax
    if cell.difference is not None:
        ends = _ends(cell.difference_interval, points=share or relative)
        change = f"{_signed(cell.difference, points=share or relative)} ({ends})"
    if tax:
        more = cell.prompts_to_decide
        tax = f"loss {tax}" + (f", {rounded(more)} prompts would decide" if more is not None else "")
    return TableCell(
        value=_percent(cell.value) if share else rounded(cell.value),
        interval=_ends(cell.interval, points=share, signed=False),
        change=change,
        verdict=visible(cell.verdict),
        tax=visible(tax),
        order=cell.value,
    )


def _win(row: WinRow) -> tuple[str, ...]:
    same, controlled = row.same_in_both_orders, "–"
    if row.length_controlled is not None:
        ends = _ends(row.length_controlled_interval, points=True, signed=False)
        controlled = f"{_percent(row.length_controlled)} ({ends})"
    remarks = [] if same is None else [f"{_percent(same)} the same in both orders"]
    counts = (
        (row.contradictory, "contradictory"),
        (row.without_verdict, "without verdict"),
        (row.prompts_needed, "prompts would prove it"),
    )
    remarks += [f"{rounded(count)} {said}" for count, said in counts if count]
    return (
        *(visible(name) for name in (row.model, row.against, row.judge, row.set)),
        _percent(row.value),
        _ends(row.interval, points=True, signed=False),
        rounded(row.p),
        controlled,
        rounded(row.num_prompts),
        "; ".join(remarks),
    )


def _rating(row: RatingRow) -> tuple[str, ...]:
    note = " (ties added: a model won or lost all)" if row.with_virtual_ties else ""
    return (
        *(visible(name) for name in (row.model, row.judge, row.set)),
        f"{row.rating or 0:.0f}",
        f"{row.low or 0:.0f} to {row.high or 0:.0f}{note}",
        rounded(row.num_comparisons),
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _signed(value: float, *, points: bool) -> str:
    shown = f"{100 * value:+.1f}" if points else ("+" if value > 0 else "") + rounded(value)
    return shown.replace("-", "−")


def _ends(interval: Span | None, *, points: bool, signed: bool = True) -> str:
    if interval is None:
        return ""
    if signed:
        return " to ".join(_signed(end, points=points) for end in interval)
    return " to ".join(f"{100 * end:.1f}" if points else rounded(end) for end in interval)
