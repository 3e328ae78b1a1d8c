"""From the recipe's `rewards` and `gold` to callables: reward models are loaded here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from alignloop.config.reward_models import RewardsConfig, RewardTerm
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
from alignloop.stages import common
from alignloop.stages.judging import judge_component
from alignloop.stages.reward_model import Combination, RewardModel


def build_reward(
    config: RewardsConfig,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int,
    base: common.Prepared | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Reward:
    """The reward of a recipe, checked against the prompts before anything is sampled.

    Args:
        config: the recipe's keys.
        prompts: what will be answered.
        max_tokens: longest completion.
        base: a LoRA policy; reward models trained with LoRA from the same start become adapters on it.
        dtype: of reward models that are loaded, as `load_model` takes it.
        device: where they run.

    Returns:
        A callable that scores samples, each part by itself.

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
    components = [
        _component(term, max_tokens, config.overlong_buffer) for term in config.rewards if "model" not in term
    ]
    loaded = [
        RewardModel(term["model"], dtype=dtype, device=device, base=base)  # pyright: ignore[reportTypedDictNotRequiredAccess]
        for term in models
    ]
    own = loaded[0].combination if len(loaded) == 1 else Combination()
    given = config.ensemble
    return Reward(
        components,
        _members(loaded),
        weights.pop() if weights else 1.0,
        own.combine if given == "auto" else given,
        own.uwo_coefficient if given == "auto" else config.uwo_coefficient,
        MissingEOS(config.missing_eos, config.missing_eos_value),
        config.reward_clip or None,
        RunningMoments() if config.normalize_reward else None,
    )


def build_gold(
    gold: str,
    prompts: Sequence[Prompt],
    *,
    base: common.Prepared | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Component | None:
    """The measure that is followed but not trained on; None for `none`. The rest as `build_reward`."""
    if gold == "none":
        return None
    if gold in VERIFIERS:
        check_prompts([gold], prompts)
        return verifier(gold)
    model = RewardModel(gold, dtype=dtype, device=device, base=base)
    return Component("gold", lambda samples: _scored(model.score, samples))


def _members(models: Sequence[RewardModel]) -> list[Component]:
    """Every member of every reward model as a part of its own, `model_0`, `model_1`, …"""

    def part(model: RewardModel, member: int, number: int) -> Component:
        score = partial(model.score, member=member)
        return Component(f"model_{number}", lambda samples: _scored(score, samples))

    members = [(model, member) for model in models for member in range(model.num_members)]
    return [part(model, member, number) for number, (model, member) in enumerate(members)]


def _scored(score: Callable[..., list[list[float]]], samples: Sequence[Sample]) -> list[float]:
    """One reward for each sample. Texts are scored, so the policy's tokenizer may be another one."""
    prompts: list[Prompt] = []
    texts: list[list[str]] = []
    for sample in samples:  # neighbours with one prompt share its forward pass
        if not prompts or prompts[-1] is not sample.prompt:
            prompts.append(sample.prompt)
            texts.append([])
        texts[-1].append(sample.completion)
    return [value for row in score([prompt.prompt for prompt in prompts], texts) for value in row]


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
