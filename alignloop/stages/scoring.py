"""From the recipe's `rewards` and `gold` to callables: reward models are loaded here."""

from __future__ import annotations

from collections.abc import Sequence

from alignloop.config.rl import RewardsConfig, RewardTerm
from alignloop.errors import ConfigError
from alignloop.records import Prompt
from alignloop.rl.advantages import MissingEOS
from alignloop.rl.rewards import (
    Component,
    Reward,
    RunningMoments,
    Sample,
    check_prompts,
    function,
    penalty,
    verifier,
)
from alignloop.rl.verifiers import VERIFIERS
from alignloop.stages.judging import judge_component
from alignloop.stages.reward import RewardModel


def build_reward(config: RewardsConfig, prompts: Sequence[Prompt], *, max_tokens: int) -> Reward:
    """The reward of a recipe, checked against the prompts before anything is sampled.

    Raises:
        ConfigError: members of an ensemble with different weights.
        DataError: a prompt without what a verifier reads.
        ModelError: a reward model that cannot be loaded.
    """
    check_prompts([term["verifier"] for term in config.rewards if "verifier" in term], prompts)
    models = [term for term in config.rewards if "model" in term]
    weights = {term.get("weight", 1.0) for term in models}
    if len(weights) > 1:
        raise ConfigError("rewards: members of an ensemble have one weight; the models' weights differ")
    components: list[Component] = []
    for term in config.rewards:
        if "model" not in term:
            part = _component(term, max_tokens, config.overlong_buffer)
            components.append(_unique(part, components))
    ensemble = [model_component(term["model"], name=f"model_{i}") for i, term in enumerate(models)]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    return Reward(
        components,
        ensemble,
        weights.pop() if weights else 1.0,
        config.ensemble,
        config.uwo_coefficient,
        MissingEOS(config.missing_eos, config.missing_eos_value),
        config.reward_clip or None,
        RunningMoments() if config.normalize_reward else None,
    )


def build_gold(gold: str, prompts: Sequence[Prompt]) -> Component | None:
    """The measure that is followed but not trained on; None for `none`. Errors as `build_reward`."""
    if gold == "none":
        return None
    if gold in VERIFIERS:
        check_prompts([gold], prompts)
        return verifier(gold)
    return model_component(gold, name="gold")


def model_component(path: str, *, name: str) -> Component:
    """A trained reward model as a part. It reads texts, so its tokenizer may differ from the policy's."""
    model = RewardModel(path)

    def score(samples: Sequence[Sample]) -> list[float]:
        prompts: list[Prompt] = []
        texts: list[list[str]] = []
        for sample in samples:  # neighbours with one prompt share its forward pass
            if not prompts or prompts[-1] is not sample.prompt:
                prompts.append(sample.prompt)
                texts.append([])
            texts[-1].append(sample.completion)
        scored = model.score([prompt.prompt for prompt in prompts], texts)
        return [value for row in scored for value in row]

    return Component(name, score)


def _component(term: RewardTerm, max_tokens: int, buffer: int) -> Component:
    weight = term.get("weight", 1.0)
    if "verifier" in term:
        return verifier(term["verifier"], weight=weight)
    if "judge" in term:
        return judge_component(term)
    if "function" in term:
        return function(term["function"], weight=weight, timeout_s=term.get("timeout_s", 60.0))
    assert "penalty" in term
    return penalty(term["penalty"], weight=weight, max_tokens=max_tokens, buffer=buffer)


def _unique(part: Component, others: Sequence[Component]) -> Component:
    """The part under a name of its own: `score`, `score_2`, …."""
    taken = [other.name.rpartition("_")[0] if other.name[-1].isdigit() else other.name for other in others]
    count = taken.count(part.name)
    name = f"{part.name}_{count + 1}" if count else part.name
    return Component(name, part.score, part.weight, part.timeout_s)
