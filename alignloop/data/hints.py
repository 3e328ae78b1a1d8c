"""What a person can do about rows that were not read, or not wholly: only what was tried on these rows.

Columns of other names are proposed where a record comes out of them, conversions where they give a
record, the range of ratings from the scores that are there.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from alignloop.data import builders, forms, published
from alignloop.data.convert import Options, convert
from alignloop.data.source_files import SourceRow
from alignloop.data.sources import Source
from alignloop.errors import DataError
from alignloop.records import Rating, Record

PROPOSED: Mapping[str, tuple[str, ...]] = {
    "prompt": (
        *("ask", "asked", "user", "human", "request", "problem", "title", "post", "inputs", "source_text"),
        *("지문", "요청", "사용자"),
    ),
    "completion": (
        *("answer_text", "reply", "assistant", "gpt", "target", "solution", "text", "outputs", "result"),
        *("대답", "결과"),
    ),
    "chosen": (
        *("good", "better", "preferred", "winner", "accepted", "positive", "best", "win", "pos"),
        *("good_answer", "better_answer", "preferred_answer", "good_response", "better_response"),
        *("좋은답변", "좋은_답변", "선호답변"),
    ),
    "rejected": (
        *("bad", "worse", "dispreferred", "loser", "declined", "negative", "worst", "lose", "neg"),
        *("bad_answer", "worse_answer", "bad_response", "worse_response"),
        *("나쁜답변", "나쁜_답변", "비선호답변"),
    ),
    "label": ("liked", "thumbs", "is_good", "desirable", "feedback", "is_safe", "좋음"),
    "scores": ("grade", "quality", "stars", "reward", "overall", "likert", "평점"),
    "ranking": ("order", "rank"),
    "preference": ("winner", "choice", "vote", "safer_response_id", "selected", "승자"),
    "margin": ("strength", "score_difference", "margin_score"),
    "response_a": ("answer_a", "answer1", "answer_1", "response1", "response_1", "output_1"),
    "response_b": ("answer_b", "answer2", "answer_2", "response2", "response_2", "output_2"),
}
"""Columns of other names that may be meant by a field: proposed, never taken."""

_NEEDED: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "preference": (("prompt", "chosen", "rejected"), ("prompt", "response_a", "response_b", "preference")),
    "label": (("prompt", "completion", "label"),),
    "rating": (("prompt", "completion", "scores"),),
    "demonstration": (("prompt", "completion"),),
    "prompt": (("prompt",),),
}
"""Fields that make a record of each kind."""
_RANGES = (7, 10, 20, 100, 1000)


def described(unused: Mapping[str, int], options: Mapping[str, str]) -> str:
    """Columns, each with the option that reads it: `good (--column chosen=good), meta`."""
    found = [f"{name} ({options[name]})" if name in options else name for name in unused]
    return ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")


def proposals(row: SourceRow, kind: str, columns: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """For columns of a row that were not read, the option that reads them.

    Args:
        row: with these columns.
        kind: that the row is read as.
        columns: what is mapped already.
        names: the columns.

    Returns:
        {column: `--column field=column`}, only for fields that count for a record of this row.
    """
    before = _records(row, kind, columns)
    wanted = [(name, field, name) for name in names if (field := _field(name)) is not None]
    wanted += [
        (one, "margin", f"{one} - {two}") for one, two in forms.SCORES if one in names and two in names
    ]
    found: dict[str, str] = {}
    for name, field, column in wanted:
        after = _records(row, kind, {**columns, field: column}) if field not in columns else []
        if after and (after != before or _counts(row, kind, {**columns, field: column}, field)):
            found[name] = option(field, column)
    return found


def _counts(row: SourceRow, kind: str, columns: Mapping[str, str], field: str) -> bool:
    """Whether the records of a row depend on a field: without its value there are none, or others."""
    return _records(row, kind, columns, spoilt=field) != _records(row, kind, columns)


def option(field: str, column: str) -> str:
    """`--column field=column` as it is typed."""
    return f"--column {shlex.quote(f'{field}={column}')}"


def _field(name: str) -> str | None:
    return next((field for field, words in PROPOSED.items() if forms.plain(name) in words), None)


def _records(row: SourceRow, kind: str, columns: Mapping[str, str], spoilt: str = "") -> list[Record]:
    """The records of a row, of its own kind where a column gives it another one; [] where it has none.

    The field `spoilt` has a value that nothing can be read from.
    """
    with suppress(DataError):
        rows = [forms.fields_of(v, columns, row.values) for v in published.read_row(row.values, kind).rows]
        rows = [replace(f, values={**f.values, spoilt: object()}) if spoilt else f for f in rows]
        kinds = [forms.guess_kind(fields) if kind not in ("prompt", "document") else kind for fields in rows]
        return [
            builders.build(k, fields, row.file, row.line, "unknown")
            for k, fields in zip(kinds, rows, strict=True)
        ]
    return []


def command(source: Source, words: str) -> str:
    """`alignloop data …` for a source; empty for a hub data set, of which not all can be typed."""
    if source.split is not None:
        return ""
    path = shlex.quote(source.path + ("" if source.rows is None else f"#{source.rows}"))
    verb, _, rest = words.partition(" ")
    scale = "" if source.score_range is None else " --score-range {:g}:{:g}".format(*source.score_range)
    return f"alignloop data {verb} {path}{scale}" + (f" {rest}" if rest else "")


def mapped(source: Source, row: SourceRow, kinds: Sequence[str]) -> str:
    """The command that reads a row by columns of other names; empty if none was found.

    Args:
        source: of the row.
        row: that could not be read.
        kinds: that are wanted, () for any.

    Returns:
        The command.
    """
    for kind in kinds or tuple(_NEEDED):
        for needed in _NEEDED.get(kind, ()):
            columns = _mapping(row, needed)
            if columns and _records(row, kind, columns):
                options = " ".join(option(field, column) for field, column in columns.items())
                return command(source, f"check {options}" + (f" --kind {kind}" if len(kinds) == 1 else ""))
    return ""


def told_answer(source: Source, row: SourceRow, column: str, kinds: Sequence[str]) -> str:
    """The command that takes an object for the reference answer; empty if none does."""
    if not _records(row, "prompt", {"answer": column}):
        return ""
    kind = f" --kind {kinds[0]}" if len(kinds) == 1 else ""
    return command(source, f"check {option('answer', column)}{kind}")


def _mapping(row: SourceRow, needed: Sequence[str]) -> dict[str, str]:
    there = forms.fields_of(row.values, {})
    asked = {"prompt"} if forms.has_prompt(there) else set()
    missing = [field for field in needed if not there.has(field) and field not in asked]
    found = {
        field: next((name for name in row.values if forms.plain(name) in PROPOSED.get(field, ())), "")
        for field in missing
    }
    return found if all(found.values()) else {}


def converted(source: Source, records: Sequence[Record], wanted: Sequence[str]) -> str:
    """The command that makes records of a wanted kind out of these; empty if none can be made."""
    for kind in wanted:
        options, words = _conversion(records, kind)
        with suppress(DataError):
            if convert(records, kind, options)[0]:
                return command(source, f"convert --to {kind}{words} -o {_free_name(source.path, kind)}")
    return ""


def _conversion(records: Sequence[Record], kind: str) -> tuple[Options, str]:
    """The options that a conversion needs, and as they are typed."""
    names = next((list(r.scores) for r in records if isinstance(r, Rating)), [])
    attribute = names[0] if len(names) > 1 else ""
    said = f" --attribute {shlex.quote(attribute)}" if attribute else ""
    least = 3.0 if kind in ("label", "demonstration") and names else None
    return Options(attribute=attribute, min_score=least), said + (" --min-score 3" if least else "")


def _free_name(path: str, kind: str) -> str:
    stem = Path(path).name.split(".")[0]
    names = (f"{stem}_{kind}{number}.jsonl" for number in ("", *range(2, 1000)))
    return shlex.quote(next(name for name in names if not Path(name).exists()))


def is_finite(value: object) -> bool:
    """Whether a value is a finite number, also as text."""
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        return False


def likely_range(beyond: Iterable[object], records: Sequence[Record]) -> tuple[float, float]:
    """A usual range that holds these scores: those beyond 0 to 5, and those of the records."""
    scores = [float(value) for value in beyond]  # pyright: ignore[reportArgumentType]
    scores += [score for record in records if isinstance(record, Rating) for score in record.scores.values()]
    low, high = min(scores), max(scores)
    high = next((end for end in _RANGES if end >= high), high)
    return (low if low < 0 else 0 if low == 0 or high > 10 else 1), high
