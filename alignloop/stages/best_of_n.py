"""Rejection sampling: the best of n answers becomes a demonstration.

Llama 2 (Touvron et al. 2023, section 3.2.3): sample, score, keep the best, fine-tune the *starting*
checkpoint on them, before PPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignloop.config import BestOfNConfig
from alignloop.data.columns import read_records, write_records
from alignloop.errors import DataError
from alignloop.evaluation.best_of_n import best_of_n_curve
from alignloop.model.load import load_model
from alignloop.objectives.sft import SFT
from alignloop.records import Demonstration, Prompt, Provenance
from alignloop.rl.verifiers import VERIFIERS
from alignloop.run import Run
from alignloop.stages import common
from alignloop.stages.answers import answer_all
from alignloop.stages.reward_model import RewardModel
from alignloop.stages.sample import read_prompts, sampling_params


def best_of_n(config: BestOfNConfig, run: Run) -> dict[str, Any]:
    """Sample n answers per prompt, keep the best by reward, and fine-tune the starting model on them.

    Args:
        config: the recipe; `reward_model` is a run, or `gold` for the prompts' own verifiers.
        run: the run folder; receives `data/rows.jsonl` (the demonstrations), metrics and `model/`.

    Returns:
        Results for run.json: the best-of-n curve with its KL, and those of the fine-tuning.
    """
    common.check_settings(config)
    common.set_threads(config.num_threads)
    prompts = read_prompts(config, config.max_prompts, run)
    file = run.path / "data" / "rows.jsonl"
    curve: list[dict[str, float]] = []
    if not file.exists():  # a resumed run goes on with the demonstrations it chose before
        loaded = load_model(
            config.model_name_or_path, dtype=config.dtype, device=config.device, seed=config.seed
        )
        encoder = common.inference_encoder(loaded, config.chat_template)
        params = sampling_params(config, config.seed)
        answers = answer_all(
            loaded,
            encoder,
            prompts,
            params,
            n=config.n,
            token_budget=4 * config.token_budget,
            title="best of n",
        )
        del loaded, encoder
        rewards = score(config.reward_model, prompts, answers)
        curve = _curve(rewards, config.n)
        chosen = best(prompts, answers, rewards, config.keep_per_prompt, config.reward_model)
        file.parent.mkdir(exist_ok=True)
        write_records(file, chosen)
    data = read_records(str(file), kind="demonstration")
    prepared = common.prepare(config)
    result = common.tokenized(config, prepared, run, data)
    objective: Any = SFT()
    common.check_rows(config, objective, run, prepared, result.groups)
    summary = common.fit(config, objective, run, prepared, result.groups)
    common.save_policy(prepared, run.path / "model")
    return {**summary, "best_of_n": curve, "data": common.data_summary(data, result)}


def score(reward_model: str, prompts: Sequence[Prompt], answers: list[list[str]]) -> list[list[float]]:
    """Rewards of every answer, by a trained model or by the prompts' verifiers (`gold`)."""
    if reward_model == "gold":
        gold = VERIFIERS["constraints"]
        return [[gold(text, p) for text in texts] for p, texts in zip(prompts, answers, strict=True)]
    return RewardModel(reward_model).score([p.prompt for p in prompts], answers)


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
                found.append(Demonstration(prompt.prompt, texts[i], where))
    if not found:
        raise DataError("every prompt's answers have the same reward, so none is best", reason="no_rows")
    return found


def _curve(rewards: list[list[float]], n: int) -> list[dict[str, float]]:
    """Expected reward of the best of 1, 2, 4, … n with its KL to the policy."""
    ns = sorted({*(2**k for k in range(10) if 2**k < n), n})
    points = best_of_n_curve(rewards, rewards, ns)
    return [
        {"n": p.n, "kl": p.kl, "reward": p.proxy.value, "low": p.proxy.low, "high": p.proxy.high}
        for p in points
    ]
