"""Small data and models for the training tests."""

import numpy as np
import torch

from alignloop.data.packing import Group, completion
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.tiny import tiny_model
from alignloop.training.loop import Trainer
from alignloop.training.optim import OptimizerSettings, build_optimizer


def pair_groups(num: int = 6, seed: int = 0, k: int = 2) -> list[Group]:
    """Random prompts with k random completions each, as preference groups."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(5, 300, rng.integers(low, high)).astype(np.int32)

    return [
        Group(
            ids(3, 9),
            tuple(completion(ids(2, 8)) for _ in range(k)),
            i,
            {"probability": 1.0, "margin": 0.0},
        )
        for i in range(num)
    ]


def make_trainer(
    seed: int = 0,
    *,
    lr: float = 1e-3,
    num_steps: int = 10,
    head: bool = False,
    budget: int = 4096,
    **more: object,
) -> Trainer:
    """A trainer over a tiny random model."""
    torch.manual_seed(seed)
    hf, _ = tiny_model(seed=seed, hidden_size=32, num_layers=1)
    model = PackedModel(hf, head=ScalarHead(32, seed=seed) if head else None)
    settings = OptimizerSettings(learning_rate=lr, **more)  # type: ignore[arg-type]
    optimizer = build_optimizer(model.parameters(), settings)
    return Trainer(model, optimizer, settings, num_steps, token_budget=budget)


def plain_descent(*, budget: int = 4096, num_steps: int = 4, **settings: object) -> Trainer:
    """A trainer whose steps are −rate × gradient."""
    trainer = make_trainer(budget=budget, num_steps=num_steps, **settings)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=123.0)  # the schedule sets the rate
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """A copy of the trainable weights."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
