"""What every objective of bench/objectives.py is given: one model's answers, judged, in each one's form.

P prompts with n answers each, sampled once by the start model and kept in a file. A simulated annotator
(the verifiable gold reward with seeded mistakes) judges them. Every objective trains on the same
pairs of answers: as pairs, as single answers marked good or bad, as the chosen ones alone, or as the
rankings and scores of the same prompts' answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignloop.data.instructions import instruction_prompts
from alignloop.data.packing import Completion, Group
from alignloop.data.tokenize import Encoder, tokenize
from alignloop.io import write_whole
from alignloop.judges.simulated import (
    SimulatedAnnotator,
    simulate_preferences,
    simulate_rankings,
    simulate_ratings,
)
from alignloop.machine import release_memory
from alignloop.model.generate import generate
from alignloop.model.load import LoadedModel, load_model
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Sampled
from alignloop.objectives.kto import with_mismatched
from alignloop.records import Demonstration, Label, Preference, Prompt, Record
from alignloop.rl.verifiers import VERIFIERS
from alignloop.stages.common import inference_encoder

Answered = list[tuple[Prompt, list[str]]]
TEMPERATURE = 1.0
"""Of all samples: then log-ratios on them estimate the KL."""
COMPLETIONS_PER_STEP = 16
"""Judged completions of an optimizer step, whatever form they have."""


@dataclass(frozen=True)
class Sizes:
    """How much is sampled, trained and evaluated; the defaults suit SmolLM2 on two cores.

    Attributes:
        prompts: training prompts.
        samples: answers to each.
        tokens: longest answer.
        pairs_per_prompt: pairs judged of one prompt's answers, at most.
        steps: optimizer steps of every objective; 0 is one pass over the pairs.
        eval_prompts: held-out prompts.
        eval_samples: answers to each by a trained policy; the start model gives twice as many.
        noise: share of judgements that are flipped.
        ties: what the annotator does with equally good answers: skip, or length.
        learning_rate: of every objective.
    """

    prompts: int = 160
    samples: int = 4
    tokens: int = 48
    pairs_per_prompt: int = 2
    steps: int = 0
    eval_prompts: int = 96
    eval_samples: int = 1
    noise: float = 0.05
    ties: str = "skip"
    learning_rate: float = 2e-5


def answers(
    loaded: LoadedModel, encoder: Encoder, prompts: Sequence[Prompt], *, n: int, tokens: int, seed: int
) -> list[list[Sampled]]:
    """n samples for each prompt; the same seed gives two models the same random numbers, whatever n."""
    ids = [encoder.prompt(prompt.prompt).tolist() for prompt in prompts]
    params = SamplingParams(temperature=TEMPERATURE, max_tokens=tokens, seed=seed)
    return generate(loaded.model, loaded.tokenizer, ids, params, n=n)


def sampled_answers(file: Path, model: str, sizes: Sizes) -> Answered:
    """The start model's answers to the training prompts; sampled where the file is not there yet."""
    prompts = instruction_prompts("train", sizes.prompts, 0)
    if not file.exists():
        loaded = load_model(model, dtype="float32", device="cpu")
        encoder = inference_encoder(loaded)
        rows = answers(loaded, encoder, prompts, n=sizes.samples, tokens=sizes.tokens, seed=0)
        texts = [[sampled.text.strip() for sampled in row] for row in rows]
        write_whole(file, [json.dumps(row, ensure_ascii=False) + "\n" for row in texts])
        del loaded, encoder
        release_memory()
    texts = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list(zip(prompts, texts, strict=True))


def judged(kind: str, rows: Answered, sizes: Sizes) -> list[Record]:
    """The annotator's judgements in the form of a kind of record.

    Args:
        kind: demonstration, preference, label, ranking or rating.
        rows: prompts with the start model's answers.
        sizes: the annotator's settings.

    Returns:
        Records; all kinds rest on the prompts, and but for rankings and ratings on the answers, of the
        same pairs.
    """
    filled = [(prompt, [text or "…" for text in texts]) for prompt, texts in rows]
    annotator = SimulatedAnnotator(flip=sizes.noise, ties=sizes.ties)  # pyright: ignore[reportArgumentType]
    pairs: list[Preference] = simulate_preferences(filled, annotator, max_pairs=sizes.pairs_per_prompt)
    if kind == "preference":
        return list(pairs)
    if kind == "demonstration":
        return [Demonstration(pair.prompt, pair.chosen, pair.provenance) for pair in pairs]
    if kind == "label":
        return [
            Label(pair.prompt, text, good, pair.provenance)
            for pair in pairs
            for text, good in ((pair.chosen, True), (pair.rejected, False))
        ]
    used = {pair.prompt for pair in pairs}
    rows_used = [(prompt, texts) for prompt, texts in filled if prompt.prompt in used]
    if kind == "ranking":
        return list(simulate_rankings(rows_used, annotator))
    return list(simulate_ratings(rows_used, annotator))


def training_groups(kind: str, rows: Answered, encoder: Encoder, sizes: Sizes, seed: int) -> list[Group]:
    """Tokenized groups of a kind; KTO's with another row's completion, in an order of the seed."""
    groups = tokenize(judged(kind, rows, sizes), encoder).groups
    return with_mismatched(groups, seed) if kind == "label" else groups


def groups_per_step(kind: str, sizes: Sizes) -> int:
    """Groups that hold `COMPLETIONS_PER_STEP` judged completions; SFT has the chosen half of the pairs'."""
    in_group = {"preference": 2, "demonstration": 2, "ranking": sizes.samples}.get(kind, 1)
    return max(1, COMPLETIONS_PER_STEP // in_group)


def num_steps(rows: Answered, sizes: Sizes) -> int:
    """Optimizer steps of every objective."""
    pairs = len(judged("preference", rows, sizes))
    return sizes.steps or -(-pairs // groups_per_step("preference", sizes))


def gold_of(prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> list[list[float]]:
    """1 for each answer that obeys its prompt's instruction, else 0."""
    gold = VERIFIERS["constraints"]
    return [[float(gold(t, p) == 1.0) for t in row] for p, row in zip(prompts, texts, strict=True)]


def answer_record(prompts: Sequence[Prompt], rows: Sequence[Sequence[Sampled]]) -> dict[str, Any]:
    """What is kept of held-out answers: texts, gold rewards, lengths in tokens and words."""
    texts = [[sampled.text.strip() for sampled in row] for row in rows]
    return {
        "texts": texts,
        "gold": gold_of(prompts, texts),
        "tokens": [[len(sampled.ids) for sampled in row] for row in rows],
        "words": [[len(text.split()) for text in row] for row in texts],
    }


def answered_groups(
    encoder: Encoder, prompts: Sequence[Prompt], rows: Sequence[Sequence[Any]]
) -> list[Group]:
    """One group for each sampled answer, of exactly the tokens that were sampled."""
    return [
        Group(
            encoder.prompt(prompt.prompt),
            (Completion(np.asarray(s.ids, np.int32), np.ones(len(s.ids), bool)),),
            i,
        )
        for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
        for s in row
    ]
