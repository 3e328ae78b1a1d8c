"""How often SmolLM2-135M-Instruct obeys each kind of checkable instruction before any training.

    python bench/instruction_pass_rates.py MODEL_FOLDER [--prompts 12] [--samples 2] [--temperature 0.7]

Kinds between 5 % and 60 % have room in both directions; they are `QUICKSTART_KINDS`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignloop.data.instructions import instruction_kinds, instruction_prompts
from alignloop.records import Prompt
from alignloop.rl.constraints import is_answer
from alignloop.rl.verifiers import VERIFIERS

Sample = Callable[[Sequence[Prompt]], list[list[str]]]


def pass_rates(sample: Sample, *, split: str, prompts: int, kinds: Sequence[str]) -> list[dict[str, object]]:
    """One row per kind: pass rate, share of real answers, mean words, and an example."""
    rows = []
    for kind in kinds:
        records = instruction_prompts(split, prompts, seed=0, kinds=[kind])
        texts = sample(records)
        results = [
            VERIFIERS["constraints"](text, record) == 1.0
            for record, answers in zip(records, texts, strict=True)
            for text in answers
        ]
        flat = [text for answers in texts for text in answers]
        rows.append(
            {
                "kind": kind,
                "pass_rate": sum(results) / len(results),
                "answers": sum(map(is_answer, flat)) / len(flat),
                "words": sum(len(text.split()) for text in flat) / len(flat),
                "n": len(flat),
                "samples": [
                    {"prompt": record.prompt[0].content, "completion": text, "pass": ok}
                    for (record, text), ok in zip(
                        ((r, t) for r, a in zip(records, texts, strict=True) for t in a), results, strict=True
                    )
                ],
            }
        )
        print(
            f"{kind:20s} pass {rows[-1]['pass_rate']:6.1%}  real answers {rows[-1]['answers']:6.1%}"
            f"  words {rows[-1]['words']:5.1f}  n {len(flat)}",
            flush=True,
        )
    return rows


def hugging_face_sampler(path: str, *, samples: int, temperature: float, max_new_tokens: int) -> Sample:
    """A sampler on transformers' own `generate`."""
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(0)

    def sample(prompts: Sequence[Prompt]) -> list[list[str]]:
        chats = [[{"role": m.role, "content": m.content} for m in p.prompt] for p in prompts]
        texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(
                **inputs,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_new_tokens,
                num_return_sequences=samples,
                pad_token_id=tokenizer.pad_token_id,
            )
        flat = tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        return [flat[i : i + samples] for i in range(0, len(flat), samples)]

    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--split", default="train")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--kinds", nargs="*", default=list(instruction_kinds()))
    parser.add_argument("--json", help="also write rows and samples to this file")
    arguments = parser.parse_args()
    sample = hugging_face_sampler(
        arguments.model,
        samples=arguments.samples,
        temperature=arguments.temperature,
        max_new_tokens=arguments.max_new_tokens,
    )
    rows = pass_rates(sample, split=arguments.split, prompts=arguments.prompts, kinds=arguments.kinds)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    main()
