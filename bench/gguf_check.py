"""A model as a GGUF file, read again: the same greedy tokens from transformers and from llama.cpp?

    python bench/gguf_check.py [--model smollm2-135m-instruct] [--storages f32 f16] [--json]

The model answers five prompts greedily through transformers' own `generate`; so does what transformers
reads out of the GGUF file, its tokenizer included. llama.cpp is given the messages and nothing else: its
tokenizer, the file's chat template and its weights have to give the same tokens. It comes with
`pip install xllamacpp` (a wheel, nothing is compiled); without it that column says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignloop.model.load import LoadedModel
from alignloop.serve.export import export
from alignloop.serve.served import open_policy
from bench.measure import machine

PROMPTS = (
    "What is the capital of France?",
    "Write a short note about lighthouses, in three sentences.",
    "List three ways to save water at home.",
    "비는 왜 와요?",
    "def fibonacci(n): finish this function, 1234 times.",
)


def greedy(loaded: LoadedModel, tokens: int) -> list[list[int]]:
    """Ids of each answer, without the end of the turn."""
    tokenizer, answers = loaded.tokenizer, []
    for text in PROMPTS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=False,
        )
        with torch.no_grad():
            out = loaded.model.generate(  # pyright: ignore[reportCallIssue]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
            )
        new = out[0, ids.shape[1] :].tolist()
        answers.append(new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new)
    return answers


def transformers_reads(file: Path, tokens: int) -> list[list[int]]:
    """The same from the GGUF file alone."""
    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**place)
    return greedy(LoadedModel(model.eval(), tokenizer, str(file), file), tokens)


def llama_cpp_reads(file: Path, tokens: int, threads: int) -> list[list[int]] | None:
    """Ids of llama.cpp's greedy answers without the end of the turn; None where it is not installed."""
    try:
        import xllamacpp
    except ImportError:
        return None
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.warmup = 1024, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    settings = {"max_tokens": tokens, "temperature": 0.0, "logprobs": True, "top_logprobs": 1}
    answers = []
    for text in PROMPTS:
        messages = [{"role": "user", "content": text}]
        found = server.handle_chat_completions({"messages": messages, **settings})
        answers.append([token["id"] for token in found["choices"][0]["logprobs"]["content"]])
    return answers


def same(one: list[list[int]], other: list[list[int]]) -> int:
    """How many answers agree in every token."""
    return sum(a == b for a, b in zip(one, other, strict=True))


def check(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each storage: prompts whose whole answer is the model's."""
    loaded = open_policy(options.model, dtype="float32", device="cpu").loaded
    own = greedy(loaded, options.tokens)
    rows = []
    for storage in options.storages:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            file = export(options.model, Path(folder) / "out", gguf=storage).gguf
            assert file is not None
            seconds = time.perf_counter() - started
            (Path(folder) / "alone").mkdir()
            file = file.rename(Path(folder) / "alone" / file.name)
            again = transformers_reads(file, options.tokens)
            other = llama_cpp_reads(file, options.tokens, options.threads)
            rows.append(
                {
                    "storage": storage,
                    "megabytes": file.stat().st_size / 1e6,
                    "export_s": seconds,
                    "prompts": len(PROMPTS),
                    "tokens": sum(len(ids) for ids in own),
                    "transformers": same(own, again),
                    "llama_cpp": None if other is None else same(own, other),
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--storages", nargs="+", default=["f32", "f16"])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = check(options)
    if options.json:
        print(json.dumps({"machine": machine(options.threads), "rows": rows}, ensure_ascii=False))
        return
    print("| GGUF | MB | export and check | transformers | llama.cpp |\n|---|---|---|---|---|")
    for row in rows:
        other = "not installed" if row["llama_cpp"] is None else f"{row['llama_cpp']} of {row['prompts']}"
        print(
            f"| {row['storage']} | {row['megabytes']:.0f} | {row['export_s']:.0f} s "
            f"| {row['transformers']} of {row['prompts']} | {other} |"
        )


if __name__ == "__main__":
    main()
