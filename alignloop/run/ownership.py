"""Whose folder it is: one run's, and one writing process's at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from alignloop.errors import RunError
from alignloop.run.files import plain
from alignloop.run.hashing import KEYS_WITHOUT_EFFECT


def unfinished(
    path: Path, record: dict[str, Any] | None, stage: str, config: Mapping[str, Any], work: str
) -> dict[str, Any] | None:
    """The record if the folder holds an unfinished run of the same work; None if it is as good as new.

    Raises:
        RunError: the folder holds another run, a finished one, or files of something else.
    """
    if record is None:
        if any(not p.name.startswith(".") for p in path.iterdir()):
            raise RunError(f"{path} is not empty and holds no run; choose another output_dir")
        return None
    if record["work_sha256"] != work and left_nothing(path, record):
        return None
    check_same_work(path, record, stage, config, work)
    return record


def left_nothing(path: Path, earlier: Mapping[str, Any]) -> bool:
    """True for a run that failed before it made anything, such as one whose data set was misspelt."""
    made = {p.name for p in path.iterdir() if not p.name.startswith(".")} - {"run.json", "recipe.yaml"}
    return earlier["status"] == "failed" and not made


def check_same_work(
    path: Path, earlier: Mapping[str, Any], stage: str, config: Mapping[str, Any], work: str
) -> None:
    """Refuse a folder that holds other work, or the same and finished.

    Args:
        path: the folder.
        earlier: its run.json.
        stage: the stage that wants it.
        config: that stage's resolved configuration.
        work: `work_sha256` of what it wants to do.

    Raises:
        RunError: with the settings that differ.
    """
    if earlier["work_sha256"] != work:
        raise RunError(f"{path} belongs to another run ({differences(path, earlier, stage, config)}); "
                       "choose another output_dir")  # fmt: skip
    if earlier["status"] == "finished":
        raise RunError(f"{path} holds the finished run of the same settings; choose another output_dir")


def differences(path: Path, earlier: Mapping[str, Any], stage: str, config: Mapping[str, Any]) -> str:
    """In words, how a run that is there differs from the one that is wanted."""
    if earlier["stage"] != stage:
        return f"stage {earlier['stage']}, not {stage}"
    try:
        old = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        old = None
    if not isinstance(old, dict):
        return "its recipe.yaml is missing or damaged"
    new = plain(dict(config))
    changed = [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and key not in KEYS_WITHOUT_EFFECT
    ]
    return "; ".join(changed[:5]) if changed else "the content of its inputs has changed"


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
