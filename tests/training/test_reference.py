"""Reference log-probs: what they are cached by, and what they ignore."""

import numpy as np
import pytest
import torch

from alignloop.data.packing import Group, collate
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.packed import PackedModel
from alignloop.model.tiny import tiny_model
from alignloop.training.reference import adapter_reference, with_reference_logprobs
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
