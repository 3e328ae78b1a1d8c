"""From keys and values to a checked configuration and objective; every fault in one ConfigError."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import ValidationError, create_model
from pydantic_core import ErrorDetails

from alignloop.config.aliases import ALIASES, REFUSED
from alignloop.config.recipe_file import COMMAND_LINE, Entries, Entry, located
from alignloop.config.registry import STAGES, StageSpec, find_stage
from alignloop.config.stages import Section, StageConfig
from alignloop.errors import ConfigError
from alignloop.objectives import registry as objectives


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
        mapping: keys of the stage and of its objective, in one flat mapping; values may be `Entry`.
        stages: table of stages to look in.
        notice: called with a sentence for each key of another tool that was understood.

    Returns:
        (config, objective), objective None for a stage without one.

    Raises:
        ConfigError: every unknown key, wrong type, value out of range and missing key, in file order.
    """
    spec = find_stage(stage, stages)
    entries = located(mapping)
    findings: list[tuple[int, str]] = []
    name = objective_name(spec, entries, findings)
    loss_fields = fields_model(name) if name else None
    known = {*spec.config.model_fields, *(loss_fields.model_fields if loss_fields else ())}
    entries = rename_aliases(entries, known, findings, notice)
    for key, entry in entries.items():
        if key not in known:
            findings.append((_line(entry), unknown_key(key, entry.where, known, stage)))
    config = _validate(spec.config, entries, findings)
    loss = _validate(loss_fields, entries, findings) if loss_fields else None
    objective = None
    if loss is not None:
        try:
            objective = objectives.load(name)(**dict(loss))
        except ValueError as error:
            findings.append((0, f"{_prefix(_file(entries))}objective {name}: {error}"))
    if findings:
        raise ConfigError([text for _, text in sorted(findings, key=lambda finding: finding[0])])
    return Resolved(typing.cast(StageConfig, config), objective)


def flatten(config: StageConfig, objective: Any) -> dict[str, Any]:
    """The resolved keys in one flat mapping of plain values, as written to recipe.yaml."""
    loss = dataclasses.asdict(objective) if objective is not None else {}
    return {**config.model_dump(mode="json"), **fields_of(loss)}


def path_values(config: StageConfig) -> dict[str, str]:
    """Every text in a configuration that is a path, by key, `dataset[1]` in a list; output_dir left out."""
    found: dict[str, str] = {}
    for key, schema in _json_schema(type(config))["properties"].items():
        marks = [schema, *schema.get("anyOf", ())]
        words = {word for mark in marks for word in mark.get("words", ())}
        if key == "output_dir" or not any(mark.get("format") == "path" for mark in marks):
            continue
        value = getattr(config, key)
        items = (
            {f"{key}[{i}]": item for i, item in enumerate(value)}
            if isinstance(value, tuple)
            else {key: value}
        )
        for name, item in items.items():
            path = item.get("path") if isinstance(item, dict) else item
            if isinstance(path, str) and path not in words:
                found[name] = path
    return found


def fields_of(loss: Mapping[str, Any]) -> dict[str, Any]:
    """An objective's fields as plain values: tuples become lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in loss.items()}


def objective_name(spec: StageSpec, entries: Entries, findings: list[tuple[int, str]]) -> str:
    """The stage's fixed objective, or the one that its key `objective` names, or "" if there is none."""
    field = spec.config.model_fields.get("objective")
    if spec.objective or field is None:
        return spec.objective
    entry = entries.get("objective", Entry(field.default, ""))
    if not isinstance(entry.value, str):
        return str(field.default)  # the wrong type is reported by the model
    try:
        objectives.load(entry.value)
    except ConfigError as error:
        findings += [(_line(entry), f"{_prefix(entry.where)}objective: {line}") for line in error.findings]
        return ""
    return entry.value


def known_keys(spec: StageSpec, entries: Entries) -> set[str]:
    """All keys that a stage reads, other tools' names for them included."""
    name = objective_name(spec, entries, [])
    known = {*spec.config.model_fields, *(fields_model(name).model_fields if name else ())}
    return known | {word for word, found in ALIASES.items() if any(alias.key in known for alias in found)}


@cache
def fields_model(objective: str) -> type[Section]:
    """A model of an objective's fields, with their constraints and descriptions."""
    fields: dict[str, Any] = {
        doc.name: (doc.annotation, ...)
        if doc.default is dataclasses.MISSING
        else (doc.annotation, doc.default)
        for doc in objectives.describe(objective)
    }
    return create_model(objectives.load(objective).__name__, __base__=Section, **fields)


def rename_aliases(
    entries: Entries,
    known: set[str],
    findings: list[tuple[int, str]],
    notice: Callable[[str], None] | None,
) -> Entries:
    """Keys of other tools under the names used here; what cannot be honoured becomes a finding."""
    renamed: Entries = {}
    for key, entry in entries.items():
        alias = next((a for a in ALIASES.get(key, ()) if a.key in known), None)
        if key in known or (alias is None and key not in REFUSED):
            name, value = key, entry.value
        elif alias is None:
            findings.append((_line(entry), f"{_prefix(entry.where)}'{key}' is not supported: {REFUSED[key]}"))
            continue
        else:
            name, value = alias.key, alias.convert(entry.value)
            if notice is not None:
                shown = "" if value is entry.value else f": {value}"
                notice(f"{_prefix(entry.where)}'{key}' is read as '{name}{shown}'")
        earlier = renamed.get(name)
        if earlier is None or (entry.where == COMMAND_LINE) > (earlier.where == COMMAND_LINE):
            renamed[name] = Entry(value, entry.where)
        elif (entry.where == COMMAND_LINE) == (earlier.where == COMMAND_LINE):
            text = f"'{key}' sets '{name}', which {earlier.where or 'another key'} sets too; keep one"
            findings.append((_line(entry), f"{_prefix(entry.where)}{text}"))
    return renamed


def unknown_key(key: str, where: str, known: set[str], stage: str) -> str:
    """The sentence about a key that the stage does not have, with the nearest one that it has."""
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.7)
    if not near:
        alias = difflib.get_close_matches(key, sorted(ALIASES), n=1, cutoff=0.8)
        near = [a.key for name in alias for a in ALIASES[name] if a.key in known][:1]
    if near:
        return f"{_prefix(where)}unknown key '{key}'; did you mean '{near[0]}'?"
    return f"{_prefix(where)}unknown key '{key}'; `alignloop schema {stage}` lists the keys of this stage"


_WORDS = {"yes": True, "on": True, "no": False, "off": False}


def _validate(model: type[Section], entries: Entries, findings: list[tuple[int, str]]) -> Section | None:
    """The model, or None after adding what is wrong with it to `findings`."""
    values = {key: entry.value for key, entry in entries.items() if key in model.model_fields}
    for key, value in values.items():
        if model.model_fields[key].annotation is bool and isinstance(value, str):
            values[key] = _WORDS.get(value.lower(), value)
    try:
        return model(**values)
    except ValidationError as error:
        seen = set()
        for detail in error.errors(include_url=False):
            key = str(detail.get("ctx", {}).get("key") or detail["loc"][0])
            if key not in seen:  # a union reports one error for each of its forms
                seen.add(key)
                entry = entries.get(key)
                line = _line(entry) if entry else 0
                findings.append((line, _sentence(model, key, entry, detail, _file(entries))))
        return None


def _sentence(model: type[Section], key: str, entry: Entry | None, detail: ErrorDetails, file: str) -> str:
    if detail["type"] == "conflict":
        return f"{_prefix(entry.where if entry else file)}{key}: {detail['msg']}"
    if entry is None:
        return f"{_prefix(file)}'{key}' is missing: {model.model_fields[key].description}"
    value = entry.value
    shown = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    wanted = accepted(model, key)
    return f"{_prefix(entry.where)}{key}: value {shown} is not accepted; expected {wanted}"


def accepted(model: type[Section], key: str) -> str:
    """What a key accepts, in words: `a number above 0`, `one of auto, cpu, cuda`."""
    schema = _json_schema(model)["properties"][key]
    return describe_schema(schema)


@cache
def _json_schema(model: type[Section]) -> dict[str, Any]:
    return model.model_json_schema()


def describe_schema(schema: Mapping[str, Any]) -> str:
    """A JSON schema of one field in words."""
    if "$ref" in schema:
        return "{path: …, weight: …, rows: …, split: …}"
    if "anyOf" in schema:
        return " or ".join(describe_schema(option) for option in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(str(choice) for choice in schema['enum'])}"
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "anything")
    if kind == "array":
        inner = schema.get("items") or {}
        return f"a list of {describe_schema(inner).removeprefix('a ')}" if inner else "a list"
    names = {
        "string": "text",
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "null": "null",
        "object": "a mapping",
    }
    return " ".join([names.get(kind, str(kind)), *_bounds(schema)])


def _bounds(schema: Mapping[str, Any]) -> list[str]:
    if "minimum" in schema and "maximum" in schema:
        return [f"from {schema['minimum']:.10g} to {schema['maximum']:.10g}"]
    words = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "of at most",
        "exclusiveMaximum": "below",
    }
    found = [f"{word} {schema[bound]:.10g}" for bound, word in words.items() if bound in schema]
    return [" and ".join(found)] if found else []


def _line(entry: Entry) -> int:
    """For sorting: the line in the file; the command line comes last."""
    number = entry.where.rpartition(":")[2]
    return int(number) if number.isdigit() else 1_000_000


def _file(entries: Entries) -> str:
    """The file that most findings without a line belong to."""
    return next((e.where.rpartition(":")[0] for e in entries.values() if ":" in e.where), "")


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""
