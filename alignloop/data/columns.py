"""Records from data sets, and data sets from records.

The kind of a data set is the one most of its first 100 rows have, unless it is named. A row that
cannot be used is dropped with file:line, field, value and what was expected, never silently.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from alignloop.data import builders, forms, messages, published, sources
from alignloop.data.files import sha256_of, write_whole
from alignloop.errors import DataError
from alignloop.records import (
    KINDS,
    Demonstration,
    Document,
    Label,
    Preference,
    Prompt,
    Ranking,
    Rating,
    Record,
    message_rows,
)

_HEAD = 100
"""Rows that decide on the kind of a data set."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was read.

    Attributes:
        records: the usable rows in order, repeated by their source's weight.
        dropped: a fault for each unusable row.
        kind: of all records, a key of `records.KINDS`.
        files: by path or hub id, `sha256` of its bytes (of its rows for a hub id) and `rows` read.
        unused: columns that no record came from, with the number of rows that have them.
        against_scores: rows whose chosen answer has the lower score of the two.
    """

    records: list[Record]
    dropped: list[DataError]
    kind: str
    files: dict[str, dict[str, str | int]] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)
    against_scores: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What a reader should know of columns that were not read, as sentences."""
        found = [f"columns that were not read: {forms.described(self.unused)}"] if self.unused else []
        if self.against_scores:
            found.append(
                f"{len(self.against_scores)} rows prefer the answer with the lower score, the first: "
                f"{self.against_scores[0]}; are chosen and rejected swapped?"
            )
        return found

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were dropped for which reason, the most frequent first."""
        return dict(Counter(fault.reason for fault in self.dropped).most_common())


def kind_of(record: Record) -> str:
    """The kind's name, a key of `records.KINDS`."""
    return next(name for name, cls in KINDS.items() if type(record) is cls)


def read_records(
    spec: sources.Spec,
    kind: str | Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    strict: bool = False,
    origin: str = "unknown",
) -> Dataset:
    """Read a data set into records of one kind.

    In a ranking, `ranking[k]` is the rank of `responses[k]`, 1 the best: [1, 4, 2, 3] puts the
    first response first and the second one last. Of chosen/rejected rows, whole dialogues with a
    common beginning are taken apart into prompt and completions.

    Args:
        spec: a path, hub id, mapping or list, see `alignloop.data.sources`.
        kind: read rows as this kind, instead of guessing; of several, as the one that most rows are, or
            else as the first. Labels are never made up: a pair becomes a demonstration only where
            `sft_target` says so; a prompt may come from any row.
        columns: {field: column of the file} where the names differ from those in `forms.ALIASES`.
        strict: the first unusable row is an error.
        origin: who made the labels, for rows without a provenance of their own.

    Returns:
        Records of one kind, the faults of dropped rows, and the files read.

    Raises:
        DataError: nothing there, a damaged file, a source without a usable row, or with `strict`
            the first unusable row.
    """
    kinds = (kind,) if isinstance(kind, str) else tuple(kind or ())
    for name in kinds:
        if name not in KINDS:
            raise DataError(f"expected {', '.join(KINDS)}", field="kind", value=name)
    if origin not in builders.ORIGINS:
        raise DataError(f"expected {', '.join(builders.ORIGINS)}", field="origin", value=origin)
    mapping = forms.check_columns(columns)
    records: list[Record] = []
    dropped: list[DataError] = []
    files: dict[str, dict[str, str | int]] = {}
    unused: Counter[str] = Counter()
    contrary: list[str] = []
    found = kinds[0] if len(kinds) == 1 else ""
    for source in sources.expand(spec):
        part = _read_source(source, (found,) if found else kinds, mapping, origin, guess=not kinds)
        if strict and part.faults:
            raise part.faults[0]
        if not part.records:
            raise _no_usable_row(source.path, part)
        found = part.kind
        dropped += part.faults
        unused += part.unused
        contrary += part.against_scores
        records.extend(sources.repeat(part.records, source.weight))
        known = files.setdefault(source.path, {"sha256": part.sha256, "rows": 0})
        known["rows"] = int(known["rows"]) + part.rows
    if not records:
        raise DataError("the weights leave no row", field="weight")
    return Dataset(records, dropped, found, files, dict(unused), contrary)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one source gave: kind asked for and kind by its columns, records, faults by line, identity."""

    kind: str
    looks_like: str
    records: list[Record]
    faults: list[DataError]
    rows: int
    sha256: str
    unused: Counter[str]
    against_scores: list[str]


def _read_source(
    source: sources.Source, kinds: Sequence[str], mapping: Mapping[str, str], origin: str, *, guess: bool
) -> _Part:
    """Records of one source, of the kind among `kinds` that most rows are, else of the first of them."""
    digest = hashlib.sha256()
    faults: list[DataError] = []  # of the reader first, then of the records
    rows = sources.read_source(source, on_fault=faults.append)
    if source.split is not None:
        rows = _hashed(rows, digest)
    head = list(islice(rows, _HEAD))
    looks_like = _kind_of_most(head, mapping)
    kind = looks_like if not kinds or looks_like in kinds else kinds[0]
    records, unusable = [], []
    unused: Counter[str] = Counter()
    contrary: list[str] = []
    for row in chain(head, rows):
        try:
            for values in published.rows_of(row.values, kind):
                fields = forms.fields_of(values, mapping)
                if guess:
                    found = forms.guess_kind(fields)
                    kind = kind or found
                    _check_kind(found, kind)
                messages.check_media(values, fields.unused)
                records.append(builders.build(kind, fields, row.file, row.line, origin))
                unused.update([*fields.unused, *_unread_keys(fields)])
                if kind == "preference" and forms.against_scores(values):
                    contrary.append(f"{row.file}:{row.line}")
        except DataError as fault:
            unusable.append(_placed(fault, row))
    identity = sha256_of(Path(source.path)) if source.split is None else digest.hexdigest()
    everything = sorted(faults + unusable, key=lambda fault: fault.line)
    return _Part(
        kind, looks_like, records, everything, len(records) + len(everything), identity, unused, contrary
    )


def _unread_keys(fields: forms.Fields) -> list[str]:
    """Keys of a row's messages that nothing is read from, such as `messages[].id`."""
    return [
        f"{fields.columns[name]}[].{key}"
        for name in ("messages", "prompt", "completion", "chosen", "rejected")
        if fields.has(name)
        for key in sorted(messages.unread_keys(fields.values[name]))
    ]


def _hashed(rows: Iterable[sources.Row], digest: hashlib._Hash) -> Iterator[sources.Row]:
    for row in rows:
        digest.update(json.dumps(row.values, ensure_ascii=False, default=str).encode("utf-8", "replace"))
        yield row


def _kind_of_most(rows: Iterable[sources.Row], mapping: Mapping[str, str]) -> str:
    """The kind most rows have, of equally frequent ones the first seen; empty if none has one."""
    votes: Counter[str] = Counter()
    for row in rows:
        with suppress(DataError):
            for values in published.rows_of(row.values, ""):
                votes[forms.guess_kind(forms.fields_of(values, mapping))] += 1
    return votes.most_common(1)[0][0] if votes else ""


def _check_kind(found: str, kind: str) -> None:
    if found != kind:
        raise DataError(
            f"this row is a {found}, most of the first rows are a {kind}; name one with kind",
            reason="other_kind",
        )


def _placed(fault: DataError, row: sources.Row) -> DataError:
    return DataError(
        fault.message,
        file=row.file,
        line=row.line,
        field=fault.field,
        value=fault.value,
        reason=fault.reason,
    )


def _no_usable_row(path: str, part: _Part) -> DataError:
    if not part.faults:
        return DataError("no usable row: the file has none", file=path, reason="no_usable_row")
    reasons = Counter(fault.reason for fault in part.faults).most_common()
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons)
    message = f"no usable row of {part.rows} ({counted}); the first: {part.faults[0]}"
    if part.looks_like not in ("", part.kind):
        message += f"; the rows look like {part.looks_like}, 'alignloop data convert' makes others"
    return DataError(message, file=path, reason="no_usable_row")


def record_to_row(record: Record) -> dict[str, object]:
    """A record as a JSON object, from which `read_records` makes an equal record again."""
    source = record.provenance
    provenance = {
        "file": source.file,
        "line": source.line,
        "origin": source.origin,
        "details": dict(source.details),
    }
    if isinstance(record, Document):
        return {"text": record.text, "provenance": provenance}
    if isinstance(record, Demonstration) and not _fits_columns(record):
        return {"messages": _weighted_rows(record), "provenance": provenance}
    return {"prompt": message_rows(record.prompt), **_body(record), "provenance": provenance}


def _fits_columns(record: Demonstration) -> bool:
    """Whether `prompt` and `completion` say all of a demonstration: text, and trained at its end only."""
    plain = not record.thinking and not record.tool_calls
    return plain and record.trained == (len(record.prompt),)


def _weighted_rows(record: Demonstration) -> list[dict[str, Any]]:
    """A demonstration as messages; of the assistant's turns those that are not trained say so."""
    turns = (*record.prompt, record.turn)
    return [
        row | ({"train": False} if turn.role == "assistant" and turn.train is False else {})
        for row, turn in zip(message_rows(turns), turns, strict=True)
    ]


def _body(record: Prompt | Demonstration | Preference | Label | Rating | Ranking) -> dict[str, object]:
    """The columns beside prompt and provenance; defaults are left out."""
    match record:
        case Prompt():
            row: dict[str, object] = {} if record.answer is None else {"answer": record.answer}
            return row | (
                {"constraints": [dict(c) for c in record.constraints]} if record.constraints else {}
            )
        case Demonstration():
            return {"completion": record.completion}
        case Preference():
            row = {"chosen": record.chosen, "rejected": record.rejected}
            row |= {"probability": record.probability} if record.probability != 1 else {}
            return row | ({"margin": record.margin} if record.margin else {})
        case Label():
            return {"completion": record.completion, "label": record.desirable}
        case Rating():
            return {"completion": record.completion, "scores": dict(record.scores)}
        case Ranking():
            return {"responses": list(record.completions), "ranking": list(record.ranks)}


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Write records as JSON lines, whole or not at all; an existing file is replaced.

    Raises:
        DataError: a name that is neither .jsonl nor .jsonl.gz, NaN in a record, or no space left.
    """
    target = Path(path)
    if not target.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError("records are written as .jsonl or .jsonl.gz", file=str(path))
    lines = (json.dumps(record_to_row(r), ensure_ascii=False, allow_nan=False) + "\n" for r in records)
    try:
        write_whole(target, lines)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be written ({error})", file=str(path)) from error
