"""A configuration made in Python: rows, models, runs and functions become what a recipe can say.

Rows and models are written to a folder of this process, named by their content; `settle` then gives
each its place in the run folder, so that the run has all that it was made from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from alignloop.config.aliases import ALIASES, named_reward
from alignloop.config.checking import add_faults, drop_refused, rename_aliases, unknown_key
from alignloop.config.recipe_file import RecipeFaults, located
from alignloop.data.columns import record_to_row
from alignloop.data.sources import is_source
from alignloop.errors import ConfigError, DataError
from alignloop.io import write_whole
from alignloop.records import KINDS
from alignloop.user_functions import GIVEN, give, source_of

C = TypeVar("C", bound=BaseModel)
_RECORDS = tuple(KINDS.values())


@contextmanager
def python_call(model: type[BaseModel], keys: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The keywords of a call under the names used here, Python objects in them made paths.

    Within the context pydantic's refusals become a ConfigError.

    Args:
        model: the configuration that is made.
        keys: as they were given.

    Yields:
        Keywords for the model.

    Raises:
        ConfigError: unknown keys, and every value that is not accepted.
    """
    faults, known = RecipeFaults(), set(model.model_fields)
    refused = getattr(model, "refused", {})
    entries = rename_aliases(located(keys), known | refused.keys(), faults, say_note)
    entries = drop_refused(refused, entries, faults)
    for key in entries:
        if key not in known:
            faults.add("", unknown_key(key, known, f"help({model.__name__})"))
    values = {key: key_value(key, entry.value) for key, entry in entries.items() if key in known}
    try:
        if len(faults):
            model.model_validate(values)  # to name every fault at once
        else:
            yield values
    except ValidationError as error:
        add_faults(model, located(values), faults, error)
    faults.stop_if_any()


def say_note(text: str) -> None:
    """Tell on stderr how a key was understood."""
    print(f"note: {text.removeprefix('call: ')}", file=sys.stderr)


def key_value(key: str, value: Any) -> Any:
    """The value of a key as a recipe can say it.

    Args:
        key: the key, also by another tool's name.
        value: a plain value, or a Python object: a path or run, rows (a list of mappings or records, a
            pandas frame, a `datasets.Dataset`, any iterable of these), a loaded model or a pair of model
            and tokenizer, a function, or a mapping or list with such objects in it.

    Returns:
        Text, numbers, lists and mappings.

    Raises:
        ConfigError: splits of a data set instead of one of them.
        DataError: a row that is neither a mapping nor a record, or that JSON cannot hold.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if _is_model(value):
        return _model_path(value)
    names = {key, *(alias.key for alias in ALIASES.get(key, ()))}
    if "rewards" in names:
        parts = value if isinstance(value, list | tuple) else [value]
        return [_reward(part) for part in parts]
    if _is_frame(value):
        return _rows_path(key, value.to_dict("records"))
    if any(name in _DATA_KEYS or name.endswith("dataset") for name in names) and not callable(value):
        return _data(key, value)
    return _inner(key, value)


_DATA_KEYS = ("human", "ai")
"""Keys of data sets whose names do not end with `dataset`."""


def _inner(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: key_value(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [key_value(key, item) for item in value]
    return give(value) if callable(value) else value


def _reward(part: Any) -> Any:
    """A part of the reward: a callable, a name (see `named_reward`), or a mapping."""
    if callable(part) and not isinstance(part, Mapping):
        return {"function": give(part)}
    if isinstance(part, str):
        return named_reward(part)
    return _inner("reward", part)


def _data(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if "path" in value:
            return {name: _data(key, item) if name == "path" else item for name, item in value.items()}
        if not _is_row(value):
            raise ConfigError(
                f"{key}: a mapping of splits ({', '.join(map(str, value))}); give one of them, such as "
                f"{key}=data[{next(iter(value), 'train')!r}]"
            )
    if isinstance(value, list | tuple) and value and all(is_source(item) for item in value):
        return [_data(key, item) if isinstance(item, Mapping) else key_value(key, item) for item in value]
    if isinstance(value, str | os.PathLike) or not isinstance(value, Iterable):
        return value if isinstance(value, str) or not isinstance(value, os.PathLike) else os.fspath(value)
    return _rows_path(key, [value] if isinstance(value, Mapping) else value)


def _is_row(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping is one row, not a mapping of splits: some column is text, a number or a list."""
    return any(isinstance(item, str | int | float | list | tuple) for item in value.values())


def _rows_path(key: str, rows: Iterable[Any]) -> str:
    """The rows as JSON lines in a file named by their content."""
    name = key.rpartition(".")[2]
    lines = [_line(name, number, row) for number, row in enumerate(rows, 1)]
    if not lines:
        raise DataError("no rows", file=f"{name} given in Python", reason="no_rows")
    digest = hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()[:12]
    path = _folder() / f"{name}-{digest}.jsonl"
    if not path.exists():
        write_whole(path, lines)
    return str(path)


def _line(name: str, number: int, row: Any) -> str:
    where = {"file": f"{name} given in Python", "line": number}
    if isinstance(row, _RECORDS):
        row = record_to_row(row)
    if not isinstance(row, Mapping):
        raise DataError("expected a mapping of columns or a record", **where, value=row, reason="not_object")
    try:
        text = json.dumps(dict(row), ensure_ascii=False, allow_nan=False, default=_jsonable) + "\n"
        text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise DataError(f"JSON cannot hold this row ({error})", **where, reason="not_json") from error
    return text


def _jsonable(value: Any) -> Any:
    """numpy's numbers and arrays, tuples of records' details, dates and paths."""
    for name in ("tolist", "isoformat", "__fspath__"):
        if callable(method := getattr(value, name, None)):
            return method()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a {type(value).__name__} is no text, number, list or mapping")


def _is_frame(value: Any) -> bool:
    return hasattr(value, "to_dict") and hasattr(value, "columns") and hasattr(value, "iloc")


def _is_model(value: Any) -> bool:
    """A pair of model and tokenizer, or an object that has both."""
    if isinstance(value, tuple):
        return len(value) == 2 and hasattr(value[0], "save_pretrained")
    return hasattr(value, "model") and hasattr(value, "tokenizer")


def _model_path(value: Any) -> str:
    """The unchanged model's own path or name (`source`), or a folder with the weights as they are now."""
    if source := getattr(value, "source", ""):
        return source
    from alignloop.model.save import fingerprint, save_model

    model, tokenizer = value if isinstance(value, tuple) else (value.model, value.tokenizer)
    extra = getattr(value, "save_template", None)
    with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
        saved = Path(scratch) / "model"
        save_model(model, tokenizer, saved, extra=extra)
        path = _folder() / f"model-{fingerprint(saved)[:12]}"
        if not path.exists():
            saved.rename(path)
    return str(path)


def settle(config: C, folder: str) -> tuple[C, dict[str, Path]]:
    """The configuration with what was given in Python at its place in the run folder.

    Args:
        config: a stage's configuration; values of this process's folder are looked for in it.
        folder: the run folder.

    Returns:
        The configuration, and by path in the run folder the file or folder to be copied there: data,
        models, and the sources of functions.
    """
    places: dict[str, Path] = {}

    def moved(value: Any) -> Any:
        if isinstance(value, str):
            return _settled(value, folder, places)
        if isinstance(value, Mapping):
            return {name: moved(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(moved(item) for item in value)
        return value

    values = {key: getattr(config, key) for key in type(config).model_fields}
    changed = {key: new for key, value in values.items() if (new := moved(value)) != value}
    return (config.model_copy(update=changed) if changed else config), places


def _settled(value: str, folder: str, places: dict[str, Path]) -> str:
    source = source_of(value)
    if source:
        name = value.rpartition(":")[2] + ".py"
        file = _folder() / name
        if not file.exists():
            write_whole(file, [source])
        places[f"{folder}/{GIVEN}/{name}"] = file
        return value
    if not _is_ours(value):
        return value
    place = f"{folder}/{GIVEN}/{Path(value).name}"
    places[place] = Path(value)
    return place


class _ProcessFolder(NamedTuple):
    """A temporary folder, and its lock file, held as long as the process lives."""

    folder: tempfile.TemporaryDirectory[str]
    lock: IO[bytes]


_PREFIX, _LOCK = "alignloop-given-", ".lock"
_kept: list[_ProcessFolder] = []


def _folder() -> Path:
    """The folder of this process, made when it is needed and removed when the process ends.

    A process that was killed leaves its folder; the next one removes it.
    """
    if not _kept:
        made = tempfile.TemporaryDirectory(prefix=_PREFIX)
        lock = (Path(made.name) / _LOCK).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        _kept.append(_ProcessFolder(made, lock))
        remove_abandoned(Path(made.name).parent)
    return Path(_kept[0].folder.name)


def remove_abandoned(root: Path) -> None:
    """Remove folders of processes that were killed: those whose lock nobody holds any more.

    Args:
        root: where the folders are. A lock of the last minute may belong to a folder that is being made.
    """
    for lock in root.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock.open("rb") as held:  # another user's, held, or removed meanwhile
            if time.time() - lock.stat().st_mtime > 60:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent)


def _is_ours(path: str) -> bool:
    return bool(_kept) and Path(path).parent == _folder()
