"""What every file in objectives/ must satisfy, a new one included: this file knows none of them.

A data set of a few groups is made for each kind of record, with everything in `Inputs` that a
record of that kind can have; a miniature of the training loop collates it, and gradients are compared
at the leaves, so that padding, order and accumulation can be varied freely.
"""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from alignloop.objectives import registry
from alignloop.objectives.base import Inputs, Mean, add_means, with_statistics
from alignloop.training.held_out import only_group

MODEL_TOKENS = ("logprobs", "values", "entropy")
FIXED_TOKENS = ("old_logprobs", "sampler_logprobs", "advantages", "old_values", "returns")
RANGES = {
    "logprobs": (-3, -0.1),
    "reference_logprobs": (-3, -0.1),
    "old_logprobs": (-3, -0.1),
    "sampler_logprobs": (-3, -0.1),
    "values": (-1, 1),
    "old_values": (-1, 1),
    "returns": (-1, 1),
    "advantages": (-2, 2),
    "entropy": (0.1, 2),
}


@dataclass
class Row:
    """A completion: its mask, numbers per token, and numbers of its own."""

    mask: list[bool]
    tokens: dict[str, Tensor]
    scores: Tensor
    extras: dict[str, Any]


@dataclass
class Group:
    """A prompt's completions."""

    rows: list[Row]
    prompt_logprob: Tensor
    extras: dict[str, float] = field(default_factory=dict)

    def leaves(self) -> list[Tensor]:
        tokens = [row.tokens[name] for row in self.rows for name in MODEL_TOKENS]
        return [*tokens, *(row.scores for row in self.rows), self.prompt_logprob]


ROW_EXTRAS: dict[str, list[list[dict[str, Any]]]] = {
    "demonstration": [[{}], [{}], [{}]],
    "document": [[{}], [{}], [{}]],
    "preference": [[{}, {}]] * 3,
    "ranking": [
        [{"ranks": r} for r in ranks] for ranks in ([2, 1, 3], [1, 2], [2, 1, 2, 4], [1])
    ],
    "label": [
        [{"desirable": d, "mismatched": False}, {"desirable": False, "mismatched": True}]
        for d in (True, False, True)
    ],
    "rating": [[{"ratings": r}] for r in ([4.0, math.nan], [0.5, 2.0], [math.nan, 1.0])],
    "prompt": [[{}] * 3, [{}] * 3, [{}] * 3],
}  # fmt: skip
GROUP_EXTRAS = {
    "preference": [{"margin": m, "probability": p} for m, p in ((0.0, 1.0), (1.0, 0.7), (0.3, 0.5))]
}


def make_groups(record: str, *, dtype: torch.dtype = torch.float64, extreme: bool = False) -> list[Group]:
    """The data set; `extreme` makes log-ratios of ±1e4 and values far from their returns."""
    generator = random.Random(0)

    def numbers(name: str, length: int) -> Tensor:
        low, high = RANGES[name]
        drawn = [generator.uniform(low, high) for _ in range(length)]
        if extreme and name != "advantages":
            # half of the tokens at −1e4 under the policy, the other half under everything else
            far = [t % 2 == (name == "logprobs") for t in range(length)]
            drawn = [-1e4 if f else x for f, x in zip(far, drawn, strict=True)]
        return torch.tensor(drawn, dtype=dtype)

    groups = []
    for g, row_extras in enumerate(ROW_EXTRAS[record]):
        rows = []
        for extras in row_extras:
            length = generator.randint(2, 6)
            mask = [generator.random() < 0.8 for _ in range(length - 1)] + [True]
            tokens = {name: numbers(name, length) for name in RANGES}
            scores = torch.tensor([generator.uniform(-2, 2) * (1e4 if extreme else 1)] * 2, dtype=dtype)
            rows.append(Row(mask, tokens, scores, dict(extras)))
        extras = {"prompt_tokens": float(3 + g), **GROUP_EXTRAS.get(record, [{}] * (g + 1))[g]}
        groups.append(Group(rows, torch.tensor(-4.0 - g, dtype=dtype), extras))
        for leaf in groups[-1].leaves():
            leaf.requires_grad_()
    return groups


def collate(groups: list[Group], *, padding: int = 0, garbage: float = 0.0) -> Inputs:
    """Inputs of some groups; masked and padded places hold `garbage`."""
    rows = [row for group in groups for row in group.rows]
    width = max(len(row.mask) for row in rows) + padding
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        mask[i, : len(row.mask)] = torch.tensor(row.mask)

    def stack(name: str) -> Tensor:
        padded = [
            torch.nn.functional.pad(row.tokens[name], (0, width - len(row.mask)), value=garbage)
            for row in rows
        ]
        return torch.where(mask, torch.stack(padded), garbage)

    dtype = rows[0].scores.dtype
    extras = {name: stack(name).detach() for name in FIXED_TOKENS}
    for name in rows[0].extras:
        column = torch.tensor([row.extras[name] for row in rows])
        extras[name] = column.to(dtype) if column.is_floating_point() else column
    for name in groups[0].extras:
        extras[name] = torch.tensor([group.extras[name] for group in groups], dtype=dtype)
    return Inputs(
        mask=mask,
        group=torch.tensor([g for g, group in enumerate(groups) for _ in group.rows]),
        logprobs=stack("logprobs"),
        reference_logprobs=stack("reference_logprobs").detach(),
        scores=torch.stack([row.scores for row in rows]),
        values=stack("values"),
        entropy=stack("entropy"),
        prompt_logprob=torch.stack([group.prompt_logprob for group in groups]),
        extras=extras,
    )


def step(
    objective: Any, micro_batches: list[Inputs], groups: list[Group]
) -> tuple[float, list[Tensor], dict[str, Mean]]:
    """One optimizer step as the loop does it: loss, gradient at the groups' leaves, metrics."""
    denominator = sum(objective.count(inputs) for inputs in micro_batches)
    statistics: dict[str, Mean] = {}
    for inputs in micro_batches:
        statistics = add_means(statistics, objective.step_statistics(inputs))
    micro_batches = [with_statistics(inputs, statistics) for inputs in micro_batches]
    total, metrics = 0.0, {}
    for inputs in micro_batches:
        output = objective(inputs, denominator=denominator)
        output.loss.backward()
        total += output.loss.item()
        metrics = add_means(metrics, output.metrics)
    gradients = []
    for group in groups:
        for leaf in group.leaves():
            gradients.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone())
            leaf.grad = None
    return total, gradients, metrics


def variants(name: str) -> list[Any]:
    """The default; one with every coefficient of 0 switched on; and that with each choice of each field."""
    objective = registry.load(name)
    fields = registry.describe(name)
    on = objective(**{doc.name: 0.2 for doc in fields if doc.default == 0.0})
    others = [dataclasses.replace(on, **{doc.name: choice}) for doc in fields for choice in doc.choices]
    return list(dict.fromkeys([objective(), on, *others]))


CASES = [
    pytest.param(objective, record, id=f"{name}-{record}-{number}")
    for name in registry.names()
    for number, objective in enumerate(variants(name))
    for record in objective.records
]
every_objective = pytest.mark.parametrize(("objective", "record"), CASES)


def assert_same(one: tuple, two: tuple, *, tolerance: float = 1e-12) -> None:
    assert one[0] == pytest.approx(two[0], rel=tolerance, abs=tolerance)
    for a, b in zip(one[1], two[1], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    assert one[2].keys() == two[2].keys()
    for name in one[2]:
        left, right = one[2][name].value, two[2][name].value
        assert left == pytest.approx(right, rel=1e-6, abs=1e-6, nan_ok=True), name


@every_objective
def test_gradient_is_there_and_finite(objective, record):
    groups = make_groups(record)
    loss, gradients, metrics = step(objective, [collate(groups)], groups)
    assert math.isfinite(loss)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(not mean.sum.requires_grad for mean in metrics.values())


@every_objective
def test_finite_at_log_ratios_of_ten_thousand(objective, record):
    groups = make_groups(record, dtype=torch.float32, extreme=True)
    loss, gradients, metrics = step(objective, [collate(groups)], groups)
    assert math.isfinite(loss)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(mean.sum.isfinite() for mean in metrics.values())


@every_objective
def test_masked_places_and_padding_change_nothing(objective, record):
    groups = make_groups(record)
    plain = step(objective, [collate(groups)], groups)
    padded = step(objective, [collate(groups, padding=3, garbage=0.77)], groups)
    assert_same(plain, padded)
    for group in groups:
        inputs = collate([group], garbage=-5.0)
        inputs.logprobs.retain_grad()
        step(objective, [inputs], [group])
        if inputs.logprobs.grad is not None:
            assert (inputs.logprobs.grad[~inputs.mask] == 0).all()


@every_objective
def test_order_of_groups_changes_nothing(objective, record):
    groups = make_groups(record)
    plain = step(objective, [collate(groups)], groups)
    shuffled = step(objective, [collate([*groups[1:], groups[0]][::-1])], groups)
    assert_same(plain, shuffled)


@every_objective
def test_accumulation_changes_nothing(objective, record):
    groups = make_groups(record)
    once = step(objective, [collate(groups)], groups)
    one_by_one = step(objective, [collate([group]) for group in groups], groups)
    assert_same(once, one_by_one)
    uneven = step(objective, [collate(groups[:1]), collate(groups[1:])], groups)
    assert_same(once, uneven)


@every_objective
def test_groups_taken_out_one_by_one_add_up(objective, record):
    groups = make_groups(record)
    whole = collate(groups)
    once = step(objective, [whole], groups)
    alone = step(objective, [only_group(collate(groups), i) for i in range(len(groups))], groups)
    assert_same(once, alone)


@every_objective
def test_accumulation_in_float32(objective, record):
    groups = make_groups(record, dtype=torch.float32)
    once = step(objective, [collate(groups)], groups)
    one_by_one = step(objective, [collate([group]) for group in groups], groups)
    # sums over all tokens in another order, of terms of order 1
    assert_same(once, one_by_one, tolerance=4 * int(collate(groups).mask.sum()) * 2**-24)


@every_objective
def test_all_but_one_token_masked(objective, record):
    groups = make_groups(record)
    for row in [row for group in groups for row in group.rows]:
        row.mask = [False] * (len(row.mask) - 1) + [True]
    loss, gradients, _ = step(objective, [collate(groups, garbage=-5.0)], groups)
    assert math.isfinite(loss)
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_objective
def test_dtype_of_the_log_probs_is_kept(objective, record):
    for dtype in (torch.float32, torch.float64):
        groups = make_groups(record, dtype=dtype)
        inputs = collate(groups)
        inputs = with_statistics(inputs, objective.step_statistics(inputs))
        output = objective(inputs, denominator=objective.count(inputs))
        assert output.loss.dtype == dtype
        assert output.loss.shape == ()


@every_objective
def test_reads_what_it_says_and_no_more(objective, record):
    """With only `needs` it gives the same loss; without one of them it says which is missing."""
    inputs = collate(make_groups(record))
    optional = {f.name for f in dataclasses.fields(Inputs)} - {"mask", "group", "extras"}
    only = dataclasses.replace(inputs, **dict.fromkeys(optional - objective.needs))

    def loss(given: Inputs) -> float:
        bare = dict.fromkeys(optional - (objective.statistics_need or frozenset()))
        statistics = objective.step_statistics(dataclasses.replace(given, **bare))
        assert bool(statistics) == (objective.statistics_need is not None)
        given = with_statistics(given, statistics)
        return objective(given, denominator=1.0).loss.item()

    assert loss(only) == loss(inputs)
    bare = dataclasses.replace(inputs, **dict.fromkeys(optional))
    assert objective.count(bare).item() == objective.count(inputs).item() > 0
    for name in objective.needs:
        with pytest.raises(ValueError, match=rf"Inputs\.{name}"):
            loss(dataclasses.replace(only, **{name: None}))


@pytest.mark.parametrize("name", registry.names())
def test_every_field_is_read(name):
    """A hyperparameter that changes neither loss nor gradient anywhere is a dead one."""
    for doc in registry.describe(name):
        changed = False
        for objective in variants(name):
            value = getattr(objective, doc.name)
            if isinstance(value, bool):
                others = [not value]
            elif doc.choices:
                others = [choice for choice in doc.choices if choice != value]
            else:
                others = [value * 2 if isinstance(value, int) else value * 0.7 + 0.01]
            for other in others:
                record = objective.records[0]
                groups = make_groups(record)
                before = step(objective, [collate(groups)], groups)
                replaced = dataclasses.replace(objective, **{doc.name: other})
                after = step(replaced, [collate(groups)], groups)
                changed |= before[0] != after[0] or any(
                    not torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True)
                )
        assert changed, doc.name
