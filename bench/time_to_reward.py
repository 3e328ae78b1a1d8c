"""Seconds of GRPO until the held-out gold pass rate has risen by ten points, AlignLoop against TRL.

    python bench/time_to_reward.py [--seeds 0 1 2] [--json]

Both sides train the same start model in float32 on the same prompts with the same verifier, group size,
lengths, learning rate, β, optimizer and threads, each as a process of its own. Every few steps the clock
stops and the same engine answers the same held-out prompts with the same seeds; the rise is against the
side's own first such rate. Loading is not counted. The extra `bench` brings TRL.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.machine import memory_gb
from alignloop.records import Message, message_rows
from bench.measure import TRL_PLAIN, child, machine

KINDS = ("start_with", "exclamation", "title", "no_commas", "max_words", "ends_with_question")
"""Instructions of the task, those of the recipe `full-loop`."""
SYSTEM = (
    "You write short texts for the newsletter of a neighbourhood. Its readers are of all ages, so use "
    "plain words and friendly, complete sentences. Every request names a topic and says what form the "
    "text must have: how it has to begin or to end, which punctuation it may use, how long it may be, or "
    "which words it needs. A program checks the form, so follow it to the letter; a text that is well "
    "written but misses its form is thrown away. Write only the text itself: no greeting, no "
    "introduction, no explanation and no notes about what you did, no lists and no headings unless they "
    "are asked for. Do not repeat the request, keep to the topic, make up no names, dates or numbers, and "
    "stop as soon as the text is complete."
)
"""A system prompt as services have them: prompts as long as those of bench/rollouts.py and grpo_step.py."""
TARGET = 4.0
"""How many times sooner AlignLoop is meant to be there."""


@dataclass(slots=True)
class Watch:
    """A clock that stands still while the pass rate is measured.

    Attributes:
        measure: gives the pass rate of the model as it is now.
        every: steps between measurements.
        rise: the rate to reach is the first one plus this.
        rows: {"step", "seconds", "pass_rate"}, from step 0 on.
    """

    measure: Callable[[], float]
    every: int
    rise: float
    rows: list[dict[str, float]] = field(default_factory=list)
    passed_s: float = 0.0
    started: float = 0.0

    def look(self, step: int) -> bool:
        """To be called after each step; whether the rise is reached. Step 0 starts the clock."""
        now = time.perf_counter()
        if step:
            self.passed_s += now - self.started
        if step % self.every == 0:
            self.rows.append({"step": step, "seconds": self.passed_s, "pass_rate": self.measure()})
            print(json.dumps(self.rows[-1]), file=sys.stderr, flush=True)
        self.started = time.perf_counter()
        return self.reached is not None

    @property
    def reached(self) -> float | None:
        """Seconds after which the rise was measured, None before."""
        goal = self.rows[0]["pass_rate"] + self.rise if self.rows else 0.0
        return next((row["seconds"] for row in self.rows if row["pass_rate"] >= goal), None)


def prompts_of(options: argparse.Namespace, split: Any, count: int, seed: int) -> list[Any]:
    """Prompts of the task, with the system prompt if asked for."""
    from alignloop.data.instructions import instruction_prompts

    prompts = instruction_prompts(split, count, seed, options.kinds)
    system = (Message("system", SYSTEM),) if options.system else ()
    return [replace(prompt, prompt=(*system, *prompt.prompt)) for prompt in prompts]


def pass_rate(model: Any, tokenizer: Any, prompts: Sequence[Any], tokens: int) -> float:
    """Share of the held-out prompts whose sampled answer satisfies its constraints, by the local engine."""
    from alignloop.model.generate import generate
    from alignloop.model.sampling import SamplingParams
    from alignloop.rl.verifiers import VERIFIERS

    training = model.training
    model.eval()
    chats = [message_rows(prompt.prompt) for prompt in prompts]
    ids = [
        list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])
        for chat in chats
    ]
    params = SamplingParams(temperature=1.0, max_tokens=tokens, seed=7)
    answers = generate(model, tokenizer, ids, params, n=1)
    model.train(training)
    gold = VERIFIERS["constraints"]
    right = [gold(row[0].text.strip(), prompt) == 1.0 for row, prompt in zip(answers, prompts, strict=True)]
    return sum(right) / len(right)


def our_side(options: argparse.Namespace, folder: Path) -> Watch:
    """AlignLoop's stage `grpo`, looked at after every step."""
    from unittest.mock import patch

    from alignloop.data.columns import write_records
    from alignloop.stages import grpo, online
    from bench.stages import run_stage

    held_out = prompts_of(options, "eval", options.held_out, 0)
    write_records(folder / "prompts.jsonl", prompts_of(options, "train", options.rows, options.seed))
    watch: list[Watch] = []
    learn, restore = grpo.learn, online.restore

    def began(state: Any) -> None:
        restore(state)
        model, tokenizer = state.prepared.loaded.model, state.prepared.loaded.tokenizer

        def measure() -> float:
            return pass_rate(model, tokenizer, held_out, options.tokens)

        watch.append(Watch(measure, options.every, options.rise))
        watch[0].look(0)

    def learned(state: Any, objective: Any, batch: Any) -> dict[str, float]:
        metrics = learn(state, objective, batch)
        if watch[0].look(state.trainer.step):
            state.place.ended = "reached"
        return metrics

    with patch.object(online, "restore", began), patch.object(grpo, "learn", learned):
        run_stage(
            "grpo",
            folder / "run",
            model_name_or_path=options.model,
            dataset=str(folder / "prompts.jsonl"),
            rewards=[{"verifier": "constraints"}],
            num_generations=options.completions,
            rollout_prompts=options.prompts,
            per_device_train_batch_size=options.prompts,
            max_new_tokens=options.tokens,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            beta=options.beta,
            track_kl=options.beta > 0,  # without β TRL has no reference either
            num_threads=options.threads,
            save_steps=0,
            log_samples=0,
            seed=options.seed,
        )
    return watch[0]


def trl_config(options: argparse.Namespace, folder: Path) -> Any:
    """TRL's settings, equal to the other side's."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=options.prompts * options.completions,
        num_generations=options.completions,
        steps_per_generation=1,
        max_completion_length=options.tokens,
        max_steps=options.steps,
        learning_rate=options.learning_rate,
        beta=options.beta,
        use_bias_correction_kl=True,  # AlignLoop's `unbiased_kl`
        loss_type="grpo",
        epsilon=0.2,
        temperature=1.0,
        top_k=0,
        seed=options.seed,
        **TRL_PLAIN,
    )


def trl_side(options: argparse.Namespace, folder: Path) -> Watch:
    """TRL's GRPOTrainer with its own generation, looked at after every step."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from alignloop.model.load import load_model
    from alignloop.rl.verifiers import VERIFIERS

    torch.set_num_threads(options.threads)
    loaded = load_model(options.model, dtype="float32", device="cpu", seed=options.seed)
    prompts, held_out = (
        prompts_of(options, "train", options.rows, options.seed),
        prompts_of(options, "eval", options.held_out, 0),
    )
    gold = VERIFIERS["constraints"]

    def reward(completions: list[Any], number: list[int], **_: Any) -> list[float]:
        return [gold(c[0]["content"].strip(), prompts[i]) for c, i in zip(completions, number, strict=True)]

    rows = [{"prompt": message_rows(prompt.prompt), "number": i} for i, prompt in enumerate(prompts)]
    watch = Watch(
        lambda: pass_rate(loaded.model, loaded.tokenizer, held_out, options.tokens),
        options.every,
        options.rise,
    )

    class Look(TrainerCallback):
        def on_train_begin(self, *args: object, **keys: object) -> None:
            watch.look(0)

        def on_step_end(self, args: object, state: Any, control: Any, **keys: object) -> None:
            control.should_training_stop = watch.look(state.global_step) or control.should_training_stop

    trainer = GRPOTrainer(
        loaded.model,
        reward_funcs=reward,
        args=trl_config(options, folder),
        train_dataset=Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
        callbacks=[Look()],
    )
    trainer.train()
    return watch


def one_side(options: argparse.Namespace) -> dict[str, Any]:
    """Run by the parent: one side in this process."""
    with tempfile.TemporaryDirectory() as folder:
        watch = (our_side if options.side == "alignloop" else trl_side)(options, Path(folder))
    return {"reached_s": watch.reached, "peak_memory_gb": memory_gb(peak=True), "curve": watch.rows}


def summary(seeds: dict[int, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """How many times sooner, seed by seed. A side that never got there counts with all its seconds."""
    ratios, bounds = [], []
    for sides in seeds.values():
        ours, trl = (sides[name] for name in ("alignloop", "trl"))
        if ours["reached_s"] is None:
            bounds.append("AlignLoop did not get there")
        elif trl["reached_s"] is None:
            ratios.append(trl["curve"][-1]["seconds"] / ours["reached_s"])
            bounds.append("at least: TRL did not get there")
        else:
            ratios.append(trl["reached_s"] / ours["reached_s"])
            bounds.append("")
    complete = len(ratios) == len(seeds)
    median = statistics.median(ratios) if complete else None
    reached = median is not None and median >= TARGET
    return {"times_sooner": ratios, "notes": bounds, "median": median, "target": TARGET, "reached": reached}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rise", type=float, default=0.10, help="of the held-out pass rate")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help="of instructions")
    parser.add_argument("--system", action="store_true", help="prompts of about 190 tokens: a system prompt")
    parser.add_argument("--rows", type=int, default=400, help="prompts to train on")
    parser.add_argument("--held-out", type=int, default=200, help="prompts of a measurement")
    parser.add_argument("--every", type=int, default=5, help="steps between measurements")
    parser.add_argument("--steps", type=int, default=150, help="at most")
    parser.add_argument("--prompts", type=int, default=8, help="of a rollout")
    parser.add_argument("--completions", type=int, default=8, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="longest completion")
    parser.add_argument("--learning-rate", type=float, default=5e-6)
    parser.add_argument("--beta", type=float, default=0.04, help="weight of the KL; TRL's default is 0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", default=["alignloop", "trl"], choices=["alignloop", "trl"])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser


SHARED = ("model", "rise", "rows", "held_out", "every", "steps", "prompts", "completions", "tokens")
SHARED += ("learning_rate", "beta", "threads")


def main() -> None:
    options = arguments().parse_args()
    if options.side:
        print(json.dumps(one_side(options)))
        return
    shared = [text for w in SHARED for text in (f"--{w.replace('_', '-')}", str(getattr(options, w)))]
    shared += ["--kinds", *options.kinds, *(["--system"] if options.system else [])]
    seeds: dict[int, dict[str, dict[str, Any]]] = {}
    for seed in options.seeds:
        seeds[seed] = {}
        for side in options.sides:
            print(f"seed {seed}: {side} …", file=sys.stderr, flush=True)
            call = [*shared, "--side", side, "--seed", str(seed)]
            seeds[seed][side] = child("bench.time_to_reward", call, threads=options.threads, passive=False)
    result: dict[str, Any] = {"machine": machine(options.threads), "seeds": seeds}
    if set(options.sides) == {"alignloop", "trl"}:
        result["summary"] = summary(seeds)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for seed, sides in seeds.items():
        for name, row in sides.items():
            print(
                f"seed {seed}  {name:9s}  reached after {row['reached_s']} s  {row['peak_memory_gb']:.2f} GB"
            )
    print(result.get("summary", ""))


if __name__ == "__main__":
    main()
