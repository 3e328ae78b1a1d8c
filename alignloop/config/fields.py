"""How keys of a recipe are declared: paths, `auto`, what a continuation may change, errors about two keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from alignloop.errors import ConfigError

N = TypeVar("N", int, float)
AUTO: Literal["auto"] = "auto"
"""Value of a key that data and model decide before a run begins: see `config.defaults`."""
AutoRate = Annotated[float, Field(gt=0)] | Literal["auto"]
AutoSize = Annotated[int, Field(ge=1)] | Literal["auto"]
AutoShare = Annotated[float, Field(ge=0, le=0.5)] | Literal["auto"]


def fixed(value: N | Literal["auto"]) -> N:
    """The number of a key that may be `auto`.

    Args:
        value: as the configuration has it.

    Returns:
        The number.

    Raises:
        ConfigError: it is still `auto`: the stage was called without `stages.defaults.settled`.
    """
    if value == AUTO:
        raise ConfigError("a key is still 'auto'; give it a number, or run the stage by its recipe")
    return value


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
