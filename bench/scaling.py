"""How time and memory of a training step grow with tokens, completions, prompt share and vocabulary.

    python bench/scaling.py --output docs/results

A random Llama-shaped model (8 layers, hidden size 256), full fine-tuning, float32; every point in a
process of its own. `prompt share` also shows plain padded rows, which repeat the prompt. The slope is
that of log(CPU time) over log(x) between the first and the last point: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.io import write_whole
from alignloop.machine import memory_gb
from bench.measure import child, machine
from bench.picture import picture

SWEEPS: dict[str, list[dict[str, Any]]] = {
    "tokens": [{"groups": n, "prompt": 192, "completions": 2, "completion": 160} for n in (1, 2, 4, 8, 16)],
    "completions": [
        {"groups": 2, "prompt": 256, "completions": k, "completion": 64} for k in (1, 2, 4, 8, 16)
    ],
    "prompt share": [
        {"groups": 2, "prompt": round(share * 1024), "completions": 4, "completion": round((1 - share) * 256)}
        for share in (0.0, 0.25, 0.5, 0.75, 0.9)
    ],
    "vocabulary": [
        {"groups": 2, "prompt": 128, "completions": 2, "completion": 192, "vocabulary": v}
        for v in (8192, 16_384, 32_768, 65_536, 131_072)
    ],
}


def axis(sweep: str, point: Mapping[str, Any]) -> float:
    """What a point is drawn over."""
    tokens = point["groups"] * (point["prompt"] + point["completions"] * point["completion"])
    return {
        "tokens": tokens,
        "completions": point["completions"],
        "prompt share": point["groups"] * point["prompt"] / tokens,
        "vocabulary": point.get("vocabulary", 0),
    }[sweep]


def run(point: Mapping[str, Any], *, padded: bool, steps: int) -> dict[str, float]:
    """Median time of some steps after a warm-up, and the memory above the model's own, in this process."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from alignloop.data.packing import Group, completion
    from alignloop.model.packed import PackedModel
    from alignloop.objectives.sft import SFT
    from alignloop.training.loop import Trainer, train_step
    from alignloop.training.optim import OptimizerSettings, build_optimizer

    torch.manual_seed(0)
    vocabulary = point.get("vocabulary", 8192)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = PackedModel(LlamaForCausalLM(config), shared_prefix=not padded)
    settings = OptimizerSettings(lr_scheduler_type="constant")
    trainer = Trainer(model, build_optimizer(model.parameters(), settings), settings, 10, token_budget=10**6)
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(3, vocabulary, length).astype(np.int32)

    groups = [
        Group(
            ids(point["prompt"]),
            tuple(completion(ids(point["completion"])) for _ in range(point["completions"])),
        )
        for _ in range(point["groups"])
    ]
    before = memory_gb()
    wall, cpu = [], []
    for _ in range(steps + 1):
        started, cpu_started = time.perf_counter(), time.process_time()
        train_step(trainer, SFT(), groups)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
    return {
        "wall_s": statistics.median(wall[1:]),
        "cpu_s": statistics.median(cpu[1:]),
        "memory_gb": memory_gb(peak=True) - before,
    }


def slope(rows: Sequence[Mapping[str, float]], name: str) -> float:
    """Exponent of growth between the first and the last point; NaN where x starts at 0."""
    first, last = rows[0], rows[-1]
    if first["x"] <= 0:
        return math.nan
    return math.log(last[name] / first[name]) / math.log(last["x"] / first["x"])


WHY = {
    "tokens": "Groups do not see each other, so that attention grows with a group and not with the row.",
    "completions": "The prompt is computed once, so that growth is less than linear.",
    "prompt share": "Packed rows hold as many tokens at every share; padded ones hold a prompt four times.",
    "vocabulary": "The head grows linearly; the layers below it do not grow, which lowers the slope.",
}
"""What the slope of a sweep rests on."""


def page(results: Mapping[str, Any]) -> str:
    """The sweeps as Markdown."""
    where = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    parts = [f"# Scaling of a training step\n\n`python bench/scaling.py --output docs/results`; {where}.\n"]
    for sweep, forms in results["sweeps"].items():
        name = sweep.replace(" ", "-")
        parts.append(f"## {sweep.capitalize()}\n\n{WHY[sweep]}\n")
        parts.append(f"![CPU seconds](scaling-{name}-cpu.svg) ![memory](scaling-{name}-memory.svg)\n")
        lines = [f"| {sweep} | rows | CPU s | s | memory above the model, GB |", "|---|---|---|---|---|"]
        for form, rows in forms.items():
            lines += [
                f"| {r['x']:g} | {form} | {r['cpu_s']:.3f} | {r['wall_s']:.3f} | {r['memory_gb']:.3f} |"
                for r in rows
            ]
        parts.append("\n".join(lines) + "\n")
        for form, rows in forms.items():
            slopes = {
                unit: slope(rows, key) for unit, key in (("CPU time", "cpu_s"), ("memory", "memory_gb"))
            }
            shown = ", ".join(
                f"{unit} {value:.2f}" for unit, value in slopes.items() if not math.isnan(value)
            )
            if shown:
                parts.append(f"Slope of {form} rows: {shown} (1 is linear).\n")
    return "\n".join(parts)


def write(results: Mapping[str, Any], folder: Path) -> None:
    """scaling.md and .json, and two pictures for each sweep; sweeps measured earlier are kept."""
    file = folder / "scaling.json"
    if file.exists():
        earlier = json.loads(file.read_text(encoding="utf-8"))["sweeps"]
        sweeps = {**earlier, **results["sweeps"]}
        results = {**results, "sweeps": {name: sweeps[name] for name in SWEEPS if name in sweeps}}
    write_whole(file, [json.dumps(results, indent=1) + "\n"])
    write_whole(folder / "scaling.md", [page(results)])
    for sweep, forms in results["sweeps"].items():
        for name, unit in (("cpu_s", "CPU seconds a step"), ("memory_gb", "Memory above the model, GB")):
            lines = {form: [(row["x"], row[name]) for row in rows] for form, rows in forms.items()}
            drawn = folder / f"scaling-{sweep.replace(' ', '-')}-{name.split('_')[0]}.svg"
            write_whole(drawn, [picture([(unit, sweep, lines)])])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweep", choices=SWEEPS, action="append", help="only this one; may be repeated")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of a point")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="folder for tables, numbers and pictures")
    parser.add_argument("--point", type=json.loads, help="run one point in this process")
    parser.add_argument("--padded", action="store_true", help="with --point: plain padded rows")
    options = parser.parse_args()
    if options.point:
        print(json.dumps(run(options.point, padded=options.padded, steps=options.steps)))
        return
    sweeps: dict[str, Any] = {}
    for sweep in options.sweep or SWEEPS:
        sweeps[sweep] = {}
        for form in ("packed", "padded") if sweep == "prompt share" else ("packed",):
            rows = []
            for point in SWEEPS[sweep]:
                arguments = ["--point", json.dumps(point), "--steps", str(options.steps)]
                arguments += ["--padded"] if form == "padded" else []
                measured = child("bench.scaling", arguments, threads=options.threads)
                rows.append({"x": axis(sweep, point), **point, **measured})
                print(
                    f"{sweep} {form} {rows[-1]['x']:g}: {measured['cpu_s']:.3f} CPU s, "
                    f"{measured['wall_s']:.3f} s, {measured['memory_gb']:.3f} GB",
                    flush=True,
                )
            sweeps[sweep][form] = rows
            slopes = ", ".join(f"{name} {slope(rows, name):.2f}" for name in ("cpu_s", "memory_gb"))
            print(f"{sweep} {form}: slopes {slopes}", flush=True)
    if options.output:
        write({"machine": machine(options.threads), "sweeps": sweeps}, options.output)


if __name__ == "__main__":
    main()
