"""How keys of a recipe are declared: paths, what a continuation may change, errors about two keys."""

from __future__ import annotations

from typing import Any

from pydantic import Field, JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError


def path_or(*words: str) -> FieldInfo:
    """Marks a text as a path, so that its content counts in a run's fingerprint; `words` are none."""
    extra: dict[str, JsonValue] = {"format": "path"}
    return Field(json_schema_extra={**extra, "words": list(words)} if words else extra)


def free(default: Any, **more: Any) -> Any:
    """A field that an unfinished run may go on with at another value: no row and no weight depends on it,
    but for rounding. A `Field` decides what is learned: with another value it is another run."""
    return Field(default=default, json_schema_extra={"resume": "free"}, **more)


def longer(default: Any, **more: Any) -> Any:
    """A field by which a new run may train on from a checkpoint (`--resume PATH`): the rows come in the same
    order, only the end and with it the learning rate's decay move."""
    return Field(default=default, json_schema_extra={"resume": "longer"}, **more)


def conflict(key: str, message: str) -> PydanticCustomError:
    """An error about two keys that do not go together, reported at the line of `key`."""
    return PydanticCustomError("conflict", "{message}", {"key": key, "message": message})
