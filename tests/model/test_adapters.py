from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from alignloop.data.packing import Batch, Group, collate, completion
from alignloop.errors import ModelError
from alignloop.model.adapters import LoraSettings, activate, adapters_off, add_adapter
from alignloop.model.packed import PackedModel
from alignloop.model.tiny import tiny_model


@pytest.fixture
def base() -> LlamaForCausalLM:
    return tiny_model()[0]


@pytest.fixture
def batch() -> Batch:
    return collate([Group(torch.arange(5, 12).int().numpy(), (completion([20, 21, 22]), completion([30])))])


def randomise(model: PeftModel, name: str, seed: int) -> None:
    """Give an adapter a B that is not zero, so that it changes the model."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if f"lora_B.{name}." in key:
                parameter.normal_(std=0.5)


def trainable(model: torch.nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_a_fresh_adapter_changes_nothing_and_alone_is_trained(base: LlamaForCausalLM, batch: Batch) -> None:
    before = PackedModel(base)(batch).logprobs.detach()
    model = add_adapter(base, LoraSettings(r=4, alpha=8))
    assert torch.equal(PackedModel(base)(batch).logprobs, before)
    names = trainable(model)
    # 2 layers × 7 linear layers × A and B; the vocabulary head is not among them
    assert len(names) == 2 * 7 * 2
    assert all("lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)


def test_the_same_seed_makes_the_same_adapter_and_leaves_the_global_generator() -> None:
    state = torch.get_rng_state()
    weights = []
    for seed in (3, 3, 4):
        model = add_adapter(tiny_model()[0], LoraSettings(r=2), seed=seed)
        weights.append(next(p for n, p in model.named_parameters() if "lora_A" in n))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_adapters_off_is_the_base(base: LlamaForCausalLM, batch: Batch) -> None:
    packed = PackedModel(base)
    plain = packed(batch).logprobs.detach()
    model = add_adapter(base, LoraSettings(r=4))
    randomise(model, "default", 0)
    adapted = packed(batch).logprobs.detach()
    assert (adapted - plain).abs().max() > 0.1
    with adapters_off(model), torch.no_grad():
        assert torch.equal(packed(batch).logprobs, plain)
    assert torch.equal(packed(batch).logprobs, adapted)
    # and training goes on afterwards
    packed(batch).logprobs.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_two_roles_on_one_base(base: LlamaForCausalLM, batch: Batch) -> None:
    packed = PackedModel(base)
    model = add_adapter(base, LoraSettings(r=4), name="policy")
    randomise(model, "policy", 0)
    policy = packed(batch).logprobs.detach()
    add_adapter(model, LoraSettings(r=4), name="critic", seed=1)
    randomise(model, "critic", 1)
    critic = packed(batch).logprobs.detach()
    assert (policy - critic).abs().max() > 0.1
    assert all(".critic." in name for name in trainable(model))
    activate(model, "policy")
    assert torch.equal(packed(batch).logprobs, policy)
    assert all(".policy." in name for name in trainable(model))
    activate(model, "critic", trainable=False)
    assert torch.equal(packed(batch).logprobs, critic)
    assert not trainable(model)


def test_the_scale_is_alpha_over_r(base: LlamaForCausalLM) -> None:
    model = add_adapter(base, LoraSettings(r=2, alpha=6.0, target_modules=("q_proj",)))
    randomise(model, "default", 0)
    layer = base.model.layers[0].self_attn.q_proj
    x = torch.randn(3, 64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + 3.0 * (x @ a.T) @ b.T
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert len(trainable(model)) == 2 * 1 * 2


def test_layers_that_do_not_exist_are_named(base: LlamaForCausalLM) -> None:
    with pytest.raises(ModelError, match="target_modules"):
        add_adapter(base, LoraSettings(target_modules=("no_such_layer",)))
