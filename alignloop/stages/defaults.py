"""Numbers in the place of `auto`: rows and parameters are counted, `config.defaults` decides.

It happens before a run begins, so that recipe.yaml, checkpoints and hashes hold numbers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from alignloop.config import StageConfig, TrainConfig
from alignloop.config.defaults import Decision, RunSize, decide, open_keys
from alignloop.data.columns import Dataset, read_records
from alignloop.data.normal import prompt_key
from alignloop.model.load import SMOLLM2, TINY, LoadedModel, find_folder, load_skeleton
from alignloop.objectives.base import Objective
from alignloop.objectives.registry import file_of

C = TypeVar("C", bound=StageConfig)
_WHOLE = ("per_device_train_batch_size",)


class Settled(NamedTuple):
    """A configuration without `auto`, and what was decided."""

    config: StageConfig
    decisions: Mapping[str, Decision]


def settled(
    config: StageConfig, objective: Objective | None, given: Mapping[str, Path] | None = None
) -> Settled:
    """The configuration with a number for every `auto`.

    Args:
        config: a stage's keys; one without `auto` comes back as it is, and nothing is read.
        objective: its loss, None for a stage without one.
        given: by path in the configuration, where that file or folder is until it is copied there.

    Returns:
        Configuration and decisions.

    Raises:
        UserError: data or model cannot be read.
    """
    if not isinstance(config, TrainConfig) or not open_keys(config):
        return Settled(config, {})
    found = decide(config, file_of(objective), facts_of(config, objective, given or {}))
    return Settled(with_decisions(config, found), found)


def with_decisions(config: C, decisions: Mapping[str, Decision]) -> C:
    """The configuration with the decided numbers."""
    values = {key: int(one.value) if key in _WHOLE else one.value for key, one in decisions.items()}
    return config.model_copy(update=values)


def facts_of(config: TrainConfig, objective: Objective | None, given: Mapping[str, Path]) -> RunSize:
    """Rows, prompts and parameters of a stage; `counted_records` and `read_skeleton` give what was read.

    Stages that make their own rows are counted by the rows that they make of their prompts at most.
    """
    num_rows, num_prompts = _rows(config, objective, given)
    name = str(given.get(config.model_name_or_path, config.model_name_or_path))
    config = config.model_copy(update={"model_name_or_path": name})
    loaded = read_skeleton(config)
    _left["skeleton"] = _Left(_skeleton_key(config), loaded)
    size = sum(p.numel() for p in loaded.model.parameters())
    return RunSize(num_rows, num_prompts, size)


def _rows(config: TrainConfig, objective: Objective | None, given: Mapping[str, Path]) -> tuple[int, int]:
    kinds = objective.records if objective is not None and config.kinds else config.kinds
    if kinds == ():
        num_rows = config.rows_made(0) or 0
        return num_rows, num_rows
    config = config.model_copy(update={"dataset": _found(config.dataset, given)})
    data = counted_records(config, kinds or ())
    _left["rows"] = _Left((_rows_key(config, kinds or ()), _stamps(data.files)), data)
    num_prompts = len({prompt_key(record) for record in data.records})
    made = config.rows_made(num_prompts)
    return len(data.records) if made is None else made, num_prompts


class _Left(NamedTuple):
    """Something that was read, and what it depends on."""

    key: object
    value: Any


_left: dict[str, _Left] = {}
"""What `facts_of` has read last, until a stage or a preview takes it over."""


def counted_records(config: TrainConfig, kinds: str | Sequence[str] = ()) -> Dataset:
    """A stage's rows, as `read_records` reads them; those that were just counted are not read again.

    Args:
        config: its keys.
        kinds: of the records, as `read_records` takes them; () for prompts of any kind.

    Returns:
        The records, which belong to the caller.

    Raises:
        DataError: as `read_records`.
    """
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    left = _left.pop("rows", None)
    if left is not None and left.key == (_rows_key(config, kinds), _stamps(left.value.files)):
        return left.value
    return read_records(config.dataset, kinds, config.columns, config.strict)


def read_skeleton(config: TrainConfig) -> LoadedModel:
    """The model of a stage without its weights; one that was just measured is not made again.

    Raises:
        ModelError: as `load_skeleton`.
    """
    left = _left.pop("skeleton", None)
    if left is not None and left.key == _skeleton_key(config):
        return left.value
    return load_skeleton(config.model_name_or_path, grow=config.adds_embeddings)


def _rows_key(config: TrainConfig, kinds: Sequence[str]) -> str:
    return repr((config.dataset, tuple(kinds), config.columns, config.strict))


def _skeleton_key(config: TrainConfig) -> object:
    name = config.model_name_or_path
    folder = None if name == SMOLLM2 or name.partition(":")[0] == TINY else find_folder(name)
    files = sorted(map(str, folder.iterdir())) if folder is not None and folder.is_dir() else [str(folder)]
    return name, config.adds_embeddings, _stamps(files)


def _stamps(files: Iterable[str]) -> list[tuple[str, int, int]]:
    """Size and time of each file that is there."""
    found = ((name, Path(name)) for name in files)
    return [(name, p.stat().st_size, p.stat().st_mtime_ns) for name, p in found if p.is_file()]


def _found(value: Any, given: Mapping[str, Path]) -> Any:
    """A data source whose paths are those that are there now."""
    if isinstance(value, str):
        return str(given.get(value, value))
    if isinstance(value, Mapping):
        return {key: _found(item, given) if key == "path" else item for key, item in value.items()}
    if isinstance(value, list | tuple):
        return cast(Any, type(value))(_found(item, given) for item in value)
    return value
