"""Rollouts: AlignLoop's local engine against transformers' `generate` and continuous batching.

    python bench/rollouts.py [--model smollm2-135m-instruct] [--rounds 3] [--threads 2] [--json]

P prompts × n completions, sampled at temperature 1 from the whole vocabulary, twice: every
completion exactly `--tokens` long, and with natural ends up to `--longest`. The engines take turns,
so that a busy moment of the machine hits all of them; medians of tokens per second are compared,
tokens counted up to and including each completion's end token. Prompts are prepared beforehand.
`--no-continuous` leaves out transformers' continuous batching.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.model.generate import generate
from alignloop.model.load import LoadedModel, load_model
from alignloop.model.sampling import SamplingParams
from bench.measure import machine

Counter = Callable[[bool], int]
"""Runs one engine, with exact (True) or natural lengths, and returns the number of tokens."""

FACTS = (
    "A river begins where rain and melting snow gather faster than the ground can take them in. "
    "On its way it carries sand and stones, wears valleys into the rock, and leaves fertile soil on "
    "the plains it floods. Towns grew at fords and river mouths, because boats were long the cheapest "
    "way to move grain, timber and stone. Mills used the current to grind and to saw; later dams "
    "turned it into electricity and kept water back for dry months. Straightened rivers flow faster "
    "and flood the towns below them more often, so some countries give them room again: dikes are "
    "moved back, old arms are reconnected, and meadows may be under water for some weeks each spring."
)
QUESTIONS = (
    "Name one thing a river carries, in a few words.",
    "Why did towns grow at river mouths? Answer in one or two sentences.",
    "List three uses of a river.",
    "Summarise the text for a child of ten years.",
    "What is a dam good for?",
    "Which countermeasure against floods does the text mention?",
    "Give the text a title.",
    "Is a straightened river slower or faster? Explain.",
)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model, dtype="float32", device="cpu")
    prompts = prompt_ids(loaded, options.prompts)
    model, n = loaded.model, options.completions
    engines: dict[str, Counter] = {
        "alignloop": lambda exact: run_alignloop(loaded, prompts, n, options, exact),
        "generate": lambda exact: run_generate(loaded, prompts, n, options, exact),
    }
    if options.continuous:
        engines["continuous"] = lambda exact: run_continuous(loaded, prompts, n, options, exact)
    results = {
        name: compare(engines, exact, options.rounds)
        for name, exact in (("exact_lengths", True), ("natural_lengths", False))
    }
    report = {
        "machine": machine(torch.get_num_threads()),
        "model": options.model,
        "prompts": len(prompts),
        "completions": n,
        "prompt_tokens": [len(prompt) for prompt in prompts],
        "tokens": options.tokens,
        "longest": options.longest,
        "results": results,
        "outside_model_share": outside_share(model, engines["alignloop"]),
    }
    if options.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show(report)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--completions", type=int, default=8, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="length of a completion, exact lengths")
    parser.add_argument("--longest", type=int, default=128, help="bound of a completion, natural lengths")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--continuous", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def prompt_ids(loaded: LoadedModel, number: int) -> list[list[int]]:
    """Chat prompts of about 180 tokens, no two alike."""
    conversations = [
        [{"role": "user", "content": f"{FACTS}\n\n{QUESTIONS[index % len(QUESTIONS)]}"}]
        for index in range(number)
    ]
    render = loaded.tokenizer.apply_chat_template
    return [
        list(render(conversation, add_generation_prompt=True, return_dict=True)["input_ids"])
        for conversation in conversations
    ]


def run_alignloop(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], n: int, options: argparse.Namespace, exact: bool
) -> int:
    params = SamplingParams(
        max_tokens=options.tokens if exact else options.longest,
        eos=() if exact else None,
        seed=time.time_ns(),
    )
    result = generate(loaded.model, loaded.tokenizer, prompts, params, n=n)
    return sum(len(sampled.ids) for row in result for sampled in row)


def run_generate(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], n: int, options: argparse.Namespace, exact: bool
) -> int:
    tokenizer = loaded.tokenizer
    batch = tokenizer.pad(
        {"input_ids": [list(prompt) for prompt in prompts for _ in range(n)]},
        padding_side="left",
        return_tensors="pt",
    ).to(loaded.model.device)
    output = loaded.model.generate(**batch, **_settings(loaded, options, exact))
    new = output[:, batch["input_ids"].shape[1] :]
    if exact:
        return new.numel()
    ended = (new == tokenizer.eos_token_id).cumsum(-1)
    return int((ended - (new == tokenizer.eos_token_id).int() == 0).sum())


def run_continuous(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], n: int, options: argparse.Namespace, exact: bool
) -> int:
    settings = _settings(loaded, options, exact)
    settings.pop("min_new_tokens")
    if exact:
        settings["eos_token_id"] = -1
    implementation = loaded.model.config._attn_implementation
    output = loaded.model.generate_batch(
        inputs=[list(prompt) for prompt in prompts for _ in range(n)],
        generation_config=GenerationConfig(**settings),
        # Left alone it reserves most of the machine's memory and spends the time of the run on that.
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=128, max_batch_tokens=2048),
        progress_bar=False,
    )
    loaded.model.set_attn_implementation(implementation)
    return sum(len(request.generated_tokens) for request in output.values())


def _settings(loaded: LoadedModel, options: argparse.Namespace, exact: bool) -> dict:
    longest = options.tokens if exact else options.longest
    return {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "max_new_tokens": longest,
        "min_new_tokens": longest if exact else 1,
        "eos_token_id": loaded.tokenizer.eos_token_id,
        "pad_token_id": loaded.tokenizer.pad_token_id,
    }


def compare(engines: dict[str, Counter], exact: bool, rounds: int) -> dict[str, dict]:
    """Tokens per second of each engine over alternating rounds, after one that is not counted."""
    measured: dict[str, list[tuple[int, float]]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        for name, run in engines.items():
            start = time.perf_counter()
            tokens = run(exact)
            if turn:
                measured[name].append((tokens, time.perf_counter() - start))
    speeds = {name: statistics.median(t / s for t, s in runs) for name, runs in measured.items()}
    return {
        name: {
            "tokens_per_s": round(speeds[name], 1),
            "seconds": round(statistics.median(s for _, s in runs), 2),
            "runs": [{"tokens": t, "seconds": round(s, 2)} for t, s in runs],
            "alignloop_is_faster_by": round(speeds["alignloop"] / speeds[name], 2),
        }
        for name, runs in measured.items()
    }


def outside_share(model: PreTrainedModel, run: Counter) -> float:
    """Share of a run spent outside the model's forward pass: scheduling, sampling, text."""
    inside, began = 0.0, 0.0

    def before(*_: object) -> None:
        nonlocal began
        began = time.perf_counter()

    def after(*_: object) -> None:
        nonlocal inside
        inside += time.perf_counter() - began

    hooks = [model.register_forward_pre_hook(before), model.register_forward_hook(after)]
    start = time.perf_counter()
    run(True)
    total = time.perf_counter() - start
    for hook in hooks:
        hook.remove()
    return round(1 - inside / total, 3)


def show(report: dict) -> None:
    print("  ".join(f"{key} {value}" for key, value in report["machine"].items()))
    print(
        f"{report['model']}: {report['prompts']} prompts of {min(report['prompt_tokens'])}"
        f"-{max(report['prompt_tokens'])} tokens, {report['completions']} completions each"
    )
    for name, engines in report["results"].items():
        bound = f"{report['tokens']} tokens" if name == "exact_lengths" else f"at most {report['longest']}"
        print(f"\n{name.replace('_', ' ')} ({bound})")
        for engine, row in engines.items():
            print(
                f"  {engine:11s} {row['tokens_per_s']:8.1f} tokens/s  {row['seconds']:7.2f} s"
                f"  alignloop is faster by {row['alignloop_is_faster_by']:.2f}"
            )
    print(f"\noutside the model: {report['outside_model_share']:.1%} of alignloop's time")


if __name__ == "__main__":
    sys.exit(main())
