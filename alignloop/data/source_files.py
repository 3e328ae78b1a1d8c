"""Rows out of data files: JSON lines, JSON, CSV, TSV and Parquet, also packed with gzip or Zstandard.

Text is UTF-8, with or without a byte-order mark, with \\n or \\r\\n; blank lines are skipped and counted
in line numbers. A damaged file (broken JSON, another encoding, a packed file cut short) is an error; a
single odd row (no object, NaN or Infinity in it, more cells than the header) is handed to `report`
and skipped.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from alignloop.data.lines import decoded, open_text, whole
from alignloop.errors import DataError
from alignloop.foreign import MAX_LINE, loads

_LINES = (".jsonl", ".ndjson")
_CELLS = {".csv": ",", ".tsv": "\t"}
_PACKED = (".gz", ".zst")
SUFFIXES = (
    *(kind + packed for kind in (*_LINES, ".json", *_CELLS) for packed in ("", *_PACKED)),
    ".parquet",
)
ACCEPTED = "accepted are .jsonl (.ndjson), .json, .csv, .tsv (each also .gz and .zst) and .parquet"
_LIST_KEYS = ("data", "rows", "examples", "records", "items", "train")

OnFault = Callable[[DataError], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its columns, the file it stands in and its 1-based line (row number if not .jsonl)."""

    values: dict[str, object]
    file: str
    line: int


def read_file(path: Path, report: OnFault) -> Iterator[Row]:
    """The rows of one file in order.

    Args:
        path: a file whose name ends as one of `SUFFIXES`.
        report: called for each odd row, which is then skipped.

    Yields:
        Rows with their places.

    Raises:
        DataError: a damaged file, or what `report` raises.
    """
    file = str(path)
    kind = kind_of(path.name)
    if kind == ".parquet":
        yield from _parquet(path)
        return
    with open_text(path) as handle:
        if kind in _LINES:
            yield from _jsonl(decoded(handle, file), file, report)
        elif kind in _CELLS:
            yield from _csv(decoded(handle, file), file, report, _CELLS[kind])
        else:
            yield from _json(whole(handle, file), file, report)


def kind_of(name: str) -> str:
    """Format of a file by its name, however it is packed: `rows.csv.gz` is `.csv`."""
    plain = name.lower()
    packed = next((end for end in _PACKED if plain.endswith(end)), "")
    return Path(plain.removesuffix(packed)).suffix


class _NotFinite(ValueError):
    """NaN or Infinity, which JSON does not have."""


def _refuse_constant(name: str) -> None:
    raise _NotFinite(name)


def _loads(text: str) -> object:
    return loads(text, constant=_refuse_constant)


def _broken(error: ValueError, file: str, line: int) -> DataError:
    what = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return DataError(f"broken JSON ({what}); repair or delete it", file=file, line=line, reason="broken_json")


def _not_finite(name: str, file: str, line: int) -> DataError:
    return DataError(f"{name} is no JSON number", file=file, line=line, reason="not_finite")


def _checked(value: object, file: str, line: int, report: OnFault) -> Iterator[Row]:
    if isinstance(value, dict):
        yield Row(value, file, line)
    else:
        report(
            DataError(
                "expected an object {…} with columns", file=file, line=line, value=value, reason="not_object"
            )
        )


def _jsonl(lines: Iterable[tuple[int, str]], file: str, report: OnFault) -> Iterator[Row]:
    """JSON lines; a file whose objects go over several lines is read if nothing else than that is odd."""
    found = iter(lines)
    for number, line in found:
        if not line.strip():
            continue
        try:
            value = _loads(line.rstrip("\r\n"))
        except _NotFinite as error:
            report(_not_finite(str(error), file, number))
            continue
        except ValueError as error:
            if line.strip()[:1] not in ("{", "[") or not _goes_on(error, line):
                raise _broken(error, file, number) from error
            text = line + "".join(rest for _, rest in found)
            yield from _several_lines(text, file, number, report, error)
            return
        yield from _checked(value, file, number, report)


def _goes_on(error: ValueError, line: str) -> bool:
    """Whether a line's JSON is right as far as it goes, so that the next line may end it."""
    return isinstance(error, json.JSONDecodeError) and error.pos >= len(line.rstrip())


def _several_lines(text: str, file: str, line: int, report: OnFault, first: ValueError) -> Iterator[Row]:
    """Objects over several lines, or a list of them, from a line on.

    Raises:
        DataError: they are no such objects either.
    """
    decoder, place, found = json.JSONDecoder(parse_constant=_refuse_constant), 0, []
    try:
        while text[place:].strip():
            start = place + len(text[place:]) - len(text[place:].lstrip())
            value, place = decoder.raw_decode(text, start)
            found.append((value, line + text.count("\n", 0, start)))
    except ValueError as error:
        fault = _broken(first, file, line)
        message = f"{fault.message}; .jsonl holds one object per line, without line breaks within it"
        raise DataError(message, file=file, line=line, reason="broken_json") from error
    for value, number in found:
        items = value if isinstance(value, list) else [value]
        for item in items:
            yield from _checked(item, file, number, report)


def _json(text: str, file: str, report: OnFault) -> Iterator[Row]:
    """A list of objects, an object that holds it as `data` or the like, or JSON lines by a wrong name."""
    if not text.strip():
        return
    try:
        value = _loads(text)
    except _NotFinite as error:
        raise _not_finite(str(error), file, 0) from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from _jsonl(enumerate((line + "\n" for line in text.split("\n")), 1), file, report)
            return
        raise _broken(error, file, error.lineno) from error
    except ValueError as error:
        raise _broken(error, file, 0) from error
    if isinstance(value, dict):
        value = next((value[key] for key in _LIST_KEYS if _is_rows(value.get(key))), [value])
    if not isinstance(value, list):
        raise DataError("expected a list of objects", file=file, value=value, reason="not_object")
    for number, item in enumerate(value, 1):
        yield from _checked(item, file, number, report)


def _is_rows(value: object) -> bool:
    """Whether a value is a list of rows; a list of texts under `data` is one row's dialogue."""
    return isinstance(value, list) and not all(isinstance(item, str) for item in value)


def _csv(lines: Iterable[tuple[int, str]], file: str, report: OnFault, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE)  # the default of 131 072 characters is short for documents
    reader = csv.reader((line for _, line in lines), strict=True, delimiter=delimiter)
    try:
        head = list(islice(reader, 2))
        if not head:
            return
        header, rows = head[0], chain(head[1:], reader)
        unnamed = next((names for names, fits in _HEADLESS.items() if all(map(fits, head))), None)
        if unnamed is not None:
            header, rows = list(unnamed), chain(head, reader)
        elif len(set(header)) < len(header) or not all(name.strip() for name in header):
            raise DataError(
                "the header needs a distinct name for each column", file=file, line=1, value=header
            )
        number = 0
        for cells in rows:
            if not any(cells):
                continue
            number += 1
            if len(cells) == len(header):
                yield Row(dict(zip(header, cells, strict=True)), file, number)
                continue
            message = f"{len(cells)} cells where the header has {len(header)}"
            report(DataError(message, file=file, line=number, reason="wrong_cells"))
    except csv.Error as error:
        raise DataError(
            f"broken CSV ({error})", file=file, line=reader.line_num, reason="broken_csv"
        ) from error


def _is_mmlu(cells: list[str]) -> bool:
    return len(cells) == 6 and cells[-1].strip() in ("A", "B", "C", "D") and "question" not in cells


_HEADLESS = {("question", "A", "B", "C", "D", "answer"): _is_mmlu}
"""Columns of published files without a header, and how their first two rows tell."""


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            ".parquet needs the extra `data`: pip install 'alignloop[data]'", file=str(path)
        ) from error
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, str(path), number)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the Parquet file is damaged ({reason})", file=str(path)) from error
