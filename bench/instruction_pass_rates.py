"""How often a model obeys each kind of checkable instruction before any training.

    python bench/instruction_pass_rates.py [--model smollm2-135m-instruct] [--split eval] [--json FILE]

Kinds between 5 % and 60 % leave room in both directions; for SmolLM2-135M-Instruct at temperature 0.7
they are `QUICKSTART_KINDS`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alignloop.data.instructions import instruction_kinds, instruction_prompts
from alignloop.evaluation.bootstrap import rate_interval
from alignloop.model.generate import generate
from alignloop.model.load import load_model
from alignloop.model.sampling import SamplingParams
from alignloop.records import Prompt, message_rows
from alignloop.rl.constraints import is_answer
from alignloop.rl.verifiers import VERIFIERS

Sample = Callable[[Sequence[Prompt]], list[list[str]]]


def pass_rate(prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Pass rate of one kind with its 95 % interval, and everything it rests on."""
    rows = [
        {
            "prompt": prompt.prompt[0].content,
            "constraints": prompt.constraints,
            "completion": text,
            "pass": VERIFIERS["constraints"](text, prompt) == 1.0,
        }
        for prompt, texts in zip(prompts, answers, strict=True)
        for text in texts
    ]
    rate = rate_interval([float(row["pass"]) for row in rows], [row["prompt"] for row in rows])
    return {
        "pass_rate": rate.value,
        "interval": [rate.low, rate.high],
        "real_answers": sum(is_answer(row["completion"]) for row in rows) / len(rows),
        "words": sum(len(row["completion"].split()) for row in rows) / len(rows),
        "completions": len(rows),
        "samples": rows,
    }


def sampler(model: str, *, samples: int, temperature: float, max_tokens: int) -> Sample:
    """Answers from the local engine."""
    loaded = load_model(model)
    params = SamplingParams(temperature=temperature, max_tokens=max_tokens)

    def sample(prompts: Sequence[Prompt]) -> list[list[str]]:
        chats = [message_rows(prompt.prompt) for prompt in prompts]
        texts = [
            str(loaded.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
            for chat in chats
        ]
        ids = [loaded.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        answers = generate(loaded.model, loaded.tokenizer, ids, params, n=samples)
        return [[answer.text for answer in group] for group in answers]

    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--split", default="train", choices=["train", "eval"])
    parser.add_argument("--prompts", type=int, default=24, help="prompts per kind")
    parser.add_argument("--samples", type=int, default=2, help="completions per prompt")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--kinds", nargs="*", default=list(instruction_kinds()))
    parser.add_argument("--json", type=Path, help="write results and samples to this file")
    options = parser.parse_args()
    sample = sampler(
        options.model,
        samples=options.samples,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
    )
    results = {}
    for kind in options.kinds:
        prompts = instruction_prompts(options.split, options.prompts, 0, [kind])
        results[kind] = found = pass_rate(prompts, sample(prompts))
        low, high = found["interval"]
        print(
            f"{kind:20s} pass {found['pass_rate']:6.1%} [{low:5.1%}, {high:5.1%}]"
            f"  real answers {found['real_answers']:6.1%}  words {found['words']:5.1f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(results, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
