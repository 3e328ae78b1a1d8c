"""Training on a GPU against TRL: SFT, DPO and KTO of random models shaped like Qwen2.5 0.5B and 1.5B.

    python bench/gpu.py --output docs/results [--compile]

Both sides: float32 weights, bfloat16 matrix products, the same AdamW, tokens and order, no gradient
checkpointing, each in a process of its own. Prompts are longer than completions. Utilisation is the
useful work (each prompt once, nothing recomputed) by second over the measured bfloat16 matrix-product
rate. Without a GPU the table says 'not measured'.
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

import torch

from alignloop.io import write_whole
from alignloop.model.tiny import tiny_model
from bench.measure import child, machine
from bench.vs_trl import summary

MODELS: dict[str, dict[str, int]] = {
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
    },
}
"""Qwen2.5's sizes; both have 2 key heads, a vocabulary of 151 936 and tied embeddings."""
SHAPES = {"sft": "32,1,256,512", "dpo": "8,2,512,256", "kto": "16,2,512,256"}
"""groups, completions of a group, mean prompt and completion length."""
TOKEN_BUDGET = 16_384
TARGETS = {"utilisation": 0.45, "speedup": 2.0, "memory_ratio": 0.5}


def make_model(size: str, folder: Path, vocab_size: int = 151_936) -> None:
    """A random model of that size with a small tokenizer, as a folder both sides load."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        **MODELS[size],  # pyright: ignore[reportArgumentType]
        vocab_size=vocab_size,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=32_768,
        rope_theta=1_000_000.0,  # pyright: ignore[reportCallIssue]
        pad_token_id=0,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tiny_model()[1].save_pretrained(folder)


def measured(size: str, method: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides of one model and method, alternating."""
    common = [method, "--model", str(folder), "--steps", str(options.steps + 1), "--device", "cuda"]
    common += ["--shape", SHAPES[method], "--threads", str(options.threads)]
    own = [*common, "--token-budget", str(TOKEN_BUDGET), *(["--compile"] if options.compile else [])]
    ours, trl = [], []
    for _ in range(options.rounds):
        trl.append(child("bench.trl_side", common, threads=options.threads))
        ours.append(child("bench.our_side", own, threads=options.threads))
    return {"model": size, **summary(method, ours, trl)}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """One line for each model and method; 'not measured' where there is no result."""
    head = ["model", "method", "tokens/s", "utilisation", "TRL s", "AlignLoop s", "ratio", "TRL GB"]
    head += ["AlignLoop GB", "ratio", "padding", "loss difference"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    found = {(r["model"], r["method"]): r for r in results}
    for size in MODELS:
        for method in SHAPES:
            r = found.get((size, method))
            cells = ["not measured"] * (len(head) - 2) if r is None else _cells(r)
            lines.append("| " + " | ".join([size, method, *cells]) + " |")
    return "\n".join(lines)


def _cells(r: Mapping[str, Any]) -> list[str]:
    ours, trl = r["alignloop"], r["trl"]
    cells = [f"{ours['tokens_per_s']:.0f}", f"{r['flop_share']:.2f}", f"{trl['step_s']:.3f}"]
    cells += [f"{ours['step_s']:.3f}", f"{r['speedup']:.2f}×", f"{trl['peak_memory_gb']:.1f}"]
    cells += [f"{ours['peak_memory_gb']:.1f}", f"{r['memory_ratio']:.2f}×", f"{ours['padding_share']:.1%}"]
    return [*cells, f"{r['largest_loss_difference']:.1e}"]


def page(results: Sequence[Mapping[str, Any]], described: Mapping[str, Any]) -> str:
    """docs/results/gpu.md."""
    where = ", ".join(f"{name} {value}" for name, value in described.items())
    aims = "utilisation ≥ {utilisation} for SFT and DPO, DPO ≥ {speedup}× TRL, memory ≤ {memory_ratio}×"
    return f"""# Training on a GPU

`python bench/gpu.py --output docs/results`; {where or "no GPU was at hand"}.

Random models shaped like Qwen2.5; float32 weights, bfloat16 matrix products, full fine-tuning. Utilisation
is the useful work by second over the measured bfloat16 matrix-product rate: each prompt computed once, the
reference's forward pass included, nothing recomputed. Aims on an H200:
{aims.format(**TARGETS)}.

{table(results)}

Online RL on a GPU has a command of its own: `python bench/gpu_rl.py --output docs/results`
([gpu_rl.md](gpu_rl.md)).
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, action="append", help="only this one; repeatable")
    parser.add_argument("--method", choices=SHAPES, action="append", help="only this one; repeatable")
    parser.add_argument("--rounds", type=int, default=2, help="alternating runs of each side")
    parser.add_argument("--steps", type=int, default=10, help="measured steps, after one to warm up")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="torch.compile for AlignLoop's layers")
    parser.add_argument("--output", type=Path, help="folder for gpu.md and gpu.json")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    described: dict[str, Any] = {}
    if torch.cuda.is_available():
        described = {"gpu": torch.cuda.get_device_name(), **machine(options.threads)}
        for size in options.model or MODELS:
            with tempfile.TemporaryDirectory() as folder:
                make_model(size, Path(folder))
                for method in options.method or SHAPES:
                    results.append(measured(size, method, options, Path(folder)))
                    print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(results))
    if options.output:
        write_whole(options.output / "gpu.md", [page(results, described)])
    if options.output and results:
        record = {"machine": described, "shapes": SHAPES, "results": results}
        write_whole(options.output / "gpu.json", [json.dumps(record, indent=1) + "\n"])


if __name__ == "__main__":
    main()
