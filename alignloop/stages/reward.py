"""Reward models: a language model whose output layer is replaced by a scalar head, or an ensemble of them.

An ensemble's members are LoRA adapters with heads of their own on one base. Each is trained as a run
`members/N` of its own (a stopped stage goes on with the member it was in); `model/` holds the first one
and, in `member_N/`, the others.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignloop.config import RewardConfig
from alignloop.data.packing import Group
from alignloop.evaluation.reward_bench import summarize
from alignloop.io import new_folder
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.scorer import HEAD_FILE, first_outputs, group_scores, normalize, save_head
from alignloop.objectives.base import Objective
from alignloop.rl.rewards import combined
from alignloop.runs import RUN_FILE, Run
from alignloop.runs.record import needed
from alignloop.runs.results import PairAccuracy, RewardTrained, read_results
from alignloop.stages import common
from alignloop.stages.labels import label_table
from alignloop.stages.reward_model import REWARD_FILE, RewardModel, reward_folder
from alignloop.stages.rows import read_rows, tokenized_rows, training_encoder
from alignloop.stages.summaries import data_summary
from alignloop.training.distributed import is_first_rank, wait_for_all

_NORMALIZED_ON = 256
"""Training rows, drawn with the seed, on which rewards are centred: more would take minutes for a digit."""


def reward(config: RewardConfig, run: Run, objective: Objective) -> dict[str, Any]:
    """Train a reward model on comparisons (or rankings, or ratings with another objective).

    After training, gain and bias are set so that rewards of the training completions (about 256 of them, in
    rows drawn with the seed) have mean 0 and standard deviation 1 (Stiennon et al. 2020): differences are
    all that is identified.

    Args:
        config: the recipe; all layers train unless `freeze_base` or `lora_r`.
        run: the run folder; receives metrics, checkpoints and `model/` with `scalar_head.safetensors`.
        objective: for example `BradleyTerry()`.

    Returns:
        Results for run.json; with held-out comparisons also what `evaluation.reward_bench` measures.
    """
    if config.num_members > 1:
        return train_ensemble(config, run, objective)
    return train_one(config, run, objective, split_seed=config.seed)


def train_one(config: RewardConfig, run: Run, objective: Objective, *, split_seed: int) -> dict[str, Any]:
    """One reward model; `split_seed` chooses the held-out prompts, so that members share them."""
    records = read_rows(config, objective, run)
    outputs = max(1, len(records.attributes))
    num_outputs = outputs + objective.auxiliary_outputs
    prepared = common.prepare(config, num_outputs=num_outputs, freeze_base=config.freeze_base)
    prepared.model.head = own_head(prepared.model, config.seed_of_head)
    encoder = training_encoder(config, prepared.loaded, prepared.template)
    rows = tokenized_rows(config, records, encoder, run, split_seed=split_seed)
    common.check_rows(config, objective, run, prepared, rows.groups, rows.held_out)
    base = prepared.loaded.model
    if not base.config.tie_word_embeddings:  # the vocabulary head is replaced, so it does not train
        base.get_output_embeddings().requires_grad_(False)  # pyright: ignore[reportOptionalMemberAccess]
    summary = common.fit(config, objective, run, prepared, rows.groups, held_out=rows.held_out)
    model = prepared.model
    assert model.head is not None
    if objective.auxiliary_outputs:
        model.head = first_outputs(model.head, outputs)
    mean, std = torch.zeros(1), torch.ones(1)
    budget = config.tokens_per_pass(model.device.type)
    centred_on = sample_of(rows.groups, _NORMALIZED_ON, config.seed) if config.normalize else []
    if centred_on:
        mean, std = normalize(model, centred_on, budget)
    common.save_policy(prepared, run.model)
    if is_first_rank():
        save_head(model.head, run.model)
    scored = group_scores(model, rows.held_out, budget, title="rewards of held-out rows")
    rewards = [scores[:, 0].double().numpy() for scores in scored]
    found = RewardTrained(
        reward_mean=float(mean[0]),
        reward_std=float(std[0]),
        normalized_on_rows=len(centred_on),
        data=data_summary(rows.data, rows.tokenized),
    )
    return {
        **held_out_results(rows.held_out, rewards, trained_temperature=1 / float(std[0])),
        **summary,
        **found.row(),
        **label_table(rows.data.records),
        **({"attributes": list(records.attributes)} if records.attributes else {}),
    }


def sample_of(groups: Sequence[Group], size: int, seed: int) -> list[Group]:
    """Groups of about `size` completions, drawn without replacement from the seed alone, in their order."""
    completions = sum(len(group.completions) for group in groups)
    if completions <= size:
        return list(groups)
    rows = max(1, size * len(groups) // completions)
    chosen = np.random.default_rng(seed).choice(len(groups), rows, replace=False)
    return [groups[place] for place in sorted(chosen.tolist())]


def own_head(model: PackedModel, seed: int) -> ScalarHead:
    """A fresh head of the same size from another seed."""
    assert model.head is not None
    outputs, size = model.head.weight.shape
    return ScalarHead(size, outputs, seed=seed).to(model.device)


def held_out_results(
    groups: Sequence[Group], rewards: Sequence[np.ndarray], *, trained_temperature: float
) -> dict[str, Any]:
    """Accuracy with interval, accuracy by length difference, calibration and prompt shift; see `summarize`.

    The accuracy comes first, because the terminal shows a run's first numbers. Empty without held-out
    comparisons. The rewards were rescaled after training, so one nat is `trained_temperature` reward units.
    """
    judged = [i for i, group in enumerate(groups) if len(group.completions) > 1]
    if not judged:
        return {}
    results = summarize(
        [groups[i] for i in judged], [rewards[i] for i in judged], trained_temperature=trained_temperature
    )
    held = read_results(results, RewardTrained).held_out or PairAccuracy()
    first: dict[str, Any] = {"held_out_accuracy": held.accuracy}
    first |= {"held_out_accuracy_interval": held.accuracy_interval} if held.accuracy_interval else {}
    return {**RewardTrained(**first).row(), **results}


def train_ensemble(config: RewardConfig, run: Run, objective: Objective) -> dict[str, Any]:
    """Members with seeds and row orders of their own, the same held-out prompts, and their combination."""
    members = [train_member(config, run, objective, number) for number in range(1, config.num_members + 1)]
    if is_first_rank():
        assemble(config, [part.path for part in members], run.model)
    wait_for_all()
    spreads = [(part.results(RewardTrained).reward_std, part.path) for part in members]
    std = float(np.mean([needed(spread, "reward_std", folder) for spread, folder in spreads]))
    results: dict[str, Any] = {"members": [_row(number, part) for number, part in enumerate(members, 1)]}
    records = read_rows(config, objective, run)
    model = RewardModel(run.path, dtype=config.dtype, device=config.device)
    encoder = replace(model.encoder, max_length=config.max_length, overlength=config.overlength)
    held_out = tokenized_rows(config, records, encoder).held_out
    if held_out:
        by_member = model.group_scores(held_out)
        rewards = [combined(scores, config.combine, config.uwo_coefficient) for scores in by_member]
        results |= held_out_results(held_out, rewards, trained_temperature=1 / std)
        spread = float(np.mean([s.std(axis=0, ddof=1).mean() for s in by_member]))
        results |= RewardTrained(member_spread=spread).row()
    return results


def train_member(config: RewardConfig, run: Run, objective: Objective, number: int) -> Run:
    """The run of a member, trained if it is not finished yet."""
    folder = run.path / "members" / str(number)
    if (folder / RUN_FILE).is_file() and Run.open(folder).status == "finished":
        return Run.open(folder)
    own = {"output_dir": str(folder), "seed": config.seed + number - 1, "num_members": 1}
    alone = {"combine": "mean", "uwo_coefficient": 0.5}
    stage = config.model_copy(update={**own, **alone})
    with common.part_of(folder, stage="reward", config=stage, name=f"member {number}") as part:
        part.finish(train_one(stage, part, objective, split_seed=config.seed))
    gc.collect()  # the member's copy of the base, before the next one is loaded
    return Run.open(folder)


def _row(number: int, part: Run) -> dict[str, Any]:
    """What the report shows of a member."""
    results = part.results(RewardTrained)
    loss, held = needed(results.loss, "loss", part.path), results.held_out
    low, high = (held and held.accuracy_interval) or (None, None)
    shown = {"accuracy": held.accuracy, "low": low, "high": high} if held else {}
    return {"member": number, "seed": part.record["seed"], "loss": loss, **shown}


def assemble(config: RewardConfig, members: Sequence[Path], folder: Path) -> None:
    """The members' adapters and heads as one model folder."""
    with new_folder(folder) as made:
        shutil.copytree(reward_folder(members[0]), made, dirs_exist_ok=True)
        for number, member in enumerate(members[1:], 2):
            own = made / f"member_{number}"
            own.mkdir()
            for name in ("adapter_config.json", "adapter_model.safetensors", HEAD_FILE):
                shutil.copy2(reward_folder(member) / name, own / name)
        facts = {"schema": 1, "members": len(members), "combine": config.combine}
        facts["uwo_coefficient"] = config.uwo_coefficient
        (made / REWARD_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
