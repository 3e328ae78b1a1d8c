"""A reward model on judged rows: what it gets right, how sure it should be, and what it falls for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignloop.config import RewardBenchConfig
from alignloop.data.columns import read_records
from alignloop.data.packing import Completion, Group
from alignloop.data.tokenize import Encoder, tokenize
from alignloop.errors import DataError
from alignloop.evaluation.reward_bench import (
    Array,
    Comparisons,
    agreement,
    by_length,
    by_subset,
    calibration_error,
    comparisons_of,
    fit_temperature,
    length_correlation,
    longer_wins,
    prompt_shift,
)
from alignloop.evaluation.reward_choice import best_of, tie_separation
from alignloop.evaluation.reward_probes import PROBES, probe_effect
from alignloop.records import Preference, Ranking
from alignloop.rl.rewards import combined
from alignloop.runs import Run
from alignloop.runs.evaluation_results import BeforeAfter, RewardExamined
from alignloop.stages import common
from alignloop.stages.reward_model import RewardModel
from alignloop.stages.rows import note_dropped

Judged = Preference | Ranking

_EXTREMES = 3


@dataclass(slots=True)
class Examined:
    """A reward model's scores of the rows it can read, and of their changed forms.

    Attributes:
        groups: tokenized rows; `index` is the row's number.
        rewards: (K,) of each.
        comparisons: all judged pairs.
        probes: a row of the table for each probe.
    """

    groups: list[Group]
    rewards: list[Array]
    comparisons: Comparisons
    probes: list[dict[str, Any]]


class RewardMeasure(NamedTuple):
    """A metric; `value` is None where the rows cannot tell it."""

    value: float | None
    interval: list[float] | None
    unit: str
    higher_is_better: bool | None


def reward_bench(config: RewardBenchConfig, run: Run) -> dict[str, Any]:
    """Examine a reward model, or two side by side, on preferences or rankings.

    Metrics: pair accuracy (equal rewards ½, ties left out), accuracy where the better answer is the shorter
    one, best of 4, separation of ties, calibration error with a fitted temperature, correlation with length,
    the prompts' share of the variance, and for each probe how often it makes the worse answer win.

    Args:
        config: the recipe.
        run: the run folder.

    Returns:
        Results for run.json: `metrics`, and the tables `by_length`, `by_subset`, `probes`, `prompts`.

    Raises:
        DataError: the rows are no preferences or rankings.
    """
    common.set_threads(config.num_threads)
    data = read_records(config.dataset, columns=config.columns, strict=config.strict)
    note_dropped(run, "dataset", data.dropped)
    if data.kind not in ("preference", "ranking"):
        raise DataError(f"a reward bench reads preferences or rankings, not rows of kind {data.kind}")
    records: list[Any] = data.records[: config.max_rows or None]
    run.set_rows("dataset", len(records))
    after = examine(config, config.reward_model, records, run)
    sides = {"after": measures(config, after)}
    if config.before is not None:
        sides["before"] = measures(config, examine(config, config.before, records, run))
    found = RewardExamined(
        num_rows=len(after.groups),
        metrics=side_by_side(sides),
        accuracy_if_longer_wins=longer_wins(after.comparisons),
        temperature=fit_temperature(after.comparisons.margin, after.comparisons.probability),
    )
    return {
        **found.row(),
        "by_length": by_length(after.comparisons, level=config.confidence),
        "by_subset": by_subset(after.comparisons, level=config.confidence),
        "probes": after.probes,
        "prompts": extreme_prompts(records, after),
    }


def examine(config: RewardBenchConfig, path: str, records: Sequence[Judged], run: Run) -> Examined:
    """Load a reward model and score every row, and every row's best and worst answer in changed forms."""
    model = RewardModel(path, dtype=config.dtype, device=config.device, token_budget=config.token_budget)
    encoder = replace(model.encoder, max_length=config.max_length, overlength="drop")
    result = tokenize(records, encoder)
    note_dropped(run, f"tokenization for {path}", result.dropped)
    rewards = scored(model, result.groups)
    subsets = [subset_of(records[group.index], config.subset) for group in result.groups]
    comparisons = comparisons_of(result.groups, rewards, subsets)
    if not len(comparisons):
        raise DataError("no row holds a comparison of two answers", reason="no_rows")
    probes = probed(config, model, encoder, [records[group.index] for group in result.groups])
    return Examined(result.groups, rewards, comparisons, probes)


def scored(model: RewardModel, groups: Sequence[Group]) -> list[Array]:
    """(K,) rewards of each group, the members of an ensemble combined."""
    c = model.combination
    return [combined(s, c.combine, c.uwo_coefficient) for s in model.group_scores(groups)]


def subset_of(record: Judged, name: str) -> str:
    """The part of the data a row belongs to: its detail of that name, else its file."""
    where = record.provenance
    return str(where.details.get(name, Path(where.file).name))


def probed(
    config: RewardBenchConfig, model: RewardModel, encoder: Encoder, records: Sequence[Judged]
) -> list[dict[str, Any]]:
    """The effect of each probe on the best and the worst answer of each row, all forms in one group."""
    groups: list[Group] = []
    for record in records:
        pair = best_and_worst(record)
        if pair is None:
            continue
        texts = [*pair, *(PROBES[name](text) for name in config.probes for text in pair)]
        completions = tuple(Completion.counted(encoder.completion(text, record.prompt)) for text in texts)
        prompt = encoder.prompt(record.prompt)
        if len(prompt) + max(len(c.ids) for c in completions) <= config.max_length:
            groups.append(Group(prompt, completions))
    if not groups or not config.probes:
        return []
    table = np.stack(scored(model, groups)).reshape(len(groups), -1, 2)
    prompts = [group.prompt_ids.tobytes() for group in groups]
    return [
        {
            "probe": name,
            "pairs": len(groups),
            **probe_effect(
                table[:, 0],
                table[:, number],
                prompts,
                level=config.confidence,
                replicates=config.bootstrap,
                seed=config.seed,
            ),
        }
        for number, name in enumerate(config.probes, 1)
    ]


def best_and_worst(record: Judged) -> tuple[str, str] | None:
    """The two answers that were judged best and worst; None where all are tied."""
    if isinstance(record, Preference):
        if record.probability == 0.5:
            return None
        better, worse = record.chosen, record.rejected
        return (better, worse) if record.probability > 0.5 else (worse, better)
    ranks = np.asarray(record.ranks)
    if ranks.min() == ranks.max():
        return None
    return record.completions[int(ranks.argmin())], record.completions[int(ranks.argmax())]


def measures(config: RewardBenchConfig, found: Examined) -> dict[str, RewardMeasure]:
    """Every metric that the rows can tell."""
    comparisons, level = found.comparisons, config.confidence
    overall = agreement(comparisons, level=level)
    shorter = agreement(comparisons.where(comparisons.tokens < 0), level=level)
    four = best_of(found.groups, found.rewards, level=level) or {"accuracy": None, "interval": None}
    shift = prompt_shift(found.rewards) or {"between_share": None}
    pairs, lengths = "share of pairs", length_correlation(found.groups, found.rewards)
    rows = {
        "accuracy": RewardMeasure(overall["accuracy"], overall["accuracy_interval"], pairs, True),
        "accuracy_where_shorter_is_better": RewardMeasure(
            shorter["accuracy"], shorter["accuracy_interval"], pairs, True
        ),
        "best_of_4": RewardMeasure(four["accuracy"], four["interval"], "share of prompts", True),
        "tie_separation": RewardMeasure(tie_separation(comparisons), None, "area under the curve", True),
        "calibration_error": RewardMeasure(_calibration_error(comparisons), None, "probability", False),
        "length_correlation": RewardMeasure(lengths, None, "Pearson", None),
        "prompt_share_of_variance": RewardMeasure(shift["between_share"], None, "share", None),
    }
    for probe in found.probes:
        ends = None if probe["flips_low"] is None else [probe["flips_low"], probe["flips_high"]]
        rows[f"flips_by_{probe['probe']}"] = RewardMeasure(probe["flips"], ends, pairs, False)
    return {name: row for name, row in rows.items() if row.value is not None}


def _calibration_error(comparisons: Comparisons) -> float:
    """With the temperature that fits these comparisons."""
    temperature = fit_temperature(comparisons.margin, comparisons.probability)
    return calibration_error(comparisons.margin, comparisons.probability, temperature)


def side_by_side(sides: dict[str, dict[str, RewardMeasure]]) -> dict[str, BeforeAfter]:
    """The metrics with their values before and after, where both were examined."""
    metrics: dict[str, dict[str, Any]] = {}
    for side in ("before", "after"):
        for name, row in sides.get(side, {}).items():
            entry = metrics.setdefault(name, {"unit": row.unit, "higher_is_better": row.higher_is_better})
            entry[side] = row.value
            if row.interval is not None:
                entry[f"{side}_interval"] = row.interval
    return {name: BeforeAfter(**entry) for name, entry in metrics.items()}


def extreme_prompts(records: Sequence[Judged], found: Examined) -> list[dict[str, Any]]:
    """The prompts whose answers get the highest and the lowest mean reward: offsets no pair asked for."""
    means = [float(np.mean(reward)) for reward in found.rewards]
    order = np.argsort(means, kind="stable")[::-1].tolist()
    shown = order if len(order) <= 2 * _EXTREMES else order[:_EXTREMES] + order[-_EXTREMES:]
    rows = []
    for at in shown:
        prompt = records[found.groups[at].index].prompt
        text = prompt[-1].content if prompt else ""
        rows.append({"mean reward": means[at], "prompt": text if len(text) <= 200 else text[:197] + "…"})
    return rows
