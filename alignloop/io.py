"""Writing: files and folders whole or not at all, JSON lines that survive a kill, disk errors as sentences.

`writing` turns refusals of the operating system into one sentence; all that is kept on disk is written in it.
`foreign` reads files back.
"""

from __future__ import annotations

import ctypes
import errno
import gzip
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsFloat

from alignloop.errors import AlignLoopError, DiskError
from alignloop.foreign import lines_of, loads, opened

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EROFS: ("the file system is read-only", "make it writable"),
    errno.EACCES: ("permission denied", "make it writable"),
    errno.EPERM: ("operation not permitted", "make it writable"),
    errno.EIO: ("the disk reports an input/output error", "check the disk"),
    errno.ELOOP: ("it is a symbolic link, and writing would change another file", "remove it"),
    errno.EFBIG: ("the file is larger than the file system permits", "use another file system"),
}
# safetensors and tokenizers are written in Rust and put the number of the system's error into the text
_RUST = re.compile(r"\(os error (\d+)\)")


def system_error(error: BaseException) -> int | None:
    """Number of the operating system's error that an exception tells of, None for another exception."""
    if isinstance(error, OSError):
        return error.errno
    found = _RUST.search(str(error))
    return int(found[1]) if found else None


def disk_error(error: BaseException, what: str | Path, kept: str = "") -> DiskError | None:
    """Say a failed write in one sentence.

    Args:
        error: what the write raised.
        what: the file or the thing that was written.
        kept: what is left and how to go on; the general sentence if empty.

    Returns:
        The error with its sentence; None if `error` tells of no error of the operating system.
    """
    number = system_error(error)
    if number is None:
        return None
    reason, remedy = _REASONS.get(number, (os.strerror(number), ""))
    go_on = "what was written before is whole; " + (f"{remedy} and " if remedy else "")
    return DiskError(f"{what} could not be written: {reason}; {kept or go_on + 'run the same command again'}")


FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
"""Errors that only a write can have met, wherever they come from."""


class writing:
    """Context in which a failed write becomes one sentence.

    Arguments:
        what: the file or the thing that is written.
        kept: see `disk_error`.
        only: numbers of the errors that count; None for all, where nothing but writing goes on.

    Raises:
        DiskError: on leaving, for an error of the operating system, also one that a library wraps.
    """

    def __init__(self, what: str | Path, kept: str = "", *, only: frozenset[int] | None = None) -> None:
        self.what, self.kept, self.only = what, kept, only

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, AlignLoopError):
            return
        if self.only is not None and system_error(error) not in self.only:
            return
        told = disk_error(error, self.what, self.kept)
        if told is not None:
            raise told from error


@contextmanager
def new_folder(target: Path, what: str = "", kept: str = "") -> Iterator[Path]:
    """A new folder to be filled, which then takes the place of `target` whole.

    An exception removes it and leaves `target` as it was; a kill leaves it as `.NAME-….tmp` for `sweep`.

    Args:
        target: replaced if it exists.
        what: what is written, in errors; the path if empty.
        kept: see `disk_error`.

    Yields:
        The new folder, beside `target`.

    Raises:
        DiskError: disk full or not writable.
    """
    with writing(what or target, kept):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-", suffix=".tmp"))
        try:
            yield made
            replace_folder(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)


@contextmanager
def new_file(target: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """A path beside `target` to be written, whose file then takes the place of `target`, synced.

    Readers see the old content or the new one. What an exception or a kill leaves is as `new_folder` has it.

    Args:
        target: replaced if it exists; its folder is made if it is not there.
        mode: who can read and write the file.

    Yields:
        The path, at which nothing is yet.

    Raises:
        DiskError: disk full or not writable; `target` is untouched.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_name(f".{target.name}-{secrets.token_hex(6)}.tmp")
        try:
            yield made
            made.chmod(mode)
            with made.open("rb") as handle:
                os.fsync(handle.fileno())
            os.replace(made, target)
        finally:
            made.unlink(missing_ok=True)
        sync_folder(target.parent)


def sweep(folder: Path) -> None:
    """Remove what killed writers left half written in `folder` and below: files and folders `.NAME-….tmp`."""
    for rest in list(folder.rglob(".*.tmp")):
        if rest.is_dir() and not rest.is_symlink():
            shutil.rmtree(rest, ignore_errors=True)
        else:
            with suppress(OSError):
                rest.unlink()


def replace_folder(made: Path, target: Path) -> None:
    """Sync every file of `made`, then put it in the place of `target` in one step, readable for everybody.

    Libraries and temporary folders make files that only their owner can read. Where the system can
    exchange two names, `target` is there at every moment, also in a kill.
    """
    for path in (made, *made.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
    if target.exists():
        if not _exchange(made, target):
            old = target.with_name(f".{target.name}-old.tmp")
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            made.rename(target)
            made = old
        shutil.rmtree(made, ignore_errors=True)
    else:
        made.rename(target)
    sync_folder(target.parent)


def no_link(path: str, flags: int) -> int:
    """Opener for files that are written in place: a link, which may be a stranger's, is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at once (renameat2 of Linux); False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def write_whole(path: Path, content: str | Iterable[str]) -> None:
    """Write text as UTF-8 (compressed if the name ends with .gz): beside the file, synced, renamed.

    The bytes depend on the content only. Readers see the old or the new file, never a part.

    Args:
        path: the file.
        content: its new text, or pieces of it such as lines with their ends.

    Raises:
        DiskError: disk full or not writable; the old file is untouched.
    """
    pieces = (piece.encode("utf-8") for piece in ([content] if isinstance(content, str) else content))
    with new_file(path) as made, made.open("wb") as raw:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                packed.writelines(pieces)
        else:
            raw.writelines(pieces)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: tensors and numpy numbers become floats, NaN and infinities null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, SupportsFloat):
        number = float(value)
        return number if math.isfinite(number) else None
    return str(value)


def json_line(row: dict[str, Any]) -> str:
    """One JSON object as a line."""
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file; a torn, damaged or overlong line is passed over."""
    if not path.exists():
        return
    with opened(path) as file:
        for line in lines_of(file):
            try:
                row = loads(line.decode("utf-8")) if line and line.strip() else None
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def append_line(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of JSON lines.

    Raises:
        DiskError: disk full or not writable.
    """
    with writing(file), open(file, "ab", opener=no_link) as handle:
        handle.write(json_line(dict(row)).encode("utf-8", "surrogatepass"))


def cut_lines(path: Path, *, after_step: int | None = None) -> int:
    """Drop a torn last line, and with `after_step` all rows of later steps.

    Args:
        path: a .jsonl file; none is no error.
        after_step: the last step that stays, None for all.

    Returns:
        Number of lines dropped.
    """
    if not path.exists():
        return 0
    content = path.read_bytes()
    *lines, rest = content.split(b"\n")
    kept = [line for line in lines if after_step is None or _step(line) <= after_step]
    dropped = len(lines) - len(kept) + bool(rest)
    if dropped:
        write_whole(path, b"".join(line + b"\n" for line in kept).decode("utf-8", "replace"))
    return dropped


def _step(line: bytes) -> float:
    """The step of a line; a line without one is always kept, a damaged one never."""
    try:
        row = loads(line.decode("utf-8"))
    except ValueError:
        return math.inf
    step = row.get("step", -1) if isinstance(row, dict) else math.inf
    return step if isinstance(step, int | float) else -1


def sync(file: Path) -> None:
    """Have a file's content on the disk, if there is one.

    Raises:
        DiskError: disk full or not writable.
    """
    if file.exists():
        with writing(file), open(file, "rb") as handle:
            os.fsync(handle.fileno())
