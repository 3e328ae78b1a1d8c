"""Everything the command line does, as a Python call.

from alignloop import api
from alignloop.config import PreferenceConfig, SampleConfig
from alignloop.objectives.dpo import DPO

api.run(SampleConfig(dataset="prompts.jsonl", output_dir="runs/answers", num_samples=4))
run = api.run(PreferenceConfig(dataset="pairs.jsonl", output_dir="runs/dpo"), DPO(beta=0.1))
print(run.record["results"]["loss"], run.model)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignloop.config import STAGES, Plan, StageConfig, StagePlan, StageSpec
from alignloop.config.registry import PREFERENCE
from alignloop.errors import ConfigError
from alignloop.objectives import registry as objectives
from alignloop.pipeline import run_plan
from alignloop.runs import Run


def run(config: StageConfig, objective: Any = None) -> Run:
    """Run one stage, or take up or re-use the run that is in its output folder.

    Args:
        config: a stage's configuration; its class says which stage.
        objective: for preference and reward stages, an instance such as `DPO(beta=0.1)`.

    Returns:
        The finished run: `run.model` is its model folder, `run.record["results"]` its results.

    Raises:
        ConfigError: no stage has this configuration, or a stage that needs an objective got none.
    """
    name, spec = _stage_of(config, objective)
    if spec.config is PREFERENCE.config and objective is None:
        raise ConfigError("a preference stage needs an objective, for example DPO(beta=0.1)")
    if objective is None and "objective" in type(config).model_fields:
        objective = objectives.load(config.objective)()  # pyright: ignore[reportAttributeAccessIssue]
    stage = StagePlan(name, name, spec, config, objective)
    plan = Plan("", Path(config.output_dir), (stage,), is_pipeline=False)
    run_plan(plan, say=lambda text: None)
    return Run.open(config.output_dir)


def _stage_of(config: StageConfig, objective: Any) -> tuple[str, StageSpec]:
    if isinstance(config, PREFERENCE.config):
        return type(objective).__module__.rsplit(".", 1)[-1], PREFERENCE
    for name, spec in STAGES.items():
        if spec.config is type(config):
            return name, spec
    raise ConfigError(f"no stage is configured by {type(config).__name__}")
