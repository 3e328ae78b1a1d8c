"""`--dry-run`: what a training stage will read, train, hold in memory and take, before it starts.

Nothing is written and no weight of the model is read. Memory and time are estimates from a few rows run
through two layers of the model's shape, see `probe`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from alignloop.config import HeldOutConfig, PreferenceConfig, RewardConfig, TrainConfig
from alignloop.config.fields import fixed
from alignloop.data.packing import Group, pack
from alignloop.data.tokenize import attributes_of
from alignloop.model.adapters import add_adapter
from alignloop.model.load import LoadedModel, resolve_device
from alignloop.objectives.base import Objective
from alignloop.progress import format_seconds, memory_gb
from alignloop.stages.common import (
    base_precision,
    data_order,
    lora_settings,
    set_threads,
)
from alignloop.stages.defaults import read_skeleton
from alignloop.stages.probe import Costs, head_bytes, measure_costs
from alignloop.stages.recipe_check import find_traps, numbers, read_stage
from alignloop.stages.rows import StageRows, arranged
from alignloop.stages.summaries import counted_tokens
from alignloop.training.loop import divide
from alignloop.training.pieces import split_group
from alignloop.training.stream import GroupStream

_STEPS_LOOKED_AT = 100
_BACKWARD_SHARE = 0.3
"""Of a layer's kept bytes, alive beside them while its gradient is computed."""
_HEAP_FACTOR = {"cpu": 1.4, "cuda": 1.0}
"""Resident bytes per byte of activations: a CPU's heap keeps holes that the next, other sizes do not fit.
Measured as 1.3 to 1.8 with glibc; CUDA's own allocator counts what is in use."""
_ADAM_BYTES, _GRADIENT_BYTES = 8, 4


@dataclass(frozen=True, slots=True)
class Parameters:
    """Sizes of the model. `bytes`: of all weights; `head`: trained parameters of the vocabulary head."""

    total: int
    trained: int
    bytes: int
    head: int


@dataclass(frozen=True, slots=True)
class Work:
    """What the optimizer steps run through, in tokens of packed rows.

    Attributes:
        num_steps: optimizer steps.
        tokens: tokens of all steps.
        counted: tokens of all steps whose log-probs enter the loss.
        passes: packed passes of a step, on average.
        largest: tokens of the largest pass that keeps activations.
        largest_counted: counted tokens of the pass that has most of them.
        informing: tokens and counted ones of the passes for the steps' statistics, without gradient.
    """

    num_steps: int
    tokens: float
    counted: float
    passes: float
    largest: int
    largest_counted: int
    informing: tuple[float, float]


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes at the peak, by what holds them."""

    process: float
    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """The estimate of the peak."""
        return self.process + self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True, slots=True)
class Preview:
    """Everything a dry run says, as numbers."""

    rows: StageRows
    parameters: Parameters
    work: Work
    memory: MemoryEstimate
    seconds: float
    traps: tuple[str, ...]


def preview(config: HeldOutConfig, objective: Objective | None) -> dict[str, str]:
    """Rows of a dry run's summary: data, tokens, steps, parameters, memory, time, silent traps.

    Args:
        config: a stage that trains on rows of a file.
        objective: its loss, None for supervised stages.

    Returns:
        Text by name, in the order to print.

    Raises:
        UserError: data, model or template cannot be read.
    """
    config = numbers(config, objective)
    made = make_preview(config, objective)
    return {
        **_about_data(config, made),
        "parameters": about_parameters(made.parameters) + _about_members(config),
        "memory": _about_memory(made),
        "time": f"about {format_seconds(made.seconds)} for the steps, estimated from two layers and the "
        "head timed just now on this machine",
        **{f"trap {number}": text for number, text in enumerate(made.traps, start=1)},
    }


def make_preview(config: HeldOutConfig, objective: Objective | None) -> Preview:
    """Read, tokenize, count and estimate; see `preview`."""
    config = numbers(config, objective)
    set_threads(config.num_threads)
    loaded = read_skeleton(config)
    rows = read_stage(config, objective, loaded)
    traps = find_traps(config, objective, loaded, rows)
    groups, held_out = rows.groups, rows.held_out
    if objective is not None:
        groups, held_out = arranged(rows, objective, config.seed)
    process = memory_gb() * 1e9
    device = resolve_device(config.device)
    costs = measure_costs(config, loaded.model.config, groups, device)
    outputs = 0
    if isinstance(config, RewardConfig) and objective is not None:
        outputs = max(1, len(attributes_of(rows.data.records))) + objective.auxiliary_outputs
    parameters = count_parameters(config, loaded, num_outputs=outputs)
    budgets = config.tokens_per_pass(device.type), config.tokens_unsplit(device.type)
    work = plan_work(objective, data_order(config, groups), *budgets)
    memory = estimate_memory(config, loaded, parameters, work, costs, process=process)
    seconds = estimate_seconds(config, objective, groups, held_out, parameters, work, costs)
    return Preview(rows, parameters, work, memory, seconds, traps)


def count_parameters(config: TrainConfig, loaded: LoadedModel, *, num_outputs: int = 0) -> Parameters:
    """Parameters in all and trained, counted on a model without values; under LoRA it gets adapters.

    Args:
        config: the recipe.
        loaded: the model's shape.
        num_outputs: of the scalar head, 0 without one.

    Returns:
        The sizes.
    """
    model, lora, dtype = loaded.model, lora_settings(config), base_precision(config).weights
    base = sum(p.numel() for p in model.parameters())
    output = model.get_output_embeddings()
    assert output is not None, "a causal language model has a vocabulary head"
    head = output.weight.numel()
    scalar = num_outputs * (model.config.get_text_config().hidden_size + 1)
    if lora is not None:
        with torch.device("meta"):
            wrapped = add_adapter(model, lora)
        trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
        return Parameters(base + trained + scalar, trained + scalar, base * dtype.itemsize + trained * 4, 0)
    size = base * dtype.itemsize
    if isinstance(config, RewardConfig):
        if config.freeze_base:
            return Parameters(base + scalar, scalar, size, 0)
        trained = base if model.config.tie_word_embeddings else base - head
        return Parameters(base + scalar, trained + scalar, size, 0)
    return Parameters(base, base, size, head)


def plan_work(objective: Objective | None, stream: GroupStream, token_budget: int, unsplit: int) -> Work:
    """Count what the steps run through; of long runs a sample of the steps is looked at."""
    number = min(stream.num_steps, _STEPS_LOOKED_AT)
    tokens = counted = passes = largest = largest_counted = informing = informing_counted = 0
    for step in (i * stream.num_steps // number for i in range(number)):
        groups = stream.step_groups(step)
        division = divide(objective, groups)
        chunks = pack(division.learning, token_budget)
        reads_statistics = objective is not None and bool(objective.statistics_need)
        if reads_statistics and not (division.together and len(chunks) == 1):
            more = _size(division.informing)
            informing, informing_counted = informing + more[0], informing_counted + more[1]
        for chunk in chunks:
            whole = _size(chunk)
            tokens, counted, passes = tokens + whole[0], counted + whole[1], passes + 1
            pieces = [[part] for part in split_group(chunk[0], unsplit)]
            parts = pieces if whole[0] > unsplit and len(chunk) == 1 else [chunk]
            largest = max(largest, *(_size(part)[0] for part in parts))
            largest_counted = max(largest_counted, *(_size(part)[1] for part in parts))
    factor = stream.num_steps / number
    return Work(
        stream.num_steps,
        tokens * factor,
        counted * factor,
        passes / number,
        largest,
        largest_counted,
        (informing * factor, informing_counted * factor),
    )


def _size(groups: Sequence[Group]) -> tuple[int, int]:
    """Tokens of the groups, and counted ones."""
    counted = sum(int(c.mask.sum()) for g in groups for c in g.completions)
    return sum(group.num_tokens for group in groups), counted


def estimate_memory(
    config: TrainConfig,
    loaded: LoadedModel,
    parameters: Parameters,
    work: Work,
    costs: Costs,
    *,
    process: float,
) -> MemoryEstimate:
    """The peak of a step.

    At the start of backward all activations are alive; gradients of earlier passes of the step too, or,
    if it has one pass, that of the vocabulary head. From the second step on AdamW's moments are there.

    Args:
        config: the recipe.
        loaded: the model's shape.
        parameters: its sizes.
        work: tokens of the passes.
        costs: bytes per token.
        process: bytes of the process without the model, which are not on a GPU.

    Returns:
        The larger of the peak at the start of backward and that of the update.
    """
    text = loaded.model.config.get_text_config()
    depth, device = text.num_hidden_layers, resolve_device(config.device)
    process = 0.0 if device.type == "cuda" else process
    layer = costs.layer_bytes * work.largest
    kept = layer * depth
    if config.gradient_checkpointing:  # a layer's input stays, one layer at a time is computed again
        kept = 4.0 * text.hidden_size * work.largest * depth + layer
    activations = kept + costs.other_bytes * work.largest + _BACKWARD_SHARE * layer
    if not isinstance(config, RewardConfig):
        activations += head_bytes(work.largest_counted, text.hidden_size, device)
    activations *= _HEAP_FACTOR.get(device.type, 1.0)
    gradients = _GRADIENT_BYTES * parameters.trained
    moments = _ADAM_BYTES * parameters.trained
    at_backward = gradients if work.passes > 1 else _GRADIENT_BYTES * parameters.head
    earlier = moments if work.num_steps > 1 else 0
    peaks = [
        MemoryEstimate(process, parameters.bytes, at_backward, earlier, activations),
        MemoryEstimate(process, parameters.bytes, gradients, moments, 0.0),
    ]
    return max(peaks, key=lambda memory: memory.total)


def estimate_seconds(
    config: HeldOutConfig,
    objective: Objective | None,
    groups: Sequence[Group],
    held_out: Sequence[Group],
    parameters: Parameters,
    work: Work,
    costs: Costs,
) -> float:
    """Time of the steps, of the reference's pass and of the evaluations, loading left out."""
    forward = costs.reading_s
    seconds = steps_seconds(config, parameters, work, costs)
    if objective is not None and "reference_logprobs" in objective.needs:
        assert isinstance(config, PreferenceConfig)
        if config.lora_r and config.reference in ("auto", "start"):  # with each pass of the policy
            seconds += forward(work.tokens, work.counted) + forward(*work.informing)
        else:
            seconds += forward(*_size([*groups, *held_out]))
    members = config.num_members if isinstance(config, RewardConfig) else 1  # one after the other
    evaluations = 1 + (work.num_steps - 1) // config.eval_steps if config.eval_steps else 1
    return members * (seconds + evaluations * forward(*_size(held_out)))


def steps_seconds(
    config: TrainConfig, parameters: Parameters, work: Work, costs: Costs, *, models: int = 1
) -> float:
    """Time of the optimizer steps alone, of as many `models` of the policy's size as learn at once."""
    per_token = costs.training_s + (costs.forward_s if config.gradient_checkpointing else 0.0)
    seconds = models * work.tokens * per_token + work.counted * costs.head_training_s
    seconds += work.num_steps * parameters.trained * costs.optimizer_s
    return seconds + costs.reading_s(*work.informing)


def _about_data(config: TrainConfig, made: Preview) -> dict[str, str]:
    rows, work = made.rows, made.work
    dropped = Counter(error.reason for error in [*rows.data.dropped, *rows.tokenized.dropped])
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    parts = [f"{len(rows.data.records)} {rows.data.kind} rows"]
    parts += [f"{dropped.total()} dropped ({reasons})"] if dropped else []
    parts += [f"{rows.tokenized.truncated} shortened"] if rows.tokenized.truncated else []
    parts += [
        f"{count} with {what} that the template does not render"
        for what, count in rows.tokenized.left_out.items()
    ]
    parts += [f"{len(rows.groups)} to train on"]
    turns = rows.tokenized.turns
    parts += [f"{turns} turns of the assistant"] if turns > len(rows.data.records) else []
    parts += [f"{len(rows.held_out)} held out"] if rows.held_out else []
    completions = counted_tokens(rows.groups)
    prompts = sum(group.num_tokens for group in rows.groups) - completions
    longest = max(len(g.prompt_ids) + len(c.ids) for g in rows.groups for c in g.completions)
    per_step = fixed(config.per_device_train_batch_size) * config.gradient_accumulation_steps
    return {
        "data": ", ".join(parts),
        "tokens": f"{prompts} in prompts, {completions} in completions, longest row {longest} "
        f"of {config.max_length}",
        "steps": f"{work.num_steps} of {per_step} rows, each in {work.passes:.1f} packed passes of up to "
        f"{work.largest} tokens",
    }


def _about_members(config: TrainConfig) -> str:
    members = config.num_members if isinstance(config, RewardConfig) else 1
    return f"; {members} such members, trained one after the other" if members > 1 else ""


def about_parameters(parameters: Parameters) -> str:
    """Sizes in words."""
    share = parameters.trained / parameters.total
    return f"{_millions(parameters.total)} in all, {_millions(parameters.trained)} trained ({share:.2%})"


def _about_memory(made: Preview) -> str:
    shown = memory_in_words(made.memory, {}, {"activations": made.memory.activations})
    return f"about {gigabytes(made.memory.total)} at the peak: {shown}"


def memory_in_words(
    memory: MemoryEstimate, other_weights: Mapping[str, float], in_a_step: Mapping[str, float]
) -> str:
    """What takes how much, the empty left out; further sizes in bytes come after the weights and last."""
    parts = {
        "the process": memory.process,
        "weights": memory.weights,
        **other_weights,
        "gradients": memory.gradients,
        "AdamW": memory.optimizer,
        **in_a_step,
    }
    return ", ".join(f"{gigabytes(size)} {name}" for name, size in parts.items() if size)


def gigabytes(size: float) -> str:
    """A size in bytes in words."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"
