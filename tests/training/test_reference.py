"""Reference log-probs: what they are cached by, and what they ignore."""

import errno
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from alignloop.data.packing import Group, collate, completion
from alignloop.errors import DiskError
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.packed import PackedModel
from alignloop.model.tiny import tiny_model
from alignloop.training import reference
from alignloop.training.reference import (
    adapter_reference,
    frozen_reference,
    weights_sha256,
    with_reference_logprobs,
)
from tests.training.helpers import make_trainer, pair_groups


def values(groups):
    return [c.values["reference_logprobs"] for g in groups for c in g.completions]


def test_the_second_time_they_come_from_the_cache(tmp_path):
    model = make_trainer().model
    first, cached = with_reference_logprobs(pair_groups(4), model, token_budget=30, cache=tmp_path)
    assert not cached
    second, cached = with_reference_logprobs(pair_groups(4), model, token_budget=99, cache=tmp_path)
    assert cached
    for one, two in zip(values(first), values(second), strict=True):
        np.testing.assert_array_equal(one, two)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_another_weight_token_mask_or_precision_is_another_entry(tmp_path):
    model, groups = make_trainer().model, pair_groups(2)

    def is_cached(model=model, groups=groups, **more):
        return with_reference_logprobs(groups, model, token_budget=99, cache=tmp_path, **more)[1]

    assert not is_cached()
    assert is_cached()
    assert not is_cached(make_trainer(seed=1).model)  # the same name, other weights
    changed = [Group(g.prompt_ids + 1, g.completions, g.index) for g in groups]
    assert not is_cached(groups=changed)
    for group in changed:
        group.completions[0].mask[0] = False
    assert not is_cached(groups=changed)
    model.autocast = torch.bfloat16
    assert not is_cached()
    model.autocast = None
    with torch.no_grad():
        next(model.parameters())[7, 0] += 1e-3
    assert not is_cached()


@pytest.mark.parametrize("fault", ["cut", "shorter"])
def test_a_damaged_entry_is_computed_again(tmp_path, fault):
    model = make_trainer().model
    first, _ = with_reference_logprobs(pair_groups(3), model, token_budget=99, cache=tmp_path)
    file = next(tmp_path.iterdir())
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    else:
        from safetensors.numpy import save_file

        save_file({"logprobs": np.zeros(3, np.float32)}, file)
    again, cached = with_reference_logprobs(pair_groups(3), model, token_budget=99, cache=tmp_path)
    assert not cached
    np.testing.assert_array_equal(np.concatenate(values(first)), np.concatenate(values(again)))
    assert with_reference_logprobs(pair_groups(3), model, token_budget=99, cache=tmp_path)[1]


def test_under_lora_the_reference_is_the_base_whatever_the_adapter_learned():
    hf, _ = tiny_model(hidden_size=32, num_layers=1)
    batch = collate(pair_groups(2))
    plain = PackedModel(hf).eval()
    with torch.no_grad():
        expected = plain(batch).logprobs
    peft = add_adapter(hf, LoraSettings(r=4))
    model = PackedModel(hf)
    reference = adapter_reference(model, peft)
    assert torch.equal(reference(batch), expected)
    with torch.no_grad():
        for parameter in (p for p in hf.parameters() if p.requires_grad):
            parameter.add_(0.3)
        assert not torch.allclose(model(batch).logprobs, expected, atol=0.1)
    assert torch.equal(reference(batch), expected)
    assert any(p.requires_grad for p in hf.parameters())  # the adapter still trains afterwards


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    """Written beside its place under a name that no reader takes for an entry, in a folder that is made."""
    cache, seen = tmp_path / "of" / "a model", []

    def full(tensors, file):
        seen.append(Path(file))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reference, "save_file", full)
    with pytest.raises(DiskError, match="the disk is full"):
        with_reference_logprobs(pair_groups(1), make_trainer().model, token_budget=99, cache=cache)
    assert [(path.parent, path.suffix) for path in seen] == [(cache, ".tmp")]
    assert list(cache.iterdir()) == []


def test_the_digest_of_weights_by_hand():
    """Names in their order, shapes, types and bytes."""
    module = torch.nn.Module()
    module.b = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    module.a = torch.nn.Parameter(torch.tensor([[3.0]], dtype=torch.float64))
    text = b"a (1, 1) torch.float64" + np.float64(3).tobytes()
    text += b"b (2,) torch.float32" + np.asarray([1, 2], np.float32).tobytes()
    assert weights_sha256(module) == hashlib.sha256(text).hexdigest()


def test_the_parts_of_the_key_do_not_run_together(tmp_path):
    """Tokens [5, 6] + [7] and [5] + [6, 7] are two data sets."""
    model = make_trainer().model
    made = []
    for prompt, answer in (([5, 6], [7]), ([5], [6, 7])):
        group = Group(np.asarray(prompt, np.int32), (completion(answer),), 0)
        made.append(with_reference_logprobs([group], model, token_budget=99, cache=tmp_path)[1])
    assert made == [False, False]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("budget", [1, 25, 1000])
def test_each_completion_gets_its_own_numbers(budget):
    """As many as it has tokens, those of its row, beside what it held; groups keep order and index."""
    model = make_trainer().model
    groups = [Group(g.prompt_ids, g.completions, 10 * g.index, g.values) for g in pair_groups(5)]
    found, _ = with_reference_logprobs(groups, model, token_budget=budget, name="old_logprobs")
    again, _ = with_reference_logprobs(found, model, token_budget=budget)
    assert [g.index for g in found] == [0, 10, 20, 30, 40]
    for group, filled in zip(groups, again, strict=True):
        with torch.no_grad():
            expected = model(collate([group])).logprobs
        for row, item in enumerate(filled.completions):
            assert item.values.keys() == {"old_logprobs", "reference_logprobs"}
            for values in item.values.values():
                assert values.shape == item.ids.shape
                np.testing.assert_allclose(values, expected[row, : len(item.ids)], rtol=1e-5, atol=1e-6)


def test_a_frozen_reference_has_no_gradient_and_no_dropout():
    hf, _ = tiny_model(hidden_size=32, num_layers=1)
    add_adapter(hf, LoraSettings(r=4, dropout=0.5))
    with torch.no_grad():
        for parameter in (p for p in hf.parameters() if p.requires_grad):
            parameter.normal_(std=0.3)
    model = PackedModel(hf).train()
    batch = collate(pair_groups(2))
    given = frozen_reference(model)
    assert torch.equal(given(batch), given(batch))
    assert not given(batch).requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_the_policy_stays_in_its_mode(training):
    hf, _ = tiny_model(hidden_size=32, num_layers=1)
    peft = add_adapter(hf, LoraSettings(r=4, dropout=0.5))
    model = PackedModel(hf).train(training)
    given = adapter_reference(model, peft)
    assert not given(collate(pair_groups(1))).requires_grad
    assert model.training == training
