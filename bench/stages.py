"""Stages as benchmarks run them: from keys to a finished run folder, used again if it is there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignloop.config import RecipePlan, StagePlan, find_stage, resolve
from alignloop.data.columns import write_records
from alignloop.data.instructions import Split, documents, instruction_prompts
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.pipeline import run_plan
from alignloop.records import Demonstration, Message, Prompt
from alignloop.runs import Run


def run_stage(stage: str, output_dir: Path, **keys: Any) -> Run:
    """Run one stage in a folder; a finished run of the same work is used again, a stopped one goes on."""
    resolved = resolve(stage, {**keys, "output_dir": str(output_dir)})
    planned = StagePlan(stage, stage, find_stage(stage), resolved.config, resolved.objective)
    run_plan(RecipePlan("", output_dir, (planned,), is_pipeline=False), say=lambda text: None)
    return Run.open(output_dir)


def task_data(root: Path, *, num_prompts: int, num_held_out: int, seed: int) -> dict[str, str]:
    """Prompts and held-out prompts of the checkable instructions, as run folders by name."""
    sizes = {"prompts": ("train", num_prompts), "held_out": ("eval", num_held_out)}
    for name, (split, count) in sizes.items():
        run_stage("instructions", root / name, split=split, num_rows=count, seed=seed)
    return {name: str(root / name) for name in sizes}


# A task for a model made on the spot, where a real one is too dear for several seeds

SMALL = "small"
"""What benchmarks call that model."""
BAND = (4, 7)
"""Words that its answers should have; the sentences it learned have 6 to 23."""
WORDINGS = ("Answer in {} to {} words.", "Between {} and {} words, please.", "Use {} to {} words.")


def worded_prompts(
    split: Split, count: int, seed: int, wordings: Sequence[str], wanted: tuple[Mapping[str, Any], ...]
) -> list[Prompt]:
    """Questions under the constraints, each topic once in each wording; `eval` has topics of its own."""
    shown = instruction_prompts(split, 60 if split == "eval" else 150, 0)
    topics = dict.fromkeys(str(prompt.provenance.details["topic"]) for prompt in shown)
    texts = [f"{topic} {wording}" for topic in topics for wording in wordings]
    chosen = np.random.default_rng([seed, int(split == "eval")]).permutation(len(texts))[:count]
    return [Prompt((Message("user", texts[i]),), constraints=wanted) for i in chosen]


def band_prompts(split: Split, count: int, seed: int) -> list[Prompt]:
    """Questions to be answered with a number of words within `BAND`: at most three for each topic."""
    wanted = ({"kind": "min_words", "limit": BAND[0]}, {"kind": "max_words", "limit": BAND[1]})
    return worded_prompts(split, count, seed, [wording.format(*BAND) for wording in WORDINGS], wanted)


def small_task(root: Path, *, num_prompts: int, num_held_out: int, seed: int, steps: int) -> None:
    """`prompts.jsonl`, `held_out.jsonl` and the run `small-start`: a model of 0.2 M parameters.

    It has learned to answer with one of the packaged sentences, whatever their length, so that it meets
    the band now and then. Shorter is better at first and worse later: a reward model that has seen its
    answers only is easily led astray.

    Args:
        root: where to write.
        num_prompts: to train on, at most.
        num_held_out: with topics of their own, at most.
        seed: of everything.
        steps: of supervised training, 16 demonstrations each.
    """
    sentences = [f"{d.text.split('. ')[0].rstrip('.')}." for d in documents("train") if d.text.isascii()]
    prompts = band_prompts("train", num_prompts, seed)
    write_records(root / "prompts.jsonl", prompts)
    write_records(root / "held_out.jsonl", band_prompts("eval", num_held_out, seed))
    rng = np.random.default_rng(seed)
    answers = [sentences[i] for i in rng.integers(len(sentences), size=len(prompts))]
    rows = [Demonstration(p.prompt, answer) for p, answer in zip(prompts, answers, strict=True)]
    write_records(root / "demonstrations.jsonl", rows)
    if not (root / "small" / "config.json").exists():
        read = [*sentences, *(prompt.prompt[0].content for prompt in prompts)]
        save_model(*tiny_model(texts=read, vocab_size=1024, seed=seed), root / "small")
    run_stage(
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
    if not values:
        return []
    width = min(window, len(values))
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]


def metric(run: Run, name: str) -> list[float]:
    """A metric's values in the order of the steps, where it was logged."""
    return [float(row[name]) for row in run.metrics() if row.get(name) is not None]
