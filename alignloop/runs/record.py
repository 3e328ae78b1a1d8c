"""What a run folder holds: run.json, read back with its shape checked, and the files beside it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeVar

from pydantic import ConfigDict
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.errors import RunError
from alignloop.foreign import read_state
from alignloop.io import new_folder, read_lines, write_whole

T = TypeVar("T")
RUN_FILE = "run.json"
GIVEN = "given"
"""Folder of a run folder for what was given in Python: rows, models, sources of functions."""
SCHEMA = 1
Status = Literal["running", "finished", "failed", "interrupted"]


class ParentRow(TypedDict):
    """A run that was read."""

    path: str
    stage: str
    fingerprint: str


class InputRow(TypedDict):
    """A file or folder that was read."""

    path: str
    sha256: str
    rows: NotRequired[int | None]


class ProcessRow(TypedDict):
    """The process that writes a run."""

    pid: int
    started: str
    host: str


class ContinuesRow(TypedDict):
    """The checkpoint of another length that a run went on from, and the settings that differ, in words."""

    checkpoint: str
    changed: list[str]


class DecidedRow(TypedDict):
    """A number in the place of `auto`."""

    value: float
    reason: str


class Record(TypedDict):
    """The keys of run.json that others rely on; a run may have further ones."""

    __pydantic_config__ = ConfigDict(extra="allow")  # pyright: ignore[reportGeneralTypeIssues]

    schema: int
    stage: str
    status: Status
    fingerprint: str
    work_sha256: str
    warnings: list[str]
    name: NotRequired[str]
    created: NotRequired[str]
    duration_s: NotRequired[float | None]
    seed: NotRequired[int]
    config_sha256: NotRequired[str]
    parents: NotRequired[list[ParentRow]]
    inputs: NotRequired[dict[str, InputRow]]
    code: NotRequired[dict[str, Any]]
    environment: NotRequired[dict[str, Any]]
    results: NotRequired[dict[str, Any]]
    process: NotRequired[ProcessRow]
    continues: NotRequired[ContinuesRow]
    decided: NotRequired[dict[str, DecidedRow]]


def read_record(folder: Path) -> dict[str, Any]:
    """The run.json of a run folder.

    Raises:
        RunError: it is missing, damaged, or of another version.
    """
    file = folder / RUN_FILE
    remedy = "put the file back from a copy, or move the folder away and run the same command again"
    record: Mapping[str, Any] = read_state(file, _Schema, remedy=remedy)
    if record["schema"] != SCHEMA:
        raise RunError(f"{file} has schema {record['schema']}; this version reads {SCHEMA}")
    return dict(read_state(file, Record, remedy=remedy))


class _Schema(TypedDict):
    """Looked at first: a later version may have other keys."""

    __pydantic_config__ = ConfigDict(extra="allow")  # pyright: ignore[reportGeneralTypeIssues]

    schema: int


def needed(value: T | None, name: str, folder: Path) -> T:
    """One of a run's results without which nothing goes on.

    Args:
        value: as it was read.
        name: its key, for the error.
        folder: the run folder.

    Returns:
        The value.

    Raises:
        RunError: run.json does not have it, or in another shape.
    """
    if value is None:
        raise RunError(
            f"{folder / RUN_FILE} is damaged: its results have no usable '{name}'; move the folder "
            f"{folder} away and the same command makes it again"
        )
    return value


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
            write_whole(target, source.read_text(encoding="utf-8"))


def seconds_logged(path: Path) -> float:
    """Seconds of work up to the last line of a metrics.jsonl; a value that is no number counts nothing."""
    found = (row.get("time_s") for row in read_lines(path))
    return max((float(x) for x in found if isinstance(x, int | float) and math.isfinite(x)), default=0.0)


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
