"""The table of a comparison: models × metrics with intervals, for HTML, Markdown and the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignloop.report.folder import Json, mapping, number, text
from alignloop.report.samples import visible
from alignloop.report.scale import rounded

KEYS = ("comparison", "win_rates", "ratings", "requirements", "models", "baseline", "confidence")
"""Results that this table shows, so that they are not listed again."""


@dataclass(frozen=True, slots=True)
class Entry:
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
class Row:
    """One metric: what is measured, which way is better, and every model's entry in the table's order."""

    name: str
    hint: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
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
    rows: tuple[Row, ...]
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
    def lines(self) -> tuple[tuple[str, str, tuple[Entry, ...]], ...]:
        """(name, remark, entries) of the table's rows."""
        if not self.by_model:
            return tuple((row.name, row.hint, row.entries) for row in self.rows)
        return tuple(
            (model, self._remark(model), tuple(row.entries[place] for row in self.rows))
            for place, model in enumerate(self.models)
        )

    def _remark(self, model: str) -> str:
        return "baseline" if model == self.baseline else ""


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


def read_comparison(results: Mapping[str, Json]) -> Comparison | None:
    """The comparison in a run's results, None if there is none."""
    rows = results.get("comparison")
    names = results.get("models")
    if not isinstance(rows, list) or not isinstance(names, list) or not rows:
        return None
    baseline = text(results.get("baseline"))
    models = sorted((text(name) for name in names), key=lambda name: name != baseline)
    if len(models) > FEW:
        models = _best_first(models, baseline, rows, _list(results.get("win_rates")))
    level = number(results.get("confidence")) or 0.95
    return Comparison(
        models=tuple(visible(name) for name in models),
        baseline=visible(baseline),
        level=f"{100 * level:g} %",
        rows=tuple(_row(mapping(row), models) for row in rows),
        wins=tuple(_win(mapping(row)) for row in _list(results.get("win_rates"))),
        ratings=tuple(_rating(mapping(row)) for row in _list(results.get("ratings"))),
        requirements=tuple(
            (visible(text(r.get("requirement"))), rounded(number(r.get("measured"))), r.get("met") is True)
            for r in map(mapping, _list(results.get("requirements")))
        ),
    )


def as_text(results: Mapping[str, Json]) -> str:
    """The comparison for a terminal."""
    found = read_comparison(results)
    if found is None:
        return ""
    parts = [_aligned([("", *(name for name, _ in found.head)), *_body(found, remarks=False)])]
    if found.wins:
        parts.append(_aligned([WIN_COLUMNS, *found.wins]))
    if found.ratings:
        parts.append(_aligned([RATING_COLUMNS, *found.ratings]))
    for sentence, value, met in found.requirements:
        parts.append(f"{'met' if met else 'NOT MET'}: {sentence} (measured {value})")
    return "\n\n".join(parts)


def markdown_tables(found: Comparison) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
    """(header, rows) of every table, unescaped."""
    head = [f"{name} ({remark})" if remark else name for name, remark in found.head]
    first = "Model" if found.by_model else "Metric"
    tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = [((first, *head), _body(found))]
    for columns, more in ((WIN_COLUMNS, found.wins), (RATING_COLUMNS, found.ratings)):
        if more:
            tables.append((columns, more))
    if found.requirements:
        rows = [(sentence, value, "met" if met else "not met") for sentence, value, met in found.requirements]
        tables.append((("Requirement", "Measured", "Outcome"), rows))
    return tables


def _body(found: Comparison, *, remarks: bool = True) -> list[tuple[str, ...]]:
    """Rows of the table as text."""
    return [
        (f"{name} ({remark})" if remark and remarks else name, *map(_one_line, entries))
        for name, remark, entries in found.lines
    ]


def _best_first(
    models: Sequence[str], baseline: str, rows: Sequence[Json], wins: Sequence[Json]
) -> list[str]:
    """By the win rate of the first judge on the first set, where there is one; else by the first metric."""
    judged = [mapping(row) for row in wins]
    asked = [row for row in judged if _asked(row) == _asked(judged[0])]
    scores = {text(row.get("model")): number(row.get("value")) for row in asked}
    if scores:
        scores[baseline] = 0.5
    else:
        row = next((r for r in map(mapping, rows) if isinstance(r.get("higher_is_better"), bool)), {})
        sign = 1 if row.get("higher_is_better") else -1
        for name, cell in mapping(row.get("models")).items():
            value = number(mapping(cell).get("value"))
            scores[name] = None if value is None else sign * value

    def place(name: str) -> float:
        score = scores.get(name)
        return math.inf if score is None else -score

    return sorted(models, key=place)


def _asked(row: Mapping[str, Json]) -> tuple[str, str]:
    return text(row.get("set")), text(row.get("judge"))


def _one_line(entry: Entry) -> str:
    interval = f"[{entry.interval}]" if entry.interval else ""
    parts = [entry.value, interval, entry.verdict, entry.tax, entry.note]
    return " ".join(part for part in parts if part and part != "no difference shown")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _row(row: Mapping[str, Json], models: Sequence[str]) -> Row:
    share = row.get("unit") == "share"
    better = row.get("higher_is_better")
    hints = ["" if share else text(row.get("unit"))]
    hints.append({True: "higher is better", False: "lower is better"}.get(better, ""))  # pyright: ignore
    margin = number(row.get("margin"))
    relative = row.get("scale") == "log"
    if margin is not None:
        hints.append(f"margin {_percent(margin) if share or relative else rounded(margin)}")
    hints += [f"{rounded(number(row.get('num_prompts')))} rows", text(row.get("note"))]
    cells = mapping(row.get("models"))
    entries = tuple(_entry(mapping(cells.get(name)), share=share, relative=relative) for name in models)
    return Row(visible(text(row.get("name"))), visible(", ".join(hint for hint in hints if hint)), entries)


def _entry(cell: Mapping[str, Json], *, share: bool, relative: bool) -> Entry:
    value = number(cell.get("value"))
    if value is None:
        return Entry("–", note=visible(text(cell.get("missing"))))
    change = ""
    gap = number(cell.get("difference"))
    if gap is not None:
        ends = _ends(cell.get("difference_interval"), points=share or relative)
        change = f"{_signed(gap, points=share or relative)} ({ends})"
    tax = text(cell.get("tax"))
    more = number(cell.get("prompts_to_decide"))
    if tax:
        tax = f"loss {tax}" + (f", {rounded(more)} prompts would decide" if more is not None else "")
    return Entry(
        value=_percent(value) if share else rounded(value),
        interval=_ends(cell.get("interval"), points=share, signed=False),
        change=change,
        verdict=visible(text(cell.get("verdict"))),
        tax=visible(tax),
        order=value,
    )


def _win(row: Mapping[str, Json]) -> tuple[str, ...]:
    controlled = number(row.get("length_controlled"))
    ends = _ends(row.get("length_controlled_interval"), points=True, signed=False)
    same = number(row.get("same_in_both_orders"))
    counts = {"contradictory": "contradictory", "without_verdict": "without verdict"}
    counts["prompts_needed"] = "prompts would prove it"
    remarks = [] if same is None else [f"{_percent(same)} the same in both orders"]
    remarks += [f"{rounded(n)} {said}" for key, said in counts.items() if (n := number(row.get(key)))]
    names = (visible(text(row.get(key))) for key in ("model", "against", "judge", "set"))
    return (
        *names,
        _percent(number(row.get("value"))),
        _ends(row.get("interval"), points=True, signed=False),
        rounded(number(row.get("p"))),
        "–" if controlled is None else f"{_percent(controlled)} ({ends})",
        rounded(number(row.get("num_prompts"))),
        "; ".join(remarks),
    )


def _rating(row: Mapping[str, Json]) -> tuple[str, ...]:
    low, high = number(row.get("low")), number(row.get("high"))
    note = " (ties added: a model won or lost all)" if row.get("with_virtual_ties") else ""
    return (
        visible(text(row.get("model"))),
        visible(text(row.get("judge"))),
        visible(text(row.get("set"))),
        f"{number(row.get('rating')) or 0:.0f}",
        f"{low or 0:.0f} to {high or 0:.0f}{note}",
        rounded(number(row.get("num_comparisons"))),
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _signed(value: float, *, points: bool) -> str:
    shown = f"{100 * value:+.1f}" if points else ("+" if value > 0 else "") + rounded(value)
    return shown.replace("-", "−")


def _ends(value: Json, *, points: bool, signed: bool = True) -> str:
    if not isinstance(value, list) or len(value) != 2:
        return ""
    ends = [number(item) for item in value]
    if ends[0] is None or ends[1] is None:
        return ""
    if signed:
        return " to ".join(_signed(end, points=points) for end in ends if end is not None)
    return " to ".join(f"{100 * end:.1f}" if points else rounded(end) for end in ends if end is not None)
