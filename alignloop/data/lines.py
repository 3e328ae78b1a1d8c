"""Text files as lines, also .gz and .zst ones, within bounds: no line and no file fills the memory."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from alignloop.errors import DataError
from alignloop.foreign import MAX_LINE, MIB, TooLarge, lines_of, opened

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
