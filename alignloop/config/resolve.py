"""From keys and values to a checked configuration and objective; every fault in one ConfigError."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError, create_model

from alignloop.config.checking import add_faults, drop_refused, json_schema, rename_aliases, unknown_key
from alignloop.config.fields import Section, StageConfig
from alignloop.config.recipe_file import Entries, LocatedValue, RecipeFaults, located
from alignloop.config.registry import STAGES, StageSpec, find_stage
from alignloop.errors import ConfigError
from alignloop.objectives import registry as objectives
from alignloop.user_functions import REFERENCE, source_file


class Resolved(NamedTuple):
    """A stage's configuration, and its objective if it has one."""

    config: StageConfig
    objective: Any


def resolve(
    stage: str,
    mapping: Mapping[str, Any],
    *,
    stages: Mapping[str, StageSpec] = STAGES,
    notice: Callable[[str], None] | None = None,
) -> Resolved:
    """Checked configuration and objective of a stage.

    Args:
        stage: name of a stage or of a preference objective.
        mapping: keys of the stage and of its objective, in one flat mapping; values may be `LocatedValue`.
        stages: table of stages to look in.
        notice: called with a sentence for each key of another tool that was understood.

    Returns:
        (config, objective), objective None for a stage without one.

    Raises:
        ConfigError: every unknown key, wrong type, value out of range and missing key, in file order.
    """
    spec = find_stage(stage, stages)
    faults = RecipeFaults()
    entries = merge_layers(spec, [located(mapping)], faults, notice)
    resolved = check_entries(stage, spec, entries, faults)
    faults.stop_if_any()
    assert resolved is not None
    return resolved


def merge_layers(
    spec: StageSpec,
    layers: Sequence[Entries],
    faults: RecipeFaults,
    notice: Callable[[str], None] | None = None,
) -> Entries:
    """Keys of several places, later ones winning, under the names used here."""
    raw = {key: entry for layer in layers for key, entry in layer.items()}
    known = known_keys(spec, raw) | spec.config.refused.keys()
    merged: Entries = {}
    for layer in layers:
        merged |= rename_aliases(layer, known, faults, notice)
    return merged


def known_keys(spec: StageSpec, entries: Entries) -> set[str]:
    """The keys of a stage and of the objective that `entries` choose."""
    name = objective_name(spec, entries)
    return {*spec.config.model_fields, *(fields_model(name).model_fields if name else ())}


def check_entries(
    stage: str, spec: StageSpec, entries: Entries, faults: RecipeFaults, *, where: str = ""
) -> Resolved | None:
    """Resolve keys that carry no other tool's names any more.

    Args:
        stage: name of the stage for messages.
        spec: the stage.
        entries: its keys.
        faults: takes everything that is wrong.
        where: place of faults that have no line of their own, such as a missing key.

    Returns:
        None where something is wrong.
    """
    num_before = len(faults)
    name = objective_name(spec, entries, faults)
    entries = drop_refused(spec.config.refused, entries, faults)
    loss_fields = fields_model(name, spec.preset) if name else None
    known = known_keys(spec, entries)
    for key, entry in entries.items():
        if key not in known:
            faults.add(entry.where, unknown_key(key, known, f"`alignloop schema {stage}`"))
    place = where or next((e.where.rpartition(":")[0] for e in entries.values() if ":" in e.where), "")
    config = _validate(spec.config, entries, faults, place)
    loss = _validate(loss_fields, entries, faults, place) if loss_fields else None
    objective = None
    if loss is not None:
        try:
            objective = objectives.load(name)(**dict(loss))
        except ValueError as error:
            faults.add(place, f"objective {name}: {error}")
    if config is None or len(faults) > num_before:
        return None
    return Resolved(typing.cast(StageConfig, config), objective)


def flatten(config: StageConfig, objective: Any) -> dict[str, Any]:
    """The resolved keys in one flat mapping of plain values, as written to recipe.yaml."""
    loss = dataclasses.asdict(objective) if objective is not None else {}
    return {**config.model_dump(mode="json"), **fields_of(loss)}


def path_values(config: StageConfig) -> dict[str, str]:
    """Every text in a configuration that is a path, by key, `dataset[1]` in a list; output_dir left out.

    A function of the user counts as the file that it stands in.
    """
    found: dict[str, str] = {}
    for key, schema in json_schema(type(config))["properties"].items():
        marks = [schema, *schema.get("anyOf", ())]
        words = {word for mark in marks for word in mark.get("words", ())}
        value = getattr(config, key)
        if isinstance(value, str) and any(mark.get("pattern") == REFERENCE for mark in marks):
            found[key] = source_file(value)
        if key == "output_dir" or not any(mark.get("format") == "path" for mark in marks):
            continue
        items = (
            {f"{key}[{i}]": item for i, item in enumerate(value)}
            if isinstance(value, tuple)
            else {key: value}
        )
        for name, item in items.items():
            if not isinstance(item, dict):
                item = {"path": item}
            paths = {part: item[part] for part in _PATH_PARTS if part in item}
            paths |= {part: source_file(item[part]) for part in _FUNCTION_PARTS if part in item}
            for part, path in paths.items():
                if isinstance(path, str) and path not in words:
                    found[name if len(paths) == 1 else f"{name}.{part}"] = path
    return {key: path for key, path in found.items() if path}


def may_change(config: type[StageConfig]) -> dict[str, Literal["free", "longer"]]:
    """Keys of a stage that a continuation may change, by the rule that their fields declare.

    See `config.fields`.
    """
    rules: dict[str, Literal["free", "longer"]] = {}
    for key, field in config.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "resume" in extra:
            rules[key] = typing.cast(Literal["free", "longer"], extra["resume"])
    return {**rules, **dict.fromkeys(config.refused, "free")}  # runs of versions that had these keys


_PATH_PARTS = ("path", "model", "judge", "rubric", "certificate")
"""Keys of a data source, a reward or a judge whose values are paths."""
_FUNCTION_PARTS = ("function", "scorer")
"""Keys of a reward or an evaluation set whose values name a function of the user."""


def fields_of(loss: Mapping[str, Any]) -> dict[str, Any]:
    """An objective's fields as plain values: tuples become lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in loss.items()}


def objective_name(spec: StageSpec, entries: Entries, faults: RecipeFaults | None = None) -> str:
    """The stage's fixed objective, or the one that its key `objective` names, or "" if there is none."""
    field = spec.config.model_fields.get("objective")
    if spec.objective or field is None:
        return spec.objective
    entry = entries.get("objective", LocatedValue(field.default, ""))
    if not isinstance(entry.value, str):
        return str(field.default)  # the wrong type is reported by the model
    try:
        loss = objectives.load(entry.value)()
    except ConfigError as error:
        if faults is not None:
            faults.add_error(entry.where, error)
        return ""
    if faults is not None and spec.reads and spec.reads not in loss.needs:
        faults.add(entry.where, f"objective: '{entry.value}' does not read {spec.reads}, as this stage needs")
    return entry.value


@cache
def fields_model(objective: str, preset: str = "") -> type[Section]:
    """A model of an objective's fields, with their constraints and descriptions.

    Defaults are the objective's own, or those of a member of its family.
    """
    defaults = dataclasses.asdict(objectives.preset(objective, preset)) if preset else {}
    fields: dict[str, Any] = {
        doc.name: (doc.annotation, ...)
        if doc.default is dataclasses.MISSING
        else (doc.annotation, defaults.get(doc.name, doc.default))
        for doc in objectives.describe(objective)
    }
    return create_model(objectives.load(objective).__name__, __base__=Section, **fields)


_WORDS = {"yes": True, "on": True, "no": False, "off": False}


def _validate(model: type[Section], entries: Entries, faults: RecipeFaults, place: str) -> Section | None:
    """The model, or None after adding what is wrong with it to `faults`."""
    values = {key: entry.value for key, entry in entries.items() if key in model.model_fields}
    for key, value in values.items():
        if model.model_fields[key].annotation is bool and isinstance(value, str):
            values[key] = _WORDS.get(value.lower(), value)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        add_faults(model, entries, faults, error, place)
        return None
