"""Files written whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path

from alignloop.storage import new_file


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write text lines as UTF-8 (compressed if the name ends with .gz): beside it, synced, renamed.

    The bytes depend on the lines only. Folders are made. On any failure the old file stays.

    Raises:
        DiskError: disk full or not writable.
    """
    with new_file(path) as made, made.open("wb") as raw:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                packed.writelines(line.encode("utf-8") for line in lines)
        else:
            raw.writelines(line.encode("utf-8") for line in lines)
