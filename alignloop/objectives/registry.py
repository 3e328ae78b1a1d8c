"""Objectives by file name: a new file in this folder is found at once, nothing else is edited.

Listing names imports nothing; loading one imports that file alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

from alignloop import objectives
from alignloop.errors import ConfigError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_NOT_OBJECTIVES = frozenset({"base", "registry"})


class FieldDoc(NamedTuple):
    """One hyperparameter. `annotation` includes the pydantic constraints; `choices` of a Literal."""

    name: str
    annotation: Any
    default: Any
    description: str
    choices: tuple[str, ...]


@cache
def names() -> list[str]:
    """Names of all objectives, sorted: the files of this folder that define one."""
    return sorted({m.name for m in pkgutil.iter_modules(objectives.__path__)} - _NOT_OBJECTIVES)


def file_of(objective: object) -> str:
    """The file in objectives/ that an objective stands in, "" for none: `dpo` of `DPO(beta=0.1)`."""
    return "" if objective is None else type(objective).__module__.rpartition(".")[2]


@cache
def load(name: str) -> type[Any]:
    """The one objective class in `objectives/<name>.py`.

    Args:
        name: one of `names()`.

    Returns:
        The class; call it with hyperparameters as keywords.

    Raises:
        ConfigError: no such objective.
        TypeError: the file does not define exactly one dataclass that is an `Objective`.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"one of: {', '.join(names())}"
        raise ConfigError(f"unknown objective '{name}'; {hint}")
    from alignloop.objectives.base import Objective

    module = importlib.import_module(f"alignloop.objectives.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and dataclasses.is_dataclass(value)
        and issubclass(value, Objective)
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one objective, found {len(found)}")
    return found[0]


def describe(name: str) -> list[FieldDoc]:
    """The hyperparameters of an objective, in order, with the documentation in their annotations.

    Args:
        name: one of `names()`.

    Returns:
        One entry per field.

    Raises:
        TypeError: a field without a pydantic `Field(description=…)`.
    """
    objective = load(name)
    hints = get_type_hints(objective, include_extras=True)
    docs = []
    for field in dataclasses.fields(objective):
        annotation = hints[field.name]
        kind, info = _split(annotation)
        if info is None or not info.description:
            raise TypeError(f"{objective.__name__}.{field.name} has no description")
        choices = tuple(str(choice) for choice in get_args(kind)) if isinstance(field.default, str) else ()
        docs.append(FieldDoc(field.name, annotation, field.default, info.description, choices))
    return docs


def preset(name: str, member: str) -> Any:
    """The objective of a family's member: `PRESETS[member]` in `objectives/<name>.py`."""
    module = importlib.import_module(load(name).__module__)
    return module.preset(member).objective


def _split(annotation: Any) -> tuple[Any, FieldInfo | None]:
    """`Annotated[kind, Field(…)]` → kind, its Field."""
    kind, *metadata = get_args(annotation) or (annotation,)
    infos = [item for item in metadata if type(item).__name__ == "FieldInfo"]
    return kind, infos[0] if infos else None
