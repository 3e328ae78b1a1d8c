"""Stages as benchmarks run them: from keys to a finished run folder, used again if it is there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignloop.config import Plan, StagePlan, find_stage, resolve
from alignloop.data.columns import write_records
from alignloop.data.instructions import REWRITES, documents, instruction_prompts
from alignloop.pipeline import run_plan
from alignloop.records import Demonstration
from alignloop.run import Run


def run_stage(stage: str, output_dir: Path, **keys: Any) -> Run:
    """Run one stage in a folder; a finished run of the same work is used again, a stopped one goes on."""
    resolved = resolve(stage, {**keys, "output_dir": str(output_dir)})
    planned = StagePlan(stage, stage, find_stage(stage), resolved.config, resolved.objective)
    run_plan(Plan("", output_dir, (planned,), is_pipeline=False), say=lambda text: None)
    return Run.open(output_dir)


def task_data(
    root: Path, *, num_prompts: int, num_held_out: int, seed: int, kinds: Sequence[str] = ()
) -> dict[str, str]:
    """Prompts and held-out prompts of the checkable instructions, as run folders by name."""
    sizes = {"prompts": ("train", num_prompts), "held_out": ("eval", num_held_out)}
    for name, (split, count) in sizes.items():
        run_stage("instructions", root / name, split=split, num_rows=count, seed=seed, kinds=list(kinds))
    return {name: str(root / name) for name in sizes}


def small_start(root: Path, *, seed: int, steps: int) -> str:
    """A model of 0.2 M parameters that has learned to answer with one short sentence, sometimes as told.

    For experiments over several seeds where a real model is too dear. It is trained on sentences
    rewritten to obey (`REWRITES`), so it obeys some prompts of these kinds and can learn to obey all.

    Args:
        root: receives the random model, the demonstrations and the run `small-start`.
        seed: of everything.
        steps: of supervised training, 16 demonstrations each; more of them obey better.
    """
    from alignloop.model.load import save_model
    from alignloop.model.tiny import tiny_model

    sentences = [f"{d.text.split('. ')[0].rstrip('.')}." for d in documents("train") if d.text.isascii()]
    prompts = instruction_prompts("train", 400, seed + 1, tuple(REWRITES))
    read = [*sentences, *(prompt.prompt[0].content for prompt in prompts)]
    if not (root / "small" / "config.json").exists():
        save_model(*tiny_model(texts=read, vocab_size=1024, seed=seed), root / "small")
    rng = np.random.default_rng(seed)
    shown = []
    for prompt in prompts:
        sentence = sentences[rng.integers(len(sentences))]
        answer = REWRITES[str(prompt.constraints[0]["kind"])](sentence)
        shown.append(Demonstration(prompt.prompt, answer, prompt.provenance))
    write_records(root / "demonstrations.jsonl", shown)
    run = run_stage(
        "sft",
        root / "small-start",
        model_name_or_path=str(root / "small"),
        dataset=str(root / "demonstrations.jsonl"),
        learning_rate=3e-3,
        max_steps=steps,
        per_device_train_batch_size=16,
        num_threads=1,
        seed=seed,
    )
    return str(run.path)


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over independent seeds with the ends of its 95 % t interval (the mean itself for one seed)."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, mean, mean
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def running_mean(values: list[float], window: int) -> list[float]:
    """Means of each `window` neighbours, from the first full window on; of all where they are fewer."""
    width = min(window, len(values))
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]


def metric(run: Run, name: str) -> list[float]:
    """A metric's values in the order of the steps, where it was logged."""
    return [float(row[name]) for row in run.metrics() if row.get(name) is not None]
