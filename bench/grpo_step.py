"""Whole GRPO steps (rollout, reward, reference, update) at β 0.04, AlignLoop against TRL.

    python bench/grpo_step.py [--rounds 3] [--steps 5] [--json]

4 prompts of about 180 tokens × 8 completions of exactly 64 tokens. Both sides run in float32 with the
same threads and AdamW, each as a process of its own, in turns; the first step of a process is a warm-up.
The reward is the share of tokens with an even number, which costs nothing. bench/vs_trl.py has the update
alone, bench/rollouts.py the rollout alone, bench/gpu_rl.py the same on a GPU. `shares` are those of
AlignLoop's parts in its step. The extra `bench` brings TRL.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.measure import TRL_PLAIN, child, finish, machine, peak_memory_gb

if TYPE_CHECKING:
    from alignloop.data.packing import Group
    from alignloop.model.load import LoadedModel
    from alignloop.training.loop import Trainer

TARGETS = {"speedup": 4.0, "memory_ratio": 0.5}
"""Least and greatest value aimed at."""
LEARNING_RATE, BETA = 1e-6, 0.04


def questions(step: int, count: int) -> list[str]:
    """The prompts of a rollout."""
    from bench.rollouts import FACTS, QUESTIONS

    numbers = range(step * count, (step + 1) * count)
    return [f"{FACTS}\n\n{QUESTIONS[number % len(QUESTIONS)]}" for number in numbers]


def even_share(ids: Sequence[int]) -> float:
    """Share of tokens with an even number."""
    return sum(token % 2 == 0 for token in ids) / len(ids)


class Parts:
    """Seconds of a step's parts by name, each until the device has done what it was given."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        finish(self.device)
        started = time.perf_counter()
        yield
        finish(self.device)
        self.seconds[name] += time.perf_counter() - started

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time counted as that part."""

        def call(*arguments: Any) -> Any:
            with self(name):
                return function(*arguments)

        return call


def mark(device: str) -> tuple[float, float]:
    """Wall and CPU time, when the device has done what it was given."""
    finish(device)
    return time.perf_counter(), time.process_time()


def our_side(options: argparse.Namespace) -> dict[str, Any]:
    """Times by the project's engine, objective and loop; bfloat16 has its sampler corrected for."""
    import torch

    from alignloop.model.load import load_model
    from alignloop.model.packed import PackedModel
    from alignloop.objectives.grpo import GRPO
    from alignloop.training.loop import Trainer, train_step
    from alignloop.training.optim import OptimizerSettings, build_optimizer
    from alignloop.training.reference import frozen_reference
    from bench.our_side import architecture
    from bench.workload import useful_flops

    loaded, frozen = (load_model(options.model, dtype="float32", device=options.device) for _ in range(2))
    products = torch.bfloat16 if options.bfloat16 else None
    model, reference = (PackedModel(side.model, autocast=products) for side in (loaded, frozen))
    sizes, parts = architecture(loaded.model), Parts(options.device)
    settings = OptimizerSettings(learning_rate=LEARNING_RATE, lr_scheduler_type="constant")
    trainer = Trainer(
        model,
        build_optimizer(model.parameters(), settings),
        settings,
        options.steps,
        token_budget=options.token_budget,
        reference=parts.timed("reference", frozen_reference(reference)),
    )
    marks, flops, gaps = [mark(options.device)], [], []
    for step in range(options.steps):
        if step == 1:  # the first step was a warm-up
            parts.seconds.clear()
        groups = rollout(loaded, trainer, options, step, parts)
        if options.bfloat16:
            with parts("old log-probs"):
                groups, gap = corrected(trainer, groups)
            gaps.append(gap)
        with parts("update"):
            report = train_step(trainer, GRPO(beta=BETA), groups)
        flops.append(useful_flops("grpo", groups, sizes))
        if gaps:
            gaps[-1]["mean_weight"] = report.metrics["sampler_weight"]
        marks.append(mark(options.device))
    parts.seconds["update"] -= parts.seconds["reference"]
    return {"marks": marks, "parts_s": dict(parts.seconds), "useful_flops": flops, "mismatch": gaps}


def rollout(
    loaded: LoadedModel, trainer: Trainer, options: argparse.Namespace, step: int, parts: Parts
) -> list[Group]:
    """Sampled groups with the advantages of their rewards, in the precision the policy trains in."""
    import numpy as np
    import torch

    from alignloop.data.packing import Group, completion
    from alignloop.model.generate import generate
    from alignloop.model.sampling import SamplingParams
    from alignloop.rl.advantages import group_advantages

    prompts = [
        loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for text in questions(step, options.prompts)
    ]
    params = SamplingParams(max_tokens=options.tokens, eos=(), seed=options.seed + step)
    with parts("rollout"), trainer.model.precision():
        rows = generate(loaded.model, loaded.tokenizer, prompts, params, n=options.completions)
    with parts("reward"):
        rewards = torch.tensor([even_share(one.ids) for row in rows for one in row], dtype=torch.float64)
        owner = torch.arange(len(rows)).repeat_interleave(options.completions)
        advantages = iter(group_advantages(rewards, owner, kind="group_std").tolist())
    return [
        Group(
            np.array(prompt, dtype=np.int32),
            tuple(
                completion(
                    one.ids,
                    old_logprobs=np.asarray(one.logprobs, np.float32),
                    advantages=np.full(len(one.ids), next(advantages), np.float32),
                )
                for one in row
            ),
            number,
        )
        for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
    ]


def corrected(trainer: Trainer, groups: Sequence[Group]) -> tuple[list[Group], dict[str, float]]:
    """Groups with the trainer's old log-probs beside the sampler's, and how far the two differ."""
    from alignloop.rl.buffer import token_mask, token_values, with_values
    from alignloop.rl.kl import mismatch
    from alignloop.stages.rollouts import read_tables

    sampler = token_values(groups, "old_logprobs")
    reader: Any = SimpleNamespace(roles=trainer.model, trainer=trainer)
    own = read_tables(reader, groups, lambda batch: {"old": trainer.model(batch).logprobs})["old"]
    gap = mismatch(own, sampler, token_mask(groups))._asdict()
    return with_values(groups, old_logprobs=own, sampler_logprobs=sampler), gap


def trl_side(options: argparse.Namespace) -> dict[str, Any]:
    """Times by TRL's GRPOTrainer with its own generation."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from alignloop.model.load import load_model

    loaded = load_model(options.model, dtype="float32", device=options.device)
    texts = [text for step in range(options.steps) for text in questions(step, options.prompts)]
    marks: list[tuple[float, float]] = []

    class Marks(TrainerCallback):
        def on_train_begin(self, *args: object, **keys: object) -> None:
            marks.append(mark(options.device))

        def on_step_end(self, *args: object, **keys: object) -> None:
            marks.append(mark(options.device))

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=options.prompts * options.completions,
            num_generations=options.completions,
            steps_per_generation=1,
            max_completion_length=options.tokens,
            generation_kwargs={"min_new_tokens": options.tokens},
            max_steps=options.steps,
            learning_rate=LEARNING_RATE,
            beta=BETA,
            use_bias_correction_kl=True,  # AlignLoop's `unbiased_kl`
            loss_type="grpo",
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            shuffle_dataset=False,
            seed=options.seed,
            **{**TRL_PLAIN, "bf16": options.bfloat16, "use_cpu": options.device == "cpu"},
        )
        GRPOTrainer(
            loaded.model,
            reward_funcs=lambda completion_ids, **_: [even_share(ids) for ids in completion_ids],
            args=config,
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": t}]} for t in texts]),
            processing_class=loaded.tokenizer,
            callbacks=[Marks()],
        ).train()
    return {"marks": marks}


def one_side(options: argparse.Namespace) -> dict[str, Any]:
    """Run by the parent: one side in this process; the first step is left out."""
    import torch

    torch.set_num_threads(options.threads)
    found = (our_side if options.side == "alignloop" else trl_side)(options)
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(found.pop("marks")[1:])]
    return {
        "step_s": [wall for wall, _ in steps],
        "step_cpu_s": [cpu for _, cpu in steps],
        "peak_memory_gb": peak_memory_gb(options.device),
        **found,
    }


def summary(rounds: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Ratios round by round and their medians."""

    def ratios(name: str) -> list[float]:
        return [sum(r["trl"][name]) / sum(r["alignloop"][name]) for r in rounds]

    memory = [r["alignloop"]["peak_memory_gb"] / r["trl"]["peak_memory_gb"] for r in rounds]
    whole = sum(sum(r["alignloop"]["step_s"]) for r in rounds)
    parts = {
        name: sum(r["alignloop"]["parts_s"][name] for r in rounds)
        for name in rounds[0]["alignloop"]["parts_s"]
    }
    parts["rest"] = whole - sum(parts.values())
    return {
        "speedup": statistics.median(ratios("step_s")),
        "speedup_cpu": statistics.median(ratios("step_cpu_s")),
        "memory_ratio": statistics.median(memory),
        "rounds": {"wall": ratios("step_s"), "cpu": ratios("step_cpu_s"), "memory": memory},
        "shares": {name: seconds / whole for name, seconds in parts.items()},
        "targets": TARGETS,
    }


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--completions", type=int, default=8, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="length of a completion")
    parser.add_argument("--rounds", type=int, default=3, help="alternating runs of each side")
    parser.add_argument("--steps", type=int, default=5, help="measured steps, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--token-budget", type=int, default=4096, help="of AlignLoop's packed passes")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bfloat16", action="store_true", help="matrix products; the weights stay float32")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    return parser


def measured(options: argparse.Namespace) -> list[dict[str, dict[str, Any]]]:
    """Both sides in turns, each in a process of its own."""
    words = ["model", "prompts", "completions", "tokens", "threads", "seed", "token_budget", "device"]
    shared = [text for word in words for text in (f"--{word.replace('_', '-')}", str(getattr(options, word)))]
    shared += ["--steps", str(options.steps + 1), *(["--bfloat16"] if options.bfloat16 else [])]
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        rounds.append(
            {
                side: child(
                    "bench.grpo_step", [*shared, "--side", side], threads=options.threads, passive=False
                )
                for side in ("trl", "alignloop")
            }
        )
    return rounds


def main() -> None:
    options = arguments().parse_args()
    if options.side:
        print(json.dumps(one_side(options)))
        return
    rounds = measured(options)
    result = {"machine": machine(options.threads), "rounds": rounds, "summary": summary(rounds)}
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for name, value in result["summary"].items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
