"""Everything the command line does, as Python calls; `alignloop.run`, `alignloop.train` and `alignloop.load`.

    import alignloop

    run = alignloop.train("dpo", dataset="pairs.jsonl", beta=0.05)      # as `alignloop train dpo …`
    run = alignloop.run("dpo.yaml", learning_rate=2e-6)                 # as `alignloop run dpo.yaml …`
    run = alignloop.run(alignloop.DPOConfig(dataset=rows, beta=0.05))   # typed, rows from memory
    run.metrics, run.samples, run.generate("Hello"), run.report()

The same call again uses what is finished and goes on with what is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, cast, overload

from alignloop.api.model import Model, load
from alignloop.api.results import PipelineResult, RunResult, open_run
from alignloop.api.table import Table
from alignloop.config import STAGES, Recipe, RecipePlan, StageConfig, StagePlan, StageSpec, make_plan
from alignloop.config.given import key_value, say_note, settle
from alignloop.config.methods import MethodConfig
from alignloop.config.recipe_file import Entries, LocatedValue, located
from alignloop.config.registry import offline_stage
from alignloop.config.shipped import Method, find_method, find_recipe, load_recipe
from alignloop.errors import ConfigError
from alignloop.objectives import registry as objectives
from alignloop.pipeline import run_plan

__all__ = ["Model", "PipelineResult", "RunResult", "Table", "load", "open_run", "run", "train"]

Resume = Literal["auto", "never"] | str | PathLike[str]
"""`auto` goes on where it stopped, `never` starts anew and keeps the earlier run aside; or a checkpoint's
folder."""


@overload
def run(what: StageConfig, objective: Any = None, *, resume: Resume = "auto") -> RunResult: ...
@overload
def run(
    what: str | PathLike[str] | Mapping[str, Any], *, resume: Resume = "auto", **settings: Any
) -> RunResult | PipelineResult: ...
def run(
    what: StageConfig | str | PathLike[str] | Mapping[str, Any],
    objective: Any = None,
    *,
    resume: Resume = "auto",
    **settings: Any,
) -> RunResult | PipelineResult:
    """Run a configuration or a recipe. A finished run in its folder is used again, a stopped one goes on.

    Args:
        what: a configuration, whose class says which stage; or a recipe: a .yaml file, the name of one that
            comes with AlignLoop, or a mapping of its keys.
        objective: an instance such as `DPO(beta=0.1)`, for a configuration of preferences or rewards; the
            default is the configuration's own objective, or the stage's.
        resume: `auto` goes on where the run stopped, `never` starts anew and keeps the earlier run aside; or
            a checkpoint's folder.
        **settings: keys that replace a recipe's. In a recipe of several stages a key is for all stages that
            have it; `sft={"learning_rate": 1e-5}` is for the stage named sft. Values may be Python objects:
            rows, loaded models, runs, functions.

    Returns:
        The run; for a recipe of several stages, the runs by name.

    Raises:
        ConfigError: keys are wrong; one sentence for each.
        UserError: data, a model or the output folder cannot be used.
        AlignLoopError: the run failed; the same call goes on where it stopped.
    """
    if isinstance(what, StageConfig):
        if settings:
            raise ConfigError(
                f"{', '.join(settings)}: a configuration has its keys already; give them to "
                f"{type(what).__name__}(…)"
            )
        return _run_config(what, objective, resume)
    if objective is not None:
        raise ConfigError("an objective goes with a configuration; a recipe names its own by `stage:`")
    if isinstance(what, Mapping):
        recipe, stem = _recipe_of(what), str(what.get("stage", "run"))
    else:
        file = find_recipe(fspath(what))
        recipe, stem = load_recipe(file), file.stem
    plan = make_plan(recipe, _overrides(recipe, settings), output_dir=f"runs/{stem}")
    return _run_plan(plan, resume)


def train(
    method: str, recipe: str | PathLike[str] = "", /, *, resume: Resume = "auto", **settings: Any
) -> RunResult:
    """Run one stage by its name, as `alignloop train METHOD [RECIPE] key=value …` does.

    Args:
        method: `sft`, `dpo`, `reward`, `ppo`, `best-of-n`, …; also `sample`, `evaluate`, `compare`.
        recipe: a .yaml file with settings; by default the recipe of that name that comes with AlignLoop.
        resume: `auto` goes on where the run stopped, `never` starts anew and keeps the earlier run aside; or
            a checkpoint's folder.
        **settings: keys of the stage and of its objective; they replace the recipe's. Values may be Python
            objects, as in `run`.

    Returns:
        The finished run.

    Raises:
        ConfigError: keys are wrong; one sentence for each.
        UserError: data, a model or the output folder cannot be used.
        AlignLoopError: the run failed; the same call goes on where it stopped.
    """
    found: Method = find_method(method, fspath(recipe))
    overrides = {**found.chosen, **_overrides(found.recipe, settings)}
    plan = make_plan(found.recipe, overrides, stage=found.stage, output_dir=f"runs/{found.name}")
    return cast(RunResult, _run_plan(plan, resume))


def _overrides(recipe: Recipe, settings: Mapping[str, Any]) -> Entries:
    """Keywords as a command line's overrides; a mapping for a stage becomes `stage.key` entries."""
    names = {str(entry.value) for item in recipe.stages if (entry := item.get("name", item.get("stage")))}
    found: Entries = {}
    for key, value in settings.items():
        if key in names and isinstance(value, Mapping):
            for inner, item in value.items():
                found[f"{key}.{inner}"] = LocatedValue(key_value(inner, item), "")
        else:
            found[key] = LocatedValue(key_value(key.rpartition(".")[2], value), "")
    return found


def _recipe_of(keys: Mapping[str, Any]) -> Recipe:
    """A recipe from a mapping, as YAML would give it."""
    stages = keys.get("stages", ())
    if not isinstance(stages, Sequence) or not all(isinstance(item, Mapping) for item in stages):
        raise ConfigError("stages: expected a list of mappings such as {'stage': 'sft', …}")
    plain = {key: key_value(key, value) for key, value in keys.items() if key != "stages"}
    items = [located({key: key_value(key, value) for key, value in item.items()}) for item in stages]
    return Recipe("recipe", located(plain), items)


def _run_config(config: StageConfig, objective: Any, resume: Resume) -> RunResult:
    if isinstance(config, MethodConfig):
        if objective is not None:
            raise ConfigError(
                f"{type(config).__name__} has its objective's keys; give no objective beside it, or use the "
                "configuration of alignloop.config"
            )
        name = config.stage_name
        config, objective = config.resolved()
        spec = _spec_of(type(config), name)
    else:
        name, spec = _stage_of(config, objective)
        objective = objective if objective is not None else _default_objective(config, name, spec)
    stage = StagePlan(name, name, spec, config, objective)
    folder = config.output_dir or f"runs/{name}"
    if not config.output_dir:
        stage = StagePlan(name, name, spec, config.model_copy(update={"output_dir": folder}), objective)
    return cast(RunResult, _run_plan(RecipePlan("", Path(folder), (stage,), is_pipeline=False), resume))


def _run_plan(plan: RecipePlan, resume: Resume) -> RunResult | PipelineResult:
    for notice in plan.notices:
        say_note(notice)
    stages = []
    for stage in plan.stages:
        config, given = settle(stage.config, stage.config.output_dir)
        stages.append(StagePlan(stage.name, stage.stage, stage.spec, config, stage.objective, given))
    settled = RecipePlan(plan.file, plan.output_dir, tuple(stages), plan.is_pipeline)
    how: Any = resume if resume in ("auto", "never") else Path(resume)
    run_plan(settled, resume=how, say=lambda text: None)
    return PipelineResult(plan.output_dir) if plan.is_pipeline else RunResult(plan.output_dir)


def _default_objective(config: StageConfig, name: str, spec: StageSpec) -> Any:
    """The objective of the stage, at its defaults; None for a stage without one."""
    if spec.config is offline_stage().config:
        raise ConfigError(
            "PreferenceConfig needs an objective, for example alignloop.run(config, DPO(beta=0.1)); "
            "alignloop.DPOConfig has the objective's keys as well"
        )
    if spec.preset:
        return objectives.preset(spec.objective, spec.preset)
    chosen = spec.objective or getattr(config, "objective", "")
    return objectives.load(chosen)() if chosen else None


def _stage_of(config: StageConfig, objective: Any) -> tuple[str, StageSpec]:
    if isinstance(config, offline_stage().config):
        return type(objective).__module__.rsplit(".", 1)[-1], offline_stage()
    for name, spec in STAGES.items():
        if spec.config is type(config):
            return name, spec
    raise ConfigError(f"no stage is configured by {type(config).__name__}")


def _spec_of(config: type[StageConfig], name: str) -> StageSpec:
    return offline_stage() if config is offline_stage().config else STAGES[name]
