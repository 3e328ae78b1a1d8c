"""Best-of-n, PPO, GRPO, RLOO, DPO and iterated DPO from the same start, on checkable instructions.

    python bench/online.py [--methods ppo grpo …] [--seeds 0 1 2] [--folder FOLDER] [--json]

Every seed makes its data, a start (SFT on demonstrations), sampled answers and simulated judgements once.
Every method then trains that start as a process of its own and is evaluated on held-out prompts: gold pass
rate, win rate against the start by gold, KL, length. DPO learns from the judgements, all others from the
verifier, or with `--reward model` from a reward model of those judgements. Minutes are processor time of
the method's own process, so that a busy machine does not count; peak memory is that process's too.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.config import resolve
from alignloop.io import write_whole
from alignloop.runs import Run
from bench.measure import child, machine
from bench.picture import picture
from bench.stages import SMALL, metric, over_seeds, run_stage, running_mean, small_task, task_data

METHODS = ("best_of_n", "ppo", "grpo", "rloo", "dpo", "iterate")


def start_path(options: argparse.Namespace, root: Path) -> str:
    """The model that every method starts from."""
    return str(root / ("small-start" if options.model == SMALL else "start"))


def data(options: argparse.Namespace, root: Path, name: str) -> Path:
    """A file or run folder of prompts."""
    return root / (f"{name}.jsonl" if options.model == SMALL else name)


def make_start(options: argparse.Namespace, root: Path, seed: int) -> None:
    """Data, start model, judgements and perhaps a reward model, in folders of the root."""
    shared = {"seed": seed, "num_threads": options.threads}
    sizes = {"num_prompts": options.rows, "num_held_out": options.held_out, "seed": seed}
    if options.model == SMALL:
        small_task(root, **sizes, steps=options.start_steps)
    else:
        task_data(root, **sizes)
        rows = {"content": "demonstrations", "num_rows": options.demonstrations}
        run_stage("instructions", root / "demonstrations", **rows, seed=seed)
        keys = {"model_name_or_path": options.model, "dataset": str(root / "demonstrations")}
        run_stage("sft", root / "start", **keys, learning_rate=1e-5, **shared)
    start = {"model_name_or_path": start_path(options, root), **shared}
    run_stage(
        "sample",
        root / "answers",
        dataset=str(data(options, root, "prompts")),
        num_samples=4,
        max_new_tokens=options.tokens,
        **start,
    )
    run_stage("feedback", root / "pairs", dataset=str(root / "answers"), noise=options.noise, seed=seed)
    if options.reward == "model":
        run_stage("reward", root / "reward", dataset=str(root / "pairs"), learning_rate=1e-5, **start)


def method_keys(options: argparse.Namespace, root: Path, method: str, seed: int) -> dict[str, Any]:
    """The keys of a method's stage."""
    start = {"model_name_or_path": start_path(options, root), "seed": seed, "num_threads": options.threads}
    prompts = {**start, "dataset": str(data(options, root, "prompts")), "max_new_tokens": options.tokens}
    if method == "dpo":
        return {
            **start,
            "dataset": str(root / "pairs"),
            "learning_rate": options.offline_rate,
            "rpo_alpha": 1.0,
        }
    model = options.reward == "model"
    rewards = [{"model": str(root / "reward")} if model else {"verifier": "constraints"}]
    if method == "best_of_n":
        judge = str(root / "reward") if model else "gold"
        return {
            **prompts,
            "reward_model": judge,
            "n": options.completions,
            "learning_rate": options.offline_rate,
        }
    if method == "iterate":
        share = max(2, options.rows // 3)
        keys = {"rounds": 3, "max_prompts": share, "num_generations": options.completions}
        return {**prompts, **keys, "learning_rate": options.offline_rate / 2, "rewards": rewards}
    keys = {
        **prompts,
        "rewards": rewards,
        "gold": "constraints",
        "rollout_prompts": options.prompts,
        "per_device_train_batch_size": options.prompts,
        "num_generations": options.completions,
        "max_steps": options.steps,
        "learning_rate": options.learning_rate,
        "save_steps": 0,
    }
    if method == "ppo":
        keys |= {"critic_init": "reward" if model else "policy", "critic_warmup": 1, "num_iterations": 2}
        keys |= {"kl_coef": 0.05, "max_steps": 2 * options.steps}
        keys |= {"critic_learning_rate": options.critic_rate}
    return keys


def checked(options: argparse.Namespace, root: Path, method: str, seed: int) -> Any:
    """The method's configuration, resolved."""
    keys = method_keys(options, root, method, seed)
    return resolve(method, {**keys, "output_dir": str(root / method)}).config


def evaluated(options: argparse.Namespace, root: Path, method: str, seed: int) -> dict[str, Any]:
    """The method's row of the table."""
    run = Run.open(root / method)
    keys = {
        "dataset": str(data(options, root, "held_out")),
        "before": start_path(options, root),
        "after": str(root / method),
    }
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
        "minutes": json.loads((root / f"{method}.json").read_text(encoding="utf-8"))["minutes"],
        "peak_memory_gb": run.record["peak_memory_gb"],
        "curves": {name: metric(run, name) for name in ("gold", "kl", "completion_length")},
    }


def one_part(options: argparse.Namespace) -> dict[str, Any]:
    """Run by the parent: the start, or one method with its evaluation, in this process."""
    root = Path(options.root)
    if options.part == "start":
        make_start(options, root, options.seed)
        return {}
    if not options.evaluate:
        keys, note = method_keys(options, root, options.part, options.seed), root / f"{options.part}.json"
        run_stage(options.part, root / options.part, **keys)
        if not note.exists():  # else the finished run was only looked at
            write_whole(note, [json.dumps({"minutes": time.process_time() / 60})])
        return {}
    return evaluated(options, root, options.part, options.seed)


def summary(seeds: dict[int, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Mean over seeds of every number, and 95 % intervals: of the rise of the gold pass rate (t over seeds),
    and of the win rate over all prompts of these seeds' models, which says nothing about other seeds."""
    result: dict[str, Any] = {}
    for method in next(iter(seeds.values())):
        rows = [found[method] for found in seeds.values()]
        names = [name for name in rows[0] if not name.endswith("interval") and name != "curves"]
        result[method] = {name: statistics.fmean(row[name] for row in rows) for name in names}
        result[method]["rise_interval"] = over_seeds([r["gold"] - r["gold_before"] for r in rows])[1:]
        widths = [high - low for low, high in (row["win_rate_interval"] for row in rows)]
        half = math.hypot(*widths) / 2 / len(rows)  # independent prompts, so the variances add up
        mean = result[method]["win_rate"]
        result[method]["win_rate_interval"] = (mean - half, mean + half)
    return result


def table(found: dict[str, Any]) -> str:
    """The summary as Markdown."""
    head = (
        "| method | gold before | gold | rise, 95 % over seeds | win rate, 95 % over prompts | KL | words |"
    )
    head += " minutes | GB |"
    lines = [head, "|---|" + "---|" * 8]
    for method, row in found.items():
        low, high = row["rise_interval"]
        cells = [f"{row['gold_before']:.3f}", f"{row['gold']:.3f}", f"{low:+.3f} to {high:+.3f}"]
        low, high = row["win_rate_interval"]
        cells += [f"{row['win_rate']:.3f} [{low:.3f}, {high:.3f}]", f"{row['kl']:.2f}", f"{row['words']:.1f}"]
        cells += [f"{row['minutes']:.1f}", f"{row['peak_memory_gb']:.2f}"]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def drawing(seeds: dict[int, dict[str, dict[str, Any]]]) -> str:
    """Gold reward and KL of the rollouts, averaged over the seeds, where a method makes rollouts."""
    plots = []
    for title, name in (("Gold reward of the rollouts", "gold"), ("KL to the start, nats per answer", "kl")):
        lines = {}
        for method in next(iter(seeds.values())):
            rows = [running_mean(found[method]["curves"][name], 5) for found in seeds.values()]
            if all(rows):
                means = [statistics.fmean(values) for values in zip(*rows, strict=False)]
                lines[method] = [(float(step), value) for step, value in enumerate(means, 5)]
        plots.append((title, "rollouts", lines))
    return picture(plots)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="or small, trained on the spot")
    parser.add_argument("--start-steps", type=int, default=200, help="of the small model's training")
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
    parser.add_argument("--critic-rate", type=float, default=9e-6, help="learning rate of PPO's critic")
    parser.add_argument(
        "--offline-rate", type=float, default=2e-5, help="of best-of-n and DPO; iterated: half"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the runs here; what is finished is used again")
    parser.add_argument("--picture", type=Path, help="write the curves of the rollouts as SVG")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--root", default="", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--evaluate", action="store_true", help=argparse.SUPPRESS)
    return parser


SHARED = ("model", "reward", "rows", "demonstrations", "held_out", "noise", "prompts", "completions")
SHARED += ("tokens", "steps", "learning_rate", "critic_rate", "offline_rate", "start_steps", "threads")


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
    settings = {k: v for k, v in vars(options).items() if k in (*SHARED, "methods", "seeds")}
    described = machine(options.threads)
    result = {"machine": described, "settings": settings, "seeds": seeds, "summary": summary(seeds)}
    if options.picture:
        write_whole(options.picture, [drawing(seeds)])
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(table(result["summary"]))


if __name__ == "__main__":
    main()
