"""Every method in float32 and in bfloat16 on the same rows: do held-out figures differ beyond the seeds?

    python bench/bfloat16.py --out results.json [--pairs FILE] [--prompts FILE] [--seeds 5] [--write]

Full fine-tuning by the stages themselves: in bfloat16 the weights stay float32 and the matrix products run
in bfloat16. A seed draws other training rows (other rollouts) of the same files, the same for both types.
Each side's figures are its own, read in the type it trained in. `--out` is written after every run, and runs
that it holds are not repeated. `--drift` adds the losses before each of DPO's first three steps, on the texts
and on random tokens of the same lengths, also without spreading the weights (`model.precision`).

Without `--pairs` the demonstrations that come with the package are used, rejected is another prompt's;
without `--prompts` its instruction prompts, whose constraints a verifier checks.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from alignloop.objectives.base import Objective

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.io import write_whole
from alignloop.machine import release_memory
from bench.bfloat16_report import write_page
from bench.emulated_bfloat16 import emulate
from bench.measure import machine

DTYPES = ("float32", "bfloat16")
NOT_SPREAD = "bfloat16, weights as in the file"
SIDES = (*DTYPES, NOT_SPREAD)
OFFLINE = ("sft", "dpo", "ipo", "kto", "orpo", "reward")
ONLINE = ("ppo", "grpo")
RATES = {"sft": 1e-5, "orpo": 1e-5, "reward": 1e-5, "ppo": 5e-6, "grpo": 5e-6}
RATE = 5e-6
TRAINING_ROWS = 48
KINDS = ("lowercase", "no_commas", "max_words", "start_with", "quoted")


def write_rows(folder: Path, options: argparse.Namespace) -> None:
    """Training and held-out rows in every method's form, and prompts."""
    from alignloop.data.columns import read_records, write_records
    from alignloop.data.instructions import instruction_prompts
    from alignloop.judges.edits import demonstrations
    from alignloop.records import Demonstration, Label, Preference

    if options.pairs:
        pairs = [row for row in read_records(options.pairs, kind="preference").records if fits(row, options)]
    else:
        rows = [row for row in demonstrations(200, 0) if fits(row, options)]
        others = [*rows[1:], rows[0]]
        pairs = [Preference(a.prompt, a.completion, b.completion) for a, b in zip(rows, others, strict=True)]
    counts = {"train": TRAINING_ROWS, "eval": options.eval_rows}
    if len(pairs) < sum(counts.values()):
        sys.exit(
            f"{len(pairs)} pairs are within {options.max_length} tokens; {sum(counts.values())} are needed"
        )
    for name, count in counts.items():
        chosen, pairs = pairs[:count], pairs[count:]
        write_records(folder / f"{name}.jsonl", chosen)
        write_records(folder / f"{name}-sft.jsonl", [Demonstration(p.prompt, p.chosen) for p in chosen])
        labels = [
            (p.prompt, text, good) for p in chosen for text, good in ((p.chosen, True), (p.rejected, False))
        ]
        write_records(folder / f"{name}-kto.jsonl", [Label(*label) for label in labels])
    if options.prompts:
        prompts = list(read_records(options.prompts, kind="prompt").records)
        split = max(1, len(prompts) // 4)
        parts = {"train": prompts[split:], "eval": prompts[:split]}
    else:
        parts = {name: instruction_prompts(name, 64, 0, KINDS) for name in ("train", "eval")}
    for name, rows in parts.items():
        write_records(folder / f"{name}-prompts.jsonl", rows)


def fits(row: Any, options: argparse.Namespace) -> bool:
    """Whether each of a row's completions has room beside its prompt."""
    from alignloop.data.chat import load_template
    from alignloop.data.tokenize import Encoder
    from alignloop.model.load import load_skeleton

    if not hasattr(options, "encoder"):
        start = load_skeleton(options.model)
        template = load_template("tokenizer", start.tokenizer)
        options.encoder = Encoder(start.tokenizer, template, options.max_length, "drop")
    texts = [row.completion] if hasattr(row, "completion") else [row.chosen, row.rejected]
    prompt = len(options.encoder.prompt(row.prompt))
    return all(
        text and prompt + len(options.encoder.completion(text)) <= options.max_length for text in texts
    )


def run_one(method: str, dtype: str, seed: int, rows: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train once and return the held-out figures."""
    from alignloop import api
    from alignloop.config import GRPOConfig, PPOConfig, PreferenceConfig, RewardConfig, SFTConfig
    from alignloop.objectives.registry import load

    started, folder = (time.perf_counter(), time.process_time()), rows / "run"
    shutil.rmtree(folder, ignore_errors=True)
    keys: dict[str, Any] = {
        "model_name_or_path": options.model,
        "output_dir": str(folder),
        "seed": seed,
        "dtype": dtype,
        "num_threads": 1,
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch,
        "learning_rate": RATES.get(method, RATE),
        "lr_scheduler_type": "constant",
        "save_steps": 0,
    }
    if method in ONLINE:
        config: Any = {"ppo": PPOConfig, "grpo": GRPOConfig}[method](
            **keys,
            dataset=str(rows / "train-prompts.jsonl"),
            rewards=[{"verifier": "constraints"}],
            max_length=options.max_length + options.new_tokens,
            max_new_tokens=options.new_tokens,
            rollout_prompts=options.batch,
            num_generations=4,
            num_iterations=1,
        )
        run = api.run(config, load(method)())
        results = held_out(run.model, dtype, rows, options)
    else:
        form = {"sft": "-sft", "kto": "-kto"}.get(method, "")
        data: dict[str, Any] = {
            name: str(rows / f"{part}{form}.jsonl")
            for name, part in (("dataset", "train"), ("eval_dataset", "eval"))
        }
        kind: Any = {"sft": SFTConfig, "reward": RewardConfig}.get(method, PreferenceConfig)
        objective = load(method)() if kind is PreferenceConfig else None
        run = api.run(kind(**keys, **data, max_length=options.max_length), objective)
        found = run.record["results"]
        results = {name: value for name, value in found.items() if name.startswith("eval_")}
        results = {n: v for n, v in results.items() if n in ("eval_loss", "eval_accuracy", "eval_margin")}
        if method == "kto":
            results["eval_margin"] = found["eval_chosen_reward"] - found["eval_rejected_reward"]
    shutil.rmtree(folder, ignore_errors=True)
    gc.collect()
    release_memory()
    seconds = {"wall_s": time.perf_counter() - started[0], "cpu_s": time.process_time() - started[1]}
    run_of = {"method": method, "dtype": dtype, "seed": seed, "figures": results}
    return {**run_of, **seconds, "cpu": machine(1)["cpu"], "emulated": options.emulate}


def held_out(model: Path, dtype: str, rows: Path, options: argparse.Namespace) -> dict[str, float]:
    """KL from the start model in nats a completion, and mean reward, of two answers to each held-out prompt.

    The same random numbers draw for every model. The KL is the sum over an answer's tokens of the KL
    between the two models' distributions, which no single draw makes negative. Both types' weights are read
    with products of float32 (`kl_float32`) and of bfloat16 (`kl_bfloat16`).
    """
    from alignloop.data.columns import read_records
    from alignloop.model.generate import generate
    from alignloop.model.load import load_model
    from alignloop.model.sampling import SamplingParams
    from alignloop.rl.verifiers import VERIFIERS
    from alignloop.stages.common import inference_encoder

    prompts: list[Any] = list(read_records(str(rows / "eval-prompts.jsonl"), kind="prompt").records)
    prompts = prompts[: options.eval_prompts]
    loaded = load_model(model, dtype=dtype, device="cpu")
    encoder = inference_encoder(loaded)
    params = SamplingParams(max_tokens=options.new_tokens, seed=0)
    ids = [encoder.prompt(prompt.prompt).tolist() for prompt in prompts]
    answers = generate(loaded.model, loaded.tokenizer, ids, params, n=2)
    check, pairs = VERIFIERS["constraints"], list(zip(prompts, answers, strict=True))
    scores = [check(one.text.strip(), prompt) for prompt, row in pairs for one in row]
    del loaded
    texts = [(prompt, list(one.ids)) for prompt, row in zip(ids, answers, strict=True) for one in row]
    return {**divergence(model, dtype, texts, options), "gold": sum(scores) / len(scores)}


def divergence(
    model: Path, dtype: str, texts: list[tuple[list[int], list[int]]], options: argparse.Namespace
) -> dict[str, float]:
    """Mean over (prompt, completion) of the summed KL in nats, with products of each type, from the start
    that training had.

    bfloat16 reads a start whose weights are spread (`model.precision`), as training in bfloat16 does.
    A policy trained in float32 keeps its distance from it.
    """
    import torch

    from alignloop.model.load import load_model
    from alignloop.model.precision import spread_weights, training_precision

    policy, start = (load_model(name, dtype="float32", device="cpu").model for name in (model, options.model))
    if training_precision(dtype, "cpu", weights_train=True).rounds_what_trains:
        spread_weights(start)
    found = {"kl_float32": _divergence(policy, start, texts, rounded=False)}
    if dtype == "float32":
        plain = {name: value.detach().clone() for name, value in start.named_parameters()}
        spread_weights(start)
        with torch.no_grad():
            for (name, moved), to in zip(policy.named_parameters(), start.parameters(), strict=True):
                moved += to - plain[name]
    return {**found, "kl_bfloat16": _divergence(policy, start, texts, rounded=True)}


def _divergence(policy: Any, start: Any, texts: list[tuple[list[int], list[int]]], *, rounded: bool) -> float:
    import torch

    total = 0.0
    for prompt, completion in texts:
        row = torch.tensor([prompt + completion])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            logits = [one(row).logits[0, len(prompt) - 1 : -1].float() for one in (policy, start)]
        own, first = (torch.log_softmax(one, -1) for one in logits)
        total += float(((own - first) * own.exp()).sum())
    return total / len(texts)


def drift(seed: int, rows: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """DPO losses of the same pairs before each of three steps on them, of texts and of random tokens."""
    import numpy as np

    from alignloop.data.columns import read_records
    from alignloop.data.packing import Group, completion
    from alignloop.data.tokenize import tokenize
    from alignloop.model.load import load_model
    from alignloop.model.packed import PackedModel
    from alignloop.model.precision import spread_weights, training_precision
    from alignloop.objectives.dpo import DPO
    from alignloop.training.loop import Trainer, train_step
    from alignloop.training.optim import OptimizerSettings, build_optimizer
    from alignloop.training.reference import with_reference_logprobs

    rng, found, objective = np.random.default_rng(seed), [], cast("Objective", DPO())
    texts = tokenize(
        read_records(str(rows / "train.jsonl"), kind="preference").records, options.encoder
    ).groups
    texts = [texts[i] for i in rng.permutation(len(texts))[: options.batch]]

    def other(ids: np.ndarray) -> np.ndarray:
        return rng.integers(100, options.vocabulary, len(ids)).astype(np.int32)

    noise = [
        Group(other(g.prompt_ids), tuple(completion(other(c.ids)) for c in g.completions), g.index, g.values)
        for g in texts
    ]
    for name, groups in (("text", texts), ("random tokens", noise)):
        for side in SIDES:
            kind = training_precision(side.split(",")[0], "cpu", weights_train=True)
            hf = load_model(options.model, dtype="float32", device="cpu").model
            if kind.rounds_what_trains and side != NOT_SPREAD:
                spread_weights(hf)
            model = PackedModel(hf, autocast=kind.autocast)
            settings = OptimizerSettings(learning_rate=RATE, lr_scheduler_type="constant")
            trainer = Trainer(model, build_optimizer(model.parameters(), settings), settings, 3)
            ready, _ = with_reference_logprobs(groups, model, token_budget=1024)
            losses = [train_step(trainer, objective, ready).metrics["loss"] for _ in range(3)]
            found.append({"seed": seed, "data": name, "dtype": side, "losses": losses})
            del hf, model, trainer
            gc.collect()
    return found


def main() -> None:
    """Run what is missing in `--out`, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument(
        "--pairs", default="", help="preference records; the package's demonstrations if left out"
    )
    parser.add_argument("--prompts", default="", help="prompts with constraints; the package's if left out")
    parser.add_argument("--methods", nargs="+", default=[*OFFLINE, *ONLINE])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4, help="prompts of a step")
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--eval-rows", type=int, default=32)
    parser.add_argument("--eval-prompts", type=int, default=64, help="held-out prompts of the online methods")
    parser.add_argument("--drift", action="store_true", help="also DPO's first steps on random tokens")
    parser.add_argument(
        "--emulate", action="store_true", help="bfloat16 products without a processor's instructions for them"
    )
    parser.add_argument("--write", action="store_true", help="write docs/results/bfloat16.md")
    options = parser.parse_args()
    kept: dict[str, Any] = (
        json.loads(options.out.read_text("utf-8")) if options.out.exists() else {"runs": [], "drift": []}
    )
    if options.emulate:
        emulate()
    with tempfile.TemporaryDirectory() as name:
        measure(kept, Path(name), options)
    print(write_page(kept, to_docs=options.write))


def measure(kept: dict[str, Any], rows: Path, options: argparse.Namespace) -> None:
    """Add the missing runs to `kept`, which is written after each of them."""
    write_rows(rows, options)
    options.vocabulary = len(options.encoder.tokenizer)
    names = (
        "model",
        "pairs",
        "prompts",
        "steps",
        "batch",
        "max_length",
        "new_tokens",
        "eval_rows",
        "eval_prompts",
    )
    kept["settings"] = {name: getattr(options, name) for name in names} | {"rates": RATES, "rate": RATE}
    for file in ("pairs", "prompts"):
        kept["settings"][file] = Path(kept["settings"][file]).name
    kept["machine"] = machine(1)
    done = {(run["method"], run["dtype"], run["seed"]) for run in kept["runs"]}
    drifted = {row["seed"] for row in kept["drift"]}
    for seed in range(options.seeds):
        if options.drift and seed not in drifted:
            kept["drift"] += drift(seed, rows, options)
            save(options.out, kept)
        for method in options.methods:
            for dtype in DTYPES:
                if (method, dtype, seed) not in done:
                    kept["runs"].append(run_one(method, dtype, seed, rows, options))
                    save(options.out, kept)
                    print(json.dumps(kept["runs"][-1]), file=sys.stderr, flush=True)


def save(file: Path, kept: Mapping[str, Any]) -> None:
    """The results so far."""
    write_whole(file, json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
