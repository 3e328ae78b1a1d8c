"""Rewards of packed groups by one head or an ensemble, and heads as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from alignloop.data.packing import Group, completion
from alignloop.errors import ModelError
from alignloop.model.adapters import LoraSettings, activate, add_adapter
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.scorer import (
    HEAD_FILE,
    Scorer,
    first_outputs,
    group_scores,
    load_head,
    normalize,
    save_head,
)
from alignloop.model.tiny import tiny_model

SIZE = 32


def some_groups() -> list[Group]:
    """Of unlike sizes, so that packing changes their order."""
    rng = np.random.default_rng(0)
    shapes = ((5, (3, 2)), (9, (20, 4, 1)), (2, (6,)), (7, (11, 12)))
    return [
        Group(
            rng.integers(3, 300, p).astype(np.int32),
            tuple(completion(rng.integers(3, 300, n)) for n in ns),
            7,
        )
        for p, ns in shapes
    ]


def ensemble() -> tuple[Scorer, PeftModel]:
    """Two adapters with a head each; the active one is the second."""
    hf, _ = tiny_model(hidden_size=SIZE, num_layers=1)
    peft = add_adapter(hf, LoraSettings(r=2), name="one")
    add_adapter(peft, LoraSettings(r=2), name="two", seed=1)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    members = tuple(PackedModel(hf, head=ScalarHead(SIZE, seed=seed)) for seed in (1, 2))
    return Scorer(members, ("one", "two"), peft), peft


def test_scores_are_those_of_each_group_alone_in_order() -> None:
    model = PackedModel(tiny_model(hidden_size=SIZE, num_layers=1)[0], head=ScalarHead(SIZE, 3)).train()
    groups = some_groups()
    found = group_scores(model, groups, 30)
    assert [scores.shape for scores in found] == [(2, 3), (3, 3), (1, 3), (2, 3)]
    for group, scores in zip(groups, found, strict=True):
        (alone,) = group_scores(model, [group], 1000)
        assert torch.allclose(scores, alone, atol=1e-5)
        assert scores.dtype == torch.float32
        assert not scores.requires_grad
    assert len({float(score) for scores in found for score in scores[:, 0]}) == 8


def test_every_member_reads_with_its_own_adapter_and_head() -> None:
    scorer, peft = ensemble()
    groups = some_groups()
    found = scorer.scores(groups, 40)
    assert [scores.shape for scores in found] == [(2, 2), (2, 3), (2, 1), (2, 2)]
    assert peft.active_adapter == "two"
    for member, name in enumerate(("one", "two")):
        only = scorer.only(member)
        assert (only.members, only.adapters, only.peft) == ((scorer.members[member],), (name,), peft)
        activate(peft, name)
        alone = [scores[:, 0] for scores in group_scores(scorer.members[member], groups, 40)]
        activate(peft, "one" if name == "two" else "two")
        for scores, own, again in zip(found, alone, only.scores(groups, 40), strict=True):
            assert torch.equal(scores[member], own)
            assert torch.equal(again, own[None])
    assert (found[0][0] - found[0][1]).abs().max() > 1e-3
    plain = Scorer(scorer.members)
    with plain.active(0):
        assert peft.active_adapter == "one"
    with scorer.active(1):
        assert peft.active_adapter == "two"
    assert peft.active_adapter == "one"


def test_normalized_rewards_have_mean_0_and_spread_1_and_keep_their_order() -> None:
    model = PackedModel(tiny_model(hidden_size=SIZE, num_layers=1)[0], head=ScalarHead(SIZE, 2))
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([3.0, -5.0]))
        model.head.gain.copy_(torch.tensor([2.0, 0.5]))
        model.head.shift.copy_(torch.tensor([1.0, -1.0]))
    groups = some_groups()
    before = torch.cat(group_scores(model, groups, 40))
    mean, std = normalize(model, groups, 40)
    assert torch.allclose(mean, before.mean(0), atol=1e-5)
    assert torch.allclose(std, before.std(0), atol=1e-5)
    after = torch.cat(group_scores(model, groups, 40))
    assert torch.allclose(after, (before - mean) / std, atol=1e-4)
    again = normalize(model, groups, 40)
    assert torch.allclose(again[0], torch.zeros(2), atol=1e-4)
    assert torch.allclose(again[1], torch.ones(2), atol=1e-4)


def test_equal_rewards_are_not_divided_by_nothing() -> None:
    model = PackedModel(tiny_model(hidden_size=SIZE, num_layers=1)[0], head=ScalarHead(SIZE))
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(2.0)
    mean, std = normalize(model, some_groups(), 40)
    assert mean.tolist() == [2.0]
    assert std.tolist() == pytest.approx([1e-6])
    assert torch.cat(group_scores(model, some_groups(), 40)).abs().max() < 1


def test_a_head_is_read_as_it_was_written(tmp_path: Path) -> None:
    head = ScalarHead(5, 3, seed=4)
    with torch.no_grad():
        for number, tensor in enumerate((head.bias, head.gain, head.shift), 2):
            tensor.copy_(torch.arange(3) + number)
    save_head(head, tmp_path)
    again = load_head(tmp_path)
    assert {name: tensor.tolist() for name, tensor in again.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in head.state_dict().items()
    }
    hidden = torch.randn(4, 5)
    assert torch.equal(again(hidden), head(hidden))
    first = first_outputs(head.double(), 1)
    assert first.weight.shape == (1, 5)
    assert first.weight.dtype == torch.float64
    assert torch.equal(first(hidden), head(hidden)[:, :1])
    sentence = rf"is no reward model: {HEAD_FILE} is missing \(train one with stage 'reward'\)"
    with pytest.raises(ModelError, match=sentence):
        load_head(tmp_path / "other")


def test_a_fresh_head_is_drawn_from_its_seed_with_the_variance_that_keeps_scores_near_1() -> None:
    head = ScalarHead(399, 200, seed=3)
    assert torch.equal(head.weight, ScalarHead(399, 200, seed=3).weight)
    assert not torch.equal(head.weight, ScalarHead(399, 200, seed=4).weight)
    assert torch.equal(ScalarHead(399, 200).weight, ScalarHead(399, 200, seed=0).weight)
    assert ScalarHead(7).weight.shape == (1, 7)
    # 79,800 draws: their standard deviation is known to 0.25 %
    assert float(head.weight.detach().std()) == pytest.approx(1 / 20, rel=0.02)
    assert float(head.weight.detach().mean()) == pytest.approx(0, abs=1e-3)
    assert not head.bias.any()
    assert torch.equal(head.gain, torch.ones(200))
    assert not head.shift.any()
    assert [name for name, _ in head.named_parameters()] == ["weight", "bias"]
    assert sorted(name for name, _ in head.named_buffers()) == ["gain", "shift"]
