"""The records of one source, what was left out of it, and what of it was not read."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from alignloop.content import sha256_of
from alignloop.data import builders, forms, hints, message_trees, messages, published, sources
from alignloop.errors import DataError
from alignloop.records import Record

HEAD = 100
"""Rows that decide on the kind of a data set."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How the rows of a data set are read.

    Attributes:
        kinds: kinds that are wanted, the first one preferred; () takes what most rows are.
        columns: {field: column} where names differ.
        origin: who made the labels, for rows without a provenance of their own.
        guess: whether a row of another kind than `kinds` names is a fault.
        first_vote: the number that votes for the first of two answers.
    """

    kinds: Sequence[str]
    columns: Mapping[str, str]
    origin: str
    guess: bool
    first_vote: int = 0


@dataclass(slots=True)
class SourceRecords:
    """What one source gave.

    Attributes:
        kind: of the records.
        looks_like: the kind that most of its first rows are, empty where they are none.
        records: in the order of the rows.
        faults: of the rows that gave none, by line.
        sha256: of its bytes, of its rows for a hub data set.
        unused: columns and keys that nothing was read from, with the number of rows that have them.
        proposals: for some of them, the option that reads them.
        against_scores: rows whose chosen answer has the lower score of the two.
        guessed_prompts: rows whose prompt is the lines that chosen and rejected begin with.
    """

    kind: str
    looks_like: str
    records: list[Record] = field(default_factory=list)
    faults: list[DataError] = field(default_factory=list)
    sha256: str = ""
    unused: Counter[str] = field(default_factory=Counter)
    proposals: dict[str, str] = field(default_factory=dict)
    against_scores: list[str] = field(default_factory=list)
    guessed_prompts: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many records could have been made."""
        return len(self.records) + len(self.faults)


def read_source(source: sources.Source, reading: ReadOptions) -> SourceRecords:
    """Records of one source, of the kind among `reading.kinds` that most rows are, else of the first.

    Raises:
        DataError: a damaged file, ratings beyond 0 to 5 of which no range was told, or votes that count
            from 0 and from 1.
    """
    try:
        return _read(source, reading)
    except DataError as fault:
        if fault.reason != "counts_from_1" or reading.first_vote:
            raise
    return _read(source, replace(reading, first_vote=1))


def _read(source: sources.Source, reading: ReadOptions) -> SourceRecords:
    digest = hashlib.sha256()
    odd: list[DataError] = []
    rows = sources.read_source(source, on_fault=odd.append)
    if source.split is not None:
        rows = _hashed(rows, digest)
    rows = message_trees.joined(rows, odd.append)
    head = list(islice(rows, HEAD))
    looks_like = _kind_of_most(head, reading.columns)
    wanted = reading.kinds
    part = SourceRecords(looks_like if not wanted or looks_like in wanted else wanted[0], looks_like)
    for row in chain(head, rows):
        for fault in _add(part, row, source, reading):
            placed = fault.at(row.file, row.line)
            if fault.reason in ("counts_from_1", "two_counts"):
                raise _votes(placed, reading) from fault
            part.faults.append(placed)
    _check_range(part, source)
    part.faults = sorted([*odd, *part.faults], key=lambda fault: fault.line)
    part.sha256 = sha256_of(Path(source.path)) if source.split is None else digest.hexdigest()
    return part


def _add(
    part: SourceRecords, row: sources.SourceRow, source: sources.Source, reading: ReadOptions
) -> list[DataError]:
    """Add the records of a row; returns the faults of those that it does not give."""
    unread: list[str] = []
    faults: list[DataError] = []
    count = len(part.records)
    try:
        read = published.read_row(row.values, part.kind)
    except DataError as fault:
        return [fault]
    unread += read.unread
    for values in read.rows:
        try:
            found = forms.fields_of(values, reading.columns, row.values)
            found = replace(found, score_range=source.score_range, first_vote=reading.first_vote)
            if reading.guess:
                kind = forms.guess_kind(found)
                part.kind = part.kind or kind
                _check_kind(kind, part.kind)
            messages.check_media(values, found.unused)
            part.records.append(builders.build(part.kind, found, row.file, row.line, reading.origin))
            unread += [*found.unread(part.kind), *_unread_keys(found)]
            if part.kind == "preference" and forms.prompt_is_guessed(found):
                part.guessed_prompts.append(f"{row.file}:{row.line}")
        except DataError as fault:
            faults.append(fault)
    if len(part.records) > count:
        _note(part, row, reading, list(dict.fromkeys(unread)))
    return faults


def _note(part: SourceRecords, row: sources.SourceRow, reading: ReadOptions, unread: list[str]) -> None:
    """Note what of a row was not read, and whether its scores are against it."""
    part.unused.update(unread)
    if part.kind == "preference" and forms.against_scores(row.values):
        part.against_scores.append(f"{row.file}:{row.line}")
    fresh = [name for name in unread if part.unused[name] == 1]
    if fresh:
        part.proposals |= hints.proposals(row, part.kind, reading.columns, fresh)


def _unread_keys(fields: forms.Fields) -> list[str]:
    """Keys of a row's messages that nothing is read from, such as `messages[].id`."""
    return [
        f"{fields.columns[name]}[].{key}"
        for name in ("messages", "prompt", "completion", "chosen", "rejected")
        if fields.has(name)
        for key in sorted(messages.unread_keys(fields.values[name]))
    ]


def _hashed(rows: Iterable[sources.SourceRow], digest: hashlib._Hash) -> Iterator[sources.SourceRow]:
    for row in rows:
        digest.update(json.dumps(row.values, ensure_ascii=False, default=str).encode("utf-8", "replace"))
        yield row


def _kind_of_most(rows: Iterable[sources.SourceRow], mapping: Mapping[str, str]) -> str:
    """The kind most rows have, of equally frequent ones the first seen; empty if none has one."""
    votes: Counter[str] = Counter()
    for row in rows:
        with suppress(DataError):
            for values in published.read_row(row.values, "").rows:
                votes[forms.guess_kind(forms.fields_of(values, mapping, row.values))] += 1
    return votes.most_common(1)[0][0] if votes else ""


def _check_kind(found: str, kind: str) -> None:
    if found != kind:
        raise DataError(
            f"this row is a {found}, most of the first rows are a {kind}; name one with kind",
            reason="other_kind",
        )


def _votes(fault: DataError, reading: ReadOptions) -> DataError:
    """The fault of a vote that is no number of its count: a reason to count from 1, or two counts."""
    if not reading.first_vote:
        return fault
    message = "the votes of this file count from 0 and from 1; write A, B or tie"
    return DataError(
        message, file=fault.file, line=fault.line, field=fault.field, value=fault.value, reason="two_counts"
    )


def _check_range(part: SourceRecords, source: sources.Source) -> None:
    """Refuse ratings of which some are beyond 0 to 5 while nobody told their range.

    Raises:
        DataError: reason `score_range`.
    """
    if part.kind != "rating" or source.score_range is not None:
        return
    beyond = [f for f in part.faults if f.reason == "out_of_range" and hints.is_finite(f.value)]
    if beyond:
        low, high = hints.likely_range([fault.value for fault in beyond], part.records)
        way = hints.command(replace(source, score_range=(low, high)), "check")
        raise DataError(
            f"scores are read as 0 to 5, and {len(beyond)} rows are beyond; tell the range, in a recipe "
            f"{{path: …, score_range: [{low:g}, {high:g}]}}" + (f"; try: {way}" if way else ""),
            file=beyond[0].file,
            line=beyond[0].line,
            field=beyond[0].field,
            value=beyond[0].value,
            reason="score_range",
        )


def no_usable_row(source: sources.Source, part: SourceRecords, reading: ReadOptions) -> DataError:
    """What is wrong with a source without a record, and the command that leads on, if one does."""
    if not part.faults:
        return DataError("no usable row: the file has none", file=source.path, reason="no_usable_row")
    reasons = Counter(fault.reason for fault in part.faults).most_common()
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons)
    message = f"no usable row of {part.rows} ({counted}); the first: {part.faults[0]}"
    if part.looks_like not in ("", part.kind):
        message += f"; the rows look like {part.looks_like} records"
    way = _way_on(source, part, reading)
    return DataError(f"{message}; try: {way}" if way else message, file=source.path, reason="no_usable_row")


def _way_on(source: sources.Source, part: SourceRecords, reading: ReadOptions) -> str:
    """A command that gives records of this source, as was tried; empty if none was found."""
    first = part.faults[0]
    if first.reason == "multiple_choice":
        return hints.command(source, "check --kind multiple_choice")
    rows = sources.read_source(source, on_fault=lambda fault: None)
    row = next((row for row in rows if row.line == first.line), None)
    if first.reason == "object_answer" and row is not None:
        return hints.told_answer(source, row, first.field, reading.kinds)
    if part.looks_like not in ("", part.kind):
        other = _read(source, replace(reading, kinds=(part.looks_like,), guess=True))
        way = hints.converted(source, other.records, reading.kinds) if other.records else ""
        if way:
            return way
    if row is None or first.reason not in ("missing_field", "unknown_form"):
        return ""
    return hints.mapped(source, row, reading.kinds)
