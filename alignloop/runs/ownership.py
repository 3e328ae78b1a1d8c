"""Whose folder it is: one run's, and one writing process's at a time; and the record a run begins with."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from alignloop.errors import RunError
from alignloop.foreign import read_mapping
from alignloop.runs.code import code_sha256, code_version
from alignloop.runs.continuation import Rule, changes, origin
from alignloop.runs.environment import environment, process_start
from alignloop.runs.hashing import Input, Parent, config_sha256, enclosing_run, fingerprint
from alignloop.runs.record import GIVEN, SCHEMA, read_record


class FolderTaken(RunError):
    """A run cannot be written where it should be, because something else is there.

    Attributes:
        folder: where.
        is_run: whether that is a run.
    """

    def __init__(self, folder: Path, message: str, *, is_run: bool = True) -> None:
        super().__init__(f"{folder} {message}")
        self.folder, self.is_run = folder, is_run


def unfinished(
    path: Path,
    record: dict[str, Any] | None,
    wanted: Mapping[str, Any],
    work: str,
    may_change: Mapping[str, Rule],
) -> dict[str, Any] | None:
    """Look for an unfinished run of the same work.

    Args:
        path: the folder.
        record: its run.json, None if there is none.
        wanted: origin of the run that is wanted.
        work: `work_sha256` of it.
        may_change: keys of the stage that an unfinished run may go on with at another value.

    Returns:
        Its record; None if the folder is as good as new.

    Raises:
        FolderTaken: the folder holds another run, or files of something else.
        RunError: it holds the finished run of the same settings.
    """
    if record is None:
        if any(not p.name.startswith(".") and p.name != GIVEN for p in path.iterdir()):
            message = "is not empty and holds no run; choose another output_dir"
            raise FolderTaken(path, message, is_run=False)
        return None
    if record["work_sha256"] != work and left_nothing(path, record):
        return None
    if record["work_sha256"] != work:
        changed = differences(path, record, wanted, may_change)
        if changed or record["status"] == "finished":
            changed = changed or differences(path, record, wanted, {})
            raise FolderTaken(
                path,
                f"belongs to another run ({changed or 'its inputs differ'}); put the old value back, "
                "choose another output_dir, or keep the earlier run aside with --resume never",
            )
    if record["status"] == "finished":
        raise RunError(f"{path} holds the finished run of the same settings; choose another output_dir")
    return record


def left_nothing(path: Path, earlier: Mapping[str, Any]) -> bool:
    """True for a run that failed before it made anything, such as one whose data set was misspelt."""
    made = {p.name for p in path.iterdir() if not p.name.startswith(".")} - {"run.json", "recipe.yaml", GIVEN}
    return earlier["status"] == "failed" and not made


def differences(
    path: Path,
    earlier: Mapping[str, Any],
    wanted: Mapping[str, Any],
    may_change: Mapping[str, Rule],
) -> str:
    """Say how a run that is there differs from the one that is wanted.

    Args:
        path: the folder.
        earlier: its run.json.
        wanted: origin of the run that is wanted.
        may_change: keys that are left out of the comparison.

    Returns:
        The difference in words; "" if they differ only in what may change.
    """
    if earlier["stage"] != wanted["stage"]:
        return f"stage: {earlier['stage']} -> {wanted['stage']}"
    try:
        keys = read_mapping(path / "recipe.yaml", remedy="")
    except RunError:
        return "its recipe.yaml is missing or damaged"
    inputs = {name: Input(row["path"], row["sha256"]) for name, row in earlier.get("inputs", {}).items()}
    parents = [Parent(**row) for row in earlier.get("parents", [])]
    changed = changes(origin(earlier["stage"], keys, inputs, parents), wanted, may_change)
    return "; ".join(changed[:5])


def take_lock(path: Path) -> IO[bytes]:
    """The folder's lock, made with the folder; the system frees it when the process ends, however.

    Args:
        path: the run folder.

    Returns:
        The open file; closing it gives the folder free.

    Raises:
        RunError: another process holds it, or the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / ".lock", "ab")  # noqa: SIM115 - held until the run is closed
    except OSError as error:
        raise RunError(f"{path}: cannot write a run here: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RunError(f"{path} is being written by another process; wait for it or stop it") from error
    return file


def new_record(
    path: Path, stage: str, config: Mapping[str, Any], seed: int, name: str, code: str
) -> dict[str, Any]:
    """run.json of a run that begins now in this process.

    Args:
        path: the run folder.
        stage: name of the stage.
        config: resolved keys.
        seed: seed of the run.
        name: name in a pipeline; the folder's name if empty.
        code: hash of the code that the stage runs; if empty, that of the run that this one is a part of,
            else that of the package.

    Returns:
        The record.
    """
    started = now()
    if not code:
        whole = enclosing_run(path.parent)
        code = code_sha256() if whole is None else str(read_record(whole).get("code", {}).get("sha256", ""))
    return {
        "schema": SCHEMA,
        "stage": stage,
        "name": name or path.resolve().name,
        "status": "running",
        "created": started,
        "started": started,
        "finished": None,
        "duration_s": None,
        "parents": [],
        "inputs": {},
        "config_sha256": config_sha256(config),
        "code": code_version(code),
        "seed": seed,
        "environment": environment(),
        "results": {},
        "warnings": [],
        "process": {"pid": os.getpid(), "started": process_start(os.getpid()), "host": socket.gethostname()},
    }


def now() -> str:
    """The time as run.json has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def sources(
    parents: Sequence[Parent], inputs: Mapping[str, Input], work_sha256: str, code: Mapping[str, str]
) -> dict[str, Any]:
    """The part of a record that says what a run is made from."""
    return {
        "parents": [asdict(parent) for parent in parents],
        "inputs": {key: asdict(item) for key, item in inputs.items()},
        "work_sha256": work_sha256,
        "fingerprint": fingerprint(work_sha256, code["sha256"]),
    }
