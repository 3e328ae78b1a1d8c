"""Training steps against TRL: time, memory and losses on the same model, data and settings.

    python bench/vs_trl.py dpo --rounds 3 --steps 10 --json
    python bench/vs_trl.py all
    python bench/vs_trl.py ipo --output docs/results/vs_trl.json   # its row replaced, the others kept

Each round runs TRL's trainer, then AlignLoop's, each in a process of its own; the first step of a
process is a warm-up. Both train in float32 with the same threads, the same AdamW, without dropout,
gradient checkpointing, logging or saving, on the same token ids in the same order, so their losses
must agree. `cpu` is processor time of the step: on a machine that is not idle it says more than the
wall clock. `padding` is the share of the computed tokens that are padding or a prompt computed again
(aim: at most 5 % on these skewed lengths). The extra `bench` brings TRL.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.io import write_whole
from bench.measure import child, machine
from bench.workload import METHODS

TARGETS = {
    "sft": (3.0, 0.5),
    "sft-packed": (2.0, 0.5),
    "reward": (2.2, 0.6),
    "dpo": (4.0, 0.45),
    "ipo": (4.0, 0.45),
    "orpo": (3.0, 0.5),
    "kto": (3.0, 0.5),
    "kto-cached": (3.5, 0.5),
    "dpo-lora": (3.5, 0.5),
    "ranking": (6.0, None),
    "grpo": (5.0, 0.5),
}
"""Least speed ratio and greatest memory ratio aimed at."""
LOSS_TOLERANCE = 1e-3


def side(name: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """What one side (`trl` or `our`) measured in a process of its own."""
    arguments = [method, "--model", options.model, "--steps", str(options.steps + 1)]
    arguments += [
        "--seed",
        str(options.seed),
        "--threads",
        str(options.threads),
        "--scale",
        str(options.scale),
    ]
    if name == "our":
        arguments += ["--token-budget", str(options.token_budget)]
    return child(f"bench.{name}_side", arguments, threads=options.threads)


def measured(rounds: Sequence[Mapping[str, Any]], name: str) -> float:
    """Median over rounds of the median over the steps after the warm-up."""
    return statistics.median(statistics.median(r[name][1:]) for r in rounds)


def summary(method: str, ours: Sequence[dict[str, Any]], trl: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians, ratios round by round, loss agreement and achieved FLOP rate."""
    sides = {}
    tokens = statistics.mean(ours[0]["useful_tokens"][1:])
    for name, rounds in (("alignloop", ours), ("trl", trl)):
        sides[name] = {
            "step_s": measured(rounds, "step_s"),
            "step_cpu_s": measured(rounds, "step_cpu_s"),
            "peak_memory_gb": statistics.median(r["peak_memory_gb"] for r in rounds),
            "losses": rounds[0]["losses"],
        }
        sides[name]["tokens_per_s"] = tokens / sides[name]["step_s"]
        sides[name]["padding_share"] = 1 - sum(ours[0]["useful_tokens"][1:]) / sum(
            rounds[0]["computed_tokens"][1:]
        )
    ratios = {
        "wall": [_ratio(t, o, "step_s") for t, o in zip(trl, ours, strict=True)],
        "cpu": [_ratio(t, o, "step_cpu_s") for t, o in zip(trl, ours, strict=True)],
        "memory": [o["peak_memory_gb"] / t["peak_memory_gb"] for t, o in zip(trl, ours, strict=True)],
    }
    differences = [
        abs(a - b)
        for o, t in zip(ours, trl, strict=True)
        for a, b in zip(o["losses"], t["losses"], strict=True)
    ]
    rates = [_flop_share(o) for o in ours]
    speed, memory = TARGETS.get(method, (None, None))
    return {
        "method": method,
        **sides,
        "ratios": ratios,
        "speedup": statistics.median(ratios["wall"]),
        "speedup_cpu": statistics.median(ratios["cpu"]),
        "memory_ratio": statistics.median(ratios["memory"]),
        "target_speedup": speed,
        "target_memory_ratio": memory,
        "largest_loss_difference": max(differences),
        "losses_agree": max(differences) <= LOSS_TOLERANCE,
        "useful_tokens_per_step": tokens,
        "flop_share": statistics.median(share for share, _ in rates),
        "flop_share_cpu": statistics.median(share for _, share in rates),
        "flop_share_of_mkl": statistics.median(
            share * o["matmul_flops_per_s"] / o["mkl_flops_per_s"]
            for (share, _), o in zip(rates, ours, strict=True)
        ),
        "matmul_gflops_per_s": statistics.median(o["matmul_flops_per_s"] for o in ours) / 1e9,
    }


def _ratio(trl: Mapping[str, Any], ours: Mapping[str, Any], name: str) -> float:
    """Time of all steps after the warm-up: TRL's over AlignLoop's."""
    return sum(trl[name][1:]) / sum(ours[name][1:])


def _flop_share(ours: Mapping[str, Any]) -> tuple[float, float]:
    """Useful FLOP/s over the measured matrix-product rate, by wall clock and by processor time."""
    work = sum(ours["useful_flops"][1:])
    wall = work / sum(ours["step_s"][1:]) / ours["matmul_flops_per_s"]
    cpu = work / sum(ours["step_cpu_s"][1:]) / ours["matmul_flops_per_cpu_s"]
    return wall, cpu


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """The results as a Markdown table."""
    head = ["method", "TRL s", "AlignLoop s", "ratio", "CPU ratio", "target", "TRL GB", "AlignLoop GB"]
    head += [
        "ratio",
        "target",
        "tokens/s",
        "FLOP share",
        "of MKL's",
        "TRL padding",
        "padding",
        "loss difference",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in results:
        ours, trl = r["alignloop"], r["trl"]
        speed, memory = r["target_speedup"], r["target_memory_ratio"]
        cells = [r["method"], f"{trl['step_s']:.2f}", f"{ours['step_s']:.2f}", f"{r['speedup']:.2f}×"]
        cells += [f"{r['speedup_cpu']:.2f}×", f"≥ {speed:.1f}×" if speed else "–"]
        cells += [
            f"{trl['peak_memory_gb']:.2f}",
            f"{ours['peak_memory_gb']:.2f}",
            f"{r['memory_ratio']:.2f}×",
        ]
        cells += [f"≤ {memory:.2f}×" if memory else "–", f"{ours['tokens_per_s']:.0f}"]
        cells += [f"{r['flop_share']:.2f}", f"{r['flop_share_of_mkl']:.2f}"]
        cells += [f"{trl['padding_share']:.1%}", f"{ours['padding_share']:.1%}"]
        cells += [f"{r['largest_loss_difference']:.1e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def keep(file: Path, described: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Write the results to a file beside those of other methods in it, and return them all."""
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"results": []}
    new = {result["method"]: {**result, "machine": dict(described)} for result in results}
    rows = {row["method"]: row for row in record["results"]} | new
    record = {**record, "machine": dict(described), "results": list(rows.values())}
    write_whole(file, [json.dumps(record, indent=1) + "\n"])
    return record["results"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=[*METHODS, "all"])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=3, help="alternating runs of each side")
    parser.add_argument("--steps", type=int, default=10, help="measured steps, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--token-budget", type=int, default=1024, help="AlignLoop's tokens per pass; less needs less memory"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all lengths, for a quick try")
    parser.add_argument("--output", type=Path, help="JSON file that keeps the newest result of each method")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for method in METHODS if options.method == "all" else [options.method]:
        ours, trl = [], []
        for number in range(options.rounds):
            print(f"{method}: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            trl.append(side("trl", method, options))
            ours.append(side("our", method, options))
        results.append(summary(method, ours, trl))
        print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    described = machine(options.threads) | {"trl": version("trl")}
    agree = all(result["losses_agree"] for result in results)
    if options.output:
        results = keep(options.output, described, results)
    if options.json:
        print(json.dumps({"machine": described, "results": results}, indent=1))
    else:
        print(", ".join(f"{name} {value}" for name, value in described.items()))
        print(table(results))
    if not agree:
        sys.exit(1)


if __name__ == "__main__":
    main()
