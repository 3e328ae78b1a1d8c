"""The training loop: one for every method.

It takes the groups of an optimizer step, wherever they come from, and makes one step. Offline data
comes from a `GroupStream`, online RL from a generator that samples, scores and computes
advantages; the loop does not know which.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignloop import machine
from alignloop.data.packing import Batch, Group, collate, pack, with_completions
from alignloop.errors import NonFiniteError
from alignloop.model.finite import non_finite_weight
from alignloop.model.packed import Forward, PackedModel
from alignloop.model.roles import ActorCritic
from alignloop.objectives.base import Inputs, Mean, Objective, Output, add_means, with_statistics
from alignloop.training.distributed import add_gradients, add_over_ranks, gathered, share, world
from alignloop.training.optim import OptimizerSettings, learning_rate
from alignloop.training.pieces import run_in_pieces

Reference = Callable[[Batch], Tensor]
"""Gives reference log-probs (B, T) of a micro-batch, without gradient."""


@dataclass(slots=True)
class Trainer:
    """What changes while training, and what a step needs.

    Attributes:
        model: the model with its head, in train mode.
        optimizer: over the model's trainable parameters.
        settings: rate schedule and clipping.
        num_steps: optimizer steps in all, for the schedule.
        token_budget: tokens of a packed micro-batch; a longer group is one of its own.
        unsplit: tokens up to which a group runs in one pass, a longer one in pieces (see `pieces`);
            0 is `token_budget`.
        reference: gives reference log-probs; None where batches carry them or none are needed.
        temperature: sampling temperature of the policy's log-probs.
        step: optimizer steps done.
    """

    model: PackedModel | ActorCritic
    optimizer: torch.optim.Optimizer
    settings: OptimizerSettings
    num_steps: int
    token_budget: int = 4096
    unsplit: int = 0
    reference: Reference | None = None
    temperature: float = 1.0
    step: int = 0


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step: `metrics` as plain numbers, by the names of docs/metrics."""

    step: int
    metrics: Mapping[str, float]
    indices: tuple[int, ...]


def train(trainer: Trainer, objective: Objective, steps: Iterable[Sequence[Group]]) -> Iterator[StepReport]:
    """Make one optimizer step for each list of groups, and report it.

    Args:
        trainer: state; `trainer.step` counts up.
        objective: the loss.
        steps: the groups of each optimizer step, of all ranks.

    Yields:
        A report after each step, when the weights are already updated.

    Raises:
        NonFiniteError: the loss or the gradient is NaN or infinite; the weights are as before the step.
    """
    for groups in steps:
        yield train_step(trainer, objective, groups)


def train_step(
    trainer: Trainer,
    objective: Objective,
    groups: Sequence[Group],
    *,
    observe: Callable[[Inputs], None] | None = None,
) -> StepReport:
    """One optimizer step; see `train`.

    Args:
        trainer: state.
        objective: the loss.
        groups: of the step, of all ranks.
        observe: shown the complete inputs of each pass with gradient, for measurements beside the loss.

    Returns:
        The report.

    Raises:
        NonFiniteError: the loss or the gradient is NaN or infinite; the weights are as before the step.
    """
    started = time.perf_counter()
    trainer.model.train()
    division = divide(objective, share(groups))
    micro_batches = micro_batches_of(trainer, division.learning)
    units = _units(objective, [*micro_batches, *micro_batches_of(trainer, division.idle)])
    denominator = units.clamp(min=1)
    # With one micro-batch on one rank the statistics come from the forward pass of the loss itself.
    alone = division.together and len(micro_batches) == 1 and not torch.distributed.is_initialized()
    statistics = {}
    if not alone:
        others = micro_batches if division.together else micro_batches_of(trainer, division.informing)
        statistics = statistics_over(trainer, objective, others)
    total: dict[str, Mean] = {}
    loss = torch.zeros(())
    for micro_batch, part in product(micro_batches, objective.parts):
        filled, finish_backward = _with_gradient(trainer, micro_batch, part.needs)
        if observe is not None:
            observe(filled)
        if alone:
            with torch.no_grad():
                statistics = dict(objective.step_statistics(filled))
        if not units:  # every completion is masked: the loss is 0 whatever the statistics are
            statistics = {name: Mean(mean.sum, mean.count.clamp(min=1)) for name, mean in statistics.items()}
        output: Output = part.loss(with_statistics(filled, statistics), denominator=denominator)
        output.loss.backward()
        finish_backward()
        loss += output.loss.detach().cpu()
        total = add_means(total, output.metrics)
        del filled, output, finish_backward  # they hold the activations
    loss = float(add_over_ranks(loss))
    batches = [micro_batch.batch for micro_batch in micro_batches]
    indices = tuple(i for batch in batches for i in batch.indices)
    grad_norm = _finish(trainer, loss, indices)
    seconds = time.perf_counter() - started
    num_tokens = float(add_over_ranks(torch.tensor(float(sum(b.num_tokens for b in batches)))))
    rate = learning_rate(trainer.settings, trainer.step - 1, trainer.num_steps)
    metrics = {"loss": loss, **means_of(total), "learning_rate": rate, "grad_norm": grad_norm}
    metrics |= {"tokens_per_s": num_tokens / seconds, "step_s": seconds, "memory_gb": memory_gb()}
    return StepReport(trainer.step, metrics, indices)


class Division(NamedTuple):
    """The groups of a step by the passes of their completions.

    `learning`: in the pass with gradient. `informing`: in that of the step's statistics, the list `learning`
    itself where they are made of the same completions. `idle`: in none, they only count.
    """

    learning: Sequence[Group]
    informing: Sequence[Group]
    idle: Sequence[Group] = ()

    @property
    def together(self) -> bool:
        """Whether the statistics are made of the completions of the loss."""
        return self.informing is self.learning


def divide(objective: Objective | None, groups: Sequence[Group]) -> Division:
    """Divide the groups of a step as the objective declares in `Objective.passes`.

    Where all completions are idle one is kept: the step has a gradient then, of exact zeros.
    """
    found = [None if objective is None else objective.passes(group) for group in groups]
    passes = [passes for passes in found if passes is not None]
    if not passes:
        return Division(groups, groups)
    loss = [passes.loss for passes in passes]
    statistics = [passes.statistics for passes in passes if passes.statistics is not None]
    if statistics:
        return Division(_of_completions(groups, loss), _of_completions(groups, statistics))
    if not any(flags.any() for flags in loss):
        loss[0] = np.arange(len(loss[0])) == 0
    learning = _of_completions(groups, loss)
    return Division(learning, learning, _of_completions(groups, [~flags for flags in loss]))


def _of_completions(groups: Sequence[Group], flags: Sequence[np.ndarray]) -> list[Group]:
    """Groups of the completions whose flag is True; bool (K,) for each group."""
    pairs = zip(groups, flags, strict=True)
    return [g if keep.all() else with_completions(g, keep) for g, keep in pairs if keep.any()]


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """The groups of one pass, packed, and what an objective may read of them before it."""

    groups: Sequence[Group]
    batch: Batch
    known: Inputs


def micro_batches_of(trainer: Trainer, groups: Sequence[Group]) -> list[MicroBatch]:
    made = []
    for chunk in pack(groups, trainer.token_budget):
        batch = collate(chunk)
        made.append(MicroBatch(chunk, batch, _known_inputs(batch, trainer.model.device)))
    return made


def _units(objective: Objective, micro_batches: Sequence[MicroBatch]) -> Tensor:
    """The units of the step, over all micro-batches and ranks."""
    counts = (objective.count(micro_batch.known).float() for micro_batch in micro_batches)
    return add_over_ranks(sum(counts, torch.zeros(())).cpu())  # a rank without a share has no device


def fill_inputs(trainer: Trainer, batch: Batch, known: Inputs, needs: frozenset[str]) -> Inputs:
    """Run the forward pass an objective needs and return the complete `Inputs`."""
    reference = _reference_logprobs(trainer, batch, known, needs)
    return _filled(known, reference, _forward(trainer, batch, needs))


def _with_gradient(
    trainer: Trainer, micro_batch: MicroBatch, needs: frozenset[str]
) -> tuple[Inputs, Callable[[], None]]:
    """`fill_inputs`, and what is left to do after the loss's backward; long groups run in pieces."""
    chunk, batch, known = micro_batch.groups, micro_batch.batch, micro_batch.known
    longest = trainer.unsplit or trainer.token_budget
    if len(chunk) > 1 or len(chunk[0].completions) == 1 or batch.num_tokens <= longest:
        return fill_inputs(trainer, batch, known, needs), lambda: None
    reference = _reference_logprobs(trainer, batch, known, needs)
    out, finish = run_in_pieces(
        lambda piece: _forward(trainer, piece, needs), chunk[0], longest, trainer.model.device
    )
    return _filled(known, reference, out), finish


def _reference_logprobs(
    trainer: Trainer, batch: Batch, known: Inputs, needs: frozenset[str]
) -> Tensor | None:
    """The reference's log-probs (B, T), stored or computed; None where no objective needs them."""
    if "reference_logprobs" not in needs:
        return None
    if "reference_logprobs" in known.extras:
        return known.extras["reference_logprobs"]
    if trainer.reference is None:
        raise ValueError("the objective needs a reference, and none was given")
    return trainer.reference(batch)


def _forward(trainer: Trainer, batch: Batch, needs: frozenset[str]) -> Forward:
    """The model's pass over a batch."""
    return trainer.model(batch, needs - {"reference_logprobs"}, temperature=trainer.temperature)


def _filled(known: Inputs, reference: Tensor | None, out: Forward) -> Inputs:
    return replace(
        known,
        logprobs=out.logprobs,
        reference_logprobs=reference,
        scores=out.scores,
        values=out.values,
        entropy=out.entropy,
        prompt_logprob=out.prompt_logprob,
    )


def _known_inputs(batch: Batch, device: torch.device) -> Inputs:
    """What is known before the forward pass."""
    extras = {name: value.to(device) for name, value in batch.extras.items()}
    return Inputs(mask=batch.mask.to(device), group=batch.group.to(device), extras=extras)


def statistics_over(
    trainer: Trainer, objective: Objective, micro_batches: Sequence[MicroBatch]
) -> dict[str, Mean]:
    """The step's statistics over all micro-batches and ranks, in a pass without gradient."""
    if objective.statistics_need is None:
        return {}
    total: dict[str, Mean] = {}
    with torch.no_grad():
        for micro_batch in micro_batches:
            inputs = micro_batch.known
            if objective.statistics_need:
                inputs = fill_inputs(trainer, micro_batch.batch, inputs, objective.statistics_need)
            total = add_means(total, objective.step_statistics(inputs))
    return _of_all_ranks(total)


def _finish(trainer: Trainer, loss: float, indices: tuple[int, ...]) -> float:
    """Check, clip and apply the gradient; returns its norm before clipping."""
    parameters = list(trainer.model.parameters())
    add_gradients(parameters)
    limit = trainer.settings.max_grad_norm or float("inf")
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(grads))
    if not (torch.isfinite(torch.tensor(loss)) and torch.isfinite(torch.tensor(norm))):
        trainer.optimizer.zero_grad()
        shown = ", ".join(map(str, indices[:20])) + (", …" if len(indices) > 20 else "")
        damaged = non_finite_weight(trainer.model)
        advice = (
            f"the model's weight '{damaged}' holds NaN or infinity: go on from an earlier checkpoint"
            if damaged
            else "the weights are those before the step; a lower learning_rate or max_grad_norm usually helps"
        )
        raise NonFiniteError(
            f"step {trainer.step + 1}: loss {loss}, gradient norm {norm}; "
            f"rows of the data set in this step: {shown}; {advice}"
        )
    if norm > limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, torch.tensor(norm))
    for group in trainer.optimizer.param_groups:
        group["lr"] = learning_rate(trainer.settings, trainer.step, trainer.num_steps) * group.get("scale", 1)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    trainer.step += 1
    return norm


def means_of(total: Mapping[str, Mean]) -> dict[str, float]:
    """Metrics as numbers, averaged over micro-batches and ranks; those of nothing are left out."""
    result = {}
    for name, mean in _of_all_ranks(total).items():
        count = mean.count.float().cpu()
        if count > 0:
            result[name] = float(mean.sum.detach().float().cpu() / count)
    return result


def _of_all_ranks(total: Mapping[str, Mean]) -> dict[str, Mean]:
    """Sums over ranks, also of what a rank without a share of the step knows nothing of."""
    if world()[1] == 1:
        return dict(total)
    added: dict[str, Mean] = {}
    for name in dict.fromkeys(name for names in gathered(list(total)) for name in names):
        mean = total.get(name, Mean(torch.zeros(()), torch.zeros(())))
        pair = torch.stack([mean.sum.detach().float().cpu(), mean.count.float().cpu()])
        added[name] = Mean(*add_over_ranks(pair).to(mean.sum.device))
    return added


def memory_gb() -> float:
    """Memory in use by this process now: CUDA's peak, or the resident set on a CPU, in GB (10⁹ bytes)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return machine.memory_gb()
