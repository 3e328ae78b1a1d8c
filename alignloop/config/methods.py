"""A configuration for each method, with its objective's keys: `DPOConfig(dataset=…, beta=0.05)`.

The classes are made from the stages and the objectives, so that a new objective has one too.
`methods.pyi`, which `python scripts/stubs.py` writes, tells type checkers and editors of them.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any, ClassVar

from pydantic import create_model

from alignloop.config.fields import StageConfig
from alignloop.config.registry import STAGES, find_stage, is_preference_objective
from alignloop.config.resolve import Resolved, fields_model, resolve
from alignloop.objectives import registry as objectives


class MethodConfig(StageConfig):
    """A configuration that holds its objective's keys as well.

    Attributes:
        stage_name: the stage.
    """

    stage_name: ClassVar[str] = ""

    def resolved(self) -> Resolved:
        """The stage's configuration and its objective.

        Raises:
            ConfigError: values of the objective that do not go together.
        """
        values = {key: getattr(self, key) for key in self.model_fields_set}
        return resolve(self.stage_name, values)


@cache
def class_names() -> dict[str, str]:
    """Stage by name of its class: `DPOConfig` -> `dpo`."""
    found = {f"{spec.method}Config": stage for stage, spec in STAGES.items() if spec.method}
    for name in objectives.names():
        if name not in STAGES and is_preference_objective(name):
            found[f"{objectives.load(name).__name__}Config"] = name
    return dict(sorted(found.items()))


@cache
def method_config(stage: str) -> type[Any]:
    """The class of a stage that has an objective.

    Args:
        stage: a key of `class_names()`'s values, such as `dpo`.

    Returns:
        A subclass of the stage's configuration.

    Raises:
        ConfigError: no such stage.
    """
    spec = find_stage(stage)
    loss = fields_model(spec.objective, spec.preset)
    fields: dict[str, Any] = {name: (info.annotation, info) for name, info in loss.model_fields.items()}
    name = next(name for name, found in class_names().items() if found == stage)
    doc = f"{spec.config.__doc__ or ''}".splitlines()[0] + f"\n\n    With the keys of objective `{stage}`."
    made = create_model(
        name, __base__=(MethodConfig, spec.config), __doc__=doc, __module__=__name__, **fields
    )
    made.stage_name = stage  # pyright: ignore[reportAttributeAccessIssue]
    return made


def __getattr__(name: str) -> type[Any]:
    names = class_names()
    if name in names:
        return method_config(names[name])
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'{hint}")


def __dir__() -> list[str]:
    return [*class_names(), "MethodConfig", "class_names", "method_config"]
