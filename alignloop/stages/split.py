"""Judged pairs divided by prompt: policy and reward model train on the same rows, measured on others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignloop.config.compare import SplitConfig
from alignloop.content import text_sha256
from alignloop.data.columns import read_records, write_records
from alignloop.data.normal import normalise
from alignloop.errors import DataError
from alignloop.records import Conversation, Demonstration, Preference, Prompt, Record
from alignloop.runs import Run
from alignloop.runs.results import PairsSplit
from alignloop.stages.checks import tell_notes
from alignloop.stages.labels import label_table
from alignloop.stages.rows import note_dropped

HELD_OUT_FILE, PROMPTS_FILE = "held_out/rows.jsonl", "held_out/prompts.jsonl"
CHOSEN_FILE = "chosen/rows.jsonl"


def split(config: SplitConfig, run: Run) -> dict[str, Any]:
    """Write training pairs, held-out pairs and their prompts, and the chosen answers of the training pairs.

    Conversations that begin with the same question stay together. Which are held out depends on the
    seed and the question's text, so that added rows move few others.

    Args:
        config: the recipe; `dataset` holds preferences.
        run: the run folder; receives `data/rows.jsonl` (training pairs), `held_out/rows.jsonl`,
            `held_out/prompts.jsonl` and `chosen/rows.jsonl` (demonstrations).

    Returns:
        Results for run.json: rows and prompts of both parts, how often the chosen answer is the longer one.

    Raises:
        DataError: fewer than two different prompts.
    """
    data = read_records(config.dataset, "preference", config.columns, config.strict)
    run.set_rows("dataset", len(data.records))
    note_dropped(run, "dataset", data.dropped)
    tell_notes(run, "dataset", data.notes)
    pairs = [record for record in data.records if isinstance(record, Preference)]
    held = held_out_questions([question(pair) for pair in pairs], config)
    train = [pair for pair in pairs if question(pair) not in held]
    rest = [pair for pair in pairs if question(pair) in held]
    prompts = list(dict.fromkeys(pair.prompt for pair in rest))
    files: dict[str, Sequence[Record]] = {
        "data/rows.jsonl": train,
        HELD_OUT_FILE: rest,
        PROMPTS_FILE: [Prompt(prompt) for prompt in prompts],
        CHOSEN_FILE: [Demonstration(pair.prompt, pair.chosen, pair.provenance) for pair in train],
    }
    for name, rows in files.items():
        (run.path / name).parent.mkdir(exist_ok=True)
        write_records(run.path / name, rows)
    found = PairsSplit(
        num_rows=len(train),
        num_held_out=len(rest),
        num_held_out_prompts=len(prompts),
        chosen_longer=chosen_longer(pairs),
    )
    return {**found.row(), **label_table(pairs)}


def held_out_questions(questions: Sequence[str], config: SplitConfig) -> set[str]:
    """The share of the different questions that is held out: those with the lowest hashes.

    Raises:
        DataError: fewer than two different questions.
    """
    distinct = set(questions)
    if len(distinct) < 2:
        raise DataError(
            f"the {len(questions)} pairs have one prompt, and pairs of one prompt stay together: none can be "
            "held out",
            reason="no_rows",
        )
    count = min(
        max(1, round(config.held_out_fraction * len(distinct))), config.max_held_out, len(distinct) - 1
    )
    return set(sorted(distinct, key=lambda text: _place(text, config.seed))[:count])


def question(pair: Preference) -> str:
    """The first message of a prompt that is not the system's, in the form in which texts are compared."""
    first: Conversation = tuple(message for message in pair.prompt if message.role != "system") or pair.prompt
    return normalise(first[0].content)


def chosen_longer(pairs: Sequence[Preference]) -> float:
    """Share of the pairs whose chosen answer has more characters, equal lengths ½."""
    gaps = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    return sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps) / len(gaps)


def _place(text: str, seed: int) -> str:
    return text_sha256(f"{seed}\x1d{text}")
