"""A cache on disk: one JSON value per line under the hash of what it depends on.

Lines are appended as values come, so a kill loses the line being written at most; a torn line, one whose
checksum does not fit and a second value of a key are harmless. Several processes may append to one file.
"""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignloop.foreign import lines_of, loads, opened
from alignloop.io import writing
from alignloop.runs.hashing import digest


class ValueCache:
    """Values by content.

    Attributes:
        path: the file, made with the first value.
        scope: what all values of this cache depend on; part of each key.
        num_damaged: lines of the file that could not be read or do not fit their checksum.
    """

    def __init__(self, path: Path, *, scope: object = "") -> None:
        self.path = path
        self.scope = scope
        self.num_damaged = 0
        self._values: dict[str, Any] = {}
        with suppress(FileNotFoundError), opened(path) as file:
            for line in lines_of(file):
                if line is None or line.strip():
                    self._read(line or b"")

    def _read(self, line: bytes) -> None:
        try:
            row = loads(line.decode("utf-8"))
            key, value = row["key"], row["value"]
            if row["check"] != _check(key, value):
                raise ValueError("checksum")
            self._values[key] = value
        except (ValueError, KeyError, TypeError, RecursionError):
            self.num_damaged += 1

    def get(self, key: object, /) -> Any:
        """The value of a key, None if there is none."""
        return self._values.get(self._digest(key))

    def put(self, key: object, value: Any, /) -> None:
        """Keep a value; it is on disk when this returns, unless the machine loses power.

        Args:
            key: what the value depends on: JSON-like, or a dataclass of such.
            value: JSON-like, not None.

        Raises:
            DiskError: disk full or not writable.
        """
        hashed = self._digest(key)
        if self._values.get(hashed) == value:
            return
        row = {"key": hashed, "value": value, "check": _check(hashed, value)}
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        # One write to a file opened for appending is not mixed with another process's. A torn line of an
        # earlier kill is ended first, or this one would be lost with it.
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                torn = file.tell() > 0 and _last_byte(self.path) != b"\n"
                file.write(b"\n" * torn + line.encode("utf-8", "surrogatepass"))
        self._values[hashed] = value

    def __len__(self) -> int:
        return len(self._values)

    def _digest(self, key: object) -> str:
        return digest([self.scope, dataclasses.asdict(key) if _is_data(key) else key])  # pyright: ignore


def _check(key: str, value: Any) -> str:
    """Checksum of a line: what a reader finds in a value is what was put there."""
    return digest([key, value])[:16]


def _is_data(key: object) -> bool:
    return dataclasses.is_dataclass(key) and not isinstance(key, type)


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
