"""docs/results/rates.md from the cells of bench/rates.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(found: dict[str, Any], file: Path) -> None:
    """Write the page."""
    file.write_text(str(found), encoding="utf-8")
