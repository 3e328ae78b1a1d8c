"""Shared by the objectives' tests: inputs from nested lists, and comparison with a scalar reference.

A reference is a plain Python function of nested lists of floats (float64) that returns the loss.
Its gradient is taken with the five-point stencil, whose error at h = 1e-3 is below 1e-11 for the
smooth functions here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from alignloop.objectives.base import Inputs, Output, with_statistics

TOLERANCE = 1e-9


def _tensor(value: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(value))  # float64 without a detour over float32


def make_inputs(mask: Sequence[Sequence[int]], group: Sequence[int], **fields: Any) -> Inputs:
    """Inputs in float64; keywords are fields of Inputs, any other name goes to extras."""
    known = {k: _tensor(v) for k, v in fields.items() if k in Inputs.__dataclass_fields__}
    extras = {k: _tensor(v) for k, v in fields.items() if k not in Inputs.__dataclass_fields__}
    return Inputs(mask=torch.tensor(mask).bool(), group=torch.tensor(group), extras=extras, **known)


def evaluate(objective: Any, inputs: Inputs, denominator: float) -> Output:
    """The objective as the loop calls it, with one micro-batch per step."""
    inputs = with_statistics(inputs, objective.step_statistics(inputs))
    return objective(inputs, denominator=denominator)


def _stencil(
    reference: Callable[..., float], arrays: list[list[list[float]]], path: tuple[int, ...]
) -> float:
    """Derivative of `reference(*arrays)` in arrays[path[0]][path[1]]…, by five points."""
    h, *inner = 1e-3, *path[:-1]
    row: Any = arrays
    for index in inner:
        row = row[index]
    kept, values = row[path[-1]], []
    for step in (-2, -1, 1, 2):
        row[path[-1]] = kept + step * h
        values.append(reference(*arrays))
    row[path[-1]] = kept
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)


def assert_matches(
    objective: Any,
    inputs: Inputs,
    reference: Callable[..., float],
    *,
    wrt: Sequence[str] = ("logprobs",),
    denominator: float = 1.0,
) -> None:
    """Loss and gradient in the fields `wrt` equal those of `reference(*fields)` / denominator to 1e-9."""
    leaves = {name: getattr(inputs, name).clone().requires_grad_() for name in wrt}
    output = evaluate(objective, replace(inputs, **leaves), denominator)
    output.loss.backward()
    arrays = [getattr(inputs, name).tolist() for name in wrt]
    expected = reference(*arrays) / denominator
    assert output.loss.item() == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
    for which, name in enumerate(wrt):
        gradient = leaves[name].grad
        assert gradient is not None
        for index in torch.cartesian_prod(*map(torch.arange, gradient.shape)).reshape(-1, gradient.dim()):
            where = tuple(int(i) for i in index)
            derivative = _stencil(reference, arrays, (which, *where)) / denominator
            assert gradient[where].item() == pytest.approx(derivative, rel=1e-8, abs=TOLERANCE), (name, where)


def uniform(seed: int, rows: int, columns: int, low: float, high: float) -> list[list[float]]:
    """Reproducible numbers that owe nothing to torch."""
    generator = random.Random(seed)
    return [[generator.uniform(low, high) for _ in range(columns)] for _ in range(rows)]


@pytest.fixture(name="make_inputs", scope="session")
def make_inputs_fixture() -> Callable[..., Inputs]:
    return make_inputs


@pytest.fixture(name="evaluate", scope="session")
def evaluate_fixture() -> Callable[..., Output]:
    return evaluate


@pytest.fixture(name="assert_matches", scope="session")
def assert_matches_fixture() -> Callable[..., None]:
    return assert_matches


@pytest.fixture(name="uniform", scope="session")
def uniform_fixture() -> Callable[..., list[list[float]]]:
    return uniform
