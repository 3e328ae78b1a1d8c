"""The objective contract: tensors in, loss and metrics out.

B sequences (completions), T tokens, P groups (prompts). An objective is a frozen dataclass whose
fields are its hyperparameters (annotated with `pydantic.Field`, so they are its recipe keys), and
which is called with `Inputs`. It knows no model, device, configuration or file.

An objective's loss is a *sum over units divided by a denominator that is passed in*. What a unit is
(a counted token, a pair, a completion) the objective says in `count`, from tensors that are known
before the forward pass. The loop adds the counts of all micro-batches and ranks of one optimizer
step, so k micro-batches of 1 give the same gradient as one batch of k. A quantity of the whole step
that enters the loss otherwise (KTO's z) is a *step statistic*: see `step_statistics`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignloop.data.packing import Group


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an objective may read. Completions of one group are neighbouring rows.

    Attributes:
        mask: bool (B, T), True where a completion token counts. A row is padded at its end, and may
            hold uncounted tokens (a tool's output) in its middle.
        group: int64 (B,), ascending from 0; rows of the same prompt share a number. For pairs the
            rows are chosen, rejected, chosen, rejected, … ; for rankings they are in the order of
            the file with `extras["ranks"]`.
        logprobs: float32 (B, T), log π of each completion token in nats, with gradient; 0 where masked.
        reference_logprobs: the same under the reference, without gradient.
        scores: float32 (B, A), scalar head read at each completion's last token (reward models).
        values: float32 (B, T), scalar head at each position that predicts a token (critic), with gradient.
        entropy: float32 (B, T), entropy of the policy in nats, with gradient.
        prompt_logprob: float32 (P,), Σ log π of the prompt's tokens but the first, with gradient.
        extras: further tensors by name, without gradient; float32 unless said otherwise:

            pairs: `margin` (P,) in reward units, `probability` (P,) that chosen is better, ½ a tie;
            rankings: `ranks` (B,), 1 the best, ties share a rank;
            ratings: `ratings` (B, A), NaN where an attribute was not rated;
            KTO: `desirable` (B,) bool, `mismatched` (B,) bool (another row's completion);
            ORPO: `prompt_tokens` (P,), how many tokens `prompt_logprob` sums;
            policy gradient: `advantages`, `old_logprobs`, `sampler_logprobs` (another engine's),
            `returns`, `old_values`, each (B, T);
            step statistics: 0-dim, put there by `with_statistics`.
    """

    mask: Tensor
    group: Tensor
    logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None
    scores: Tensor | None = None
    values: Tensor | None = None
    entropy: Tensor | None = None
    prompt_logprob: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


class Mean(NamedTuple):
    """A metric as sum and count, so that it averages correctly over micro-batches and ranks."""

    sum: Tensor
    count: Tensor

    @property
    def value(self) -> float:
        """The mean; NaN where nothing was counted."""
        return float(self.sum / self.count) if self.count else math.nan


@dataclass(frozen=True, slots=True)
class Output:
    """`loss`: float32 scalar, already divided by the denominator. `metrics`: detached."""

    loss: Tensor
    metrics: Mapping[str, Mean]


class LossPart(NamedTuple):
    """A part of a loss that can be computed by itself: the `Inputs` fields it reads, and the part.

    `loss` is called as an objective is; the losses of all parts add up to the objective's, and no metric
    is in two parts.
    """

    needs: frozenset[str]
    loss: Callable[..., Output]


class Passes(NamedTuple):
    """Which of a group's completions run in which pass, bool (K,) each; a completion in neither only counts.

    `loss`: in the pass with gradient. `statistics`: in the pass that the step's statistics are made of, None
    for the same completions as `loss`.
    """

    loss: np.ndarray
    statistics: np.ndarray | None = None


class UsualRange(NamedTuple):
    """Lowest and highest usual value of a hyperparameter, and the paper's value in words."""

    key: str
    low: float
    high: float
    paper: str


class Objective(ABC):
    """What an objective declares of itself: a subclass is a frozen dataclass in a file of its own.

    The loop, the stages and the linter ask no objective which one it is. All but `records`, `needs`, `count`
    and `__call__` has a default that fits most losses.

    Attributes:
        records: the kinds of record it trains on, for example `("preference",)`.
        needs: the optional `Inputs` fields it reads: `logprobs`, `reference_logprobs`, `scores`, ….
            Ask the instance: they depend on its fields (no reference where the KL coefficient is 0).
        needs_old_logprobs: whether stored rows need `extras["old_logprobs"]`, those of the starting policy.
        statistics_need: the `Inputs` fields that `step_statistics` reads, empty if extras suffice, so that no
            forward pass is spent; None if the loss reads no mean over the step.
        auxiliary_outputs: outputs of the scalar head, its last ones, that only the training reads.
        fewest_rows: rows that a data set needs.
        smallest_batch: rows of an optimizer step that `auto` chooses at least.
        mean_over_step: what the loss reads as a mean over the step's rows, "" if a step may have one row.
        usual: the range of the hyperparameter that is easily taken from another method, None without one.
    """

    records: ClassVar[tuple[str, ...]] = ()
    needs: frozenset[str] = frozenset()
    needs_old_logprobs: bool = False
    statistics_need: frozenset[str] | None = None
    auxiliary_outputs: ClassVar[int] = 0
    fewest_rows: ClassVar[int] = 1
    smallest_batch: ClassVar[int] = 4
    mean_over_step: ClassVar[str] = ""
    usual: ClassVar[UsualRange | None] = None

    @abstractmethod
    def count(self, inputs: Inputs) -> Tensor:
        """Number of units in this micro-batch, a float32 scalar, from mask, group and extras only."""

    @abstractmethod
    def __call__(self, inputs: Inputs, *, denominator: Tensor | float) -> Output:
        """Loss: sum over this micro-batch's units / `denominator`."""

    @property
    def parts(self) -> tuple[LossPart, ...]:
        """Parts of the loss that share no tensor, such as PPO's policy and critic.

        The loop runs forward pass, loss and backward pass of one, then of the next, so that the activations
        of only one are in memory. The gradient is the same. Most objectives are one part.
        """
        return (LossPart(self.needs, self),)

    def step_statistics(self, inputs: Inputs) -> Mapping[str, Mean]:
        """Sums and counts of this micro-batch, detached, of the means over the step that the loss reads.

        The loop calls it without gradient on every micro-batch, adds the results over micro-batches and ranks
        with `add_means`, and hands them back with `with_statistics` before the loss is computed. With one
        micro-batch on one rank both can use the same forward pass.
        """
        return {}

    def passes(self, group: Group) -> Passes | None:
        """Which completions run in which pass; None if all enter the loss and the statistics.

        To loss and gradient a completion outside `Passes.loss` must add exactly nothing, whatever the model
        says. The loop does not run it with gradient; metrics are of the others then.
        """
        return None

    def arranged(self, groups: Sequence[Group], seed: int) -> list[Group]:
        """Stored rows in the form that the loss reads; as they are by default.

        Args:
            groups: all tokenized rows of a data set.
            seed: of a choice among them.

        Returns:
            As many groups, in the same order.

        Raises:
            DataError: fewer than `fewest_rows`.
        """
        return list(groups)

    def data_advice(self, groups: Sequence[Group]) -> str:
        """A sentence if the hyperparameters do not fit the tokenized rows, else ""."""
        return ""

    def critic_only(self) -> Objective:
        """The loss while a critic learns and the policy, whose advantages are 0, shall stay as it is."""
        return self


def add_means(total: Mapping[str, Mean], new: Mapping[str, Mean]) -> dict[str, Mean]:
    """Add metrics or statistics of another micro-batch; a name may be absent on one side."""
    added = dict(total)
    for name, mean in new.items():
        old = added.get(name)
        added[name] = mean if old is None else Mean(old.sum + mean.sum, old.count + mean.count)
    return added


def with_statistics(inputs: Inputs, statistics: Mapping[str, Mean]) -> Inputs:
    """Inputs whose extras also hold each statistic of the step as a 0-dim tensor.

    Args:
        inputs: a micro-batch.
        statistics: sums and counts over the whole optimizer step.

    Returns:
        A copy; the tensors are shared.

    Raises:
        ValueError: a statistic has nothing to average over (KTO without any mismatched completion).
    """
    for name, mean in statistics.items():
        if not mean.count:
            raise ValueError(f"the optimizer step has nothing to average '{name}' over")
    values = {name: (mean.sum / mean.count).detach() for name, mean in statistics.items()}
    return replace(inputs, extras={**inputs.extras, **values})


def required(tensor: Tensor | None, name: str) -> Tensor:
    """The tensor, or a ValueError that names what the caller forgot."""
    if tensor is None:
        raise ValueError(f"this objective reads Inputs.{name}, which was not given")
    return tensor


def extra(inputs: Inputs, name: str) -> Tensor:
    """`inputs.extras[name]`, or a ValueError that names what the caller forgot."""
    return required(inputs.extras.get(name), f"extras['{name}']")


def sequence_sum(per_token: Tensor, mask: Tensor) -> Tensor:
    """Sum over counted tokens. (B, T), bool (B, T) → (B,)."""
    return torch.where(mask, per_token, torch.zeros_like(per_token)).sum(-1)


def sequence_mean(per_token: Tensor, mask: Tensor) -> Tensor:
    """Mean over counted tokens, 0 for a row without any. (B, T), bool (B, T) → (B,)."""
    return sequence_sum(per_token, mask) / mask.sum(-1).clamp(min=1)


def log_ratios(inputs: Inputs) -> Tensor:
    """log π − log ref of each completion, summed over its counted tokens, (B,), nats.

    The difference is taken token by token. Two float32 sums over 10⁴ tokens are known to about 10⁻³ nats
    each, and their difference no better, however near the two models are.

    Args:
        inputs: with `logprobs` and `reference_logprobs`.

    Returns:
        With gradient in the policy's log-probs.

    Raises:
        ValueError: one of them was not given.
    """
    reference = required(inputs.reference_logprobs, "reference_logprobs")
    return sequence_sum(required(inputs.logprobs, "logprobs") - reference, inputs.mask)


def mean_of(values: Tensor, mask: Tensor | None = None) -> Mean:
    """A metric: sum and number of the elements of any tensor, detached; only where `mask` if given."""
    values = values.detach()
    if mask is None:
        return Mean(values.sum(), torch.tensor(float(values.numel()), device=values.device))
    return Mean(torch.where(mask, values, torch.zeros_like(values)).sum(), mask.sum().float())


def group_count(inputs: Inputs) -> Tensor:
    """Number of groups P in the micro-batch, float32 scalar."""
    return inputs.group.unique().numel() * torch.ones((), device=inputs.group.device)


def same_group(group: Tensor) -> Tensor:
    """bool (B, B), True where two rows answer the same prompt."""
    return group[:, None] == group[None, :]


def pairs(per_sequence: Tensor) -> tuple[Tensor, Tensor]:
    """Split (B,) into (chosen, rejected), each (B/2,), from the row order chosen, rejected, …."""
    return per_sequence[0::2], per_sequence[1::2]


def pair_metrics(inputs: Inputs, rewards: Tensor, logprob: Tensor) -> dict[str, Mean]:
    """What every preference objective reports.

    Falling chosen log-probs under a growing margin are the most asked question about DPO, so both
    sides are always shown by themselves. Accuracy leaves out ties, probability ½, and expects the
    rejected completion to win where the probability is below.

    Args:
        inputs: for `extras["probability"]`, 1 if absent.
        rewards: (B,), implicit rewards in the objective's units; rows chosen, rejected, ….
        logprob: (B,), log π of each completion in nats, summed over tokens.

    Returns:
        Metrics by name.
    """
    chosen, rejected = pairs(rewards)
    chosen_logprob, rejected_logprob = pairs(logprob)
    preferred = inputs.extras.get("probability", torch.ones_like(chosen)) - 0.5
    return {
        "chosen_reward": mean_of(chosen),
        "rejected_reward": mean_of(rejected),
        "margin": mean_of(chosen - rejected),
        "accuracy": mean_of(((chosen - rejected) * preferred > 0).float(), preferred != 0),
        "chosen_logprob": mean_of(chosen_logprob),
        "rejected_logprob": mean_of(rejected_logprob),
    }


LOG_RATIO_BOUND = 20.0
"""Nats. exp(20) ≈ 5e8 is far outside every clipping range and far inside float32."""


def bounded_ratio(log_ratio: Tensor) -> Tensor:
    """exp of a log-ratio clamped to ±20 nats, so that neither value nor gradient overflows."""
    return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def sampler_weight(inputs: Inputs, old_logprobs: Tensor, cap: float) -> Tensor | None:
    """min(π_old/π_sampler, cap) per token, (B, T): truncated importance sampling, without gradient.

    It corrects a surrogate on samples of another engine, or of another precision, than the trainer's.

    Args:
        inputs: with `extras["sampler_logprobs"]` where the sampler's log-probs are not the old ones.
        old_logprobs: (B, T), nats, by the trainer with the weights that sampled.
        cap: upper bound of the weight.

    Returns:
        The weights, None where the samples are the trainer's own.
    """
    if "sampler_logprobs" not in inputs.extras:
        return None
    return bounded_ratio(old_logprobs - inputs.extras["sampler_logprobs"]).clamp(max=cap)


def kl_estimate(log_ratio: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """Per-token estimate of KL(π‖ref) from samples of π.

    With d = log π − log ref: k1 = d, k2 = d²/2, k3 = e^{−d} − 1 + d (Schulman 2020, "Approximating
    KL divergence"). k1 and k3 are unbiased as values. As a loss on the policy's own samples k2 has the
    gradient of the KL, k1's is zero in expectation, k3's is biased (arXiv 2510.01555).

    Args:
        log_ratio: any shape, nats. For d < −20 k3 goes on along its tangent, so that it stays finite
            and keeps pulling towards the reference.
        estimator: k1, k2 or k3.

    Returns:
        Nats, shape of `log_ratio`.

    Raises:
        ValueError: no such estimator.
    """
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    if estimator == "k3":
        bounded = (-log_ratio).clamp(max=LOG_RATIO_BOUND)
        return torch.expm1(bounded) + bounded.exp() * (-log_ratio - bounded) + log_ratio
    raise ValueError(f"unknown KL estimator '{estimator}': k1, k2 or k3")
