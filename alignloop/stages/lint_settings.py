"""Silent traps in a recipe's settings: valid values that train nothing, or belong to another method."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from alignloop.config.defaults import STEPS, family, usual_rate
from alignloop.config.fields import AUTO, fixed
from alignloop.config.reward_models import RewardConfig
from alignloop.config.rl import IterateConfig, OnlineConfig
from alignloop.config.stages import PreferenceConfig, PretrainConfig, StageConfig, TrainConfig
from alignloop.data.packing import Group
from alignloop.machine import bf16_is_native
from alignloop.objectives.base import Objective
from alignloop.objectives.registry import file_of
from alignloop.stages.lint import Finding

# Lowest and highest usual learning rate of full fine-tuning, with room to both sides. Adapters want
# about ten times more, models below _SMALL parameters up to a thousand times more.
_RATES: tuple[tuple[type[TrainConfig], str, float, float], ...] = (
    (PreferenceConfig, "preference optimization", 1e-8, 4e-5),
    (IterateConfig, "preference optimization", 1e-8, 4e-5),
    (OnlineConfig, "online RL", 1e-8, 4e-5),
    (RewardConfig, "a reward model", 1e-7, 2e-4),
    (PretrainConfig, "pre-training", 1e-5, 5e-3),
    (TrainConfig, "fine-tuning", 1e-7, 1e-3),
)
_SMALL = 20_000_000
_ADAPTER_FACTOR = 10.0


def lint_settings(
    config: StageConfig, objective: Objective | None, *, num_parameters: int | None = None
) -> list[Finding]:
    """Traps that a recipe shows without its data.

    Args:
        config: the stage's settings.
        objective: its loss, None for a stage without a choice.
        num_parameters: of the model, None if it is not known yet; small models may learn faster.

    Returns:
        What was found.
    """
    found = [_bfloat16(config)]
    if isinstance(config, TrainConfig):
        found.append(_learning_rate(config, num_parameters))
    if objective is not None:
        found += [_scale(objective), _no_reference(config, objective), _batch_of_one(config, objective)]
    return [finding for finding in found if finding is not None]


def lint_schedule(
    config: TrainConfig,
    num_steps: int,
    *,
    done: int = 0,
    objective: Objective | None = None,
    num_parameters: int | None = None,
) -> list[Finding]:
    """Traps of the schedule: a warm-up that never ends, steps that move nothing, a resume with nothing to do.

    Args:
        config: the stage's settings.
        num_steps: optimizer steps in all.
        done: optimizer steps in the checkpoint that the run goes on from.
        objective: the stage's loss, None for a stage without a choice.
        num_parameters: of the model, None if it is not known.

    Returns:
        What was found.
    """
    found = [] if num_parameters is None else _hardly_moves(config, num_steps, objective, num_parameters)
    warmup = config.warmup_steps or round(config.warmup_ratio * num_steps)
    if warmup >= num_steps > 1:
        sentence = f"the warm-up of {warmup} steps does not end within the {num_steps} steps of this run"
        fix = "lower warmup_steps; the learning rate stays below the one asked for"
        found.append(Finding("AL203", "warning", sentence, fix))
    if done >= num_steps:
        sentence = (
            f"the checkpoint has {done} steps and the run only {num_steps}, so this resume trains nothing"
        )
        fix = "raise num_train_epochs or max_steps, or take a new output_dir; its model is saved as it is"
        found.append(Finding("AL211", "warning", sentence, fix))
    return found


_LEAST_REACH = 0.5
"""Steps × rate, as a share of 60 steps at the usual rate, below which a run is warned of; below a fifth of it
nothing is to be expected."""


def _hardly_moves(
    config: TrainConfig, num_steps: int, objective: Objective | None, num_parameters: int
) -> list[Finding]:
    """AL213: steps and rate together are far below what moves a model of this size."""
    if isinstance(config, OnlineConfig | PretrainConfig):
        return []
    lora, rate = config.lora_r > 0, fixed(config.learning_rate)
    usual = usual_rate(family(config, file_of(objective)), num_parameters, lora=lora)
    if num_steps * rate >= _LEAST_REACH * STEPS * usual:
        return []
    reach = num_steps * rate / (STEPS * usual)
    words = "will hardly move this model" if reach < _LEAST_REACH / 5 else "may be too few to move this model"
    steps = "1 step" if num_steps == 1 else f"{num_steps} steps"
    sentence = (
        f"{steps} of {rate:g} {words}: usual are {STEPS} steps or more of about {usual:g} "
        f"({'adapters' if lora else 'all weights'}, {num_parameters / 1e6:.3g} M parameters)"
    )
    fix = f"raise num_train_epochs or max_steps {math.ceil(1 / reach)}-fold, or add rows"
    if rate < usual:
        fix = "leave learning_rate and per_device_train_batch_size out (auto), or raise num_train_epochs"
    return [Finding("AL213", "warning", sentence, fix)]


def lint_data_settings(
    config: TrainConfig, objective: Objective | None, groups: Sequence[Group], *, num_positions: int | None
) -> list[Finding]:
    """Settings that do not fit the rows.

    Args:
        config: the stage's settings.
        objective: its loss, None for a stage without a choice.
        groups: tokenized training rows.
        num_positions: the longest text the model was made for, in tokens; None where no limit is known.

    Returns:
        What was found.
    """
    found = [_data_advice(objective, groups)]
    longest = max((len(g.prompt_ids) + len(c.ids) for g in groups for c in g.completions), default=0)
    if config.token_budget and longest > config.token_budget:
        sentence = (
            f"token_budget: {config.token_budget} is below the longest prompt with one completion "
            f"({longest} tokens), which runs alone and takes the memory of {longest}"
        )
        found.append(Finding("AL113", "warning", sentence, "lower max_length if memory is short"))
    if num_positions is not None and longest > num_positions:
        sentence = f"max_length: rows of up to {longest} tokens, but the model has {num_positions} positions"
        fix = f"set max_length to at most {num_positions}; overlength says what becomes of longer rows"
        found.append(Finding("AL115", "error", sentence, fix))
    return [finding for finding in found if finding is not None]


def _data_advice(objective: Objective | None, groups: Sequence[Group]) -> Finding | None:
    """AL114: the objective's hyperparameters do not fit the rows. A class that is missing is AL111."""
    advice = objective.data_advice(groups) if objective is not None else ""
    return Finding("AL114", "warning", advice, "or add rows") if advice else None


def lint_reference(
    policy: tuple[PretrainedConfig, PreTrainedTokenizerBase],
    reference: tuple[PretrainedConfig, PreTrainedTokenizerBase],
    *,
    name: str,
) -> list[Finding]:
    """Whether a reference's log-probs can be compared with the policy's.

    Args:
        policy: configuration and tokenizer of the model that is trained.
        reference: those of the reference.
        name: what the recipe calls the reference.

    Returns:
        At most one finding.
    """
    fix = "use reference: start, or a model of the same family and size"
    if policy[1].get_vocab() != reference[1].get_vocab():
        sentence = f"reference: '{name}' has another tokenizer than the policy; log-probs cannot be compared"
        return [Finding("AL208", "error", sentence, fix)]
    mine, its = policy[0].get_text_config(), reference[0].get_text_config()
    keys = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")
    differing = [
        f"{k} {getattr(its, k)} for {getattr(mine, k)}" for k in keys if getattr(its, k) != getattr(mine, k)
    ]
    if not differing:
        return []
    sentence = f"reference: '{name}' is another architecture than the policy ({', '.join(differing)})"
    return [Finding("AL208", "error", sentence, fix)]


def _bfloat16(config: StageConfig) -> Finding | None:
    if config.dtype != "bfloat16" or config.device == "cuda" or bf16_is_native():
        return None
    if config.device == "auto" and torch.cuda.is_available():
        return None
    sentence = "dtype: this CPU has no bfloat16 instructions, matrix products would be about 100 times slower"
    return Finding("AL206", "error", sentence, "use dtype: float32")


def _learning_rate(config: TrainConfig, num_parameters: int | None) -> Finding | None:
    if config.learning_rate == AUTO:
        return None
    method, low, high = next((name, a, b) for kind, name, a, b in _RATES if isinstance(config, kind))
    factor = _ADAPTER_FACTOR if config.lora_r else 1.0
    rate = fixed(config.learning_rate)
    if low <= rate <= high * factor:
        return None
    if rate > high * factor and (num_parameters is None or num_parameters < _SMALL):
        return None
    much = "low" if rate < low else "high"
    sentence = (
        f"learning_rate: {rate:g} is very {much} for {method}, where {low:g} to {high * factor:g} is usual"
    )
    return Finding("AL201", "warning", sentence, "check that it is not another method's")


def _scale(objective: Objective) -> Finding | None:
    usual = objective.usual
    if usual is None:
        return None
    value: float = getattr(objective, usual.key)
    if usual.low <= value <= usual.high:
        return None
    sentence = (
        f"{usual.key}: {value:g} is outside {usual.low:g} to {usual.high:g}, the scale of "
        f"{type(objective).__name__} (the paper has {usual.paper})"
    )
    return Finding("AL202", "warning", sentence, "check that it is not another method's")


def _no_reference(config: StageConfig, objective: Objective) -> Finding | None:
    if not isinstance(config, PreferenceConfig) or config.reference != "none":
        return None
    if "reference_logprobs" not in objective.needs:
        return None
    sentence = "reference: 'none' was given, but this objective needs one"
    return Finding("AL207", "error", sentence, "use 'start' or a model")


def _batch_of_one(config: StageConfig, objective: Objective) -> Finding | None:
    if not isinstance(config, TrainConfig) or not objective.mean_over_step:
        return None
    if config.per_device_train_batch_size == AUTO:
        return None
    rows = fixed(config.per_device_train_batch_size) * config.gradient_accumulation_steps
    if rows > 1:
        return None
    sentence = f"{objective.mean_over_step} is a mean over the step's rows, and a step has one row"
    fix = f"raise per_device_train_batch_size, at least {objective.smallest_batch} is usual"
    return Finding("AL205", "error", sentence, fix)
