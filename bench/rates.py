"""Which learning rate each method wants, full and with LoRA, on two sizes of model: held-out loss by rate.

    python bench/rates.py --work /tmp/rates --models smollm2-135m-instruct small   # what is finished is kept
    python bench/rates.py --work /tmp/rates --only dpo reward --seeds 1             # a piece
    python bench/rates.py --write                                                   # docs/results/rates.md

The task is the quickstart's: SmolLM2-135M answers instructions that a program can check, and the gold reward
with seeded mistakes judges pairs of its answers. Both models train on the same pairs, each method in its own
form; `small` is a byte-level Llama of about 2 million parameters, first trained on these texts. Every cell
is one call of `alignloop.train` with the defaults but for the rate, the same steps, and the same held-out
rows, whose prompts are in no training row. `docs/results/rates.json` holds a row for each finished cell.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import alignloop
from alignloop.data.columns import read_records, write_records
from alignloop.data.instructions import documents
from alignloop.io import write_whole
from alignloop.machine import release_memory
from alignloop.model.load import load_model
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.records import Demonstration, Document, Label, Preference, Record
from alignloop.stages.common import inference_encoder
from bench.measure import ROOT, machine
from bench.objective_task import Sizes, judged, sampled_answers
from bench.rates_report import write

FILE = ROOT / "docs" / "results" / "rates.json"
SOURCE = "smollm2-135m-instruct"
"""Gives the answers that are judged, and is the larger of the two models."""
SMALL = "small"
STEPS = {SMALL: 60, SOURCE: 30}
"""Optimizer steps of a cell: a step of the larger model takes five seconds of a core."""
BATCH, RANK = 4, 16
SIZES = Sizes(prompts=210, samples=4, tokens=40, pairs_per_prompt=2, noise=0.05)
HELD_OUT_PROMPTS = 60
METHODS = ("dpo", "reward", "sft", "orpo", "kto", "ipo")
KINDS = {"sft": "demonstration", "kto": "label"}
GRIDS: dict[tuple[bool, bool], tuple[float, ...]] = {
    (False, False): (1e-4, 2e-5, 5e-6, 1e-6),
    (False, True): (2e-5, 1e-4, 5e-4, 2e-3),
    (True, False): (2e-5, 1e-4, 5e-4, 2e-3),
    (True, True): (1e-4, 5e-4, 2e-3, 1e-2),
}
"""Rates that are tried, by (is the small model, is LoRA)."""


@dataclass(frozen=True)
class Cell:
    """One training."""

    model: str
    method: str
    lora_r: int
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Its folder's name."""
        lora = "-lora" if self.lora_r else ""
        return f"{self.model}-{self.method}{lora}-{self.rate:g}-{self.seed}"


def cells(models: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> Iterator[Cell]:
    """Every cell, the most wanted first: full fine-tuning before LoRA, the first seed before others."""
    for seed in seeds:
        for lora_r in (0, RANK):
            for method in methods:
                for model in models:
                    for rate in GRIDS[model == SMALL, bool(lora_r)]:
                        yield Cell(model, method, lora_r, rate, seed)


def rows_of(kind: str, pairs: Sequence[Preference]) -> list[Record]:
    """The pairs in a method's form."""
    if kind == "demonstration":
        return [Demonstration(p.prompt, p.chosen, p.provenance) for p in pairs]
    if kind == "label":
        return [
            Label(p.prompt, text, good, p.provenance)
            for p in pairs
            for text, good in ((p.chosen, True), (p.rejected, False))
        ]
    return list(pairs)


def prepare(work: Path) -> None:
    """Judged pairs in each form, divided by prompt, and the small model."""
    work.mkdir(parents=True, exist_ok=True)
    answered = sampled_answers(work / "answers.jsonl", SOURCE, SIZES)
    parts = {"train": answered[:-HELD_OUT_PROMPTS], "held": answered[-HELD_OUT_PROMPTS:]}
    for part, rows in parts.items():
        pairs: Any = judged("preference", rows, SIZES)
        for kind in ("preference", "demonstration", "label"):
            write_records(work / f"{part}-{kind}.jsonl", rows_of(kind, pairs))
    if not (work / SMALL / "config.json").exists():
        make_small(work, [text for _, texts in parts["train"] for text in texts if text])


def make_small(work: Path, texts: Sequence[str]) -> None:
    """A model of about 2 million parameters that has read the task's texts and answers."""
    own = [one.text for one in documents("train")]
    model, tokenizer = tiny_model(texts=[*own, *texts], vocab_size=2048, hidden_size=192, num_layers=4)
    save_model(model, tokenizer, work / "raw")
    write_records(work / "documents.jsonl", [Document(text) for text in own])
    prompts = read_records(str(work / "train-demonstration.jsonl"), "demonstration").records
    write_records(work / "all-demonstrations.jsonl", prompts)
    keys: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "save_steps": 0}
    alignloop.train(
        "pretrain",
        model_name_or_path=str(work / "raw"),
        dataset=str(work / "documents.jsonl"),
        learning_rate=2e-3,
        num_train_epochs=20,
        eval_fraction=0,
        output_dir=str(work / "pretrained"),
        **keys,
    )
    alignloop.train(
        "sft",
        model_name_or_path=str(work / "pretrained"),
        dataset=str(work / "all-demonstrations.jsonl"),
        learning_rate=1e-3,
        num_train_epochs=6,
        per_device_train_batch_size=8,
        eval_fraction=0,
        output_dir=str(work / "small-sft"),
        **keys,
    )
    shutil.copytree(work / "small-sft" / "model", work / SMALL)


def run_cell(cell: Cell, work: Path) -> dict[str, Any]:
    """One training, and what it gives on the held-out rows."""
    kind = KINDS.get(cell.method, "preference")
    folder = work / "runs" / cell.name
    started = time.perf_counter()
    run = alignloop.train(
        cell.method,
        model_name_or_path=str(work / SMALL) if cell.model == SMALL else cell.model,
        dataset=str(work / f"train-{kind}.jsonl"),
        eval_dataset=str(work / f"held-{kind}.jsonl"),
        eval_fraction=0,
        learning_rate=cell.rate,
        lr_scheduler_type="cosine",
        warmup_ratio=0.1,
        per_device_train_batch_size=BATCH * (2 if kind == "label" else 1),
        gradient_accumulation_steps=1,
        max_steps=STEPS[cell.model],
        max_length=512,
        lora_r=cell.lora_r,
        seed=cell.seed,
        dtype="bfloat16" if cell.model != SMALL else "float32",
        num_threads=1,
        save_steps=0,
        output_dir=str(folder),
    )
    results = run.record["results"]
    row = {
        **vars(cell),
        "loss": results.get("eval_loss"),
        "accuracy": results.get("eval_accuracy"),
        "chosen_logprob": results.get("eval_chosen_logprob"),
        "rows": results.get("eval_rows"),
        "steps": STEPS[cell.model],
        "seconds": round(time.perf_counter() - started, 1),
    }
    shutil.rmtree(folder)  # the weights of a cell take half a gigabyte
    release_memory()
    return row


def read(file: Path) -> dict[str, Any]:
    """What is measured so far."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": []}


def measure(work: Path, file: Path, wanted: Sequence[Cell]) -> None:
    """Run every cell that the file does not hold yet, and add it to the file."""
    prepare(work)
    found = read(file)
    done = {Cell(**{key: row[key] for key in Cell.__dataclass_fields__}) for row in found["rows"]}
    sizes = {name: _size(work, name) for name in dict.fromkeys(cell.model for cell in wanted)}
    for cell in wanted:
        if cell in done:
            continue
        row = run_cell(cell, work)
        found["rows"].append(row)
        found |= {
            "machine": {k: v for k, v in machine(1).items() if k != "load_average"},
            "batch": BATCH,
            "rank": RANK,
            "parameters": {**found.get("parameters", {}), **sizes},
        }
        write_whole(file, [json.dumps(found, ensure_ascii=False, indent=1) + "\n"])
        print(f"{cell.name}: {row}", file=sys.stderr, flush=True)


def _size(work: Path, name: str) -> int:
    loaded = load_model(str(work / SMALL) if name == SMALL else name)
    inference_encoder(loaded)  # a model without a usable template would fail here, not an hour later
    return sum(p.numel() for p in loaded.model.parameters())


def main() -> None:
    """Measure, or write the page of what is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/rates"))
    parser.add_argument("--file", type=Path, default=FILE, help="where finished cells are kept")
    parser.add_argument("--models", nargs="+", default=[SMALL, SOURCE], choices=[SMALL, SOURCE])
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--write", action="store_true", help="write the page and measure nothing")
    wanted = parser.parse_args()
    if wanted.write:
        write(read(wanted.file), wanted.file.with_suffix(".md"))
        return
    measure(wanted.work, wanted.file, list(cells(wanted.models, wanted.only, wanted.seeds)))


if __name__ == "__main__":
    main()
