"""What a run depends on, as content: hashes of its configuration, inputs and parents.

A path counts by what it holds, not by where it lies, so that a folder of runs can be moved.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from alignloop.content import sha256_of, text_sha256
from alignloop.data.sources import exists, files_fitting, split_rows
from alignloop.errors import RunError
from alignloop.io import plain
from alignloop.runs.record import RUN_FILE, read_record

KEYS_WITHOUT_EFFECT = ("output_dir", "report_to")
"""Keys of a recipe that say where things go, not what is done."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file or model folder that a run reads: path as given, digest of its content, rows if counted."""

    path: str
    sha256: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Parent:
    """A run whose results a run reads."""

    path: str
    stage: str
    fingerprint: str


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text_sha256(text)


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hash of a resolved configuration without the keys that say where things go."""
    return digest({key: value for key, value in config.items() if key not in KEYS_WITHOUT_EFFECT})


def work_sha256(
    stage: str, config: Mapping[str, Any], inputs: Mapping[str, Input], parents: Iterable[Parent]
) -> str:
    """Hash of what a run does: stage, configuration, content of inputs and parents.

    Paths in the configuration are replaced by the content they stand for.
    """
    parents = list(parents)
    kept = {key: value for key, value in config.items() if key not in KEYS_WITHOUT_EFFECT}
    return digest(
        {
            "stage": stage,
            "config": with_contents(kept, inputs.values(), parents),
            "inputs": sorted((name, item.sha256) for name, item in inputs.items()),
            "parents": [parent.fingerprint for parent in parents],
        }
    )


def with_contents(config: Mapping[str, Any], inputs: Iterable[Input], parents: Iterable[Parent]) -> Any:
    """A configuration with every path replaced by the content that it stands for."""
    content = {item.path: f"sha256:{item.sha256}" for item in inputs}
    content |= {parent.path: f"run:{parent.fingerprint}" for parent in parents}

    def replace(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: replace(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [replace(item) for item in value]
        if isinstance(value, str):
            path, rows = split_rows(value)
            return content.get(path, path) + rows
        return value

    return replace(config)


def fingerprint(work: str, code: str) -> str:
    """Hash of a run: what it does and the code that does it. Equal fingerprints, equal results."""
    return digest([work, code])


def find_inputs(
    paths: Mapping[str, str], *, within: Path | None = None
) -> tuple[dict[str, Input], list[Parent]]:
    """Files, model folders and runs among the path values of a configuration.

    A path inside a run folder counts as both: the file by its content and the run as a parent. A
    pattern such as `data/*.jsonl` counts by names and contents of the files that it fits. What does
    not exist here (names of models, hub ids) is no input.

    Args:
        paths: by key, as `config.path_values` gives them.
        within: folder of a part of another run. That run is no parent: it is not finished, its files count
            by content, and its own check covers the rest.

    Returns:
        Inputs by the key that names them; parents in the order of the keys.

    Raises:
        RunError: a run that is named has not finished.
    """
    inputs: dict[str, Input] = {}
    parents: dict[str, Parent] = {}
    for name, text in paths.items():
        path = Path(split_rows(text)[0]).expanduser()
        if not text:
            continue
        fitting = [path] if exists(path) else files_fitting(str(path))
        for file in fitting:
            run = enclosing_run(file)
            if run is not None:
                parents.setdefault(str(run), _parent(run, whole=run == file))
        if fitting == [path] and enclosing_run(path) != path:
            inputs[name] = Input(str(path), content_sha256(path))
        elif fitting and fitting != [path]:
            content = digest([(file.name, content_sha256(file)) for file in fitting])
            inputs[name] = Input(str(path), content)
    part = None if within is None else within.resolve()
    around = [p for p in parents if part is not None and part.is_relative_to(Path(p).resolve())]
    return inputs, [parent for name, parent in parents.items() if name not in around]


def enclosing_run(path: Path) -> Path | None:
    """The run folder that a path is, or lies in (checkpoints/step-10, model/, samples.jsonl)."""
    return next((p for p in (path, *list(path.parents)[:3]) if (p / RUN_FILE).is_file()), None)


def _parent(path: Path, *, whole: bool) -> Parent:
    record = read_record(path)
    if whole and record["status"] != "finished":
        raise RunError(
            f"{path}: this run is {record['status']}, not finished; finish it before building on it"
        )
    return Parent(str(path), record["stage"], record["fingerprint"])


def content_sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents in a folder (hidden ones left out)."""
    if path.is_file():
        stat = path.stat()
        return _file_sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    return digest([(p.relative_to(path).as_posix(), content_sha256(p)) for p in files])


@cache
def _file_sha256(path: str, size: int, mtime_ns: int) -> str:
    """Size and time are there to ask the cache for the present content only."""
    return sha256_of(Path(path))
