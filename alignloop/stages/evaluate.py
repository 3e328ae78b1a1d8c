"""Before against after, with intervals: what became better, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np

from alignloop.config import EvaluateConfig
from alignloop.data.columns import read_records
from alignloop.data.tokenize import tokenize
from alignloop.errors import DataError
from alignloop.evaluation import gate
from alignloop.evaluation.bootstrap import Interval, mean_interval, rate_interval
from alignloop.evaluation.comparisons import by_score
from alignloop.evaluation.likelihood import kl_on_samples, perplexity
from alignloop.evaluation.winrate import win_rate
from alignloop.machine import release_memory
from alignloop.model.load import same_vocabulary
from alignloop.records import Conversation, Prompt, message_rows
from alignloop.rl.verifiers import VERIFIERS
from alignloop.runs import Run
from alignloop.stages import common
from alignloop.stages.local import Answer, Local
from alignloop.stages.reward_model import RewardModel
from alignloop.stages.sample import read_prompts, sampling_params
from alignloop.stages.summaries import before_after


class Resampling(TypedDict):
    """How the bootstrap's intervals are made."""

    level: float
    replicates: int
    seed: int


@dataclass(slots=True)
class Side:
    """One of the two models with its answers, as text and as they were sampled."""

    model: Local
    sampled: list[Answer]

    @property
    def answers(self) -> list[str]:
        """The texts."""
        return [answer.text for answer in self.sampled]


def evaluate(config: EvaluateConfig, run: Run) -> dict[str, Any]:
    """Answer held-out prompts with both models and compare.

    Metrics: gold pass rate (where prompts carry constraints), reward-model score, length in words, KL of
    the new model to the old one on its own answers, perplexity of held-out text; win rates of the new
    model by gold and by reward model, ties ½, with intervals that resample prompts. Answers are kept as they
    come and shared with `compare`, so that the same command goes on and no answer is sampled twice.

    Args:
        config: the recipe.
        run: the run folder; receives samples with both answers.

    Returns:
        Results for run.json: `metrics`, `win_rate`, `win_rate_reward`, `num_prompts`.

    Raises:
        DataError: fewer than 2 different prompts.
        RequirementError: a requirement is not met; the results are in the run folder all the same.
    """
    common.set_threads(config.num_threads)
    for text in config.require:
        gate.parse(text)
    prompts = read_prompts(config, config.num_prompts, run)
    if len({prompt.prompt for prompt in prompts}) < 2:
        raise DataError(
            "an interval needs at least 2 different prompts; this is one", file=str(config.dataset)
        )
    before, after = _answers(config, [prompt.prompt for prompt in prompts])
    level, resampled = config.confidence, _resampled(config)
    metrics: dict[str, Any] = {}
    results: dict[str, Any] = {"num_prompts": len(prompts), "metrics": metrics}
    gold = _gold(prompts, before, after)
    if gold is not None:
        rates = [rate_interval((np.asarray(side) == 1.0).astype(float), level=level) for side in gold]
        metrics["gold_pass_rate"] = before_after(rates, "share", higher=True)
        results["win_rate"] = _rate(win_rate(_wins(*gold, before, after), level=level))
    rewards = None
    if config.reward_model is not None:
        scorer = RewardModel(config.reward_model, dtype=config.dtype, device=config.device)
        pairs = [[a, b] for a, b in zip(before.answers, after.answers, strict=True)]
        scored = np.asarray(scorer.score([p.prompt for p in prompts], pairs))
        rewards = (scored[:, 0].tolist(), scored[:, 1].tolist())
        del scorer
        release_memory()
        metrics["reward_model_score"] = before_after(
            [mean_interval(r, **resampled) for r in rewards], "reward", higher=True
        )
        results["win_rate_reward"] = _rate(win_rate(_wins(*rewards, before, after), level=level))
    words = [[float(len(text.split())) for text in side.answers] for side in (before, after)]
    metrics["length"] = before_after([mean_interval(w, **resampled) for w in words], "words", higher=None)
    _likelihoods(config, prompts, before, after, metrics)
    _write_samples(run, prompts, before, after, gold, rewards)
    if config.require:
        run.set_results(results)
        outcomes = gate.judge(config.require, named_values(results))
        results["requirements"] = gate.as_rows(outcomes)
        run.set_results(results)
        gate.enforce(outcomes)
    return results


def named_values(results: Mapping[str, Any]) -> dict[str, float]:
    """What `require` may name: `win_rate`, `.low`, `.high`; of each metric `.before`, `.after`, `.change`
    and the ends of the first two's intervals, `.after_low` and so on."""
    named: dict[str, float] = {}
    for name, rate in results.items():
        if name.startswith("win_rate"):
            low, high = rate["interval"]
            named |= {name: rate["value"], f"{name}.low": low, f"{name}.high": high}
    for name, row in results["metrics"].items():
        named[f"{name}.change"] = row["after"] - row["before"]
        for side in ("before", "after"):
            named[f"{name}.{side}"] = row[side]
            if f"{side}_interval" in row:
                low, high = row[f"{side}_interval"]
                named |= {f"{name}.{side}_low": low, f"{name}.{side}_high": high}
    return named


def _answers(config: EvaluateConfig, prompts: Sequence[Conversation]) -> tuple[Side, Side]:
    """Both sides' answers. The old model reads the new one's while it has the prompts at hand, for the KL."""
    params = sampling_params(config, config.seed)
    shared = (params, config.dtype, config.device, config.template, config.token_budget)
    before, after = Local("before", config.before, *shared), Local("after", config.after, *shared)
    comparable = same_vocabulary(before.opened()[0].tokenizer, after.opened()[0].tokenizer)
    new = after.sampled(prompts)
    old = before.sampled(prompts, [answer.ids for answer in new] if comparable else ())
    return Side(before, old), Side(after, new)


def _gold(prompts: Sequence[Prompt], before: Side, after: Side) -> tuple[list[float], list[float]] | None:
    """Gold rewards of both sides where every prompt can be verified, else None."""
    if not all(prompt.constraints for prompt in prompts):
        return None
    gold = VERIFIERS["constraints"]
    one, two = ([gold(t, p) for t, p in zip(side.answers, prompts, strict=True)] for side in (before, after))
    return one, two


def _wins(
    scores_before: Sequence[float], scores_after: Sequence[float], before: Side, after: Side
) -> Sequence[float]:
    """1 where the new model is better, 0 where it is worse, ½ for a tie; an empty answer loses."""
    scores = {"before": scores_before, "after": scores_after}
    answers = {"before": before.answers, "after": after.answers}
    return by_score(scores, [("after", "before")], answers)[0].scores


def _likelihoods(
    config: EvaluateConfig, prompts: Sequence[Prompt], before: Side, after: Side, metrics: dict[str, Any]
) -> None:
    """KL on the new model's answers, and perplexity of held-out text."""
    (loaded_before, _), (loaded_after, encoder) = before.model.opened(), after.model.opened()
    if same_vocabulary(loaded_before.tokenizer, loaded_after.tokenizer):
        asked = [encoder.prompt(prompt.prompt).tolist() for prompt in prompts]
        said = [answer.ids for answer in after.sampled]
        kl = kl_on_samples(
            after.model.logprobs(asked, said), before.model.logprobs(asked, said), **_resampled(config)
        )
        metrics["kl"] = {
            "before": 0.0,
            "after": kl.value,
            "after_interval": [kl.low, kl.high],
            "unit": "nats per answer",
            "higher_is_better": None,
        }
    if config.perplexity_dataset is not None:
        texts = read_records(config.perplexity_dataset, kind="document")
        values = []
        for model in (before.model, after.model):
            _, own = model.opened()
            documents = tokenize(texts.records, replace(own, max_length=1024))
            values.append(
                perplexity(model.packed(), documents.groups, config.token_budget, **_resampled(config))
            )
        metrics["perplexity"] = before_after(values, "per token", higher=False)


def _resampled(config: EvaluateConfig) -> Resampling:
    return {"level": config.confidence, "replicates": config.bootstrap, "seed": config.seed}


def _rate(interval: Interval) -> dict[str, Any]:
    return {
        "value": interval.value,
        "interval": [interval.low, interval.high],
        "n": interval.num_clusters,
        "level": interval.level,
    }


def _write_samples(
    run: Run,
    prompts: Sequence[Prompt],
    before: Side,
    after: Side,
    gold: tuple[list[float], list[float]] | None,
    rewards: tuple[list[float], list[float]] | None,
) -> None:
    run.rewind(-1)
    for i, prompt in enumerate(prompts):
        row: dict[str, Any] = {
            "step": 0,
            "prompt": message_rows(prompt.prompt),
            "completion": after.answers[i],
            "completion_before": before.answers[i],
            "model": after.model.path,
        }
        if gold is not None:
            row |= {"gold_before": gold[0][i], "gold": gold[1][i]}
        if rewards is not None:
            row |= {"reward_before": rewards[0][i], "reward": rewards[1][i]}
        run.sample(**row)
