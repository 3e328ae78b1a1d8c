"""Text files as lines, also .gz ones, within bounds: no line, file or .gz fills the memory."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from alignloop.errors import DataError
from alignloop.foreign import MAX_LINE, MIB, TooLarge, lines_of, opened

FREE_BYTES = 64 * MIB
"""What any .gz file may unpack to."""
MAX_RATIO = 200
"""Beyond FREE_BYTES, how many times its own size a .gz file may unpack to; text gives 3 to 20."""
MAX_WHOLE = 1024 * MIB
"""Largest file that is read as a whole, in bytes."""
_BOM = b"\xef\xbb\xbf"


class _Unpacked(gzip.GzipFile):
    """A .gz file that gives no more than a bounded multiple of its size."""

    def __init__(self, packed: IO[bytes]) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._most = max(FREE_BYTES, MAX_RATIO * os.fstat(packed.fileno()).st_size)

    def read(self, size: int | None = -1) -> bytes:
        """Read and count."""
        return self._counted(super().read(size))

    def readline(self, size: int | None = -1) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read a line and count."""
        return self._counted(super().readline(size))

    def _counted(self, found: bytes) -> bytes:
        if self.tell() > self._most:
            raise TooLarge(
                f"unpacks to more than {MAX_RATIO} times its size, as files do that are made to fill the "
                "memory; unpack it by hand if it is right"
            )
        return found


@contextmanager
def open_text(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked if its name ends in .gz.

    Raises:
        DataError: it cannot be read, is no regular file, or a .gz that is damaged, cut short or a bomb; also
            for what is met while the file is read in the context.
    """
    file = str(path)
    try:
        with (
            opened(path) as raw,
            _Unpacked(raw) if file.lower().endswith(".gz") else nullcontext(raw) as found,
        ):
            yield found  # pyright: ignore[reportReturnType]
    except TooLarge as error:
        raise DataError(f"the .gz file {error}", file=file, reason="too_large") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the .gz file is damaged or cut short ({error})", file=file) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", file=file) from error


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
