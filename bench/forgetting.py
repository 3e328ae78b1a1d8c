"""What RL makes a model forget, and what helps: demonstrations mixed in (PPO-ptx), weight interpolation.

    python bench/forgetting.py --demonstrations DEMONSTRATIONS --texts QUESTIONS [--seeds 0 1 2] [--json]

PPO without any KL penalty and with a high learning rate drives the model to obey checkable instructions,
once alone and once with an NLL term on demonstrations at each step; the weights between the start and the
first one are a third answer. Capability is what nobody trained on: perplexity of the packaged texts and of
the answers of `--texts`, the likeliest of four answers to sixty plain questions (`bench/facts.jsonl`), and,
beside them, of held-out demonstrations. All differences are paired, prompt by prompt.
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

from alignloop.data.columns import read_records, write_records
from alignloop.records import Demonstration, Document
from bench.measure import machine
from bench.stages import metric, over_seeds, run_stage, task_data

FACTS = Path(__file__).parent / "facts.jsonl"
CAPABILITIES = ("facts", "packaged_texts", "other_texts", "demonstrations")


def text_sets(options: argparse.Namespace, root: Path) -> dict[str, Path]:
    """Demonstrations to mix in, and three sets of held-out texts, as files by name."""
    names = ("mixed_in", "demonstrations", "other_texts", "packaged_texts")
    files = {name: root / f"{name}.jsonl" for name in names}
    found = read_records(options.demonstrations, kind="demonstration").records
    shown = [row for row in found if isinstance(row, Demonstration) and len(row.completion) < 1500]
    write_records(files["mixed_in"], shown[options.text_rows :])
    write_records(files["demonstrations"], [Document(r.completion) for r in shown[: options.text_rows]])
    others = read_records(options.texts, kind="demonstration").records[: options.text_rows]
    answers = [Document(row.completion) for row in others if isinstance(row, Demonstration)]
    write_records(files["other_texts"], answers)
    run = run_stage("instructions", root / "texts", content="texts", split="eval")
    packaged = read_records(str(run.path), kind="document").records
    write_records(files["packaged_texts"], packaged)
    return files


def train(options: argparse.Namespace, root: Path, name: str, seed: int, **more: Any) -> str:
    """PPO on the verifier's reward; the run's path."""
    keys = {
        "model_name_or_path": options.model,
        "dataset": str(root / "prompts"),
        "rewards": [{"verifier": "constraints"}],
        "missing_eos": "penalise",
        "missing_eos_value": 0.5,
        "rollout_prompts": options.prompts,
        "per_device_train_batch_size": options.prompts // 2,
        "num_generations": options.completions,
        "num_iterations": 2,
        "max_new_tokens": options.tokens,
        "max_steps": 4 * options.steps,
        "learning_rate": options.learning_rate,
        "critic_learning_rate": options.learning_rate,
        "critic_warmup": 1,
        "kl_coef": 0.0,
        "kl_controller": "fixed",
        "num_threads": options.threads,
        "save_steps": 0,
        "seed": seed,
    }
    return str(run_stage("ppo", root / name, **keys, **more).path)


def one_seed(options: argparse.Namespace, root: Path, seed: int) -> dict[str, Any]:
    """All models of a seed and what they can do."""
    task_data(root, num_prompts=options.rows, num_held_out=options.held_out, seed=seed)
    files = text_sets(options, root)
    models = {"start": options.model}
    for name, keys in {
        "ppo": {},
        "ppo-ptx": {"ptx_dataset": str(files["mixed_in"]), "ptx_coefficient": options.ptx},
    }.items():
        print(f"seed {seed}: {name} …", file=sys.stderr, flush=True)
        models[name] = train(options, root, name, seed, **keys)
    for share in options.shares:
        name = f"ppo-{share:g}"
        mixed = {"before": options.model, "after": models["ppo"], "share": share}
        models[name] = str(run_stage("interpolate", root / name, **mixed, num_threads=options.threads).path)
    sets: list[dict[str, Any]] = [{"kind": "instructions", "path": str(root / "held_out"), "name": "gold"}]
    sets.append({"kind": "truthfulness", "path": str(FACTS), "name": "facts"})
    sets += [{"kind": "perplexity", "path": str(files[n]), "name": n} for n in CAPABILITIES[1:]]
    run = run_stage(
        "compare",
        root / "compare",
        models=[{"model": model, "name": name} for name, model in models.items()],
        sets=sets,
        max_new_tokens=options.tokens,
        num_threads=options.threads,
        seed=seed,
    )
    rows = {row["name"].removesuffix(".mc1"): row["models"] for row in run.record["results"]["comparison"]}
    curves = {name: curves_of(root / name) for name in ("ppo", "ppo-ptx")}
    return {"metrics": {name: rows[name] for name in ("gold", *CAPABILITIES)}, "curves": curves}


def curves_of(path: Path) -> dict[str, list[float]]:
    """Reward, KL and, where there is one, the demonstrations' NLL over the rollouts."""
    from alignloop.runs import Run

    return {name: metric(Run.open(path), name) for name in ("reward", "kl", "ptx_nll", "completion_length")}


def summary(seeds: dict[int, dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean over seeds of every metric, by model, and its change from the start with a 95 % t interval."""
    metrics = [found["metrics"] for found in seeds.values()]
    found: dict[str, dict[str, dict[str, float]]] = {model: {} for model in metrics[0]["gold"]}
    for model, row in found.items():
        for name in metrics[0]:
            values = [seed[name][model]["value"] for seed in metrics]
            starts = [seed[name]["start"]["value"] for seed in metrics]
            change, low, high = over_seeds([a - b for a, b in zip(values, starts, strict=True)])
            row[name] = {"value": statistics.fmean(values), "change": change, "low": low, "high": high}
    return found


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """The summary as Markdown."""
    lines = ["| model | gold | facts | packaged texts | other texts | demonstrations |", "|---|" + "---|" * 5]
    for model, row in found.items():
        cells = [cell(row[name], 3 if name in ("gold", "facts") else 2) for name in ("gold", *CAPABILITIES)]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(found: dict[str, float], digits: int) -> str:
    """A value, and the interval of its change, or the change where all seeds have the same."""
    low, high = (f"{found[end]:+.{digits}f}" for end in ("low", "high"))
    if found["low"] != found["high"]:
        return f"{found['value']:.{digits}f} ({low} to {high})"
    return f"{found['value']:.{digits}f}" + (f" ({low})" if found["change"] else "")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--demonstrations", required=True, help="to mix in; the first are held out")
    parser.add_argument("--texts", required=True, help="questions with answers, for perplexity")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=200, help="prompts")
    parser.add_argument("--held-out", type=int, default=96, help="prompts of the gold pass rate")
    parser.add_argument("--text-rows", type=int, default=60, help="texts of each held-out set")
    parser.add_argument("--prompts", type=int, default=8, help="of a rollout")
    parser.add_argument("--completions", type=int, default=4, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=32, help="longest completion")
    parser.add_argument("--steps", type=int, default=20, help="rollouts")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="of policy and critic")
    parser.add_argument("--ptx", type=float, default=0.5, help="weight of the demonstrations' NLL per token")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.75], help="of the way to PPO")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the runs here; what is finished is used again")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """All seeds."""
    seeds = {seed: one_seed(options, root / f"seed-{seed}", seed) for seed in options.seeds}
    settings = {k: v for k, v in vars(options).items() if k not in ("folder", "json")}
    described = machine(options.threads)
    return {"machine": described, "settings": settings, "seeds": seeds, "summary": summary(seeds)}


def main() -> None:
    options = arguments().parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = run(options, options.folder or Path(scratch))
    print(json.dumps(result, indent=1) if options.json else table(result["summary"]))


if __name__ == "__main__":
    main()
