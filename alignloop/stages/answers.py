"""Prompts with their sampled answers, as the stages `sample`, `feedback` and `best_of_n` exchange them.

A row is {"prompt": [messages], "responses": [texts], "answer"?, "constraints"?, "provenance"}.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from alignloop.data.builders import build
from alignloop.data.columns import record_to_row
from alignloop.data.files import write_whole
from alignloop.data.forms import fields_of
from alignloop.data.sources import Spec, read_rows
from alignloop.data.tokenize import Encoder
from alignloop.errors import DataError
from alignloop.model.generate import generate
from alignloop.model.load import LoadedModel
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Sampled
from alignloop.progress import Progress
from alignloop.records import Prompt, Provenance

Answered = tuple[Prompt, list[str]]
ANSWERS_FILE = "data/rows.jsonl"


def write_answers(path: Path, rows: Sequence[Answered]) -> None:
    """Write all rows at once; the file is complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for prompt, responses in rows:
        row = record_to_row(prompt) | {"responses": list(responses)}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_whole(path, lines)


def read_answers(spec: Spec) -> list[Answered]:
    """Rows with a prompt and its responses.

    Raises:
        DataError: a row without responses, or no row at all.
    """
    found: list[Answered] = []
    for row in read_rows(spec):
        responses = row.values.get("responses")
        if not isinstance(responses, list) or not all(isinstance(text, str) for text in responses):
            raise DataError(
                "expected a list of answers, as the stage 'sample' writes it",
                file=row.file,
                line=row.line,
                field="responses",
                value=responses,
            )
        values = {key: value for key, value in row.values.items() if key != "responses"}
        prompt = build("prompt", fields_of(values, {}), row.file, row.line, "unknown")
        assert isinstance(prompt, Prompt)
        found.append((prompt, responses))
    if not found:
        raise DataError("no answers to read", file=str(spec), reason="no_rows")
    return found


def answer_all(
    loaded: LoadedModel,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    *,
    n: int,
    token_budget: int,
    title: str,
) -> list[list[str]]:
    """n answers to each prompt as text, with a progress bar. → [prompt][n]"""
    ids = [encoder.prompt(prompt.prompt).tolist() for prompt in prompts]
    with Progress(len(ids) * n, description=title, unit="answer") as progress:
        done = generate(
            loaded.model,
            loaded.tokenizer,
            ids,
            params,
            n=n,
            token_budget=token_budget,
            on_done=_count(progress),
        )
    return [[sampled.text.strip() for sampled in row] for row in done]


def _count(progress: Progress) -> Callable[[int, int, Sampled], None]:
    """Moves the bar as completions end."""
    started, tokens = time.perf_counter(), 0

    def done(_prompt: int, _index: int, sampled: Sampled) -> None:
        nonlocal tokens
        tokens += len(sampled.ids)
        progress.update(progress.step + 1, tokens_per_s=tokens / (time.perf_counter() - started))

    return done


def from_model(prompt: Prompt, model: str, seed: int) -> Prompt:
    """The prompt with the sampling model's name and seed in its provenance."""
    where = prompt.provenance
    details = {**where.details, "model": model, "sampling_seed": seed}
    return replace(prompt, provenance=Provenance(where.file, where.line, where.origin, details))
