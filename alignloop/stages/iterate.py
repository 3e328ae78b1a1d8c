"""Iterated preference learning: each round compares fresh answers of the latest policy.

On-policy DPO in rounds (Xu et al. 2023, arXiv 2312.16682; Xiong et al. 2023, arXiv 2312.11456). A round
is a run folder `rounds/N` of its own, so a stopped stage goes on with the round it was in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alignloop.config import PreferenceConfig, TrainConfig
from alignloop.config.rl import IterateConfig
from alignloop.data.columns import write_records
from alignloop.errors import DataError
from alignloop.model.load import load_model
from alignloop.model.scheduler import TOKEN_BUDGET
from alignloop.records import Label, Preference, Prompt, Provenance, Record
from alignloop.rl.rewards import Sample
from alignloop.run import RUN_FILE, Run
from alignloop.stages import common
from alignloop.stages.answers import answer_all
from alignloop.stages.preference import preference
from alignloop.stages.sample import read_prompts, sampling_params
from alignloop.stages.scoring import build_reward


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
        return Run.open(folder).record["results"]["round"]
    pairs = run.path / "rounds" / f"{number + 1}-rows.jsonl"
    fresh = sampled_rows(config, prompts, model, number, labels=objective.records == ("label",))
    pairs.parent.mkdir(exist_ok=True)
    write_records(pairs, fresh.rows)
    keys = {name: getattr(config, name) for name in TrainConfig.model_fields}
    keys |= {"dataset": str(pairs), "columns": {}, "model_name_or_path": model, "output_dir": str(folder)}
    reference = config.model_name_or_path if config.reference == "start" else "auto"
    stage = PreferenceConfig(**keys, reference=reference)
    with Run.create(
        folder, stage=config.objective, config=stage.model_dump(mode="json"), seed=config.seed
    ) as part:
        trained = preference(stage, part, objective)
        numbers = {name: value for name, value in trained.items() if isinstance(value, int | float)}
        results = {**numbers, "reward": fresh.reward, "num_rows": float(len(fresh.rows))}
        part.finish({**trained, "round": results})
    return results


class Fresh(NamedTuple):
    """Rows of a round and the mean reward of all its answers."""

    rows: list[Record]
    reward: float


def sampled_rows(
    config: IterateConfig, prompts: Sequence[Prompt], model: str, number: int, *, labels: bool
) -> Fresh:
    """Answers of the model as comparisons of unequal reward (or labels).

    Raises:
        DataError: every prompt's answers are worth the same.
    """
    loaded = load_model(model, dtype=config.dtype, device=config.device, seed=config.seed)
    encoder = common.inference_encoder(loaded, config.chat_template)
    seed = int(np.random.default_rng([config.seed, number]).integers(2**31))
    answers = answer_all(
        loaded,
        encoder,
        prompts,
        sampling_params(config, seed),
        n=config.num_generations,
        token_budget=TOKEN_BUDGET,
        title=f"round {number + 1}",
    )
    samples = [
        Sample(prompt, text, len(encoder.completion(text)), True, row)
        for row, (prompt, texts) in enumerate(zip(prompts, answers, strict=True))
        for text in texts
    ]
    rewards = build_reward(config, prompts, max_tokens=config.max_new_tokens)(samples).total
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
