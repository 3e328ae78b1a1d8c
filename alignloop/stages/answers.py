"""Prompts with their sampled answers, as the stages `sample`, `feedback` and `best_of_n` exchange them.

A row is {"prompt": [messages], "responses": [texts], "answer"?, "constraints"?, "provenance"}.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from alignloop.data.builders import build
from alignloop.data.columns import record_to_row
from alignloop.data.forms import fields_of
from alignloop.data.sources import Spec, read_rows
from alignloop.data.tokenize import Encoder
from alignloop.errors import DataError
from alignloop.io import write_whole
from alignloop.model.generate import generate
from alignloop.model.load import LoadedModel
from alignloop.model.sampling import SamplingParams, completion_seeds
from alignloop.model.scheduler import Sampled
from alignloop.progress import SamplingProgress
from alignloop.records import Prompt, Provenance
from alignloop.stages.unfinished import Kept
from alignloop.training.distributed import any_rank, gathered, share, world

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
    kept: Kept | None = None,
) -> list[list[str]]:
    """n answers to each prompt as text, with a progress bar. → [prompt][n]"""
    done = sample_all(
        loaded, encoder, prompts, params, n=n, token_budget=token_budget, title=title, kept=kept
    )
    return [[sampled.text.strip() for sampled in row] for row in done]


def sample_all(
    loaded: LoadedModel,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    *,
    n: int,
    token_budget: int,
    title: str,
    seeds: Sequence[Sequence[int]] | None = None,
    kept: Kept | None = None,
) -> list[list[Sampled]]:
    """n completions of each prompt, with a progress bar; see `model.generate`.

    Args:
        loaded: the model.
        encoder: prompts to tokens.
        prompts: what is asked.
        params: how tokens are drawn.
        n: completions of each prompt.
        token_budget: tokens in flight at once.
        title: of the bar.
        seeds: a seed for each completion, [prompt][n]; derived from `params.seed` if None.
        kept: saves the unfinished generation, and knows what an earlier process saved.

    Returns:
        [prompt][n] completions.
    """
    ids = [encoder.prompt(prompt.prompt).tolist() for prompt in prompts]
    begun = None if kept is None else kept.begun()
    ended = 0 if begun is None else len(begun.state["done"])
    with SamplingProgress(len(ids) * n, params.max_tokens, description=title, ended=ended) as progress:
        done = generate(
            loaded.model,
            loaded.tokenizer,
            ids,
            params,
            n=n,
            seeds=seeds,
            token_budget=token_budget,
            on_done=lambda _prompt, _index, sampled: progress.ended(len(sampled.ids)),
            on_step=progress.drew,
            begun=begun,
            keep=None if kept is None else kept.keep,
        )
    whole = encoder.template.whole_text
    return [[replace(one, text=whole(one.text)) for one in found] for found in done]


def sample_over_ranks(
    loaded: LoadedModel,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    *,
    n: int,
    token_budget: int,
    title: str,
    kept: Kept,
) -> list[list[Sampled]]:
    """As `sample_all`, each rank with its share of the prompts; all of them get all completions.

    An unfinished generation is saved where there is one rank; several ones sample theirs again.

    Raises:
        KeyboardInterrupt: a stop was asked for.
    """
    mine = share(list(zip(prompts, completion_seeds(params.seed, len(prompts), n), strict=True)))
    done = sample_all(
        loaded,
        encoder,
        [prompt for prompt, _ in mine],
        params,
        n=n,
        token_budget=token_budget,
        title=title,
        seeds=[seeds for _, seeds in mine],
        kept=kept if world()[1] == 1 else None,
    )
    if any_rank(kept.stop.is_set()):
        raise KeyboardInterrupt
    return of_all_ranks(done, len(prompts))


def of_all_ranks(done: list[list[Sampled]], num_prompts: int) -> list[list[Sampled]]:
    """The completions of all prompts from every rank's share of them."""
    _, ranks = world()
    if ranks == 1:
        return done
    parts = gathered([[asdict(one) for one in found] for found in done])
    return [[Sampled(**one) for one in parts[i % ranks][i // ranks]] for i in range(num_prompts)]


def from_model(prompt: Prompt, model: str, seed: int) -> Prompt:
    """The prompt with the sampling model's name and seed in its provenance."""
    where = prompt.provenance
    details = {**where.details, "model": model, "sampling_seed": seed}
    return replace(prompt, provenance=Provenance(where.file, where.line, where.origin, details))
