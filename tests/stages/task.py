"""A task that a tiny model learns in seconds: answer with the letter that the prompt asks for."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch

from alignloop.config import StagePlan, find_stage, may_change, path_values, resolve
from alignloop.data.chat import load_template
from alignloop.data.packing import Group, completion
from alignloop.data.tokenize import Encoder
from alignloop.model.packed import PackedModel
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.objectives.sft import SFT
from alignloop.pipeline import call_runner, settle_defaults
from alignloop.records import Message
from alignloop.runs import Run, find_inputs
from alignloop.training.loop import Trainer, train_step
from alignloop.training.optim import OptimizerSettings, build_optimizer

LETTERS = "abc"


def copies(samples):
    """Reward 1 for exactly the letter of the prompt."""
    return [float(s.completion == s.prompt.prompt[0].content) for s in samples]


def is_b(samples):
    """A bandit with one good arm: reward 1 for the letter b, whatever was asked."""
    return [float(s.completion == "b") for s in samples]


def lengths(samples):
    """Reward for every token."""
    return [float(s.num_tokens) for s in samples]


@cache
def _start() -> tuple:
    """A model that answers with the letter asked for every second time, with another one else."""
    torch.manual_seed(0)
    model, tokenizer = tiny_model(hidden_size=64, num_layers=2)
    # LoRA moves neither norms nor embeddings, so the largest logit is |embedding| · √64 · gain: with the
    # gain of 1 about 8, which leaves one of 512 tokens a probability of at most e⁸/(e⁸ + 511) = 0.85
    torch.nn.init.constant_(model.model.norm.weight, 3.0)
    encoder = Encoder(tokenizer, load_template("tokenizer", tokenizer))
    groups = [
        Group(encoder.prompt((Message("user", asked),)), (completion(encoder.completion(said)),), i)
        for i, (asked, said) in enumerate((a, b) for a in LETTERS for b in LETTERS + a * 2)
    ]
    packed = PackedModel(model)
    settings = OptimizerSettings(learning_rate=3e-3, lr_scheduler_type="constant")
    trainer = Trainer(packed, build_optimizer(packed.parameters(), settings), settings, 150)
    for _ in range(150):
        train_step(trainer, SFT(), groups)
    packed.restore_attention()
    return model, tokenizer


def start_model(folder: Path) -> Path:
    """That model as a folder."""
    save_model(*_start(), folder)
    return folder


def prompts_file(path: Path) -> Path:
    rows = [json.dumps({"prompt": letter, "answer": letter}) for letter in LETTERS]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def recipe(tmp_path: Path, **keys: object) -> dict[str, object]:
    """Keys of an online stage on the task; model and prompts are made where they are missing."""
    model, data = tmp_path / "start", tmp_path / "prompts.jsonl"
    if not model.exists():
        start_model(model)
        prompts_file(data)
    return {
        "model_name_or_path": str(model),
        "dataset": str(data),
        "output_dir": str(tmp_path / "run"),
        "rewards": [{"function": "tests.stages.task:copies"}],
        "max_new_tokens": 3,
        "per_device_train_batch_size": 4,
        "rollout_prompts": 4,
        "learning_rate": 5e-4,
        "max_length": 64,
        "log_samples": 1,
        "num_threads": 1,
        **keys,
    }


def run_stage(stage: str, keys: dict[str, object]) -> Run:
    """Run a stage in its folder; an unfinished run goes on."""
    resolved = resolve(stage, keys)
    plan = StagePlan(stage, stage, find_stage(stage), resolved.config, resolved.objective)
    plan, _ = settle_defaults(plan)
    inputs, parents = find_inputs(path_values(resolved.config))
    made = Run.create(
        keys["output_dir"],
        stage=stage,
        config=plan.keys,
        seed=resolved.config.seed,
        inputs=inputs,
        parents=parents,
        may_change=may_change(type(resolved.config)),
    )
    with made as run:
        run.finish(call_runner(plan, run))
    return Run.open(keys["output_dir"])


def mean_of_last(run: Run, name: str, count: int = 5) -> float:
    return float(np.mean([row[name] for row in run.metrics() if name in row][-count:]))
