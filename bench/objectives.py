"""All offline objectives from the same start, on the same judged answers, with the same budget.

    python bench/objectives.py --seeds 1 2 3               # everything, about 3 minutes each on two cores
    python bench/objectives.py --only dpo ipo --seeds 1    # a piece; what is finished is never run again
    python bench/objectives.py --write                     # docs/results/objectives.*, docs/objectives/img/

The task is the quickstart's: instructions that a program can check. The start model's answers are sampled
once, a simulated annotator judges them, and every objective gets the same pairs in its own form, 16
judged completions a step, the same number of steps, the same learning rate, full fine-tuning. A seed
changes the order of the rows and the held-out samples. Each objective and seed runs in a process
of its own and leaves one file in `--work`; `--write` makes the tables from the files that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from alignloop.data.instructions import instruction_prompts
from alignloop.data.packing import Completion, Group, collate
from alignloop.evaluation.likelihood import sequence_logprobs
from alignloop.io import write_whole
from alignloop.machine import memory_gb, release_memory
from alignloop.model.load import LoadedModel, load_model
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.dpo import DPO
from alignloop.objectives.ipo import IPO
from alignloop.objectives.kto import KTO
from alignloop.objectives.listwise import Listwise
from alignloop.objectives.odin import Odin
from alignloop.objectives.orpo import ORPO
from alignloop.objectives.plackett_luce import PlackettLuce
from alignloop.objectives.regression import Regression
from alignloop.objectives.sft import SFT
from alignloop.objectives.simpo import SimPO
from alignloop.stages.common import inference_encoder
from alignloop.training.loop import Trainer, train_step
from alignloop.training.optim import OptimizerSettings, build_optimizer
from alignloop.training.reference import with_reference_logprobs
from alignloop.training.stream import GroupStream
from bench.measure import ROOT, child, machine
from bench.objective_report import START, summary, table, write
from bench.objective_task import (
    Answered,
    Sizes,
    answer_record,
    answered_groups,
    answers,
    groups_per_step,
    num_steps,
    sampled_answers,
    training_groups,
)

TOKEN_BUDGET = 2048


@dataclass(frozen=True)
class Entry:
    """An objective of the comparison and the kind of record it gets."""

    objective: Any
    kind: str
    outputs: int = 1  # of the reward head; the first is the reward

    @property
    def is_reward(self) -> bool:
        """Whether it trains a reward model instead of a policy."""
        return "scores" in self.objective.needs


ENTRIES: dict[str, Entry] = {
    "sft": Entry(SFT(), "demonstration"),
    "dpo": Entry(DPO(beta=0.1), "preference"),
    "dpo-rpo": Entry(DPO(beta=0.1, rpo_alpha=1.0), "preference"),
    "ipo": Entry(IPO(beta=0.1), "preference"),
    "kto": Entry(KTO(beta=0.1), "label"),
    "orpo": Entry(ORPO(lam=0.1), "preference"),
    "simpo": Entry(SimPO(), "preference"),
    "listwise": Entry(Listwise(), "ranking"),
    "listwise-lipo_lambda": Entry(Listwise(method="lipo_lambda"), "ranking"),
    "listwise-group_relative": Entry(Listwise(method="group_relative"), "ranking"),
    "bradley_terry": Entry(BradleyTerry(), "preference"),
    "plackett_luce": Entry(PlackettLuce(), "ranking"),
    "regression": Entry(Regression(), "rating"),
    "odin": Entry(Odin(), "preference", outputs=2),
}
"""A policy's or reward model's objective by the name of its page (and variant)."""


@dataclass(frozen=True)
class Bench:
    """Where a comparison keeps its files, and what it compares."""

    model: str
    work: Path
    sizes: Sizes

    def file(self, name: str, seed: int) -> Path:
        """Result of one objective (or `start`) and seed."""
        return self.work / f"{name}-{seed}.json"

    def rows(self) -> Answered:
        """The start model's answers to the training prompts, sampled on first use."""
        return sampled_answers(self.work / "answers.jsonl", self.model, self.sizes)

    def held_out(self) -> list[Any]:
        """Prompts with topics and wordings of their own."""
        return instruction_prompts("eval", self.sizes.eval_prompts, 0)

    def done(self, name: str, seed: int) -> dict[str, Any] | None:
        """A stored result; None if there is none.

        Raises:
            SystemExit: it was made with another model or other sizes.
        """
        file = self.file(name, seed)
        if not file.exists():
            return None
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["model"] != self.model or record["sizes"] != asdict(self.sizes):
            raise SystemExit(f"{file} was made with another model or other sizes; use another --work")
        return record


def run_one(bench: Bench, name: str, seed: int) -> None:
    """Train and evaluate one objective, or sample the start model, and write the result's file."""
    rows = bench.rows()
    started, cpu_started = time.perf_counter(), time.process_time()
    result = start_answers(bench, seed) if name == START else train_and_evaluate(bench, name, seed, rows)
    result["total_s"], result["total_cpu_s"] = (
        time.perf_counter() - started,
        time.process_time() - cpu_started,
    )
    record = {"name": name, "seed": seed, "model": bench.model, "sizes": asdict(bench.sizes), **result}
    write_whole(bench.file(name, seed), [json.dumps(record, ensure_ascii=False) + "\n"])


def start_answers(bench: Bench, seed: int) -> dict[str, Any]:
    """The start model on the held-out prompts, with twice as many answers as a policy gives."""
    loaded = load_model(bench.model, dtype="float32", device="cpu")
    sizes, prompts = bench.sizes, bench.held_out()
    n = 2 * sizes.eval_samples
    rows = answers(loaded, inference_encoder(loaded), prompts, n=n, tokens=sizes.tokens, seed=seed)
    return {"kind": "policy", **answer_record(prompts, rows), "ids": [[s.ids for s in row] for row in rows]}


def train_and_evaluate(bench: Bench, name: str, seed: int, rows: Answered) -> dict[str, Any]:
    """One objective: curves, time and memory of the training, and the held-out evaluation."""
    entry, sizes = ENTRIES[name], bench.sizes
    torch.manual_seed(seed)
    loaded = load_model(bench.model, dtype="float32", device="cpu")
    encoder = inference_encoder(loaded, max_length=512)
    groups = training_groups(entry.kind, rows, encoder, sizes, seed)
    width = loaded.model.config.hidden_size
    head = ScalarHead(width, entry.outputs, seed=seed) if entry.is_reward else None
    model = PackedModel(loaded.model, head=head)
    groups = with_start_logprobs(bench, entry, model, groups)
    release_memory()
    before, started, cpu_started = memory_gb(), time.perf_counter(), time.process_time()
    history = train(entry, model, groups, num_steps(rows, sizes), seed, sizes)
    result = {
        "kind": "reward" if entry.is_reward else "policy",
        "objective": repr(entry.objective),
        "groups": len(groups),
        "history": history,
        "train_s": time.perf_counter() - started,
        "train_cpu_s": time.process_time() - cpu_started,
        "memory_before_gb": before,
        "peak_memory_gb": memory_gb(peak=True),
    }
    if entry.is_reward:
        return result | {"scores": held_out_scores(bench, model, encoder, seed)}
    return result | evaluate(bench, loaded, model, encoder, seed)


def with_start_logprobs(
    bench: Bench, entry: Entry, model: PackedModel, groups: Sequence[Group]
) -> list[Group]:
    """The start model's log-probs, where the objective reads them, as reference or behaviour policy."""
    relative = isinstance(entry.objective, Listwise) and entry.objective.method == "group_relative"
    if not relative and "reference_logprobs" not in entry.objective.needs:
        return list(groups)
    found, _ = with_reference_logprobs(
        groups,
        model,
        token_budget=TOKEN_BUDGET,
        cache=bench.work / "reference",
        name="old_logprobs" if relative else "reference_logprobs",
    )
    return found


def train(
    entry: Entry, model: PackedModel, groups: Sequence[Group], steps: int, seed: int, sizes: Sizes
) -> list[dict[str, float]]:
    """Full fine-tuning with a linear decay; the metrics of every step."""
    settings = OptimizerSettings(learning_rate=sizes.learning_rate, warmup_steps=round(0.1 * steps))
    optimizer = build_optimizer(model.parameters(), settings)
    trainer = Trainer(model, optimizer, settings, steps, token_budget=TOKEN_BUDGET)
    stream = GroupStream(groups, groups_per_step(entry.kind, sizes), max_steps=steps, seed=seed)
    history = []
    for step in range(steps):
        report = train_step(trainer, entry.objective, stream.step_groups(step))
        history.append({"step": report.step, **report.metrics})
        print(
            f"step {report.step} of {steps}: loss {report.metrics['loss']:.4f}", file=sys.stderr, flush=True
        )
    return history


def evaluate(
    bench: Bench, loaded: LoadedModel, model: PackedModel, encoder: Any, seed: int
) -> dict[str, Any]:
    """Held-out answers with the random numbers of the start's, and the log-ratio to the start on each."""
    sizes, prompts = bench.sizes, bench.held_out()
    model.restore_attention()
    rows = answers(loaded, encoder, prompts, n=sizes.eval_samples, tokens=sizes.tokens, seed=seed)
    groups = answered_groups(encoder, prompts, rows)
    ours = sequence_logprobs(model, groups, TOKEN_BUDGET)
    start = PackedModel(load_model(bench.model, dtype="float32", device="cpu").model)
    theirs = sequence_logprobs(start, groups, TOKEN_BUDGET)
    ratios = np.array([a.sum() - b.sum() for a, b in zip(ours, theirs, strict=True)])
    return {**answer_record(prompts, rows), "kl": ratios.reshape(len(prompts), -1).tolist()}


def held_out_scores(bench: Bench, model: PackedModel, encoder: Any, seed: int) -> list[list[float]]:
    """Scores of the start model's held-out answers by a trained reward model."""
    start = bench.done(START, seed)
    if start is None:
        raise SystemExit(f"the start model's answers of seed {seed} come first")
    scores = []
    model.eval()
    for prompt, row in zip(bench.held_out(), start["ids"], strict=True):
        completions = tuple(Completion(np.asarray(i, np.int32), np.ones(len(i), bool)) for i in row)
        batch = collate([Group(encoder.prompt(prompt.prompt), completions)])
        with torch.no_grad():
            found = model(batch, {"scores"}).scores
        assert found is not None
        scores.append(found[:, 0].tolist())
    return scores


def run_all(
    bench: Bench, names: Sequence[str], seeds: Sequence[int], run: Callable[[str, int], None]
) -> None:
    """Everything that is not there yet, the start model first."""
    for seed in seeds:
        for name in (START, *names):
            if bench.done(name, seed) is None:
                print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
                run(name, seed)


def parser_with_sizes() -> argparse.ArgumentParser:
    """The command line; every field of `Sizes` is an option."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-objectives"), help="results so far")
    parser.add_argument(
        "--write", action="store_true", help="only write the documents from the results so far"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder the documents go to")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # in a process of its own
    for field in fields(Sizes):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    return parser


def main() -> None:
    options = parser_with_sizes().parse_args()
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    bench = Bench(options.model, options.work.resolve(), sizes)
    if options.one:
        torch.set_num_threads(options.threads)
        run_one(bench, options.one, options.seeds[0])
        print("{}")
        return
    if not options.write:
        bench.work.mkdir(parents=True, exist_ok=True)
        same = ["--model", options.model, "--work", str(bench.work), "--threads", str(options.threads)]
        for field in fields(Sizes):
            same += [f"--{field.name.replace('_', '-')}", str(getattr(sizes, field.name))]

        def run(name: str, seed: int) -> None:
            child("bench.objectives", ["--one", name, "--seeds", str(seed), *same], threads=options.threads)

        run_all(bench, options.only, options.seeds, run)
    results = [r for name in (START, *ENTRIES) for s in options.seeds if (r := bench.done(name, s))]
    if options.write and results:
        write(results, machine(options.threads), options.docs)
    print(table(summary(results)))


if __name__ == "__main__":
    main()
