"""Rows out of files, run folders and hub data sets, with the place each came from.

A data set is named by a string, a mapping or a list of both:

    pairs.jsonl            .jsonl, .json, .csv (each also with .gz) or .parquet
    pairs.jsonl#500        its first 500 rows
    runs/sample            a run folder: its data/*.jsonl, else its samples.jsonl
    folder                 every data file in it, by name
    owner/name             a hub data set, split `train`; owner/name:test for another split
    {path: a.jsonl, weight: 2, rows: 500}
    [{path: a.jsonl, weight: 2}, b.jsonl]

A weight is how often each row of that source is used in one pass: 2 is twice, 0.5 every second row.

What files may hold: UTF-8, with or without a byte-order mark, with \\n or \\r\\n; blank lines are
skipped and counted in line numbers. A damaged file (broken JSON, another encoding, a .gz cut short)
is an error; a single odd row (no object, NaN or Infinity in it, more cells than the header) is handed
to `on_fault` and skipped.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

from alignloop.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
_ACCEPTED = "accepted are .jsonl, .json, .csv (each also .gz) and .parquet"
_KEYS = ("path", "weight", "rows", "split")
_LIST_KEYS = ("data", "rows", "examples", "records", "items", "train")
_BOM = b"\xef\xbb\xbf"
_HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<split>[\w.-]+))?")
_LIMIT = re.compile(r"(?P<path>.+)#(?P<rows>\d+)")

Named = str | os.PathLike[str]
Spec = Named | Mapping[str, object] | Sequence["Named | Mapping[str, object]"]
OnFault = Callable[[DataError], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its columns, the file it stands in and its 1-based line (row number if not .jsonl)."""

    values: dict[str, object]
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Source:
    """One file or hub data set of a specification.

    Attributes:
        path: file path or hub id.
        rows: use only so many rows from the start, None for all.
        weight: how often each row is used in one pass.
        split: the split of a hub data set, None for a file.
    """

    path: str
    rows: int | None = None
    weight: float = 1.0
    split: str | None = None


def read_rows(spec: Spec, *, on_fault: OnFault | None = None) -> Iterator[Row]:
    """All rows of a data set, in order, repeated by weight.

    Args:
        spec: what to read, see the module's text.
        on_fault: called for each odd row, which is then skipped; by default the first one raises.

    Yields:
        Rows with their places.

    Raises:
        DataError: nothing there, a damaged file, or an odd row without `on_fault`.
    """
    for source in expand(spec):
        yield from repeat(read_source(source, on_fault=on_fault), source.weight)


def repeat(items: Iterable[T], weight: float) -> Iterator[T]:
    """Each item floor((i + 1)·weight) − floor(i·weight) times: evenly spread, without randomness."""
    exact = Fraction(weight).limit_denominator(1_000_000)
    done = 0
    for number, item in enumerate(items, 1):
        due = int(number * exact)
        for _ in range(due - done):
            yield item
        done = due


def expand(spec: Spec) -> list[Source]:
    """The files and hub data sets a specification means, folders resolved.

    Raises:
        DataError: a missing file, an unknown format or key, a weight that is not positive.
    """
    if isinstance(spec, str | os.PathLike):
        return _expand_name(os.fspath(spec))
    if isinstance(spec, Mapping):
        return _expand_mapping(spec)
    if not isinstance(spec, Sequence) or not spec:
        raise DataError(
            "a data set is a path, a hub id, a mapping with 'path', or a list of these", value=spec
        )
    return [source for item in spec for source in expand(item)]


def is_source(item: object) -> bool:
    """Whether an item of a list names a source (a path, or a mapping with `path`), and is no row itself."""
    if isinstance(item, Mapping):
        return "path" in item and set(item) <= set(_KEYS)
    return isinstance(item, str | os.PathLike)


def _expand_mapping(spec: Mapping[str, object]) -> list[Source]:
    for key in spec:
        if key not in _KEYS:
            close = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; accepted are {', '.join(_KEYS)}"
            raise DataError(f"unknown key '{key}' in a data source{hint}")
    name, weight, rows, split = (spec.get(key) for key in _KEYS)
    if not isinstance(name, str | os.PathLike):
        raise DataError("a data source needs 'path'", value=dict(spec))
    name = os.fspath(name)
    weight = 1.0 if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e6:
        raise DataError("expected a number above 0", file=name, field="weight", value=weight)
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise DataError("expected a whole number from 1 up", file=name, field="rows", value=rows)
    if split is not None and not isinstance(split, str):
        raise DataError("expected the name of a split", file=name, field="split", value=split)
    found = [replace(source, weight=float(weight)) for source in _expand_name(name)]
    if rows is not None:
        found = [replace(source, rows=rows) for source in found]
    if split is not None:
        if any(source.split is None for source in found):
            raise DataError("only hub data sets have splits", file=name, field="split", value=split)
        found = [replace(source, split=split) for source in found]
    return found


def _expand_name(name: str) -> list[Source]:
    rows = None
    limited = _LIMIT.fullmatch(name)
    if limited and not Path(name).exists():
        name, rows = limited["path"], int(limited["rows"])
        if rows == 0:
            raise DataError("'#0' asks for no rows", file=name)
    path = Path(name).expanduser()
    if path.is_dir():
        return [Source(str(file), rows) for file in _folder(path)]
    if path.exists():
        if not path.name.lower().endswith(SUFFIXES):
            raise DataError(f"unknown data format; {_ACCEPTED}", file=name)
        return [Source(str(path), rows)]
    hub = _HUB_ID.fullmatch(name)
    if hub and not _looks_local(hub["name"]):
        return [Source(hub["name"], rows, split=hub["split"] or "train")]
    close = difflib.get_close_matches(path.name, _names(path.parent), n=1, cutoff=0.8)
    raise DataError("no such file" + (f"; did you mean '{close[0]}'?" if close else ""), file=name)


def _looks_local(name: str) -> bool:
    """Whether owner/name is rather a path: it ends like a data file, or `owner` is a folder here."""
    owner = name.split("/")[0]
    return name.lower().endswith(SUFFIXES) or owner in ("runs", "data") or Path(owner).is_dir()


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _folder(path: Path) -> list[Path]:
    if (path / "run.json").exists():
        found = sorted((path / "data").glob("*.jsonl")) or [f for f in [path / "samples.jsonl"] if f.exists()]
        if not found:
            raise DataError("this run has neither data/*.jsonl nor samples.jsonl (yet)", file=str(path))
        return found
    found = sorted(f for f in path.iterdir() if f.is_file() and f.name.lower().endswith(SUFFIXES))
    if not found:
        raise DataError(f"no data file in this folder; {_ACCEPTED}", file=str(path))
    return found


def read_source(source: Source, *, on_fault: OnFault | None = None) -> Iterator[Row]:
    """The rows of one source in order, its weight not applied.

    Raises:
        DataError: a damaged file, or an odd row without `on_fault`.
    """
    report = on_fault or _raise
    rows = _hub(source) if source.split is not None else _file(Path(source.path), report)
    return islice(rows, source.rows)


def _raise(fault: DataError) -> None:
    raise fault


def _file(path: Path, report: OnFault) -> Iterator[Row]:
    name, file = path.name.lower(), str(path)
    if name.endswith(".parquet"):
        yield from _parquet(path)
        return
    try:
        with gzip.open(path, "rb") if name.endswith(".gz") else path.open("rb") as handle:
            if name.endswith((".jsonl", ".jsonl.gz")):
                yield from _jsonl(_decoded(handle, file), file, report)
            elif name.endswith((".csv", ".csv.gz")):
                yield from _csv(_decoded(handle, file), file, report)
            else:
                yield from _json("".join(line for _, line in _decoded(handle, file)), file, report)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the .gz file is damaged or cut short ({error})", file=file) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", file=file) from error


def _decoded(handle: IO[bytes] | gzip.GzipFile, file: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers. Split at \\n only: JSON strings may hold other line separators."""
    for number, raw in enumerate(handle, 1):
        if number == 1 and raw.startswith(_BOM):
            raw = raw[len(_BOM) :]
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            hint = "UTF-16" if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding"
            raise DataError(
                f"not UTF-8 at byte {error.start + 1} (it looks like {hint}); save the file as UTF-8",
                file=file,
                line=number,
                reason="not_utf8",
            ) from error


class _NotFinite(ValueError):
    """NaN or Infinity, which JSON does not have."""


def _refuse_constant(name: str) -> None:
    raise _NotFinite(name)


def _loads(text: str) -> object:
    return json.loads(text, parse_constant=_refuse_constant)


def _broken(error: ValueError | RecursionError, file: str, line: int) -> DataError:
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
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = _loads(line.rstrip("\r\n"))
        except _NotFinite as error:
            report(_not_finite(str(error), file, number))
            continue
        except (ValueError, RecursionError) as error:
            raise _broken(error, file, number) from error
        yield from _checked(value, file, number, report)


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
            yield from _jsonl(enumerate(text.split("\n"), 1), file, report)
            return
        raise _broken(error, file, error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise _broken(error, file, 0) from error
    if isinstance(value, dict):
        value = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)), [value])
    if not isinstance(value, list):
        raise DataError("expected a list of objects", file=file, value=value, reason="not_object")
    for number, item in enumerate(value, 1):
        yield from _checked(item, file, number, report)


def _csv(lines: Iterable[tuple[int, str]], file: str, report: OnFault) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default of 131 072 characters is short for documents
    reader = csv.reader((line for _, line in lines), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        if len(set(header)) < len(header) or not all(name.strip() for name in header):
            raise DataError(
                "the header needs a distinct name for each column", file=file, line=1, value=header
            )
        number = 0
        for cells in reader:
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


def _hub(source: Source) -> Iterator[Row]:
    """A hub data set; the only place here that may use the network, and only for owner/name."""
    try:
        import httpx
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            "no such path; as a hub data set it needs the extra `data`: pip install 'alignloop[data]'",
            file=source.path,
        ) from error
    offline = ", HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else ""
    try:
        rows = load_dataset(source.path, split=source.split, streaming=source.rows is not None)
        for number, values in enumerate(rows, 1):
            yield Row(dict(values), source.path, number)
    except (
        OSError,
        ValueError,
        RuntimeError,
        httpx.HTTPError,
    ) as error:  # what `datasets` raises for absent or offline
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"no such path, and as a hub data set it cannot be read ({reason}{offline})", file=source.path
        ) from error
