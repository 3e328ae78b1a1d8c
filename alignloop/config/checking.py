"""What is said about keys and values: other tools' names, unknown keys, values that are not accepted."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from alignloop.config.aliases import ALIASES, ANYWAY, REFUSED
from alignloop.config.recipe_file import Entries, LocatedValue, RecipeFaults


class RefusedKey(NamedTuple):
    """A key that a stage does not have: the value that asks for nothing, and why it takes no other."""

    neutral: Any
    reason: str


def rename_aliases(
    entries: Entries,
    known: set[str],
    faults: RecipeFaults,
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
            faults.add(entry.where, f"'{key}' is not supported: {REFUSED[key]}")
            continue
        if name in renamed:
            earlier = renamed[name].where or "another key"
            text = f"'{key}' sets '{name}', which {earlier} sets too; keep one"
            faults.add(entry.where, text if key != name else f"'{key}' is set by {earlier} too; keep one")
        else:
            renamed[name] = LocatedValue(value, entry.where)
    return renamed


def drop_refused(refused: Mapping[str, RefusedKey], entries: Entries, faults: RecipeFaults) -> Entries:
    """Entries without the keys that a stage refuses; one whose value asks for something becomes a fault."""
    kept: Entries = {}
    for key, entry in entries.items():
        if key not in refused:
            kept[key] = entry
        elif isinstance(entry.value, bool) or entry.value != refused[key].neutral:
            faults.add(entry.where, f"{key}: {refused[key].reason}")
    return kept


def unknown_key(key: str, known: set[str], where_listed: str) -> str:
    """The sentence about a key that the stage does not have.

    Args:
        key: as it was written.
        known: the keys of the stage.
        where_listed: what lists them, the end of the sentence where no key is near.

    Returns:
        The sentence, with the nearest key.
    """
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.7)
    if not near:
        alias = difflib.get_close_matches(key, sorted(ALIASES), n=1, cutoff=0.8)
        near = [a.key for name in alias for a in ALIASES[name] if a.key in known][:1]
    if near:
        return f"unknown key '{key}'; did you mean '{near[0]}'?"
    return f"unknown key '{key}'; {where_listed} lists the keys of this stage"


def add_faults(
    model: type[BaseModel], entries: Entries, faults: RecipeFaults, error: ValidationError, place: str = ""
) -> None:
    """Add what pydantic refused as sentences, one for each key, at the key's line or at `place`."""
    seen = set()
    for detail in error.errors(include_url=False):
        key = str(detail.get("ctx", {}).get("key") or detail["loc"][0])
        if key not in seen:  # a union reports one error for each of its forms
            seen.add(key)
            entry = entries.get(key)
            faults.add(entry.where if entry else place, _sentence(model, key, entry, detail))


def _sentence(model: type[BaseModel], key: str, entry: LocatedValue | None, detail: ErrorDetails) -> str:
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


def accepted(model: type[BaseModel], key: str) -> str:
    """What a key accepts, in words: `a number above 0`, `one of auto, cpu, cuda`."""
    schema = json_schema(model)
    return describe_schema(schema["properties"][key], schema.get("$defs", {}))


@cache
def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema, made once."""
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
