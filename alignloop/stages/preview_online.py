"""`--dry-run` of stages that learn from their own samples: prompts, rollouts, steps, roles, memory, time.

How long answers will be is not known before they are sampled, so every one counts with max_new_tokens:
memory and time are upper estimates. See `preview` for how both are estimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from alignloop.config import BestOfNConfig, PPOConfig, TrainConfig
from alignloop.config.fields import fixed
from alignloop.config.rl import IterateConfig, OnlineConfig
from alignloop.data.packing import Group, completion
from alignloop.errors import DataError
from alignloop.model.adapter_load import base_name
from alignloop.model.load import LoadedModel, load_skeleton, resolve_device, resolve_dtype
from alignloop.model.scheduler import TOKEN_BUDGET
from alignloop.objectives.base import Objective
from alignloop.progress import format_seconds, memory_gb
from alignloop.stages.best_of_n import verifier_of
from alignloop.stages.checks import agreed_template
from alignloop.stages.common import base_precision, data_order, set_threads
from alignloop.stages.defaults import counted_records, read_skeleton
from alignloop.stages.lint_settings import lint_schedule, lint_settings
from alignloop.stages.online_setup import num_rollouts, num_steps, reads_reference
from alignloop.stages.preview import (
    MemoryEstimate,
    Parameters,
    Work,
    about_parameters,
    count_parameters,
    estimate_memory,
    gigabytes,
    memory_in_words,
    plan_work,
    steps_seconds,
)
from alignloop.stages.probe import Costs, measure_costs, sampling_cost
from alignloop.stages.reward_model import reward_folder
from alignloop.stages.rows import training_encoder
from alignloop.stages.sample import distinct_prompts
from alignloop.training.stream import GroupStream

SampledConfig = OnlineConfig | BestOfNConfig | IterateConfig


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """What is sampled and learned from.

    Attributes:
        prompts: token ids of the prompts that are used.
        num_rows: rows of the data set.
        num_dropped: unusable rows and prompts that leave no room for an answer.
        rounds: rollouts, or rounds.
        asked: prompts answered in all.
        num_completions: answers in all.
        work: of the training steps.
    """

    prompts: list[np.ndarray]
    num_rows: int
    num_dropped: int
    rounds: int
    asked: int
    num_completions: int
    work: Work


@dataclass(frozen=True, slots=True)
class OnlinePreview:
    """Everything a dry run says, as numbers.

    Attributes:
        plan: what is sampled and learned from.
        parameters: of the policy, the critic included.
        memory: of policy and critic while they train; without activations while answers are sampled.
        others: bytes of reference and reward models, by role.
        cache: bytes of keys and values while answers are sampled.
        sampling_s: seconds of sampling.
        training_s: seconds of everything else but the rewards of functions and judges.
        traps: what the linter says of the settings.
    """

    plan: SamplingPlan
    parameters: Parameters
    memory: MemoryEstimate
    others: dict[str, float]
    cache: float
    sampling_s: float
    training_s: float
    traps: tuple[str, ...]

    @property
    def peak(self) -> float:
        """Bytes at the larger of the two peaks, in training and in sampling."""
        resting = self.memory.total - self.memory.activations
        return sum(self.others.values()) + max(self.memory.total, resting + self.cache)


def preview(config: SampledConfig, objective: Objective | None) -> dict[str, str]:
    """Rows of a dry run's summary; see `preview.preview`."""
    made = make_preview(config, objective)
    plan, work = made.plan, made.plan.work
    longest = max(len(ids) for ids in made.plan.prompts)
    dropped = f", {plan.num_dropped} dropped" if plan.num_dropped else ""
    per_step = fixed(config.per_device_train_batch_size) * config.gradient_accumulation_steps
    word = "rollouts" if isinstance(config, OnlineConfig) else "rounds"
    return {
        "data": f"{plan.num_rows} rows, {len(plan.prompts)} prompts to answer{dropped}",
        "tokens": f"longest prompt {longest}, answers of up to {config.max_new_tokens}, "
        f"max_length {config.max_length}",
        "sampling": f"{plan.num_completions} answers to {plan.asked} prompts in {plan.rounds} {word}",
        "steps": f"{work.num_steps} of {per_step} rows, each in {work.passes:.1f} packed passes of up to "
        f"{work.largest} tokens",
        "parameters": about_parameters(made.parameters),
        "memory": _about_memory(made),
        "time": f"at most about {format_seconds(made.sampling_s + made.training_s)}, if every answer has "
        f"{config.max_new_tokens} tokens: sampling {format_seconds(made.sampling_s)}, learning "
        f"{format_seconds(made.training_s)}; estimated from two layers timed just now, without the time of "
        "functions and judges",
        **{f"trap {number}": text for number, text in enumerate(made.traps, start=1)},
    }


def make_preview(config: SampledConfig, objective: Objective | None) -> OnlinePreview:
    """Read the prompts, count and estimate; see `preview`.

    Raises:
        UserError: prompts, model, reward model or template cannot be read, or no prompt is short enough.
    """
    set_threads(config.num_threads)
    loaded = read_skeleton(config)
    size = sum(p.numel() for p in loaded.model.parameters())
    device = resolve_device(config.device)
    budgets = config.tokens_per_pass(device.type), config.tokens_unsplit(device.type)
    plan = make_plan(config, objective, loaded, budgets)
    found = lint_settings(config, objective, num_parameters=size)
    if isinstance(config, OnlineConfig):
        found = [*found, *lint_schedule(config, plan.work.num_steps)]
    traps = tuple(map(str, found))
    process = memory_gb() * 1e9
    wanted = resolve_dtype(config.dtype, device)
    groups = [answered(ids, config.max_new_tokens, 1) for ids in plan.prompts[:64]]
    costs = measure_costs(config, loaded.model.config, groups, device)
    parameters, others = roles(config, objective, loaded)
    memory = estimate_memory(config, loaded, parameters, plan.work, costs, process=process)
    per_token = sampling_cost(
        loaded.model.config,
        rows=plan.num_completions // plan.rounds,
        prompt_tokens=int(np.mean([len(ids) for ids in plan.prompts])),
        dtype=wanted,
        device=device,
    )
    return OnlinePreview(
        plan,
        parameters,
        memory,
        others,
        cache_bytes(config, loaded, plan, wanted),
        sampling_seconds(config, plan, costs, per_token),
        training_seconds(config, objective, plan, parameters, costs),
        traps,
    )


def make_plan(
    config: SampledConfig, objective: Objective | None, loaded: LoadedModel, budgets: tuple[int, int]
) -> SamplingPlan:
    """Prompts as the stage reads them, and what it will run through."""
    data = counted_records(config)
    limit = 0 if isinstance(config, IterateConfig) else config.max_prompts
    encoder = training_encoder(config, loaded, agreed_template(loaded, config.template))
    found = [encoder.prompt(prompt.prompt) for prompt in distinct_prompts(data, limit)]
    room = config.max_length - config.max_new_tokens
    prompts = [ids for ids in found if len(ids) <= room] if isinstance(config, OnlineConfig) else found
    if not prompts:
        raise DataError(
            f"no prompt is within {room} tokens (max_length − max_new_tokens)", reason="prompt_too_long"
        )
    dropped = len(data.dropped) + len(found) - len(prompts)
    rows = len(data.records) + len(data.dropped)
    if isinstance(config, OnlineConfig):
        rollouts = num_rollouts(config, len(prompts))
        asked = rollouts * config.rollout_prompts
        # so often that the steps divide them: a rollout goes on with the first prompt after the last one
        repeats = config.prompts_per_step // math.gcd(config.prompts_per_step, len(prompts))
        groups = [answered(ids, config.max_new_tokens, config.num_generations) for ids in prompts] * repeats
        stream = GroupStream(groups, config.prompts_per_step, 1.0, num_steps(config, len(prompts)))
        work = plan_work(objective, stream, *budgets)
        return SamplingPlan(prompts, rows, dropped, rollouts, asked, asked * config.num_generations, work)
    each = config.max_prompts if isinstance(config, IterateConfig) and config.max_prompts else len(prompts)
    n = config.n if isinstance(config, BestOfNConfig) else config.num_generations
    asked = [prompts[i % len(prompts)] for i in range(each)]
    work = rounds_of_work(config, objective, asked, budgets)
    return SamplingPlan(
        prompts, rows, dropped, config.rounds, config.rounds * each, config.rounds * each * n, work
    )


def rounds_of_work(
    config: BestOfNConfig | IterateConfig,
    objective: Objective | None,
    prompts: Sequence[np.ndarray],
    budgets: tuple[int, int],
) -> Work:
    """What the training of all rounds runs through, if no prompt's answers are all worth the same."""
    size, parts = config.max_new_tokens, list[Work]()
    for number in range(1, config.rounds + 1):
        if isinstance(config, BestOfNConfig):  # each round trains on the demonstrations of all before
            rows = [answered(ids, size, 1) for ids in prompts] * (config.keep_per_prompt * number)
        elif objective is not None and "label" in objective.records:  # a label for each side
            good = {"desirable": np.array([True])}
            sides = [replace(answered(ids, size, 1), values=good) for ids in prompts]
            rows = objective.arranged(sides * (2 * config.pairs_per_prompt), config.seed)
        else:
            rows = [answered(ids, size, 2) for ids in prompts] * config.pairs_per_prompt
        parts.append(plan_work(objective, data_order(config, rows), *budgets))
    return Work(
        sum(part.num_steps for part in parts),
        sum(part.tokens for part in parts),
        sum(part.counted for part in parts),
        float(np.mean([part.passes for part in parts])),
        max(part.largest for part in parts),
        max(part.largest_counted for part in parts),
        (sum(part.informing[0] for part in parts), sum(part.informing[1] for part in parts)),
    )


def answered(prompt_ids: np.ndarray, length: int, count: int) -> Group:
    """A prompt with `count` answers of `length` tokens."""
    return Group(prompt_ids, (completion(np.zeros(length, dtype=np.int32)),) * count)


def roles(
    config: SampledConfig, objective: Objective | None, loaded: LoadedModel
) -> tuple[Parameters, dict[str, float]]:
    """Policy and critic; bytes of the reference and of each reward model."""
    lora, dtype = config.lora_r > 0, base_precision(config).weights
    base_bytes = sum(p.numel() for p in loaded.model.parameters()) * dtype.itemsize
    own = count_parameters(config, loaded)
    others: dict[str, float] = {}
    if isinstance(config, PPOConfig):
        head = loaded.model.config.get_text_config().hidden_size + 1
        trained = own.trained + head
        own = Parameters(
            own.total + (own.trained + head if lora else trained),
            own.trained + trained,
            own.bytes + 4 * trained,
            own.head,
        )
    if isinstance(config, OnlineConfig) and not lora and reads_reference(config, objective):
        others["the reference"] = base_bytes
    for number, path in enumerate(reward_paths(config), start=1):
        others[f"reward model {number}"] = reward_bytes(config, path, dtype)
    return own, others


def reward_paths(config: SampledConfig) -> list[str]:
    """The recipe's reward models that are in memory while it trains, and those of the rounds' scoring."""
    if isinstance(config, BestOfNConfig):
        return [] if verifier_of(config.reward_model) else [config.reward_model]
    return [term["model"] for term in config.rewards if "model" in term]


def reward_bytes(config: TrainConfig, path: str, dtype: torch.dtype) -> float:
    """A reward model's weights; of an adapter on the policy's own base those of the adapter."""
    folder = reward_folder(path)
    files = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    base = base_name(folder)
    own = Path(config.model_name_or_path)
    if base is None or (config.lora_r and Path(base).resolve() == own.resolve()):
        return float(files)
    size = sum(p.numel() for p in load_skeleton(base).model.parameters())
    return float(files + size * dtype.itemsize)


def cache_bytes(config: SampledConfig, loaded: LoadedModel, plan: SamplingPlan, dtype: torch.dtype) -> float:
    """Keys and values of the tokens that are in flight at once."""
    text = loaded.model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    longest = max(len(ids) for ids in plan.prompts)
    once = (plan.asked * longest + plan.num_completions * config.max_new_tokens) / plan.rounds
    in_flight = min(once, max(TOKEN_BUDGET, config.max_length))
    return in_flight * 2 * text.num_hidden_layers * heads * size * dtype.itemsize


def sampling_seconds(config: SampledConfig, plan: SamplingPlan, costs: Costs, per_token: float) -> float:
    """Time of reading the prompts and of sampling every answer to its longest length."""
    read = plan.asked * float(np.mean([len(ids) for ids in plan.prompts])) * costs.forward_s
    sampled = plan.num_completions * config.max_new_tokens
    return read + sampled * (per_token + costs.head_forward_s)


def training_seconds(
    config: SampledConfig,
    objective: Objective | None,
    plan: SamplingPlan,
    parameters: Parameters,
    costs: Costs,
) -> float:
    """Time of the steps, of the critic, of what the reference reads, and of reward models like the policy."""
    work, with_critic = plan.work, isinstance(config, PPOConfig)
    seconds = steps_seconds(config, parameters, work, costs, models=1 + with_critic)
    passes = config.num_iterations if isinstance(config, OnlineConfig) else 1
    once, counted = work.tokens / passes, work.counted / passes
    readings = len(reward_paths(config)) + int(with_critic)
    if isinstance(config, OnlineConfig):
        bfloat16 = base_precision(config).autocast is not None
        read = reads_reference(config, objective) + config.corrects_sampler(bfloat16=bfloat16)
    else:
        read = int(isinstance(config, IterateConfig))
    return seconds + readings * costs.reading_s(once, 0.0) + read * costs.reading_s(once, counted)


def _about_memory(made: OnlinePreview) -> str:
    shown = memory_in_words(made.memory, made.others, {})
    step = gigabytes(made.memory.activations)
    return (
        f"about {gigabytes(made.peak)} at the peak: {shown}; besides, {step} of "
        f"activations in a step, or {gigabytes(made.cache)} of keys and values in sampling"
    )
