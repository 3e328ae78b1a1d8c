"""What content is known by: hashes of files and texts, and numbers that depend on a text alone."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal; lone surrogates count as they are."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def number_of(text: str, size: int = 8) -> int:
    """A text's own number, for seeds and draws that do not depend on other texts.

    Args:
        text: any text.
        size: bytes of the number.

    Returns:
        The first bytes of the text's SHA-256: evenly distributed from 0 to 256**size - 1.
    """
    return int(text_sha256(text)[: 2 * size], 16)
