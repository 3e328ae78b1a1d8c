"""A planted reward hack: what a reward model with flipped labels does to a policy, and what helps.

    python bench/planted_hack.py [--method grpo|rloo|ppo] [--seeds 0 1 2] [--json]

Answers of the start model are compared by annotators who know the verifiable gold reward and report the
opposite of a quarter of their verdicts, each of other ones. From each annotator a reward model learns, on
a base of its own. The policy then learns, at the same small KL penalty, from one of them alone (single, a
run for each of the first few), the worst of all (min), mean − λ·variance (uwo), the worst of as many that
share the policy's base (one_base), or one under the guard (`keep_best: gold`, `on_alarm: rollback`).

Gold is never trained on. Every few rollouts the weights answer held-out prompts: half of the prompts choose
the peak, the other half measure it, so the highest of many noisy means does not count as the peak. `kept`
is the gold reward at the end over that at the peak; the guard's end is what it rolled back to, and its peak
that of `single`, the same run without a guard, which may recover and rise after the guard has stopped;
`kept_of_own` takes the peak until it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from safetensors.torch import load_file

from alignloop.config import resolve
from alignloop.data.columns import read_records
from alignloop.io import write_whole
from alignloop.model.generate import generate
from alignloop.model.load import LoadedModel, load_model
from alignloop.model.roles import ActorCritic
from alignloop.model.sampling import SamplingParams
from alignloop.records import Prompt
from alignloop.rl.verifiers import VERIFIERS
from alignloop.runs import Run
from alignloop.stages import common
from bench.hack_page import TARGET, drawing, page, table
from bench.hack_task import comparisons, data, make_task, reward_models
from bench.measure import machine
from bench.stages import SMALL, metric, over_seeds, run_stage

ARMS = ("single", "min", "uwo", "one_base", "guard")
DEFAULT_ARMS = ("single", "min", "uwo", "guard")
ALARM = "reward_up_gold_down"


def policy_keys(options: argparse.Namespace, root: Path, start: str, seed: int) -> dict[str, Any]:
    """What all arms share."""
    per_rollout = 4 if options.method == "ppo" else 1  # optimizer steps
    keys = {
        "model_name_or_path": start,
        "num_threads": options.threads,
        "seed": seed,
        "dataset": data(options, root, "prompts"),
        "max_new_tokens": options.tokens,
        "num_generations": options.completions,
        "rollout_prompts": options.prompts,
        "per_device_train_batch_size": options.prompts,
        "max_steps": options.steps * per_rollout,
        "learning_rate": options.learning_rate,
        "lora_r": options.lora_r,
        "kl_coef": options.kl,
        "gold": "constraints",
        "guard_window": options.window,
        "missing_eos": "replace",
        "missing_eos_value": -1.0,
        "save_steps": options.every * per_rollout,
        "save_total_limit": options.steps + 1,
    }
    more = {"kl_controller": "fixed"} if options.method == "ppo" else {}
    return keys | ({"beta": 0.0} if options.method == "grpo" else more)


def arm_keys(arm: str, number: int, models: dict[str, list[str]], coefficient: float) -> dict[str, Any]:
    """How an arm uses the reward models; `number` is the one that single and guard learn from."""
    terms = [{"model": path} for path in models["one" if arm == "one_base" else "own"]]
    if arm == "uwo":
        return {"rewards": terms, "ensemble": arm, "uwo_coefficient": coefficient}
    if arm in ("min", "one_base"):
        return {"rewards": terms, "ensemble": "min"}
    keys: dict[str, Any] = {"rewards": [terms[number]]}
    return keys | ({"keep_best": "gold", "on_alarm": "rollback"} if arm == "guard" else {})


# Gold on held-out prompts


def gold_halves(
    options: argparse.Namespace, loaded: LoadedModel, model: Any, prompts: Sequence[Prompt]
) -> tuple[float, float]:
    """Mean gold of sampled answers to the prompts that choose the peak, and to those that measure it."""
    encoder = common.inference_encoder(loaded)
    ids = [encoder.prompt(prompt.prompt).tolist() for prompt in prompts]
    params = SamplingParams(max_tokens=options.tokens, seed=0)
    done = generate(model, loaded.tokenizer, ids, params, n=options.answers)
    gold = VERIFIERS["constraints"]
    means = [
        statistics.fmean(gold(one.text.strip(), prompt) for one in answers)
        for prompt, answers in zip(prompts, done, strict=True)
    ]
    return statistics.fmean(means[::2]), statistics.fmean(means[1::2])


def held_out_curve(
    options: argparse.Namespace, run: Run, keys: dict[str, Any], prompts: Sequence[Prompt]
) -> dict[str, list[float]]:
    """`gold_halves` of the start and of a run's checkpoints, by the number of rollouts learned from."""
    config = resolve(options.method, {**keys, "output_dir": str(run.path)}).config
    prepared = common.prepare(config)
    own = dict(ActorCritic(prepared.model, peft=prepared.peft).named_parameters())
    model = prepared.peft or prepared.loaded.model
    found = [(0, *gold_halves(options, prepared.loaded, model, prompts))]
    for folder in sorted(run.checkpoints.glob("step-*")):
        for name, value in load_file(folder / "weights-model.safetensors").items():
            if name in own:  # not PPO's critic
                own[name].data.copy_(value)
        rollouts = int(folder.name.removeprefix("step-")) // (4 if options.method == "ppo" else 1)
        found.append((rollouts, *gold_halves(options, prepared.loaded, model, prompts)))
    return dict(zip(("rollouts", "choosing", "measured"), map(list, zip(*found, strict=True)), strict=True))


def outcome(
    options: argparse.Namespace, run: Run, keys: dict[str, Any], prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Held-out gold at the start, along the run and of the final model; curves; when the alarm went off."""
    loaded = load_model(str(run.path))
    curve = held_out_curve(options, run, keys, prompts)
    alarms = [int(row["rollout"]) for row in run.metrics() if row.get(f"alarm_{ALARM}")]
    results = run.record["results"]
    return {
        "held_out": curve,
        "start": curve["measured"][0],
        "end": gold_halves(options, loaded, loaded.model, prompts)[1],
        "alarm": min(alarms, default=None),
        "ended_by": results.get("ended_by"),
        "best": results.get("best"),
        "curves": {name: metric(run, name) for name in ("reward", "gold", "kl", "ensemble_spread")},
    }


def with_kept(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Adds each run's peak, chosen by one half of the prompts and measured by the other, and what is kept.

    A guarded run has two peaks: that of its whole unguarded twin, and its own until it stopped.
    """
    for arm, rows in found.items():
        unguarded = found.get("single", rows) if arm == "guard" else rows
        for row, twin in zip(rows, unguarded, strict=True):
            row["peak"], row["peak_rollouts"] = peak(twin["held_out"])
            row["kept"] = row["end"] / row["peak"] if row["peak"] else None
            own = peak(row["held_out"])[0]
            row["kept_of_own"] = row["end"] / own if own else None
    return found


def peak(curve: dict[str, list[float]]) -> tuple[float, int]:
    """Measured gold where the choosing half is highest, and after how many rollouts."""
    at = max(range(len(curve["rollouts"])), key=curve["choosing"].__getitem__)
    return curve["measured"][at], int(curve["rollouts"][at])


# Seeds


def one_seed(options: argparse.Namespace, root: Path, seed: int) -> dict[str, Any]:
    """All arms from one start and one set of annotators."""
    start = make_task(options, root, seed)
    comparisons(options, root, start, seed)
    trained = {"own": reward_models(options, root, start, seed, own_bases=True)}
    if "one_base" in options.arms:
        trained["one"] = reward_models(options, root, start, seed, own_bases=False)
    models = {kind: [str(run.path) for run in runs] for kind, runs in trained.items()}
    agreement = {
        kind: [run.record["results"]["held_out_accuracy"] for run in runs] for kind, runs in trained.items()
    }
    prompts: list[Any] = list(read_records(data(options, root, "held_out"), kind="prompt").records)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
    for arm in options.arms:
        for number in range(min(options.singles, options.members) if arm in ("single", "guard") else 1):
            name = f"{arm}-{number}"
            print(f"seed {seed}: {name} …", file=sys.stderr, flush=True)
            keys = policy_keys(options, root, start, seed)
            keys |= arm_keys(arm, number, models, options.uwo_coefficient)
            run = run_stage(options.method, root / name, **keys)
            found[arm].append(outcome(options, run, keys, prompts))
    return {"agreement": agreement, "arms": with_kept(found)}


def summary(seeds: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with 95 % t intervals, and whether the aim was reached.

    A seed counts with the mean of an arm's runs, which share the start.
    """
    result: dict[str, Any] = {}
    for arm in next(iter(seeds.values()))["arms"]:
        row: dict[str, Any] = {}
        for name in ("start", "peak", "end", "kept", "kept_of_own"):
            by_seed = [[run[name] for run in found["arms"][arm]] for found in seeds.values()]
            values = [statistics.fmean(run or 0.0 for run in runs) for runs in by_seed]
            row[name], *ends = over_seeds(values)
            row |= {f"{name}_interval": tuple(ends), f"{name}_by_seed": values}
        result[arm] = row
    single = result.get("single", {}).get("kept")
    result["single_over_optimises"] = single is not None and single < TARGET
    result["reached"] = {arm: result[arm]["kept"] >= TARGET for arm in ARMS[1:] if arm in result}
    return result


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=SMALL, help="small, trained on the spot, or a model's name")
    parser.add_argument("--start-steps", type=int, default=400, help="of the small model's training")
    parser.add_argument("--base-steps", type=int, default=250, help="the same of the reward models' bases")
    parser.add_argument("--lora-r", type=int, default=0, help="of policy and reward models; 0: all weights")
    parser.add_argument("--reward-batch", type=int, default=16, help="comparisons of an optimizer step")
    parser.add_argument("--reward-learning-rate", type=float, default=1e-3)
    parser.add_argument("--reward-epochs", type=float, default=4.0)
    parser.add_argument("--method", default="grpo", choices=["grpo", "rloo", "ppo"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(DEFAULT_ARMS), choices=ARMS)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--singles", type=int, default=3, help="runs of single and guard, each on one model")
    parser.add_argument("--flipped", type=float, default=0.25, help="share of the verdicts")
    parser.add_argument("--uwo-coefficient", type=float, default=2.0, help="λ")
    parser.add_argument("--kl", type=float, default=0.01, help="weight of the KL (k1) in every arm's reward")
    parser.add_argument("--rows", type=int, default=400, help="prompts")
    parser.add_argument("--pairs", type=int, default=1, help="comparisons of a prompt, at most")
    parser.add_argument("--held-out", type=int, default=180, help="prompts gold is measured on")
    parser.add_argument("--answers", type=int, default=3, help="to each of them")
    parser.add_argument("--prompts", type=int, default=8, help="of a rollout")
    parser.add_argument("--completions", type=int, default=8, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=32, help="longest completion")
    parser.add_argument("--steps", type=int, default=80, help="rollouts")
    parser.add_argument("--every", type=int, default=8, help="rollouts between measurements")
    parser.add_argument("--window", type=int, default=8, help="rollouts of the guard's running means")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the runs here; what is finished is used again")
    parser.add_argument("--output", type=Path, help="folder for planted_hack.md and .svg")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """All seeds."""
    seeds = {seed: one_seed(options, root / f"seed-{seed}", seed) for seed in options.seeds}
    settings = {k: v for k, v in vars(options).items() if k not in ("folder", "output", "json")}
    described = machine(options.threads)
    return {"machine": described, "settings": settings, "seeds": seeds, "summary": summary(seeds)}


def main() -> None:
    options = arguments().parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = run(options, options.folder or Path(scratch))
    if options.output:
        write_whole(options.output / "planted_hack.svg", [drawing(result["seeds"], options.window)])
        write_whole(options.output / "planted_hack.md", [page(result)])
    print(json.dumps(result, indent=1) if options.json else table(result["summary"], options.arms))


if __name__ == "__main__":
    main()
