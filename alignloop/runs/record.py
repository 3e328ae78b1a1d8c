"""run.json: what a run says about itself, read back with its shape checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeVar

from pydantic import ConfigDict
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.errors import RunError
from alignloop.storage import read_state

T = TypeVar("T")
RUN_FILE = "run.json"
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
