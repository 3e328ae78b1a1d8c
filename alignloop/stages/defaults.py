"""Numbers in the place of `auto`: rows and parameters are counted, `config.defaults` decides.

It happens before a run begins, so that recipe.yaml, checkpoints and hashes hold numbers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from alignloop.config import StageConfig, TrainConfig
from alignloop.config.defaults import Decision, RunSize, decide, open_keys
from alignloop.data.columns import read_records
from alignloop.data.normal import prompt_key
from alignloop.model.load import load_skeleton
from alignloop.objectives.base import Objective
from alignloop.objectives.registry import file_of
from alignloop.stages.common import adds_embeddings

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
    """Rows, prompts and parameters of a stage.

    Stages that make their own rows are counted by the rows that they make of their prompts at most.
    """
    num_rows, num_prompts = _rows(config, objective, given)
    model = str(given.get(config.model_name_or_path, config.model_name_or_path))
    loaded = load_skeleton(model, grow=adds_embeddings(config))
    size = sum(p.numel() for p in loaded.model.parameters())
    return RunSize(num_rows, num_prompts, size)


def _rows(config: TrainConfig, objective: Objective | None, given: Mapping[str, Path]) -> tuple[int, int]:
    kinds = objective.records if objective is not None and config.kinds else config.kinds
    if kinds == ():
        num_rows = config.rows_made(0) or 0
        return num_rows, num_rows
    records = read_records(_found(config.dataset, given), kinds, config.columns, config.strict).records
    num_prompts = len({prompt_key(record) for record in records})
    made = config.rows_made(num_prompts)
    return len(records) if made is None else made, num_prompts


def _found(value: Any, given: Mapping[str, Path]) -> Any:
    """A data source whose paths are those that are there now."""
    if isinstance(value, str):
        return str(given.get(value, value))
    if isinstance(value, Mapping):
        return {key: _found(item, given) if key == "path" else item for key, item in value.items()}
    if isinstance(value, list | tuple):
        return cast(Any, type(value))(_found(item, given) for item in value)
    return value
