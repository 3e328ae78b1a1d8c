"""Iterated preference learning: each round compares fresh answers of the latest policy.

On-policy DPO in rounds (Xu et al. 2023, arXiv 2312.16682; Xiong et al. 2023, arXiv 2312.11456). A round
is a run folder `rounds/N` of its own, so a stopped stage goes on with the round it was in: within its
sampling (`N-sampling/`), with its rows (`N-rows.jsonl`), or within its training (`N/checkpoints/`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignloop.config import PreferenceConfig, TrainConfig
from alignloop.config.rl import IterateConfig
from alignloop.data.columns import write_records
from alignloop.errors import DataError
from alignloop.foreign import read_state
from alignloop.io import write_whole
from alignloop.model.load import load_model
from alignloop.model.scheduler import TOKEN_BUDGET, Sampled
from alignloop.records import Label, Preference, Prompt, Provenance, Record
from alignloop.runs import RUN_FILE, Run
from alignloop.runs.record import needed
from alignloop.runs.results import Trained
from alignloop.stages import common
from alignloop.stages.answers import sample_over_ranks
from alignloop.stages.best_answers import to_samples
from alignloop.stages.preference import preference
from alignloop.stages.sample import read_prompts, sampling_params
from alignloop.stages.scoring import build_reward
from alignloop.stages.stopping import stop_requests
from alignloop.stages.unfinished import Kept
from alignloop.training.distributed import on_first_rank


def iterate(config: IterateConfig, run: Run, objective: Any) -> dict[str, Any]:
    """Sample, score, compare and train, `rounds` times.

    Args:
        config: the recipe; `dataset` holds prompts.
        run: the run folder; receives `rounds/N` (a run each, with its pairs) and `model/` of the last.
        objective: `DPO()`, `IPO()` or `KTO()`.

    Returns:
        Results for run.json: one row for each round.
    """
    common.set_threads(config.num_threads)
    run.rewind(0)  # finished rounds are logged again
    prompts = read_prompts(config, 0, run)
    model, history = config.model_name_or_path, []
    for number in range(config.rounds):
        chosen = prompts_of_round(prompts, config, number)
        results = one_round(config, run, objective, chosen, model, number)
        run.log(number + 1, **results)
        history.append(results)
        model = str(run.path / "rounds" / str(number + 1))
    copy_model(config, model, run)
    return {"rounds": history}


def prompts_of_round(prompts: Sequence[Prompt], config: IterateConfig, number: int) -> list[Prompt]:
    """The next `max_prompts` prompts, from the front again at the end; all without a limit."""
    count = config.max_prompts or len(prompts)
    return [prompts[i % len(prompts)] for i in range(number * count, (number + 1) * count)]


def one_round(
    config: IterateConfig, run: Run, objective: Any, prompts: Sequence[Prompt], model: str, number: int
) -> dict[str, float]:
    """Fresh answers of `model`, compared, and a model trained on them in `rounds/<number + 1>`."""
    folder = run.path / "rounds" / str(number + 1)
    if (folder / RUN_FILE).is_file() and Run.open(folder).status == "finished":
        return needed(Run.open(folder).results(Trained).round, "round", folder)
    pairs = run.path / "rounds" / f"{number + 1}-rows.jsonl"
    told = pairs.with_name(f"{number + 1}-rows.json")
    if not pairs.exists():  # a resumed round goes on with the rows it made before
        pairs.parent.mkdir(exist_ok=True)
        labels = "label" in objective.records
        sample_round(config, run, prompts, model, number, pairs=pairs, told=told, labels=labels)
    keys = {name: getattr(config, name) for name in TrainConfig.model_fields}
    keys |= {"dataset": str(pairs), "columns": {}, "model_name_or_path": model, "output_dir": str(folder)}
    keys["eval_fraction"] = 0.0
    reference = config.model_name_or_path if config.reference == "start" else "auto"
    stage = PreferenceConfig(**keys, reference=reference)
    with common.part_of(folder, stage=config.objective, config=stage) as part:
        trained = preference(stage, part, objective)
        numbers = {name: value for name, value in trained.items() if isinstance(value, int | float)}
        remedy = f"remove {pairs}, and the same command samples the round again"
        results = {**numbers, **read_state(told, dict[str, float], remedy=remedy)}
        part.finish({**trained, **Trained(round=results).row()})
    return results


def sample_round(
    config: IterateConfig,
    run: Run,
    prompts: Sequence[Prompt],
    model: str,
    number: int,
    *,
    pairs: Path,
    told: Path,
    labels: bool,
) -> None:
    """Write the rows that a round trains on, and beside them their number and the mean reward.

    Raises:
        DataError: every prompt's answers are worth the same.
        KeyboardInterrupt: a stop was asked for; the unfinished answers are saved.
    """
    with stop_requests("the next token") as stop:
        kept = Kept(run, pairs.with_name(f"{number + 1}-sampling"), config.rollout_save_s, stop)
        done = answers_of(config, prompts, model, number, kept)

    def write() -> None:
        fresh = compared(config, prompts, done, model, number, labels=labels)
        write_whole(told, json.dumps({"reward": fresh.reward, "num_rows": float(len(fresh.rows))}))
        write_records(pairs, fresh.rows)

    on_first_rank(write)
    kept.close()


class Fresh(NamedTuple):
    """Rows of a round and the mean reward of all its answers."""

    rows: list[Record]
    reward: float


def answers_of(
    config: IterateConfig, prompts: Sequence[Prompt], model: str, number: int, kept: Kept
) -> list[list[Sampled]]:
    """The model's answers, with seeds of their own in every round."""
    loaded = load_model(model, dtype=config.dtype, device=config.device, seed=config.seed)
    encoder = common.inference_encoder(loaded, config.template)
    seed = int(np.random.default_rng([config.seed, number]).integers(2**31))
    return sample_over_ranks(
        loaded,
        encoder,
        prompts,
        sampling_params(config, seed),
        n=config.num_generations,
        token_budget=TOKEN_BUDGET,
        title=f"round {number + 1}",
        kept=kept,
    )


def compared(
    config: IterateConfig,
    prompts: Sequence[Prompt],
    done: Sequence[Sequence[Sampled]],
    model: str,
    number: int,
    *,
    labels: bool,
) -> Fresh:
    """Answers as comparisons of unequal reward, or as labels.

    Raises:
        DataError: every prompt's answers are worth the same.
    """
    answers = [[one.text.strip() for one in row] for row in done]
    samples = to_samples(prompts, done)
    reward = build_reward(
        config, prompts, max_tokens=config.max_new_tokens, dtype=config.dtype, device=config.device
    )
    rewards = reward(samples).total
    table = rewards.reshape(len(prompts), config.num_generations)
    rows: list[Record] = []
    for prompt, texts, values in zip(prompts, answers, table, strict=True):
        rows += comparisons(prompt, texts, values, config.pairs_per_prompt, labels=labels, source=model)
    if not rows:
        raise DataError(
            f"round {number + 1}: every prompt's answers have the same reward, so none is better",
            reason="no_rows",
        )
    return Fresh(rows, float(rewards.mean()))


def comparisons(
    prompt: Prompt, texts: Sequence[str], values: np.ndarray, count: int, *, labels: bool, source: str
) -> list[Record]:
    """Best with worst, second best with second worst, …, where their rewards differ; no empty answers."""
    ranked: list[int] = np.argsort(-values, kind="stable").tolist()
    order = [i for i in ranked if texts[i].strip()]
    rows: list[Record] = []
    for k in range(min(count, len(order) // 2)):
        best, worst = order[k], order[-1 - k]
        if values[best] <= values[worst]:
            break
        details = {"model": source, "margin": float(values[best] - values[worst])}
        where = Provenance(prompt.provenance.file, prompt.provenance.line, "derived", details)
        if labels:
            rows += [
                Label(prompt.prompt, texts[best], True, where),
                Label(prompt.prompt, texts[worst], False, where),
            ]
        else:
            rows.append(Preference(prompt.prompt, texts[best], texts[worst], provenance=where))
    return rows


def copy_model(config: IterateConfig, model: str, run: Run) -> None:
    """The last round's model as this run's."""
    prepared = common.prepare(config.model_copy(update={"model_name_or_path": model, "lora_r": 0}))
    common.save_policy(prepared, run.path / "model")
