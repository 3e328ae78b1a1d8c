"""Human and AI preferences in one training set, and the human ones alone as its control."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from alignloop.config.ai import MixConfig
from alignloop.data.columns import read_records, write_records
from alignloop.data.sources import repeat
from alignloop.data.split import drawn_share
from alignloop.errors import DataError
from alignloop.evaluation.agreement import cohen_kappa
from alignloop.records import Conversation, Preference, plain_rows
from alignloop.runs import Run
from alignloop.stages.labels import label_table
from alignloop.stages.rows import note_dropped

CONTROL_FILE = "control/rows.jsonl"
HELD_OUT_FILE = "held_out/rows.jsonl"


def mix(config: MixConfig, run: Run) -> dict[str, Any]:
    """Write the mixed set, its human-only control and a held-out human set.

    The same human prompts are held out of both sets, AI pairs on them included, so that reward models
    trained on the one and on the other can be compared on people's judgements.

    Args:
        config: the recipe.
        run: the run folder; receives `data/rows.jsonl` (mixed), `control/rows.jsonl` and
            `held_out/rows.jsonl`.

    Returns:
        Results for run.json: rows by source, and human–AI agreement on pairs that both judged.

    Raises:
        DataError: no pair left on one side, or a human set in which nothing was judged by people.
    """
    human, ai = (_read(config, run, name) for name in ("human", "ai"))
    strangers = sum(r.provenance.origin == "ai" for r in human)
    if strangers:
        raise DataError(
            f"{strangers} of {len(human)} rows are AI labels, so this is no human control",
            file=str(config.human),
        )
    held = hold_out_prompts([r.prompt for r in human], config.held_out_fraction, config.seed)
    train_human = [r for r in human if r.prompt not in held]
    train_ai = [r for r in ai if r.prompt not in held]
    if not train_human or not train_ai:
        raise DataError("no pair is left to train on beside the held-out prompts", reason="no_rows")
    mixed = list(chain(repeat(train_human, config.human_weight), repeat(train_ai, config.ai_weight)))
    order = np.random.default_rng(config.seed).permutation(len(mixed))
    files = {
        "data/rows.jsonl": [mixed[k] for k in order],
        CONTROL_FILE: list(repeat(train_human, config.human_weight)),
        HELD_OUT_FILE: [r for r in human if r.prompt in held],
    }
    for name, rows in files.items():
        if rows:
            (run.path / name).parent.mkdir(exist_ok=True)
            write_records(run.path / name, rows)
    return {
        "num_rows": len(mixed),
        "num_control": len(files[CONTROL_FILE]),
        "num_held_out": len(files[HELD_OUT_FILE]),
        **both_judged(human, ai),
        **label_table(mixed),
    }


def _read(config: MixConfig, run: Run, name: str) -> list[Preference]:
    data = read_records(getattr(config, name), kind="preference")
    run.set_rows(name, len(data.records))
    note_dropped(run, name, data.dropped)
    return [record for record in data.records if isinstance(record, Preference)]


def hold_out_prompts(prompts: Sequence[Conversation], fraction: float, seed: int) -> set[Conversation]:
    """A seeded share of the distinct prompts, at least one unless the fraction is 0."""
    return drawn_share(prompts, fraction, seed, key=lambda prompt: json.dumps(plain_rows(prompt)))


def both_judged(human: Sequence[Preference], ai: Sequence[Preference]) -> dict[str, Any]:
    """{"agreement": a table} with Cohen κ and the share of equal labels on pairs that both sides judged."""
    sides = [_sides(human), _sides(ai)]
    shared = sorted(sides[0].keys() & sides[1].keys(), key=str)
    if len(shared) < 2:
        return {}
    said = [(sides[0][key], sides[1][key]) for key in shared]
    kappa = cohen_kappa([a for a, _ in said], [b for _, b in said])
    same = sum(a == b for a, b in said) / len(said)
    row = {"pairs": len(shared), "same": same, "kappa": kappa.value, "low": kappa.low, "high": kappa.high}
    return {"agreement": [row]}


def _sides(records: Sequence[Preference]) -> dict[tuple[Conversation, str, str], int]:
    """1, 0 or −1 for the alphabetically first answer, by prompt and pair; the last label counts."""
    found = {}
    for r in records:
        first, second = sorted((r.chosen, r.rejected))
        sign = (r.probability > 0.5) - (r.probability < 0.5)
        found[r.prompt, first, second] = sign if r.chosen == first else -sign
    return found
