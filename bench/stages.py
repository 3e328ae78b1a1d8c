"""Stages as benchmarks run them: from keys to a finished run folder, used again if it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignloop.config import Plan, StagePlan, find_stage, resolve
from alignloop.pipeline import run_plan
from alignloop.run import Run


def run_stage(stage: str, output_dir: Path, **keys: Any) -> Run:
    """Run one stage in a folder; a finished run of the same work is used again, a stopped one goes on."""
    resolved = resolve(stage, {**keys, "output_dir": str(output_dir)})
    planned = StagePlan(stage, stage, find_stage(stage), resolved.config, resolved.objective)
    run_plan(Plan("", output_dir, (planned,), is_pipeline=False), say=lambda text: None)
    return Run.open(output_dir)


def task_data(root: Path, *, num_prompts: int, num_held_out: int, seed: int) -> dict[str, str]:
    """Prompts and held-out prompts of the checkable instructions, as run folders by name."""
    sizes = {"prompts": ("train", num_prompts), "held_out": ("eval", num_held_out)}
    for name, (split, count) in sizes.items():
        run_stage("instructions", root / name, split=split, num_rows=count, seed=seed)
    return {name: str(root / name) for name in sizes}


def running_mean(values: list[float], window: int) -> list[float]:
    """Means of each `window` neighbours, from the first full window on; of all where they are fewer."""
    width = min(window, len(values))
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]


def metric(run: Run, name: str) -> list[float]:
    """A metric's values in the order of the steps, where it was logged."""
    return [float(row[name]) for row in run.metrics() if row.get(name) is not None]
