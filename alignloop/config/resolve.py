"""From keys and values to a checked configuration and objective; every fault in one ConfigError."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError, create_model
from pydantic_core import ErrorDetails

from alignloop.config.aliases import ALIASES, ANYWAY, REFUSED
from alignloop.config.findings import Findings
from alignloop.config.recipe_file import Entries, Entry, located
from alignloop.config.registry import STAGES, StageSpec, find_stage
from alignloop.config.section import Section
from alignloop.config.stages import StageConfig
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
    findings = Findings()
    entries = merge_layers(spec, [located(mapping)], findings, notice)
    resolved = check_entries(stage, spec, entries, findings)
    findings.stop_if_any()
    assert resolved is not None
    return resolved


def merge_layers(
    spec: StageSpec,
    layers: Sequence[Entries],
    findings: Findings,
    notice: Callable[[str], None] | None = None,
) -> Entries:
    """Keys of several places, later ones winning, under the names used here."""
    raw = {key: entry for layer in layers for key, entry in layer.items()}
    known = known_keys(spec, raw)
    merged: Entries = {}
    for layer in layers:
        merged |= rename_aliases(layer, known, findings, notice)
    return merged


def known_keys(spec: StageSpec, entries: Entries) -> set[str]:
    """The keys of a stage and of the objective that `entries` choose."""
    name = objective_name(spec, entries)
    return {*spec.config.model_fields, *(fields_model(name).model_fields if name else ())}


def check_entries(
    stage: str, spec: StageSpec, entries: Entries, findings: Findings, *, where: str = ""
) -> Resolved | None:
    """Resolve keys that carry no other tool's names any more.

    Args:
        stage: name of the stage for messages.
        spec: the stage.
        entries: its keys.
        findings: takes everything that is wrong.
        where: place of findings that have no line of their own, such as a missing key.

    Returns:
        None where something is wrong.
    """
    num_before = len(findings)
    name = objective_name(spec, entries, findings)
    loss_fields = fields_model(name, spec.preset) if name else None
    known = known_keys(spec, entries)
    for key, entry in entries.items():
        if key not in known:
            findings.add(entry.where, unknown_key(key, known, stage))
    place = where or next((e.where.rpartition(":")[0] for e in entries.values() if ":" in e.where), "")
    config = _validate(spec.config, entries, findings, place)
    loss = _validate(loss_fields, entries, findings, place) if loss_fields else None
    objective = None
    if loss is not None:
        try:
            objective = objectives.load(name)(**dict(loss))
        except ValueError as error:
            findings.add(place, f"objective {name}: {error}")
    if config is None or len(findings) > num_before:
        return None
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
            if not isinstance(item, dict):
                item = {"path": item}
            paths = {part: item[part] for part in _PATH_PARTS if part in item}
            for part, path in paths.items():
                if isinstance(path, str) and path not in words:
                    found[name if len(paths) == 1 else f"{name}.{part}"] = path
    return found


def may_change(config: type[StageConfig]) -> dict[str, Literal["free", "longer"]]:
    """Keys of a stage that a continuation may change, by the rule that their fields declare.

    See `config.fields`.
    """
    rules: dict[str, Literal["free", "longer"]] = {}
    for key, field in config.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "resume" in extra:
            rules[key] = typing.cast(Literal["free", "longer"], extra["resume"])
    return rules


_PATH_PARTS = ("path", "model", "judge", "rubric", "certificate")
"""Keys of a data source, a reward or a judge whose values are paths."""


def fields_of(loss: Mapping[str, Any]) -> dict[str, Any]:
    """An objective's fields as plain values: tuples become lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in loss.items()}


def objective_name(spec: StageSpec, entries: Entries, findings: Findings | None = None) -> str:
    """The stage's fixed objective, or the one that its key `objective` names, or "" if there is none."""
    field = spec.config.model_fields.get("objective")
    if spec.objective or field is None:
        return spec.objective
    entry = entries.get("objective", Entry(field.default, ""))
    if not isinstance(entry.value, str):
        return str(field.default)  # the wrong type is reported by the model
    try:
        loss = objectives.load(entry.value)()
    except ConfigError as error:
        if findings is not None:
            findings.add_error(entry.where, error)
        return ""
    if findings is not None and spec.reads and spec.reads not in loss.needs:
        findings.add(
            entry.where, f"objective: '{entry.value}' does not read {spec.reads}, as this stage needs"
        )
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


def rename_aliases(
    entries: Entries,
    known: set[str],
    findings: Findings,
    notice: Callable[[str], None] | None = None,
) -> Entries:
    """Keys of other tools under the names used here; what cannot be honoured becomes a finding."""
    renamed: Entries = {}
    for key, entry in entries.items():
        candidates = [a for a in ALIASES.get(key, ()) if a.key in known]
        alias = next((a for a in candidates if not a.beside or a.beside in entries), None)
        name, value = key, entry.value
        if key not in known and alias is not None and alias.yields and entry.value and alias.key in entries:
            continue
        if key not in known and alias is not None:
            name, value = alias.key, alias.convert(entry.value)
            if notice is not None:
                shown = "" if value is entry.value else f": {value}"
                notice(f"{entry.where or 'call'}: '{key}' is read as '{name}{shown}'")
        elif key not in known and key in ANYWAY and entry.value is ANYWAY[key]:
            if notice is not None:
                notice(f"{entry.where or 'call'}: '{key}: {str(entry.value).lower()}' is so anyway")
            continue
        elif key not in known and key in REFUSED:
            findings.add(entry.where, f"'{key}' is not supported: {REFUSED[key]}")
            continue
        if name in renamed:
            earlier = renamed[name].where or "another key"
            text = f"'{key}' sets '{name}', which {earlier} sets too; keep one"
            findings.add(entry.where, text if key != name else f"'{key}' is set by {earlier} too; keep one")
        else:
            renamed[name] = Entry(value, entry.where)
    return renamed


def unknown_key(key: str, known: set[str], stage: str) -> str:
    """The sentence about a key that the stage does not have, with the nearest one that it has."""
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.7)
    if not near:
        alias = difflib.get_close_matches(key, sorted(ALIASES), n=1, cutoff=0.8)
        near = [a.key for name in alias for a in ALIASES[name] if a.key in known][:1]
    if near:
        return f"unknown key '{key}'; did you mean '{near[0]}'?"
    return f"unknown key '{key}'; `alignloop schema {stage}` lists the keys of this stage"


_WORDS = {"yes": True, "on": True, "no": False, "off": False}


def _validate(model: type[Section], entries: Entries, findings: Findings, place: str) -> Section | None:
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
                findings.add(entry.where if entry else place, _sentence(model, key, entry, detail))
        return None


def _sentence(model: type[Section], key: str, entry: Entry | None, detail: ErrorDetails) -> str:
    if detail["type"] == "conflict":
        return f"{key}: {detail['msg']}"
    if entry is None:
        return f"'{key}' is missing: {model.model_fields[key].description}"
    inner, problem = detail["loc"][-1], detail["type"]
    if len(detail["loc"]) > 1 and problem in ("missing", "extra_forbidden"):
        return f"{key}: '{inner}' is missing" if problem == "missing" else f"{key}: unknown key '{inner}'"
    value = entry.value
    shown = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    is_zero = isinstance(value, int | float) and value == 0 and not isinstance(value, bool)
    trap = " (AL212: 0 would train nothing)" if is_zero and key in _STRENGTHS else ""
    return f"{key}: value {shown} is not accepted; expected {accepted(model, key)}{trap}"


_STRENGTHS = frozenset({"learning_rate", "critic_learning_rate", "beta", "lam"})
"""Keys by which the loss or its step is multiplied."""


def accepted(model: type[Section], key: str) -> str:
    """What a key accepts, in words: `a number above 0`, `one of auto, cpu, cuda`."""
    schema = _json_schema(model)
    return describe_schema(schema["properties"][key], schema.get("$defs", {}))


@cache
def _json_schema(model: type[Section]) -> dict[str, Any]:
    return model.model_json_schema()


def describe_schema(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema of one field in words; `definitions` are those it refers to."""
    if "$ref" in schema:
        keys = definitions[schema["$ref"].rpartition("/")[2]].get("properties", {})
        return "{" + ", ".join(f"{key}: …" for key in keys) + "}"
    if "anyOf" in schema:
        return " or ".join(describe_schema(option, definitions) for option in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(str(choice) for choice in schema['enum'])}"
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "anything")
    if kind == "array":
        inner = schema.get("items") or {}
        return f"a list of {describe_schema(inner, definitions).removeprefix('a ')}" if inner else "a list"
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
