"""Reading state back and writing it: what a person has to know when a file or the disk is at fault.

`read_state` checks the shape of a JSON file that AlignLoop wrote itself. `writing` turns the operating
system's refusals into one sentence. Everything that is kept on disk goes through one of the two.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from alignloop.errors import AlignLoopError, DiskError, RunError, UserError
from alignloop.foreign import MIB, TooLarge, load_yaml, loads, read_bytes, read_text

T = TypeVar("T")

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
def new_file(target: Path) -> Iterator[Path]:
    """A path beside `target` to be written, whose file then takes the place of `target`, synced.

    Readers see the old content or the new one. What an exception or a kill leaves is as `new_folder` has it.

    Args:
        target: replaced if it exists; its folder is made if it is not there.

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
            made.chmod(0o644)
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


def read_state(path: Path, shape: type[T], *, remedy: str, error: type[UserError] = RunError) -> T:
    """Read a JSON file that AlignLoop wrote, and check it against its shape.

    Args:
        path: the file.
        shape: a type that pydantic checks strictly, such as a TypedDict or `list[str]`.
        remedy: what a person can do if the file is damaged, the end of the sentence.
        error: what is raised, such as ModelError for a file of a model.

    Returns:
        The file's content.

    Raises:
        UserError: the file is missing, unreadable, cut short, no JSON, or of another shape.
    """
    with _reading(path, remedy, error):
        return checked(loads(read_bytes(path)), shape)


def checked(value: object, shape: type[T]) -> T:
    """The value, if it has the shape.

    Raises:
        ValidationError: it has not (a ValueError).
    """
    return _adapter(shape).validate_python(value, strict=True)


def has_shape(value: object, shape: type[T]) -> TypeGuard[T]:
    """Whether a value that was read from a file has the shape that its reader relies on."""
    try:
        checked(value, shape)
    except ValidationError:
        return False
    return True


def read_mapping(path: Path, *, remedy: str) -> dict[str, Any]:
    """A YAML file that AlignLoop wrote, such as the recipe.yaml of a run.

    Raises:
        RunError: the file is missing, unreadable, no YAML, or no mapping with texts as keys.
    """
    with _reading(path, remedy, RunError):
        return checked(load_yaml(read_text(path, most=4 * MIB)), dict[str, Any])


@contextmanager
def _reading(path: Path, remedy: str, error: type[UserError]) -> Iterator[None]:
    """A file that cannot be read, or holds something else, in one sentence."""
    try:
        yield
    except OSError as found:
        raise error(f"{path} cannot be read: {_strerror(found)}; {remedy}") from found
    except (ValueError, yaml.YAMLError) as found:
        raise error(f"{path} is damaged: {_fault(found)}; {remedy}") from found


@cache
def _adapter(shape: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(shape)


def _strerror(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _fault(error: Exception) -> str:
    """What is wrong, on one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"][:1].lower() + first["msg"][1:]
        return f"'{where}': {said}" if where else said
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON or cut short ({error.msg}, line {error.lineno})"
    if isinstance(error, TooLarge):
        return f"it is {error}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
