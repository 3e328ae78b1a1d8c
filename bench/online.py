"""Best-of-n, PPO, GRPO, RLOO, DPO and iterated DPO from the same start, on checkable instructions.

    python bench/online.py [--methods ppo grpo …] [--seeds 0 1 2] [--folder FOLDER] [--json]

Every seed makes its data, a start (SFT on demonstrations), sampled answers, simulated judgements and a
reward model once. Every method then trains that start as a process of its own and is evaluated on
held-out prompts: gold pass rate, win rate against the start by gold, KL, length; minutes and peak memory
are those of the method's own training. PPO and best-of-n learn from the reward model, GRPO and RLOO from
the verifier (`--reward model` gives them the reward model too), DPO from the judgements.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.config import resolve
from alignloop.run import Run
from bench.measure import child, machine
from bench.stages import run_stage, task_data

METHODS = ("best_of_n", "ppo", "grpo", "rloo", "dpo", "iterate")


def make_start(options: argparse.Namespace, root: Path, seed: int) -> None:
    """Data, start model, judgements and reward model, in folders of the root."""
    task_data(root, num_prompts=options.rows, num_held_out=options.held_out, seed=seed)
    shared = {"seed": seed, "num_threads": options.threads}
    run_stage(
        "instructions",
        root / "demonstrations",
        content="demonstrations",
        num_rows=options.demonstrations,
        seed=seed,
    )
    run_stage(
        "sft",
        root / "start",
        model_name_or_path=options.model,
        dataset=str(root / "demonstrations"),
        learning_rate=1e-5,
        **shared,
    )
    start = {"model_name_or_path": str(root / "start"), **shared}
    run_stage(
        "sample",
        root / "answers",
        dataset=str(root / "prompts"),
        num_samples=4,
        max_new_tokens=options.tokens,
        **start,
    )
    run_stage("feedback", root / "pairs", dataset=str(root / "answers"), noise=options.noise, seed=seed)
    run_stage("reward", root / "reward", dataset=str(root / "pairs"), learning_rate=1e-5, **start)


def method_keys(options: argparse.Namespace, root: Path, method: str, seed: int) -> dict[str, Any]:
    """The keys of a method's stage."""
    start = {"model_name_or_path": str(root / "start"), "seed": seed, "num_threads": options.threads}
    prompts = {**start, "dataset": str(root / "prompts"), "max_new_tokens": options.tokens}
    if method == "dpo":
        return {**start, "dataset": str(root / "pairs"), "learning_rate": 2e-5, "rpo_alpha": 1.0}
    if method == "best_of_n":
        return {
            **prompts,
            "reward_model": str(root / "reward"),
            "n": options.completions,
            "learning_rate": 5e-6,
        }
    if method == "iterate":
        share = max(2, options.rows // 3)
        keys = {"rounds": 3, "max_prompts": share, "num_generations": 4, "learning_rate": 5e-6}
        return {**prompts, **keys, "rewards": [{"verifier": "constraints"}]}
    model = method == "ppo" or options.reward == "model"
    keys = {
        **prompts,
        "rewards": [{"model": str(root / "reward")} if model else {"verifier": "constraints"}],
        "gold": "constraints",
        "rollout_prompts": options.prompts,
        "per_device_train_batch_size": options.prompts,
        "num_generations": options.completions,
        "max_steps": options.steps,
        "learning_rate": options.learning_rate,
        "save_steps": 0,
    }
    if method == "ppo":
        keys |= {"critic_init": "reward", "critic_warmup": 1, "num_iterations": 2, "kl_coef": 0.05}
        keys |= {"max_steps": 2 * options.steps}
    return keys


def checked(options: argparse.Namespace, root: Path, method: str, seed: int) -> Any:
    """The method's configuration, resolved."""
    keys = method_keys(options, root, method, seed)
    return resolve(method, {**keys, "output_dir": str(root / method)}).config


def evaluated(options: argparse.Namespace, root: Path, method: str, seed: int) -> dict[str, Any]:
    """The method's row of the table."""
    run = Run.open(root / method)
    keys = {"dataset": str(root / "held_out"), "before": str(root / "start"), "after": str(root / method)}
    keys |= {"num_prompts": options.held_out, "max_new_tokens": options.tokens}
    keys |= {"temperature": 1.0, "seed": seed, "num_threads": options.threads}
    results = run_stage("evaluate", root / f"evaluate-{method}", **keys).record["results"]
    metrics = results["metrics"]
    return {
        "gold_before": metrics["gold_pass_rate"]["before"],
        "gold": metrics["gold_pass_rate"]["after"],
        "gold_interval": metrics["gold_pass_rate"]["after_interval"],
        "win_rate": results["win_rate"]["value"],
        "win_rate_interval": results["win_rate"]["interval"],
        "kl": metrics["kl"]["after"],
        "words": metrics["length"]["after"],
        "minutes": run.record["duration_s"] / 60,
        "peak_memory_gb": run.record["peak_memory_gb"],
    }


def one_part(options: argparse.Namespace) -> dict[str, Any]:
    """Run by the parent: the start, or one method with its evaluation, in this process."""
    root = Path(options.root)
    if options.part == "start":
        make_start(options, root, options.seed)
        return {}
    if not options.evaluate:
        keys = method_keys(options, root, options.part, options.seed)
        run_stage(options.part, root / options.part, **keys)
        return {}
    return evaluated(options, root, options.part, options.seed)


def summary(seeds: dict[int, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Mean over seeds of every number, and the least and greatest gold pass rate."""
    result: dict[str, Any] = {}
    for method in next(iter(seeds.values())):
        rows = [found[method] for found in seeds.values()]
        names = [name for name in rows[0] if not name.endswith("interval")]
        result[method] = {name: statistics.fmean(row[name] for row in rows) for name in names}
        result[method]["gold_range"] = [min(r["gold"] for r in rows), max(r["gold"] for r in rows)]
    return result


def table(found: dict[str, Any]) -> str:
    """The summary as Markdown."""
    lines = ["| method | gold before | gold | over seeds | win rate | KL | words | minutes | GB |"]
    lines.append("|---|" + "---|" * 8)
    for method, row in found.items():
        low, high = row["gold_range"]
        cells = [f"{row['gold_before']:.3f}", f"{row['gold']:.3f}", f"{low:.3f} to {high:.3f}"]
        cells += [f"{row['win_rate']:.3f}", f"{row['kl']:.2f}", f"{row['words']:.1f}"]
        cells += [f"{row['minutes']:.1f}", f"{row['peak_memory_gb']:.2f}"]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--reward", default="verifier", choices=["verifier", "model"])
    parser.add_argument("--rows", type=int, default=400, help="prompts")
    parser.add_argument("--demonstrations", type=int, default=200)
    parser.add_argument("--held-out", type=int, default=200, help="prompts of the evaluation")
    parser.add_argument("--noise", type=float, default=0.1, help="share of flipped judgements")
    parser.add_argument("--prompts", type=int, default=8, help="of a rollout")
    parser.add_argument("--completions", type=int, default=8, help="of each prompt; n of best-of-n")
    parser.add_argument("--tokens", type=int, default=64, help="longest completion")
    parser.add_argument("--steps", type=int, default=100, help="rollouts of PPO, GRPO and RLOO")
    parser.add_argument("--learning-rate", type=float, default=5e-6, help="of PPO, GRPO and RLOO")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the runs here; what is finished is used again")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--root", default="", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--evaluate", action="store_true", help=argparse.SUPPRESS)
    return parser


SHARED = ("model", "reward", "rows", "demonstrations", "held_out", "noise", "prompts", "completions")
SHARED += ("tokens", "steps", "learning_rate", "threads")


def compare(options: argparse.Namespace, root: Path) -> dict[int, dict[str, dict[str, Any]]]:
    """All methods of all seeds, each in processes of its own."""
    shared = [text for w in SHARED for text in (f"--{w.replace('_', '-')}", str(getattr(options, w)))]

    def part(name: str, seed: int, *more: str) -> Any:
        call = [*shared, "--part", name, "--seed", str(seed), "--root", str(root / f"seed-{seed}"), *more]
        print(f"seed {seed}: {name} {' '.join(more)}…", file=sys.stderr, flush=True)
        return child("bench.online", call, threads=options.threads)

    seeds: dict[int, dict[str, dict[str, Any]]] = {}
    for seed in options.seeds:
        part("start", seed)
        seeds[seed] = {}
        for method in options.methods:
            part(method, seed)
            seeds[seed][method] = part(method, seed, "--evaluate")
    return seeds


def main() -> None:
    options = arguments().parse_args()
    if options.part:
        print(json.dumps(one_part(options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        seeds = compare(options, options.folder or Path(scratch))
    result = {"machine": machine(options.threads), "seeds": seeds, "summary": summary(seeds)}
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(table(result["summary"]))


if __name__ == "__main__":
    main()
