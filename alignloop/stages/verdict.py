"""The end of `my-pairs`: what policy and reward model learned, measured on held-out pairs, said in words."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignloop.config.compare import VerdictConfig
from alignloop.data.columns import read_records
from alignloop.errors import DataError
from alignloop.evaluation.choices import Question
from alignloop.evaluation.pair_verdict import PairRate, pair_rate, sentences, wins_of
from alignloop.labels.label_folder import opened
from alignloop.labels.project import ItemAnswer, NewItem
from alignloop.machine import release_memory
from alignloop.model.sampling import SamplingParams
from alignloop.records import Preference, conversation_of
from alignloop.runs import Run
from alignloop.runs.evaluation_results import Compared, PairsVerdict, WinRow
from alignloop.stages import common
from alignloop.stages.local import Local
from alignloop.stages.reward_model import RewardModel
from alignloop.stages.rows import note_dropped
from alignloop.stages.split import chosen_longer, question

LABELS = "label"
_GUIDELINES = "Two answers to the same prompt, from two versions of a model. Which one is better?"


def verdict(config: VerdictConfig, run: Run) -> dict[str, Any]:
    """Measure policy and reward model on held-out pairs, lay answers out for people, say what it means.

    Args:
        config: the recipe; `dataset` holds pairs that neither model trained on.
        run: the run folder; receives `label/`, a folder for `alignloop label serve`.

    Returns:
        Results for run.json: `policy`, `reward` (accuracy, with and without length control), `answers` (win
        rate by the reward model), `num_to_judge`, `text` and `sentences`.

    Raises:
        DataError: no pair of which one answer is better.
    """
    common.set_threads(config.num_threads)
    pairs = decided(config, run)
    prompts, gaps = [question(p) for p in pairs], [len(p.chosen) - len(p.rejected) for p in pairs]

    def rate(margins: Sequence[float]) -> PairRate:
        return pair_rate(margins, gaps, prompts, level=config.confidence)

    policy = rate(policy_margins(config, pairs))
    reward = rate(reward_margins(config, pairs))
    compared = Run.open(config.comparison)
    wins = wins_of(_win_row(compared.results(Compared), config.after))
    count = lay_out(compared, config.after, run.path / LABELS)
    longer = chosen_longer(pairs)
    found = sentences(policy, reward, wins, chosen_longer=longer)
    results = PairsVerdict(
        text=found[0],
        sentences=tuple(found),
        policy=policy.row(),
        reward=reward.row(),
        answers=wins,
        accuracy_if_longer_wins=longer,
        num_to_judge=count,
    )
    return results.row()


def decided(config: VerdictConfig, run: Run) -> list[Preference]:
    """Held-out pairs of which one completion is better, that one first.

    Raises:
        DataError: there is none, or all have one prompt.
    """
    data = read_records(config.dataset, "preference", config.columns, config.strict)
    run.set_rows("dataset", len(data.records))
    note_dropped(run, "dataset", data.dropped)
    found = [
        p if p.probability > 0.5 else Preference(p.prompt, p.rejected, p.chosen, 1 - p.probability)
        for p in data.records
        if isinstance(p, Preference) and p.probability != 0.5
    ]
    if len({question(pair) for pair in found}) < 2:
        raise DataError("a verdict needs decided pairs of at least 2 prompts", file=str(config.dataset))
    return found


def policy_margins(config: VerdictConfig, pairs: Sequence[Preference]) -> list[float]:
    """Implicit rewards of chosen minus rejected, over β: [log π − log π_ref](chosen) − that of rejected."""
    questions = [Question(pair.prompt, (pair.chosen, pair.rejected), (True, False)) for pair in pairs]
    sums: list[list[float]] = []
    for name, path in (("policy", config.policy), ("reference", config.reference)):
        params = SamplingParams(seed=config.seed)
        model = Local(name, path, params, config.dtype, config.device, token_budget=config.token_budget)
        found = model.choices(questions)
        assert not isinstance(found, str), "a local model has log-probs"
        sums.append([chosen - rejected for chosen, rejected in found])
        model.close()
        release_memory()
    return [new - old for new, old in zip(*sums, strict=True)]


def reward_margins(config: VerdictConfig, pairs: Sequence[Preference]) -> list[float]:
    """Rewards of chosen minus rejected."""
    model = RewardModel(
        config.reward_model, dtype=config.dtype, device=config.device, token_budget=config.token_budget
    )
    rows = model.score([p.prompt for p in pairs], [[p.chosen, p.rejected] for p in pairs])
    del model
    release_memory()
    return [chosen - rejected for chosen, rejected in rows]


def _win_row(compared: Compared, after: str) -> WinRow | None:
    """The new model's win rate by the reward model in a comparison."""
    return next((r for r in compared.win_rates if r.judge == "reward" and r.model == after), None)


def lay_out(compared: Run, after: str, folder: Path) -> int:
    """A label folder whose project holds both models' answers, names hidden; returns how many items it has.

    Prompts with equal answers, or an empty one, are left out: there is nothing to judge.
    """
    items = []
    for row in compared.samples():
        new, old = row["completion"].strip(), row.get("completion_before", "").strip()
        if row["model"].startswith(f"{after} · ") and new and old and new != old:
            answers = (ItemAnswer(new, model=after), ItemAnswer(old, model="before"))
            items.append(NewItem(conversation_of(row["prompt"]), answers, arm="versus"))
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut short, which nobody has seen
    if not items:
        return 0
    with opened(folder, create=True) as store:
        project = store.create_project("answers", task="pair", guidelines_text=_GUIDELINES)
        return store.add_items(project, items, actor="my-pairs").added
