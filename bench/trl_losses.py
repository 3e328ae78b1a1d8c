"""Losses of TRL 1.16 against those of alignloop/objectives on the same log-probs, for bench/trl_parity.py.

TRL computes its losses inside trainer methods. They are called here unbound, on a stand-in for the
trainer that holds only their settings, with a stand-in model that returns the given log-probs: no
tokenizer, data or model takes part, so that a difference is one of the losses themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer, GRPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from alignloop.objectives.base import (
    Inputs,
    pairs,
    sequence_mean,
    sequence_sum,
    with_statistics,
)
from alignloop.objectives.dpo import DPO
from alignloop.objectives.grpo import GRPO, preset
from alignloop.objectives.ipo import IPO
from alignloop.objectives.kto import KTO
from alignloop.objectives.orpo import ORPO
from alignloop.objectives.simpo import SimPO

PAIRS, TOKENS = 6, 9


def _same(value: Any, **_: Any) -> Any:
    return value


def trainer(**settings: Any) -> Any:
    """What the loss methods read of a trainer, with one process and no logging."""
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        gather=_same,
        gather_for_metrics=_same,
        reduce=_same,
        num_processes=1,
    )
    model = SimpleNamespace(training=True)
    return SimpleNamespace(
        accelerator=accelerator,
        model=model,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


def model_returning(logprobs: Tensor) -> Callable[..., Any]:
    """A model with these log-probs; what TRL logs besides is zero."""
    zeros = torch.zeros_like(logprobs)
    return lambda **_: SimpleNamespace(
        log_probs=logprobs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )


def example(rows_per_group: int = 2, *, low: float = -3.0, seed: int = 0) -> Inputs:
    """Random float64 log-probs of completions with random lengths; 0 where masked."""
    generator = torch.Generator().manual_seed(seed)
    rows = PAIRS * 2
    lengths = torch.randint(2, TOKENS + 1, (rows, 1), generator=generator)
    mask = torch.arange(TOKENS)[None, :] < lengths

    def draw() -> Tensor:
        values = low + (-0.1 - low) * torch.rand(rows, TOKENS, generator=generator, dtype=torch.float64)
        return torch.where(mask, values, 0.0)

    return Inputs(
        mask=mask,
        group=torch.arange(rows) // rows_per_group,
        logprobs=draw(),
        reference_logprobs=draw(),
        extras={"old_logprobs": draw()},
    )


def ours(objective: Any, inputs: Inputs) -> float:
    """The loss of one step made of these inputs."""
    inputs = with_statistics(inputs, objective.step_statistics(inputs))
    return float(objective(inputs, denominator=objective.count(inputs)).loss)


def trl_batch(mask: Tensor) -> dict[str, Tensor]:
    """Rows with one prompt token in front of the completion."""
    whole = torch.cat([torch.zeros(len(mask), 1, dtype=torch.bool), mask], dim=1).long()
    return {"input_ids": torch.ones_like(whole), "attention_mask": whole, "completion_mask": whole}


def compare_dpo(objective: Any, loss_type: str, epsilon: float = 0.0) -> tuple[float, float]:
    """TRL stacks all chosen rows on all rejected ones."""
    inputs = example()
    order = torch.cat([torch.arange(0, 2 * PAIRS, 2), torch.arange(1, 2 * PAIRS, 2)])
    assert inputs.logprobs is not None
    assert inputs.reference_logprobs is not None
    reference = sequence_sum(inputs.reference_logprobs, inputs.mask)[order]
    stand_in = trainer(
        beta=objective.beta, loss_types=[loss_type], loss_weights=[1.0], label_smoothing=epsilon,
        ld_alpha=None, f_divergence_type="reverse_kl", use_weighting=False,
    )  # fmt: skip
    batch = trl_batch(inputs.mask[order])
    batch |= {"ref_chosen_logps": reference[:PAIRS], "ref_rejected_logps": reference[PAIRS:]}
    model = model_returning(inputs.logprobs[order])
    loss = DPOTrainer._compute_loss(stand_in, model, batch, False)
    return float(loss), ours(objective, inputs)


def compare_kto() -> tuple[float, float]:
    """The second row of each group is the mismatched completion; TRL has it in a batch of its own."""
    objective = KTO(beta=0.2, desirable_weight=1.3, undesirable_weight=0.9)
    inputs, labels = example(), torch.tensor([1, 0, 0, 1, 1, 0]).bool()
    mismatched = torch.tensor([False, True]).repeat(PAIRS)
    inputs = replace(inputs, extras={"desirable": labels.repeat_interleave(2), "mismatched": mismatched})
    assert inputs.logprobs is not None
    assert inputs.reference_logprobs is not None
    logprob = sequence_sum(inputs.logprobs, inputs.mask)
    reference = sequence_sum(inputs.reference_logprobs, inputs.mask)
    stand_in = trainer(
        beta=0.2, desirable_weight=1.3, undesirable_weight=0.9, loss_type="kto", calculate_KL=True,
        _compute_kl_logps=lambda *_: logprob[mismatched],
    )  # fmt: skip
    batch = trl_batch(inputs.mask[~mismatched])
    batch |= {"label": labels, "ref_logps": reference[~mismatched], "ref_KL_logps": reference[mismatched]}
    model = model_returning(inputs.logprobs[~mismatched])
    return float(KTOTrainer._compute_loss(stand_in, model, batch, False)), ours(objective, inputs)


def compare_simpo() -> tuple[float, float]:
    inputs = example()
    assert inputs.logprobs is not None
    chosen, rejected = pairs(sequence_mean(inputs.logprobs, inputs.mask))
    stand_in = trainer(alpha=0.0, beta=2.5, simpo_gamma=1.4, label_smoothing=0.0, loss_type="simpo")
    losses, *_ = CPOTrainer.cpo_loss(stand_in, chosen, rejected)  # pyright: ignore[reportArgumentType]
    return float(losses.mean()), ours(SimPO(beta=2.5, gamma=1.4), inputs)


def compare_cdpo() -> tuple[float, float]:
    """TRL's DPO reads label_smoothing only for `robust`; its CPO trainer smooths, and has no reference."""
    inputs = example()
    assert inputs.logprobs is not None
    chosen, rejected = pairs(sequence_sum(inputs.logprobs, inputs.mask))
    stand_in = trainer(alpha=0.0, beta=0.3, label_smoothing=0.2, loss_type="sigmoid")
    losses, *_ = CPOTrainer.cpo_loss(stand_in, chosen, rejected)  # pyright: ignore[reportArgumentType]
    without = replace(inputs, reference_logprobs=torch.zeros_like(inputs.logprobs))
    return float(losses.mean()), ours(DPO(beta=0.3, label_smoothing=0.2), without)


def compare_orpo() -> tuple[float, float]:
    """The odds-ratio term alone: TRL's NLL is a mean over the tokens of a micro-batch, prompts included."""
    inputs = example()
    assert inputs.logprobs is not None
    chosen, rejected = pairs(sequence_mean(inputs.logprobs, inputs.mask))
    odds, *_ = ORPOTrainer.odds_ratio_loss(trainer(beta=0.4), chosen, rejected)  # pyright: ignore[reportArgumentType]
    return float(-odds.mean()), ours(ORPO(lam=0.4), inputs) + float(chosen.mean())


def compare_grpo(objective: GRPO, loss_type: str) -> tuple[float, float]:
    """Advantages of completions, ratios on both sides of the clipping range."""
    inputs = example(rows_per_group=4, low=-1.2)
    assert inputs.logprobs is not None
    advantages = torch.linspace(-1.5, 1.5, 2 * PAIRS, dtype=torch.float64)
    old = inputs.extras["old_logprobs"]
    extras = {"old_logprobs": old, "advantages": advantages[:, None].expand_as(old)}
    zeros = torch.zeros_like(old)
    cap = 1 + objective.epsilon_high if loss_type == "cispo" else objective.epsilon_high
    stand_in = trainer(
        loss_type=loss_type, beta=objective.beta, epsilon_low=objective.epsilon_low, epsilon_high=cap,
        importance_sampling_level=objective.ratio_level, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, use_vllm=False, _entropy_bonus_enabled=False,
        max_completion_length=objective.constant_length, current_gradient_accumulation_steps=1,
        args=SimpleNamespace(
            delta=objective.delta or None, use_bias_correction_kl=objective.unbiased_kl,
            steps_per_generation=1,
        ),
        _get_per_token_logps_and_entropies=lambda *_, **__: (inputs.logprobs, zeros, None),
    )  # fmt: skip
    mask = inputs.mask.double()
    one = torch.ones(2 * PAIRS, 1, dtype=torch.long)
    batch = {
        "prompt_ids": one, "prompt_mask": one, "completion_ids": inputs.mask.long(), "completion_mask": mask,
        "advantages": advantages, "old_per_token_logps": old, "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": inputs.reference_logprobs,
    }  # fmt: skip
    loss = GRPOTrainer._compute_loss(stand_in, None, batch)
    return float(loss), ours(objective, replace(inputs, extras=extras))


CASES: dict[str, Callable[[], tuple[float, float]]] = {
    "dpo": lambda: compare_dpo(DPO(beta=0.3), "sigmoid"),
    "dpo loss=hinge": lambda: compare_dpo(DPO(beta=0.3, loss="hinge"), "hinge"),
    "dpo loss=robust": lambda: compare_dpo(
        DPO(beta=0.3, loss="robust", label_smoothing=0.2), "robust", epsilon=0.2
    ),
    "dpo label_smoothing (TRL's CPO)": compare_cdpo,
    "ipo reduction=mean": lambda: compare_dpo(IPO(beta=0.3), "ipo"),
    "kto": compare_kto,
    "orpo (odds-ratio term)": compare_orpo,
    "simpo": compare_simpo,
    "grpo": lambda: compare_grpo(GRPO(unbiased_kl=False), "grpo"),
    "grpo unbiased_kl": lambda: compare_grpo(GRPO(unbiased_kl=True), "grpo"),
    "grpo delta": lambda: compare_grpo(GRPO(delta=1.3), "grpo"),
    "dr_grpo": lambda: compare_grpo(preset("dr_grpo").objective, "dr_grpo"),
    "dapo": lambda: compare_grpo(preset("dapo").objective, "dapo"),
    "gspo": lambda: compare_grpo(preset("gspo").objective, "grpo"),
    "cispo": lambda: compare_grpo(preset("cispo").objective, "cispo"),
}
