"""What PPO costs: memory against SFT, time against GRPO, and the time spent outside the model.

    python bench/ppo_memory.py [--model smollm2-135m-instruct] [--json]

With LoRA on one base. PPO has four roles: policy, critic, reward model, reference. SFT trains on PPO's
own samples, so both see the same tokens. GRPO and PPO sample the same completions: the learning rate is
so small that the policy stays the start. Each method runs as a process of its own; its first rollout is
a warm-up. Model compute is the forward passes, the backward passes and the optimizer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.machine import memory_gb
from alignloop.runs import Run
from bench.measure import child, machine
from bench.stages import metric, run_stage, task_data

TARGETS = {"memory_ratio": 1.5, "step_ratio": 1.6, "outside_model_share": 0.10}
"""Greatest values aimed at."""
STILL = 1e-12
"""A learning rate that moves nothing."""


@dataclass(slots=True)
class Clock:
    """Seconds inside model compute; calls within calls count once."""

    inside_s: float = 0.0
    depth: int = 0

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its time counted."""

        def timed(*args: Any, **keys: Any) -> Any:
            started, outermost = time.perf_counter(), self.depth == 0
            self.depth += 1
            try:
                return function(*args, **keys)
            finally:
                self.depth -= 1
                if outermost:
                    self.inside_s += time.perf_counter() - started

        return timed


@contextmanager
def model_clock() -> Iterator[Clock]:
    """Count the time of forward passes of whole models, backward passes and optimizer steps."""
    import torch
    from transformers import PreTrainedModel

    from alignloop.model.packed import PackedModel

    clock = Clock()
    plain = torch.nn.Module.__call__

    def call(module: torch.nn.Module, *args: Any, **keys: Any) -> Any:
        whole = isinstance(module, PreTrainedModel | PackedModel)
        return clock.wrapped(plain)(module, *args, **keys) if whole else plain(module, *args, **keys)

    with (
        patch.object(torch.nn.Module, "__call__", call),
        patch.object(torch.Tensor, "backward", clock.wrapped(torch.Tensor.backward)),
        patch.object(torch.optim.AdamW, "step", clock.wrapped(torch.optim.AdamW.step)),
    ):
        yield clock


def measured(stage: str, keys: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run an online or offline stage in this process: seconds of each part of each rollout, and memory."""
    from alignloop.stages import grpo, ppo

    marks: list[dict[str, float]] = []
    with model_clock() as clock:
        sample = ppo.sample_rollout

        def sampled(*args: Any, **keys: Any) -> Any:
            begun = {"at": time.perf_counter(), "inside": clock.inside_s}
            found = sample(*args, **keys)
            marks.append({**begun, "rollout_s": time.perf_counter() - begun["at"]})
            return found

        with patch.object(ppo, "sample_rollout", sampled), patch.object(grpo, "sample_rollout", sampled):
            run = run_stage(stage, folder, **keys)
        marks.append({"at": time.perf_counter(), "inside": clock.inside_s})
    pairs = list(pairwise(marks))[1:]  # the first rollout warms up
    whole = [after["at"] - before["at"] for before, after in pairs]
    inside = [after["inside"] - before["inside"] for before, after in pairs]
    return {
        "peak_memory_gb": memory_gb(peak=True),
        "rollout_and_learning_s": whole,
        "learning_s": [a["at"] - b["at"] - b["rollout_s"] for b, a in pairs],
        "outside_model_share": 1 - sum(inside) / sum(whole) if whole else None,
        "update_s": metric(run, "step_s"),
        "update_tokens": update_tokens(run),
    }


def keys_of(options: argparse.Namespace) -> dict[str, Any]:
    """What all three stages share."""
    return {
        "model_name_or_path": options.model,
        "lora_r": 16,
        "num_threads": options.threads,
        "token_budget": options.token_budget,
        "max_length": 1024,
        "save_steps": 0,
        "seed": options.seed,
    }


def online_keys(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The keys of PPO and GRPO: one update of every rollout, all samples written."""
    count = options.prompts * options.completions
    return keys_of(options) | {
        "dataset": str(root / "prompts"),
        "rewards": [{"model": str(root / "reward")}],
        "num_generations": options.completions,
        "rollout_prompts": options.prompts,
        "per_device_train_batch_size": options.prompts,
        "num_iterations": 1,
        "max_new_tokens": options.tokens,
        "max_steps": options.steps + 1,
        "learning_rate": STILL,
        "log_samples": count,
    }


def reward_model(options: argparse.Namespace, root: Path) -> None:
    """A reward model with LoRA on the policy's base; one step is enough to have one."""
    rows = [{"prompt": f"Question {i}?", "chosen": f"Answer {i}.", "rejected": "No."} for i in range(4)]
    file = root / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    keys = keys_of(options) | {"dataset": str(file), "max_steps": 1, "per_device_train_batch_size": 4}
    run_stage("reward", root / "reward", **keys)


def demonstrations(root: Path, options: argparse.Namespace) -> int:
    """Write PPO's samples as demonstrations; returns how many have the tokens of one of its updates.

    An update has P·p + P·G·c tokens, as a prompt is computed once; a demonstration has p + c.
    """
    run = Run.open(root / "ppo")
    with (root / "demonstrations.jsonl").open("w", encoding="utf-8") as file:
        for row in run.samples():
            found = {"prompt": row["prompt"], "completion": row["completion"] or "."}
            file.write(json.dumps(found, ensure_ascii=False) + "\n")
    tokens = statistics.mean(update_tokens(run))
    completion = statistics.mean(metric(run, "completion_length"))
    prompt = tokens / options.prompts - options.completions * completion
    return max(1, round(tokens / (prompt + completion)))


def update_tokens(run: Run) -> list[float]:
    """Tokens of each optimizer step."""
    return [s * t for s, t in zip(metric(run, "step_s"), metric(run, "tokens_per_s"), strict=True)]


def one_side(options: argparse.Namespace) -> dict[str, Any]:
    """Run by the parent: one method measured in this process."""
    root = Path(options.root)
    if options.side == "reward":
        reward_model(options, root)
        return {}
    if options.side == "sft":
        keys = keys_of(options) | {
            "dataset": str(root / "demonstrations.jsonl"),
            "per_device_train_batch_size": demonstrations(root, options),
            "shuffle": False,
            "max_steps": options.steps + 1,
            "learning_rate": 1e-5,
        }
        return measured("sft", keys, root / "sft")
    keys = online_keys(options, root)
    if options.side == "ppo":
        keys |= {"critic_learning_rate": STILL}
    return measured(options.side, keys, root / options.side)


def summary(sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The ratios of the issue's table, medians over rollouts."""
    ppo, grpo, sft = (sides[name] for name in ("ppo", "grpo", "sft"))

    def ratio(name: str) -> float:
        return statistics.median(ppo[name]) / statistics.median(grpo[name])

    return {
        "memory_ratio": ppo["peak_memory_gb"] / sft["peak_memory_gb"],
        "step_ratio": ratio("rollout_and_learning_s"),
        "learning_ratio": ratio("learning_s"),
        "outside_model_share": {name: sides[name]["outside_model_share"] for name in ("ppo", "grpo")},
        "update_tokens": {name: statistics.median(side["update_tokens"]) for name, side in sides.items()},
        "targets": TARGETS,
    }


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=4, help="of a rollout")
    parser.add_argument("--completions", type=int, default=8, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="longest completion")
    parser.add_argument("--steps", type=int, default=5, help="measured rollouts, after one to warm up")
    parser.add_argument("--token-budget", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.add_argument("--root", default="", help=argparse.SUPPRESS)
    return parser


def make_prompts(options: argparse.Namespace, root: Path) -> None:
    """As many prompts as all rollouts take."""
    task_data(root, num_prompts=options.prompts * (options.steps + 1), num_held_out=2, seed=options.seed)


def compare(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """All methods, each in a process of its own."""
    make_prompts(options, root)
    words = ["model", "prompts", "completions", "tokens", "steps", "token_budget", "threads", "seed"]
    shared = [text for w in words for text in (f"--{w.replace('_', '-')}", str(getattr(options, w)))]
    sides = {}
    for side in ("reward", "ppo", "grpo", "sft"):
        print(f"{side} …", file=sys.stderr, flush=True)
        call = [*shared, "--side", side, "--root", str(root)]
        sides[side] = child("bench.ppo_memory", call, threads=options.threads)
    del sides["reward"]
    return {"machine": machine(options.threads), "sides": sides, "summary": summary(sides)}


def main() -> None:
    options = arguments().parse_args()
    if options.side:
        print(json.dumps(one_side(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = compare(options, Path(folder))
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for name, value in result["summary"].items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
