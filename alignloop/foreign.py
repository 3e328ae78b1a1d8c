"""Reading: texts and files with bounds on size and depth, as plain values that execute nothing.

Every JSON or YAML text goes through `loads` or `load_yaml`, every small file through `read_text`, and every
file of lines through `lines_of`. What exceeds a bound is a ValueError, as broken JSON is, so that a reader
which says one sentence for the one says it for the other. `read_state` checks the shape of a file that
AlignLoop wrote itself.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeGuard, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from alignloop.errors import RunError, UserError

T = TypeVar("T")

MIB = 1 << 20
MAX_DEPTH = 100
"""Lists and objects within one another. Deeper values would break whoever walks them later."""
MAX_TEXT = 64 * MIB
"""Largest file that is read as a whole, in bytes."""
MAX_LINE = 64 * MIB
"""Longest line of a file that is read line by line, in bytes."""


class TooLarge(ValueError):
    """A file, a line or a value beyond its bound; the message is a sentence."""


def loads(text: str | bytes, *, constant: Callable[[str], object] | None = None) -> Any:
    """A JSON text's value.

    Args:
        text: JSON; bytes are UTF-8.
        constant: called for NaN and infinities, which JSON does not have; they are taken by default.

    Returns:
        Plain values.

    Raises:
        ValueError: no JSON, a number of thousands of digits, or a value nested deeper than MAX_DEPTH.
    """
    try:
        value = json.loads(text, parse_constant=constant)
    except RecursionError as error:
        raise TooLarge(_too_deep()) from error
    opening = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(text.count(sign) for sign in opening) > MAX_DEPTH and _is_deep(value):  # pyright: ignore[reportArgumentType]
        raise TooLarge(_too_deep())
    return value


def _too_deep() -> str:
    return f"nested too deeply, in more than {MAX_DEPTH} levels"


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


class PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases, by which a few lines can fill the memory, and with a bounded depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not supported", problem_mark=mark)
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=_too_deep(), problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def load_yaml(text: str, loader: type[PlainLoader] = PlainLoader) -> Any:
    """Plain values of a YAML text.

    Args:
        text: YAML.
        loader: how scalars are read.

    Returns:
        Plain values.

    Raises:
        yaml.YAMLError: broken YAML, an alias, a tag of a language's own types, or too deep a nesting.
        ValueError: a number that is none.
    """
    return yaml.load(text, Loader=loader)


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump_yaml(values: Any) -> str:
    """Plain values as YAML that `load_yaml` reads: keys in their order, Unicode as it is, no aliases."""
    return yaml.dump(values, Dumper=_PlainDumper, allow_unicode=True, sort_keys=False)


def opened(path: str | Path) -> IO[bytes]:
    """A regular file for reading.

    Raises:
        OSError: no such file, or a pipe, device or socket, whose end may never come.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        reason = os.strerror(number) if stat.S_ISDIR(mode) else "It is a pipe or a device, no file"
        raise (IsADirectoryError if stat.S_ISDIR(mode) else OSError)(number, reason, str(path))
    return open(descriptor, "rb")


def read_bytes(path: str | Path, *, most: int = MAX_TEXT) -> bytes:
    """A small file's content.

    Raises:
        OSError: it cannot be read, or is no regular file.
        TooLarge: it has more than `most` bytes.
    """
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise TooLarge(f"larger than {most // MIB} MiB")
    return content


def read_text(path: str | Path, *, most: int = MAX_TEXT) -> str:
    """A small file's text in UTF-8. Raises as `read_bytes` does, and UnicodeDecodeError (a ValueError)."""
    return read_bytes(path, most=most).decode("utf-8")


def lines_of(file: IO[bytes], *, most: int = MAX_LINE) -> Iterator[bytes | None]:
    """Lines with their ends, split at newlines only; None for one of more than `most` bytes, passed over.

    Never more than one line is held.
    """
    while line := file.readline(most + 1):
        if len(line) <= most:
            yield line
            continue
        yield None  # before the rest is passed over: a sparse file's line may have terabytes
        while line and not line.endswith(b"\n"):
            line = file.readline(most + 1)


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
