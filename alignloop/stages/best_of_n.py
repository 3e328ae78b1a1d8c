"""Rejection sampling: the best of n answers becomes a demonstration.

Llama 2 (Touvron et al. 2023, section 3.2.3): sample, score, keep the best, fine-tune the *starting*
checkpoint on them, before PPO.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignloop.config import BestOfNConfig
from alignloop.data.columns import read_records, write_records
from alignloop.errors import DataError
from alignloop.foreign import read_state
from alignloop.io import write_whole
from alignloop.model.load import load_model
from alignloop.model.scheduler import TOKEN_BUDGET
from alignloop.objectives.registry import load
from alignloop.records import Demonstration, Prompt, Provenance, Record, as_context
from alignloop.rl.rewards import check_prompts
from alignloop.rl.verifiers import VERIFIERS
from alignloop.runs import RUN_FILE, Run
from alignloop.runs.results import BestOfPoint, Trained
from alignloop.stages import common
from alignloop.stages.answers import ANSWERS_FILE, sample_over_ranks
from alignloop.stages.best_answers import reward_curve
from alignloop.stages.reward_model import RewardModel
from alignloop.stages.rows import tokenized, training_encoder
from alignloop.stages.sample import read_prompts, sampling_params
from alignloop.stages.stopping import stop_requests
from alignloop.stages.summaries import data_summary
from alignloop.stages.unfinished import Kept
from alignloop.training.distributed import on_first_rank


def best_of_n(config: BestOfNConfig, run: Run) -> dict[str, Any]:
    """Sample n answers per prompt, keep the best by reward, and fine-tune the starting model on them.

    A further round samples with the model of the round before and adds its best answers to those of all
    rounds; every round trains the start model.

    Args:
        config: the recipe; `reward_model` is a run or a verifier.
        run: the run folder; receives `data/rows.jsonl` (the demonstrations), metrics and `model/`, and of
            each round but the last a run in `rounds/N`.

    Returns:
        Results for run.json: the best-of-n curve with its KL, and those of the fine-tuning.
    """
    common.check_settings(config)
    common.set_threads(config.num_threads)
    sampler, earlier = config.model_name_or_path, list[Record]()
    for number in range(1, config.rounds):
        folder = run.path / "rounds" / str(number)
        if not (folder / RUN_FILE).is_file() or Run.open(folder).status != "finished":
            keys = config.model_copy(update={"rounds": 1, "output_dir": str(folder)})
            with common.part_of(folder, stage="best_of_n", config=keys) as part:
                part.finish(one_round(keys, part, sampler, earlier, number))
        sampler, earlier = str(folder), list(read_records(str(folder), kind="demonstration").records)
    return one_round(config, run, sampler, earlier, config.rounds)


def one_round(
    config: BestOfNConfig, run: Run, sampler: str, earlier: Sequence[Record], number: int
) -> dict[str, Any]:
    """The start model fine-tuned on `earlier` demonstrations and on the best answers of `sampler`."""
    file, curve_file = run.path / ANSWERS_FILE, run.path / "data" / "curve.json"
    if not file.exists():  # a resumed run goes on with the demonstrations it chose before
        prompts = read_prompts(config, config.max_prompts, run)
        name = verifier_of(config.reward_model)
        check_prompts([] if name is None else [name], prompts)

        def choose() -> None:
            rewards = score(config, prompts, answers)
            chosen = best(prompts, answers, rewards, config.keep_per_prompt, config.reward_model)
            file.parent.mkdir(exist_ok=True)
            write_whole(curve_file, json.dumps(reward_curve(rewards, config.n)))
            write_records(file, [*earlier, *chosen])

        with stop_requests("the next token") as stop:
            kept = Kept(run, run.path / "sampling", config.rollout_save_s, stop)
            answers = sampled(config, prompts, sampler, number, kept)
        on_first_rank(choose)
        kept.close()
    data = read_records(str(file), kind="demonstration")
    prepared = common.prepare(config)
    encoder = training_encoder(config, prepared.loaded, prepared.template)
    result = tokenized(config, data, encoder, run)
    objective = load("sft")()
    common.check_rows(config, objective, run, prepared, result.groups)
    summary = common.fit(config, objective, run, prepared, result.groups)
    common.save_policy(prepared, run.path / "model")
    remedy = f"remove {file}, and the same command samples again"
    curve = [BestOfPoint(**point) for point in read_state(curve_file, list[dict[str, float]], remedy=remedy)]
    return {**summary, **Trained(best_of_n=tuple(curve), data=data_summary(data, result)).row()}


def sampled(
    config: BestOfNConfig, prompts: Sequence[Prompt], sampler: str, number: int, kept: Kept
) -> list[list[str]]:
    """n answers of the sampling model to each prompt, with seeds of their own in every round."""
    loaded = load_model(sampler, dtype=config.dtype, device=config.device, seed=config.seed)
    encoder = common.inference_encoder(loaded, config.template)
    seed = config.seed
    if number > 1:
        seed = int(np.random.default_rng([config.seed, number]).integers(2**31))
    done = sample_over_ranks(
        loaded,
        encoder,
        prompts,
        sampling_params(config, seed),
        n=config.n,
        token_budget=TOKEN_BUDGET,
        title="best of n" if config.rounds == 1 else f"best of n, round {number}",
        kept=kept,
    )
    return [[one.text.strip() for one in row] for row in done]


def verifier_of(reward_model: str) -> str | None:
    """The verifier that the key names, None if it is a model's run folder."""
    name = "constraints" if reward_model == "gold" else reward_model
    return name if name in VERIFIERS else None


def score(config: BestOfNConfig, prompts: Sequence[Prompt], answers: list[list[str]]) -> list[list[float]]:
    """Rewards of every answer, by a trained model or by a verifier."""
    name = verifier_of(config.reward_model)
    if name is not None:
        check = VERIFIERS[name]
        return [[check(text, p) for text in texts] for p, texts in zip(prompts, answers, strict=True)]
    model = RewardModel(config.reward_model, dtype=config.dtype, device=config.device)
    return model.score([p.prompt for p in prompts], answers)


def best(
    prompts: Sequence[Prompt], answers: list[list[str]], rewards: list[list[float]], keep: int, scorer: str
) -> list[Demonstration]:
    """The `keep` best answers of each prompt; none of a prompt whose answers are all worth the same.

    Raises:
        DataError: no prompt has answers of different worth.
    """
    found = []
    for prompt, texts, values in zip(prompts, answers, rewards, strict=True):
        order = sorted(range(len(texts)), key=lambda i: -values[i])
        if values[order[0]] == values[order[-1]]:
            continue
        for i in order[:keep]:
            if texts[i]:
                details = {**prompt.provenance.details, "reward": float(values[i]), "scorer": scorer}
                where = Provenance(prompt.provenance.file, prompt.provenance.line, "derived", details)
                found.append(Demonstration(as_context(prompt.prompt), texts[i], where))
    if not found:
        raise DataError("every prompt's answers have the same reward, so none is best", reason="no_rows")
    return found
