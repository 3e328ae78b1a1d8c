"""Online RL on a GPU: rollouts against `generate`, whole GRPO steps against TRL, and bfloat16's sampling gap.

    python bench/gpu_rl.py --output docs/results
    python bench/gpu_rl.py --device cpu --tiny        # tries every piece, says nothing of speed

Random models shaped like Qwen2.5 0.5B and 1.5B, or `--model FOLDER`. Rollouts: bfloat16 weights, every
completion of one length, engines in turns. Steps (bench/grpo_step.py): float32 weights, bfloat16 matrix
products, sampling included; the old log-probs are the trainer's, and the surrogate is weighted with
their truncated ratio to the sampler's. Utilisation is the useful work (bench/workload.py; a rollout counts
as one forward pass) by second over the measured matrix-product rate. Without a GPU the page says
'not measured'.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from alignloop.io import write_whole
from alignloop.model.load import load_model
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from bench import grpo_step, rollouts
from bench.gpu import MODELS, make_model
from bench.measure import child, machine, matmul_rate

SIZES = {"prompts": 16, "completions": 8, "tokens": 256, "rounds": 2, "steps": 5, "token_budget": 16_384}
TINY_SIZES = {"prompts": 2, "completions": 4, "tokens": 12, "rounds": 1, "steps": 1, "token_budget": 4096}
PARTS = ("rollout", "reward", "old log-probs", "reference", "update", "rest")
GAPS = ("mean_abs", "max_abs", "mean_ratio", "effective", "capped", "mean_weight")
NO_GPU = "No CUDA device is at hand, so nothing was measured; --device cpu --tiny tries every piece."
HEADS: dict[str, tuple[str, ...]] = {
    "rollouts": ("AlignLoop tokens/s", "generate tokens/s", "ratio"),
    "steps": (
        "TRL s",
        "AlignLoop s",
        "ratio",
        "TRL GB",
        "AlignLoop GB",
        "ratio",
        "update's utilisation",
        "step's utilisation",
    ),
    "shares": PARTS,
    "mismatch": ("mean Δ", "largest Δ", "mean ratio", "effective share", "capped", "mean weight"),
}
"""Columns of the page's tables."""


def rollout_rates(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of both engines on one bfloat16 model; run in a process of its own."""
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model, dtype="bfloat16", device=options.device)
    prompts, n = rollouts.prompt_ids(loaded, options.prompts), options.completions
    engines: dict[str, rollouts.Counter] = {
        "alignloop": lambda exact: rollouts.run_alignloop(loaded, prompts, n, options, exact),
        "generate": lambda exact: rollouts.run_generate(loaded, prompts, n, options, exact),
    }
    found = rollouts.compare(engines, True, options.rounds)
    return {**found, "matmul_flops_per_s": matmul_rate(options.device)[0]}


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything of one model."""
    words = ["model", "device", "prompts", "completions", "tokens", "rounds", "threads"]
    shared = [text for word in words for text in (f"--{word}", str(getattr(options, word)))]
    rates = child("bench.gpu_rl", [*shared, "--side", "rollouts"], threads=options.threads)
    rounds = grpo_step.measured(options)
    return {"model": name, "rollouts": rates, "rounds": rounds, "summary": summary(rounds, rates)}


def summary(rounds: Sequence[Mapping[str, Any]], rates: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables show of the steps."""
    result = grpo_step.summary(rounds)  # pyright: ignore[reportArgumentType]
    own = [r["alignloop"] for r in rounds]
    flops = sum(sum(side["useful_flops"][1:]) for side in own)  # the first step was a warm-up
    learning = sum(side["parts_s"]["reference"] + side["parts_s"]["update"] for side in own)
    whole = sum(sum(side["step_s"]) for side in own)
    peak = rates["matmul_flops_per_s"]
    gaps = [gap for side in own for gap in side["mismatch"][1:]]
    return {
        **result,
        "seconds": {s: float(np.mean([r[s]["step_s"] for r in rounds])) for s in ("trl", "alignloop")},
        "memory_gb": {s: max(r[s]["peak_memory_gb"] for r in rounds) for s in ("trl", "alignloop")},
        # reference, forward and twice that backward are 4 forward passes; the rollout is a fifth
        "utilisation": {"update": flops / learning / peak, "step": 1.25 * flops / whole / peak},
        "mismatch": {
            name: float((np.max if name == "max_abs" else np.mean)([gap[name] for gap in gaps]))
            for name in GAPS
        },
    }


def cells(kind: str, r: Mapping[str, Any]) -> list[str]:
    """One model's row of a table."""
    s = r["summary"]
    if kind == "rollouts":
        own, other = (r["rollouts"][name]["tokens_per_s"] for name in ("alignloop", "generate"))
        return [f"{own:.0f}", f"{other:.0f}", f"{own / other:.2f}×"]
    if kind == "shares":
        return [f"{s['shares'][name]:.1%}" for name in PARTS]
    if kind == "mismatch":
        gap = s["mismatch"]
        shown = [f"{gap['mean_abs']:.1e}", f"{gap['max_abs']:.1e}", f"{gap['mean_ratio']:.4f}"]
        return [*shown, f"{gap['effective']:.4f}", f"{gap['capped']:.2%}", f"{gap['mean_weight']:.4f}"]
    seconds = [f"{s['seconds'][side]:.3f}" for side in ("trl", "alignloop")]
    memory = [f"{s['memory_gb'][side]:.1f}" for side in ("trl", "alignloop")]
    used = [f"{s['utilisation'][part]:.2f}" for part in ("update", "step")]
    return [*seconds, f"{s['speedup']:.2f}×", *memory, f"{s['memory_ratio']:.2f}×", *used]


def table(kind: str, results: Sequence[Mapping[str, Any]]) -> str:
    """One line for each model; 'not measured' where there is no result."""
    head = ["model", *HEADS[kind]]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    missing = [] if results else list(MODELS)
    lines += [f"| {r['model']} | " + " | ".join(cells(kind, r)) + " |" for r in results]
    return "\n".join([*lines, *(f"| {name} |" + " not measured |" * len(HEADS[kind]) for name in missing)])


def page(results: Sequence[Mapping[str, Any]], described: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """docs/results/gpu_rl.md."""
    where = ", ".join(f"{name} {value}" for name, value in described.items())
    return f"""# Online RL on a GPU

`python bench/gpu_rl.py --output docs/results`; {where or "no GPU was at hand"}.

{sizes["prompts"]} prompts × {sizes["completions"]} completions of {sizes["tokens"]} tokens; models and set-up
as the command's help says.

Rollouts, bfloat16 weights, against transformers' `generate`:

{table("rollouts", results)}

Whole GRPO steps at β 0.04 against TRL 1.16's trainer, and AlignLoop's utilisation of the matrix-product rate:

{table("steps", results)}

Shares of AlignLoop's step (`rest`: packing and all other Python):

{table("shares", results)}

Sampler against trainer in bfloat16, Δ in nats per token; the ratios π_trainer/π_sampler, the effective share
of samples they leave, the share of tokens above the cap of 2, and the mean weight of truncated importance
sampling:

{table("mismatch", results)}
"""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="a model's folder instead of the random ones")
    parser.add_argument("--size", choices=MODELS, action="append", help="only this random one; repeatable")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="tiny model and sizes, to try the pieces")
    for name in SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"default {SIZES[name]}")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder for gpu_rl.md and gpu_rl.json")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.set_defaults(bfloat16=True)
    return parser


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Options with the sizes that were not given."""
    options = arguments().parse_args(words)
    for name, size in (TINY_SIZES if options.tiny else SIZES).items():
        if getattr(options, name) is None:
            setattr(options, name, size)
    return options


def models(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Names and folders of the models to measure; random ones are made in `folder`."""
    if options.model:
        return {Path(options.model).name: options.model}
    if options.tiny:
        save_model(*tiny_model(), folder / "tiny")
        return {"tiny": str(folder / "tiny")}
    for size in options.size or MODELS:
        make_model(size, folder / size)
    return {size: str(folder / size) for size in options.size or MODELS}


def main() -> None:
    options = parsed()
    if options.side:
        print(json.dumps(rollout_rates(options)))
        return
    results: list[dict[str, Any]] = []
    described: dict[str, Any] = {}
    if options.device == "cpu" or torch.cuda.is_available():
        gpu = torch.cuda.get_device_name() if options.device == "cuda" else "none, tried on the CPU"
        described = {"gpu": gpu, **machine(options.threads)}
        with tempfile.TemporaryDirectory() as folder:
            for name, path in models(options, Path(folder)).items():
                options.model = path
                results.append(measured(name, options))
    else:
        print(NO_GPU)
    sizes = {name: getattr(options, name) for name in SIZES}
    text = page(results, described, sizes)
    if results:
        print(text)
    if options.output:
        write_whole(options.output / "gpu_rl.md", [text])
    if options.output and results:
        record = {"machine": described, "sizes": sizes, "results": results}
        write_whole(options.output / "gpu_rl.json", [json.dumps(record, indent=1) + "\n"])


if __name__ == "__main__":
    main()
