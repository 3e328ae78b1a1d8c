"""Records from data sets, and data sets from records.

The kind of a data set is the one most of its first 100 rows have, unless it is named. A row that
cannot be used is dropped with file:line, field, value and what was expected, never silently.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignloop.data import builders, forms, hints, sources
from alignloop.data.source_records import ReadOptions, SourceRecords, no_usable_row, read_source
from alignloop.errors import DataError
from alignloop.io import write_whole
from alignloop.records import (
    KINDS,
    Conversed,
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


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was read.

    Attributes:
        records: the usable rows in order, repeated by their source's weight.
        dropped: a fault for each unusable row.
        kind: of all records, a key of `records.KINDS`.
        files: by path or hub id, `sha256` of its bytes (of its rows for a hub id) and `rows` read.
        unused: columns that no record came from, with the number of rows that have them.
        proposals: for some of them, the option of the command line that reads them.
        against_scores: rows whose chosen answer has the lower score of the two.
        guessed_prompts: rows whose prompt is the lines that chosen and rejected begin with.
        left_out: files of other splits beside those that were read.
    """

    records: list[Record]
    dropped: list[DataError]
    kind: str
    files: dict[str, dict[str, str | int]] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)
    proposals: dict[str, str] = field(default_factory=dict)
    against_scores: list[str] = field(default_factory=list)
    guessed_prompts: list[str] = field(default_factory=list)
    left_out: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What a reader should know of what was not read, and of what was guessed, as sentences."""
        found = []
        if self.left_out:
            names = ", ".join(self.left_out[:3]) + (" and more" if len(self.left_out) > 3 else "")
            found.append(f"files of other splits were left out: {names}; split names the one to read")
        if self.unused:
            found.append(f"columns that were not read: {hints.described(self.unused, self.proposals)}")
        if self.guessed_prompts:
            found.append(
                f"{len(self.guessed_prompts)} rows have no prompt: the lines that chosen and rejected begin "
                f"with are taken for it, the first: {self.guessed_prompts[0]}"
            )
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
    every = Dataset([], [], kinds[0] if len(kinds) == 1 else "")
    for source in sources.expand(spec):
        reading = ReadOptions((every.kind,) if every.kind else kinds, mapping, origin, guess=not kinds)
        part = read_source(source, reading)
        if strict and part.faults:
            raise part.faults[0]
        if not part.records:
            raise no_usable_row(source, part, reading)
        every = _joined(every, source, part)
    if not every.records:
        raise DataError("the weights leave no row", field="weight")
    return every


def _joined(data: Dataset, source: sources.Source, part: SourceRecords) -> Dataset:
    """A data set with what one more source gave."""
    data.records.extend(sources.repeat(part.records, source.weight))
    known = data.files.setdefault(source.path, {"sha256": part.sha256, "rows": 0})
    known["rows"] = int(known["rows"]) + part.rows
    return Dataset(
        data.records,
        [*data.dropped, *part.faults],
        part.kind,
        data.files,
        dict(Counter(data.unused) + part.unused),
        part.proposals | data.proposals,
        [*data.against_scores, *part.against_scores],
        [*data.guessed_prompts, *part.guessed_prompts],
        tuple(dict.fromkeys((*data.left_out, *source.left_out))),
    )


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


def content_of(record: Record, *, provenance: bool = True) -> str:
    """A record's row as canonical JSON, by which equal records are told; without its provenance if wanted."""
    row = record_to_row(record)
    if not provenance:
        del row["provenance"]
    return json.dumps(row, ensure_ascii=False, sort_keys=True)


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


def _body(record: Conversed) -> dict[str, object]:
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
