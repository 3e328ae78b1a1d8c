"""Stages by name, each declared where its configuration stands: `@register_stage("NAME", …)`.

A new stage is one file, `alignloop/stages/NAME.py`: a configuration under that decorator and a function
`NAME`. It is found by the decorator's name at the beginning of a line, and imported when it is asked for.
An offline preference objective is a stage under its own file name, found at once.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from alignloop.config.fields import C, StageConfig
from alignloop.errors import ConfigError
from alignloop.objectives import registry as objectives

StageGroup = Literal[
    "Train on demonstrations",
    "Train on comparisons",
    "Train by reward",
    "Reward models",
    "Make and judge answers",
    "Evaluate",
]
"""What a stage is for, in the order in which stages and recipes are listed."""
StageProduct = Literal[
    "policy",
    "reward model",
    "prompts",
    "answers",
    "demonstrations",
    "judgements",
    "comparison",
    "verdict",
    "table",
]
"""What a stage makes. It decides which commands are proposed at its end, and whether it judges a pipeline:
`comparison` and `verdict` do, `table` is any other result."""


@dataclass(frozen=True, slots=True)
class StageSpec:
    """What the recipe reader, the pipeline and the report need to know of a stage.

    Attributes:
        config: model of its keys.
        runner: `module:function`, called as `(config, run)` or, with an objective,
            `(config, run, objective)`; returns the results for run.json.
        objective: file name in objectives/ whose fields are keys of the stage too, "" for none. A config
            with a key `objective` leaves the choice to the recipe.
        reads: what an objective chosen by the recipe has to read, "" for anything.
        preview: `module:function`, called as `(config, objective)` for --dry-run; returns rows of a
            table (data summary, parameters, memory), a mapping of text to text.
        lint: `module:function`, called as `(config, objective, read=bool)`; returns sentences, one per
            finding. Without `read` it looks at the settings alone: the data are not there yet.
        preset: member of the objective's family (`PRESETS` in its file) that gives its fields' defaults.
        method: its configuration in Python is called `<method>Config`; "" where `config` is that already.
        checkpoints: whether a run has checkpoints of its own, which `--resume PATH` can name.
        shared: whether the processes that torchrun starts share the work; else the first one does it.
        kept_elsewhere: what an interrupted run goes on from that is not in its folder, in words.
        group: what it is for.
        makes: what comes out.
    """

    config: type[StageConfig]
    runner: str
    objective: str = ""
    reads: str = ""
    preview: str = ""
    lint: str = ""
    preset: str = ""
    method: str = ""
    checkpoints: bool = False
    shared: bool = False
    kept_elsewhere: str = ""
    group: StageGroup = "Make and judge answers"
    makes: StageProduct = "table"


_LINT = "alignloop.stages.recipe_check:lint_recipe"
TRAINS_ON_ROWS: Mapping[str, Any] = {
    "preview": "alignloop.stages.preview:preview",
    "lint": _LINT,
    "checkpoints": True,
    "shared": True,
    "makes": "policy",
    "group": "Train on demonstrations",
}
"""Attributes of a stage that trains a policy on stored rows."""
SAMPLES_ITS_ROWS: Mapping[str, Any] = {
    **TRAINS_ON_ROWS,
    "preview": "alignloop.stages.preview_online:preview",
    "group": "Train by reward",
}
"""Attributes of a stage that trains a policy on its own samples."""
OFFLINE = ""
"""Name under which the stage of every offline preference objective is declared."""
_declared: dict[str, StageSpec] = {}


def register_stage(
    name: str, like: Mapping[str, Any] | None = None, *, runner: str = "", **facts: Any
) -> Callable[[type[C]], type[C]]:
    """Declare a stage above its configuration; several declarations may share one.

    Args:
        name: as in `stage: NAME`.
        like: attributes of `StageSpec` that it shares with others, such as `TRAINS_ON_ROWS`.
        runner: see `StageSpec`; the function NAME in alignloop/stages/NAME.py if left out.
        **facts: other attributes; they replace those of `like`.

    Returns:
        A decorator that leaves the class as it is.

    Raises:
        TypeError: another configuration declares the same name, or no such attribute.
    """

    def declare(config: type[C]) -> type[C]:
        place = runner or f"alignloop.stages.{name}:{name}"
        spec = StageSpec(config, place, **{**(like or {}), **facts})
        earlier = _declared.get(name, spec).config
        if (earlier.__module__, earlier.__qualname__) != (config.__module__, config.__qualname__):
            raise TypeError(f"stage '{name}' is declared by {earlier.__name__} and by {config.__name__}")
        _declared[name] = spec
        return config

    return declare


class _Stages(Mapping[str, StageSpec]):
    """Stages of alignloop.config, and those of files in stages/, imported when they are asked for."""

    def __getitem__(self, name: str) -> StageSpec:
        if name not in _declared and name in declaring_modules():
            importlib.import_module(declaring_modules()[name])
        if name == OFFLINE:
            raise KeyError(name)
        return _declared[name]

    def __iter__(self) -> Iterator[str]:
        for module in declaring_modules().values():
            importlib.import_module(module)
        order = get_args(StageGroup)
        named = [name for name in _declared if name != OFFLINE]
        return iter(sorted(named, key=lambda name: order.index(_declared[name].group)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@cache
def declaring_modules() -> dict[str, str]:
    """Modules in alignloop/stages/ that declare a stage, by its name; nothing is imported."""
    folder = Path(__file__).parents[1] / "stages"
    return {
        name: f"alignloop.stages.{file.stem}"
        for file in sorted(folder.glob("*.py"))
        for name in _DECLARATION.findall(file.read_text(encoding="utf-8"))
    }


_DECLARATION = re.compile(r"""^@register_stage\(\s*["'](\w+)""", re.MULTILINE)
STAGES: Mapping[str, StageSpec] = _Stages()
"""Stages with a configuration of their own, in the order of their groups."""


def offline_stage() -> StageSpec:
    """The stage of every offline preference objective; `objective` is filled in by `find_stage`."""
    return _declared[OFFLINE]


_COMPARISONS = frozenset({"preference", "label", "ranking"})


def is_preference_objective(name: str) -> bool:
    """Whether `objectives/<name>.py` trains a policy on comparisons, without sampling."""
    objective = objectives.load(name)()
    return "logprobs" in objective.needs and bool(_COMPARISONS & set(objective.records))


def find_stage(name: str, stages: Mapping[str, StageSpec] = STAGES) -> StageSpec:
    """The stage of that name: an entry of `stages`, or a preference objective's.

    Args:
        name: as in `stage: NAME`.
        stages: table of stages to look in.

    Returns:
        What is known of the stage, its objective filled in.

    Raises:
        ConfigError: no such stage; the sentence suggests one.
    """
    if name in stages:
        return stages[name]
    if name in objectives.names():
        if is_preference_objective(name):
            return replace(offline_stage(), objective=name)
        needs = objectives.load(name)().needs
        for stage, spec in stages.items():
            if spec.reads and spec.reads in needs:
                raise ConfigError(
                    f"'{name}' is a loss of stage '{stage}': use stage {stage} with objective: {name}"
                )
    known = [*stages, *(n for n in objectives.names() if n not in stages)]
    near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"one of: {', '.join(stage_names(stages))}"
    raise ConfigError(f"unknown stage '{name}'; {hint}")


def stage_names(stages: Mapping[str, StageSpec] = STAGES) -> list[str]:
    """All stages: those of the table, then the preference objectives."""
    return [*stages, *(n for n in objectives.names() if n not in stages and is_preference_objective(n))]
