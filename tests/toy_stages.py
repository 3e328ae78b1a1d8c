"""Stages for tests of runs and pipelines: they count, log, checkpoint and can be killed at any step."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from alignloop.config import StageSpec
from alignloop.config.fields import Path as PathText
from alignloop.config.stages import Dataset, StageConfig
from alignloop.errors import EngineError
from alignloop.io import write_whole
from alignloop.runs import Run


class ToyConfig(StageConfig):
    """A stage that hashes its input once per step."""

    dataset: Dataset = Field(description="rows")
    model_name_or_path: PathText | None = Field(None, description="start")
    steps: int = Field(5, ge=1, description="steps")
    pause_s: float = Field(0.0, ge=0, description="seconds per step")
    fail_at: int = Field(0, ge=0, description="step that raises; 0 none")


def count(config: ToyConfig, run: Run) -> dict[str, Any]:
    """Each step's state is the hash of the one before it, so that a lost or repeated step shows."""
    state_file = run.checkpoints / "state.json"
    state = {"step": 0, "value": _start(config)}
    if state_file.exists():
        state = json.loads(state_file.read_text(encoding="utf-8"))
    run.rewind(state["step"])
    while state["step"] < config.steps:
        step = state["step"] + 1
        state = {"step": step, "value": _hash(state["value"], step)}
        run.log(step, loss=1 / step, value=state["value"])
        run.sample(step=step, completion=state["value"])
        if step == config.fail_at and not os.environ.get("TOY_HEALTHY"):
            raise EngineError(f"failed at step {step}")
        if os.environ.get("TOY_KILL") == f"{run.path.name}:{step}:before":
            os.kill(os.getpid(), signal.SIGKILL)
        run.checkpoints.mkdir(exist_ok=True)
        write_whole(state_file, json.dumps(state))
        if os.environ.get("TOY_KILL") == f"{run.path.name}:{step}:after":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(config.pause_s)
    run.model.mkdir(exist_ok=True)
    write_whole(run.model / "value.txt", state["value"])
    return {"steps": state["step"], "value": state["value"]}


def with_objective(config: ToyConfig, run: Run, objective: Any) -> dict[str, Any]:
    """Says what objective it was given."""
    return {"objective": type(objective).__name__, "beta": objective.beta}


def _start(config: ToyConfig) -> str:
    value = str(config.seed)
    for path in (config.dataset, config.model_name_or_path):
        if isinstance(path, str):
            file = Path(path) / "model" / "value.txt" if Path(path).is_dir() else Path(path)
            value = _hash(value, file.read_text(encoding="utf-8"))
    return value


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


TOYS = {
    "count": StageSpec(ToyConfig, "tests.toy_stages:count", checkpoints=True),
    "objective": StageSpec(ToyConfig, "tests.toy_stages:with_objective", objective="dpo"),
}
