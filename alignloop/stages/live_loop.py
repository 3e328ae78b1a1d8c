"""The live loop: enough new judgements → reward model and policy → fresh answers → queued to be judged.

A round is a folder `rounds/N`: `labels.jsonl` and `judgements.json` (frozen when the round begins), run
folders `reward`, `policy` and `sample`, and `round.json` once all is done. Each step is skipped if it is
done and repeats without harm if it was cut short, so the loop may be killed at any moment.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.config import (
    HeldOutConfig,
    PreferenceConfig,
    RewardConfig,
    SampleConfig,
    may_change,
    path_values,
)
from alignloop.config.ai import LoopConfig
from alignloop.config.fields import fixed
from alignloop.config.stages import SamplingConfig, StageConfig
from alignloop.data.columns import write_records
from alignloop.errors import UserError
from alignloop.foreign import read_state
from alignloop.io import write_whole
from alignloop.labels.export import Filters, records
from alignloop.labels.faults import StoreUnavailable
from alignloop.labels.importing import read_items
from alignloop.labels.label_folder import opened
from alignloop.labels.project import NewItem
from alignloop.labels.select import choose, text_features
from alignloop.labels.store import Store
from alignloop.labels.votes import ranges
from alignloop.objectives.registry import load
from alignloop.records import Prompt
from alignloop.runs import RUN_FILE, Run, find_inputs
from alignloop.runs.results import Trained
from alignloop.stages import common
from alignloop.stages.preference import preference
from alignloop.stages.reward import RewardModel, reward
from alignloop.stages.sample import read_prompts, sample
from alignloop.training.distributed import world

LOCKED_ATTEMPTS = 60
"""Seconds a busy label database is waited for."""
_T = TypeVar("_T")


class MadeFrom(TypedDict):
    """judgements.json: what a round is made from."""

    project: str
    until: int
    judgements: list[int]
    left_out: Any


class RoundRow(TypedDict):
    """round.json: a round that is done."""

    round: int
    until: int
    num_records: int
    judgements: list[int]
    reward_model: str
    accuracy: float | None
    policy: str
    queued: int


def loop(config: LoopConfig, run: Run, objective: Any) -> dict[str, Any]:
    """Watch a label project and turn its judgements into better models, round after round.

    Args:
        config: the recipe; `dataset` holds the prompts that fresh answers are sampled for.
        run: the run folder; receives `rounds/N`.
        objective: the policy's loss, for example `DPO()`.

    Returns:
        Results for run.json: a row for each round, with the judgements it was made from.

    Raises:
        UserError: no such label folder or project, or one that gives no preferences; several processes.
        KeyboardInterrupt: stopped; the same command goes on.
    """
    if world()[1] > 1:
        raise UserError("stage loop runs in one process; start it without torchrun")
    common.set_threads(config.num_threads)
    prompts = read_prompts(config, 0, run)
    history: list[dict[str, Any]] = []
    while not config.rounds or len(history) < config.rounds:
        number = len(history) + 1
        folder = run.path / "rounds" / str(number)
        if not (folder / "round.json").exists() and not begin(config, folder, _last(history)):
            break
        before = history[-1]["policy"] if history else config.model_name_or_path
        row = one_round(config, objective, prompts, folder, number, before)
        if row["num_records"]:
            run.log(number, **{k: v for k, v in row.items() if isinstance(v, int | float)})
        history.append(row)
    return {"num_rounds": len(history), "rounds": [_shown(row) for row in history]}


def begin(config: LoopConfig, folder: Path, after: int) -> bool:
    """Wait for enough new judgements and freeze what a round is made from; False after `idle_s`.

    A round that had begun keeps what it had, also if an item was withdrawn since.
    """
    if (folder / "judgements.json").exists():
        return True
    seen, since = -1, time.monotonic()
    while True:
        new = patiently(lambda: _new_labels(config, after))
        if len(new) != seen:
            seen, since = len(new), time.monotonic()
            print(f"loop: {len(new)} of {config.every} new judgements", file=sys.stderr, flush=True)
        if len(new) >= config.every and freeze(config, folder, until=max(new)):
            return True
        if config.idle_s and time.monotonic() - since >= config.idle_s:
            return False
        time.sleep(config.poll_s)


def freeze(config: LoopConfig, folder: Path, *, until: int) -> bool:
    """Write the judgements in force up to `until` as records; False if they give none."""
    filters = Filters(until=until, without=config.without, min_agreement=config.min_agreement)

    def read(store: Store) -> Any:
        project = store.project(config.project or None)
        return project, records(store, project, "preference", filters=filters, derive=config.derive)

    project, export = patiently(lambda: _with_store(config, read))
    if not export.records:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "labels.jsonl", export.records)
    content = {
        "project": project.name,
        "until": until,
        "judgements": export.judgement_ids,
        "left_out": export.left_out,
    }
    _write_json(folder / "judgements.json", content)  # the last file: with it the round has begun
    return True


def one_round(
    config: LoopConfig, objective: Any, prompts: Sequence[Prompt], folder: Path, number: int, before: str
) -> dict[str, Any]:
    """Train, sample and queue; returns the round's row, that of round.json if it is there.

    `before` is the policy of the round before, with which people compare the new one.
    """
    if (folder / "round.json").exists():
        return _read_round(folder)
    remedy = f"remove {folder}, and the round is begun anew"
    made_from = read_state(folder / "judgements.json", MadeFrom, remedy=remedy)
    policy, scorer, accuracy = config.model_name_or_path, None, None
    if config.train in ("reward", "both"):
        part = train_reward(config, folder)
        accuracy, scorer = part.results(Trained).means_held_out.mean("accuracy").value, str(part.path)
        patiently(lambda: register(config, "reward", scorer or "", made_from["judgements"], accuracy))
    if config.train in ("policy", "both"):
        part = train_policy(config, folder, objective)
        policy = str(part.path)
        patiently(lambda: register(config, config.objective, policy, made_from["judgements"], None))
    count = min(config.prompts_per_round, len(prompts))
    chosen = [prompts[k % len(prompts)] for k in range((number - 1) * count, number * count)]
    answers = draw(config, folder / "sample", policy, chosen, number)
    versus = math.ceil(config.versus_share * count) if policy != before else 0
    old = None
    if versus:
        few = config.model_copy(update={"num_samples": 2})
        old = draw(few, folder / "before", before, chosen[:versus], number)
    added = patiently(lambda: enqueue(config, answers, scorer, number, old))
    row = {
        "round": number,
        "until": made_from["until"],
        "num_records": sum(1 for _ in (folder / "labels.jsonl").open(encoding="utf-8")),
        "judgements": made_from["judgements"],
        "reward_model": scorer or "",
        "accuracy": accuracy,
        "policy": policy,
        "queued": added,
    }
    _write_json(folder / "round.json", row)
    print(
        f"loop: round {number} done, {len(row['judgements'])} judgements, {added} items queued",
        file=sys.stderr,
        flush=True,
    )
    return row


def train_reward(config: LoopConfig, folder: Path) -> Run:
    """The round's reward model."""
    keys: dict[str, Any] = _train_keys(config, folder, "reward")
    keys["learning_rate"] = fixed(config.reward_learning_rate)
    objective = load("bradley_terry")()
    return part_run("reward", RewardConfig(**keys), lambda c, r: reward(c, r, objective))


def train_policy(config: LoopConfig, folder: Path, objective: Any) -> Run:
    """The round's policy."""
    stage = PreferenceConfig(**_train_keys(config, folder, "policy"))
    return part_run(config.objective, stage, lambda c, r: preference(c, r, objective))


def draw(config: LoopConfig, folder: Path, policy: str, prompts: Sequence[Prompt], number: int) -> Run:
    """Fresh answers of a policy to the round's prompts."""
    file = folder.with_name(f"{folder.name}-prompts.jsonl")
    if not file.exists():
        write_records(file, prompts)
    sampling = {name: getattr(config, name) for name in SamplingConfig.model_fields}
    shared = {name: getattr(config, name) for name in StageConfig.model_fields}
    # Both sides of a comparison are drawn by themselves.
    salt = int(folder.name == "before")
    seed = int(np.random.default_rng([config.seed, number, salt]).integers(2**31))
    stage = SampleConfig(
        **{
            **shared,
            **sampling,
            "seed": seed,
            "dataset": str(file),
            "output_dir": str(folder),
            "model_name_or_path": policy,
            "chat_template": config.chat_template,
            "chat_template_kwargs": config.chat_template_kwargs,
            "special_tokens_in_content": config.special_tokens_in_content,
            "num_samples": config.num_samples,
        }
    )
    return part_run("sample", stage, sample)


def enqueue(config: LoopConfig, answers: Run, scorer: str | None, number: int, old: Run | None) -> int:
    """Queue the answers that the strategy wants, newest round first; equal items are left alone."""

    def write(store: Store) -> int:
        project = store.project(config.project or None)
        items = read_items(answers.path, task=project.task).items
        chosen = select_items(config, items, scorer, number)
        if old is not None and project.task in ("pair", "ranking"):
            chosen += versus_items(answers, old, number)
        return store.add_items(project, chosen, actor="loop").added

    return _with_store(config, write)


def versus_items(new: Run, old: Run, number: int) -> list[NewItem]:
    """An answer of the new policy beside one of the policy before, to the same prompt, names hidden."""
    # As of an edit project, which takes any number of answers, so that none is left out.
    before = {item.prompt: item for item in read_items(old.path, task="edit").items}
    found = []
    for item in read_items(new.path, task="edit").items:
        other = before.get(item.prompt)
        if other and item.answers and other.answers and item.answers[0].text != other.answers[0].text:
            both = (item.answers[0], other.answers[0])
            found.append(
                NewItem(item.prompt, both, arm="versus", priority=float(number), provenance=item.provenance)
            )
    return found


def select_items(
    config: LoopConfig, items: Sequence[NewItem], scorer: str | None, number: int
) -> list[NewItem]:
    """The items to queue, with the arm that chose each, a priority that rises by round, and scores."""
    if not items:
        return []
    scores: list[list[float]] = []
    if scorer is not None:
        model = RewardModel(scorer, dtype=config.dtype, device=config.device)
        scores = model.score([i.prompt for i in items], [[a.text for a in i.answers] for i in items])
    wanted = config.queue or len(items)
    features = None
    if config.strategy == "diversity":
        features = text_features([item.prompt[-1].content for item in items])
    picked = choose(
        config.strategy,
        wanted,
        num_candidates=len(items),
        scores=scores if config.strategy in ("uncertainty", "gap") else None,
        features=features,
        seed=config.seed + number,
    )
    return [
        NewItem(
            items[k].prompt,
            items[k].answers,
            arm=arm,
            priority=float(number),
            scores=scores[k] if scores else None,
            provenance=items[k].provenance,
        )
        for k, arm in zip(picked.indices.tolist(), picked.arms, strict=True)
    ]


def register(
    config: LoopConfig, kind: str, path: str, judgement_ids: Sequence[int], accuracy: float | None
) -> None:
    """Name the judgements a model was made from in the label store, once."""

    def write(store: Store) -> None:
        project = store.project(config.project or None)
        if path not in [model.path for model in store.models(project)]:
            store.record_model(project, kind=kind, path=path, judgement_ids=judgement_ids, accuracy=accuracy)

    _with_store(config, write)


def part_run(stage: str, config: Any, work: Callable[[Any, Run], Any]) -> Run:
    """Run a stage in its folder; a finished one is used again, an unfinished one goes on."""
    folder = Path(config.output_dir)
    if (folder / RUN_FILE).is_file() and Run.open(folder).status == "finished":
        return Run.open(folder)
    inputs, parents = find_inputs(path_values(config), within=folder)
    with Run.create(
        folder,
        stage=stage,
        config={"stage": stage, **config.model_dump(mode="json")},
        seed=config.seed,
        inputs=inputs,
        parents=parents,
        may_change=may_change(type(config)),
    ) as part:
        part.finish(work(config, part))
    return Run.open(folder)


def patiently(action: Callable[[], _T]) -> _T:
    """Carry out an action on the label store, waiting while another program holds it."""
    for attempt in range(LOCKED_ATTEMPTS):
        try:
            return action()
        except StoreUnavailable as error:
            if error.reason != "locked" or attempt == LOCKED_ATTEMPTS - 1:
                raise
            time.sleep(1.0)
    raise AssertionError("the loop returns or raises")


def _with_store(config: LoopConfig, action: Callable[[Store], _T]) -> _T:
    with opened(Path(config.labels), config.database or None) as store:
        return action(store)


def _new_labels(config: LoopConfig, after: int) -> list[int]:
    return _with_store(config, lambda s: s.new_labels_since(s.project(config.project or None), after))


def _train_keys(config: LoopConfig, folder: Path, name: str) -> dict[str, Any]:
    keys = {key: getattr(config, key) for key in HeldOutConfig.model_fields}
    return keys | {
        "dataset": str(folder / "labels.jsonl"),
        "columns": {},
        "output_dir": str(folder / name),
    }


def _last(history: Sequence[dict[str, Any]]) -> int:
    """The newest judgement that the rounds so far knew of."""
    return history[-1]["until"] if history else 0


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A round's row for the report: judgements as ranges."""
    return {**row, "judgements": ranges(row["judgements"])}


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _read_round(folder: Path) -> dict[str, Any]:
    """The row of a round that is done, its models where the folder is now."""
    remedy = "remove it and the round is done again"
    row: dict[str, Any] = dict(read_state(folder / "round.json", RoundRow, remedy=remedy))
    for key, place in (("policy", folder / "policy"), ("reward_model", folder / "reward")):
        if row[key] and Path(row[key]).name == place.name and not Path(row[key]).exists():
            row[key] = str(place)
    return row
