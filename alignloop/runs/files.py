"""Small files that must survive a kill or a power cut, and files of one JSON object per line."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from alignloop.foreign import lines_of, loads, opened
from alignloop.storage import new_file, new_folder, no_link, writing

GIVEN = "given"
"""Folder of a run folder for what was given in Python: rows, models, sources of functions."""


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by way of a synced temporary one: readers see the old or the new text, never a part.

    Args:
        path: the file.
        text: its new content.

    Raises:
        DiskError: disk full or not writable; the old file is untouched.
    """
    with new_file(path) as made:
        made.write_text(text, encoding="utf-8")


def copy_given(places: Mapping[str, Path]) -> None:
    """Copy files and folders to their places, whole or not at all; a file that is there stays.

    Args:
        places: source by place; places are named by content.

    Raises:
        DiskError: disk full or not writable.
    """
    for place, source in places.items():
        target = Path(place)
        if target.exists():
            continue
        if source.is_dir():
            with new_folder(target) as made:
                shutil.copytree(source, made, dirs_exist_ok=True)
        else:
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, source.read_text(encoding="utf-8"))


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


def seconds_logged(path: Path) -> float:
    """Seconds of work up to the last line of a metrics.jsonl; a value that is no number counts nothing."""
    found = (row.get("time_s") for row in read_lines(path))
    return max((float(x) for x in found if isinstance(x, int | float) and math.isfinite(x)), default=0.0)


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
        write_atomically(path, b"".join(line + b"\n" for line in kept).decode("utf-8", "replace"))
    return dropped


def _step(line: bytes) -> float:
    """The step of a line; a line without one is always kept, a damaged one never."""
    try:
        row = loads(line.decode("utf-8"))
    except ValueError:
        return math.inf
    step = row.get("step", -1) if isinstance(row, dict) else math.inf
    return step if isinstance(step, int | float) else -1


_WITHOUT_WORK = frozenset(
    ("run.json", "recipe.yaml", "metrics.jsonl", "samples.jsonl", "tags.json", "tensorboard", "model", GIVEN)
)
"""Entries of a run folder that no stage goes on from."""


def saved_place(folder: Path) -> str:
    """What an unfinished run in a folder goes on from, for a sentence; "" if it saved nothing yet."""
    if not folder.is_dir():
        return ""
    steps = [int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*") if p.name[5:].isdigit()]
    if steps:
        return f"step {max(steps)}"
    held = [
        p for p in folder.iterdir() if p.name not in _WITHOUT_WORK and not p.name.startswith((".", "report"))
    ]
    return "here" if any(p.is_file() or any(p.iterdir()) for p in held) else ""


def append_line(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of JSON lines.

    Raises:
        DiskError: disk full or not writable.
    """
    with writing(file), open(file, "ab", opener=no_link) as handle:
        handle.write(json_line(dict(row)).encode("utf-8", "surrogatepass"))


def sync(file: Path) -> None:
    """Have a file's content on the disk, if there is one.

    Raises:
        DiskError: disk full or not writable.
    """
    if file.exists():
        with writing(file), open(file, "rb") as handle:
            os.fsync(handle.fileno())
