"""AdamW and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Schedule = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """AdamW (Loshchilov & Hutter 2019) with a warm-up and a decay.

    Attributes:
        learning_rate: peak rate.
        lr_scheduler_type: linear or cosine decay to 0 over all steps, or constant.
        warmup_steps: optimizer steps of linear warm-up from 0.
        weight_decay: decoupled decay, on matrices only (not on norms and biases).
        adam_beta1: decay of the first moment.
        adam_beta2: decay of the second moment.
        adam_epsilon: added to the root of the second moment.
        max_grad_norm: gradients are scaled down to this global norm; 0 for no limit.
    """

    learning_rate: float = 1e-5
    lr_scheduler_type: Schedule = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0


def learning_rate(settings: OptimizerSettings, step: int, num_steps: int) -> float:
    """Rate of optimizer step `step` (from 0) of `num_steps`."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / (settings.warmup_steps + 1)
    if settings.lr_scheduler_type == "constant":
        return settings.learning_rate
    left = max(1, num_steps - settings.warmup_steps)
    progress = min(1.0, (step - settings.warmup_steps) / left)
    if settings.lr_scheduler_type == "linear":
        return settings.learning_rate * (1 - progress)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that require a gradient.

    Raises:
        ValueError: nothing is trainable.
    """
    trainable = [p for p in parameters if p.requires_grad]
    if not trainable:
        raise ValueError("no parameter requires a gradient, so nothing would be trained")
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )
