"""Which models a stage samples from, and whether the local engine can: asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection

from transformers import AutoConfig, PretrainedConfig

from alignloop.config import (
    CompareConfig,
    CompletionConfig,
    ConstitutionConfig,
    EvaluateConfig,
    RefusalsConfig,
    StageConfig,
)
from alignloop.model.adapter_load import base_name
from alignloop.model.load import SMOLLM2, TINY, find_folder
from alignloop.model.loading import FAULTS
from alignloop.model.own_numbers import check_shape
from alignloop.stages.candidates import is_recorded, is_url
from alignloop.stages.compare_sets import KINDS


def check_writers(config: StageConfig, *, waiting: Collection[str] = ()) -> None:
    """Refuse models that the stage would sample from and the local engine cannot generate from.

    Their configurations are read, no weights, rewards or data.

    Args:
        config: the stage's.
        waiting: models that an earlier stage has yet to make.

    Raises:
        ModelError: one of them cannot be generated from, with what can be done.
    """
    for name in dict.fromkeys(writers(config)):
        if name not in waiting:
            check_writer(name)


def check_writer(name: str) -> None:
    """The same for one model, a path or name as `load_model` takes it.

    Raises:
        ModelError: it cannot be generated from, or nothing is there.
    """
    shape = read_shape(name)
    if shape is not None:
        check_shape(shape)


def writers(config: StageConfig) -> list[str]:
    """Models of this machine that the stage samples answers from."""
    if isinstance(config, CompareConfig):
        if not any(KINDS[entry["kind"]].answers for entry in config.sets):
            return []
        paths = [entry if isinstance(entry, str) else entry["model"] for entry in config.models]
        return [path for path in paths if not is_url(path) and not is_recorded(path)]
    if isinstance(config, EvaluateConfig | RefusalsConfig):
        return [config.before, config.after]
    if isinstance(config, CompletionConfig | ConstitutionConfig):
        return [config.model_name_or_path]  # pyright: ignore[reportAttributeAccessIssue]
    return []


def read_shape(name: str) -> PretrainedConfig | None:
    """A model's configuration, of an adapter that of its base.

    Returns:
        None for the built-in models, for a GGUF file, which is read in full when it is loaded, and where
        there is none to read, which loading tells.

    Raises:
        ModelError: neither a folder nor a file nor a hub id.
    """
    if name == SMOLLM2 or name.partition(":")[0] == TINY:
        return None
    folder = find_folder(name)
    if folder is not None and folder.suffix == ".gguf":
        return None
    base = base_name(folder) if folder is not None else None
    if base is not None:
        return read_shape(base)
    try:
        return AutoConfig.from_pretrained(name if folder is None else folder, trust_remote_code=False)
    except FAULTS:
        return None
