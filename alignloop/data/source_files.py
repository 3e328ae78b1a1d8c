"""Rows out of data files: JSON lines, JSON, CSV, TSV and Parquet, also packed with gzip or Zstandard.

Text is UTF-8, with or without a byte-order mark, with \\n or \\r\\n; blank lines are skipped and counted
in line numbers. A damaged file (broken JSON, another encoding, a packed file cut short) is an error; a
single odd row (no object, NaN or Infinity in it, more cells than the header) is handed to `report`
and skipped. No line and no packed file fills the memory: both have bounds.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from alignloop.errors import DataError
from alignloop.foreign import MAX_LINE, MIB, TooLarge, lines_of, loads, opened

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
class SourceRow:
    """One row: its columns, the file it stands in and its 1-based line (row number if not .jsonl)."""

    values: dict[str, object]
    file: str
    line: int


def read_file(path: Path, report: OnFault) -> Iterator[SourceRow]:
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


def _checked(value: object, file: str, line: int, report: OnFault) -> Iterator[SourceRow]:
    if isinstance(value, dict):
        yield SourceRow(value, file, line)
    else:
        report(
            DataError(
                "expected an object {…} with columns", file=file, line=line, value=value, reason="not_object"
            )
        )


def _jsonl(lines: Iterable[tuple[int, str]], file: str, report: OnFault) -> Iterator[SourceRow]:
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


def _several_lines(
    text: str, file: str, line: int, report: OnFault, first: ValueError
) -> Iterator[SourceRow]:
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


def _json(text: str, file: str, report: OnFault) -> Iterator[SourceRow]:
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


def _csv(lines: Iterable[tuple[int, str]], file: str, report: OnFault, delimiter: str) -> Iterator[SourceRow]:
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
                yield SourceRow(dict(zip(header, cells, strict=True)), file, number)
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


def _parquet(path: Path) -> Iterator[SourceRow]:
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
                    yield SourceRow(values, str(path), number)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the Parquet file is damaged ({reason})", file=str(path)) from error


FREE_BYTES = 64 * MIB
"""What any packed file may unpack to."""
MAX_RATIO = 200
"""Beyond FREE_BYTES, how many times its own size a packed file may unpack to; text gives 3 to 20."""
MAX_WHOLE = 1024 * MIB
"""Largest file that is read as a whole, in bytes."""
_BOM = b"\xef\xbb\xbf"


class _Unpacked(io.RawIOBase):
    """What a packed file unpacks to, no more than a bounded multiple of its size."""

    def __init__(self, stream: Any, size: int) -> None:
        super().__init__()
        self._stream = stream
        self._left = max(FREE_BYTES, MAX_RATIO * size)

    def readable(self) -> bool:
        """True: it is for reading only."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as there is something, and count."""
        found = self._stream.read(len(buffer))
        self._left -= len(found)
        if self._left < 0:
            raise TooLarge(
                f"unpacks to more than {MAX_RATIO} times its size, as files do that are made to fill the "
                "memory; unpack it by hand if it is right"
            )
        buffer[: len(found)] = found
        return len(found)


@contextmanager
def open_text(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked if its name ends in .gz or .zst.

    Raises:
        DataError: it cannot be read, is no regular file, or a packed one that is damaged, cut short or a
            bomb; also for what is met while the file is read in the context.
    """
    file, packed = str(path), path.suffix.lower()
    try:
        with opened(path) as raw:
            stream = _stream(raw, packed, file)
            size = os.fstat(raw.fileno()).st_size
            yield raw if stream is None else io.BufferedReader(_Unpacked(stream, size), 1 << 16)
    except TooLarge as error:
        raise DataError(f"the {packed} file {error}", file=file, reason="too_large") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the {packed} file is damaged or cut short ({error})", file=file) from error
    except OSError as error:
        if packed == ".zst" and error.errno is None:
            message = f"the {packed} file is damaged or cut short ({error})"
            raise DataError(message, file=file) from error
        raise DataError(f"cannot be read ({error.strerror or error})", file=file) from error


def _stream(raw: IO[bytes], packed: str, file: str) -> Any:
    """What unpacks a file by the end of its name; None for one that is not packed."""
    if packed == ".gz":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if packed != ".zst":
        return None
    try:
        import pyarrow as pa
    except ImportError as error:
        raise DataError(".zst needs the extra `data`: pip install 'alignloop[data]'", file=file) from error
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")


def decoded(handle: IO[bytes], file: str, *, most: int = MAX_LINE) -> Iterator[tuple[int, str]]:
    """Lines with their numbers. Split at newlines only: JSON strings may hold other line separators.

    Args:
        handle: from `open_text`.
        file: its name, for errors.
        most: longest line, in bytes.

    Yields:
        1-based number and text of each line, its end included.

    Raises:
        DataError: a longer line, or text that is not UTF-8.
    """
    for number, raw in enumerate(lines_of(handle, most=most), 1):
        if raw is None:
            raise DataError(
                f"a line of more than {most // MIB} MiB, which is no row; put one row on each line",
                file=file,
                line=number,
                reason="too_large",
            )
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


def whole(handle: IO[bytes], file: str) -> str:
    """The text of a file that can only be read as a whole.

    Raises:
        DataError: as `decoded`, or it has more than MAX_WHOLE bytes.
    """
    raw = handle.read(MAX_WHOLE + 1)
    if len(raw) > MAX_WHOLE:
        raise DataError(
            f"larger than {MAX_WHOLE // MIB} MiB; a .json file is read as a whole, write .jsonl instead",
            file=file,
            reason="too_large",
        )
    return "".join(line for _, line in decoded(io.BytesIO(raw), file, most=MAX_WHOLE))
