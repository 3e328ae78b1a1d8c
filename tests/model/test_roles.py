"""Policy, critic and reference on one base and on models of their own: who computes, who is trained."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from alignloop.data.packing import Batch, Group, collate, completion
from alignloop.model.adapters import LoraSettings, activate, add_adapter
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.roles import CRITIC, POLICY, ActorCritic, frozen_copy
from alignloop.model.tiny import tiny_model

SIZE = 32


@pytest.fixture
def batch() -> Batch:
    return collate([Group(torch.arange(5, 12).int().numpy(), (completion([20, 21, 22]), completion([30])))])


def moved(model: torch.nn.Module, name: str = "", by: float = 0.1) -> None:
    """Change the weights whose name holds `name`."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if name in key:
                parameter.add_(by * torch.randn_like(parameter))


def lora_roles(*, critic: bool = True) -> tuple[ActorCritic, PeftModel]:
    """Policy and critic as adapters on one base, both off their start; all of both is trained."""
    hf, _ = tiny_model(hidden_size=SIZE, num_layers=1)
    policy = PackedModel(hf)
    peft = add_adapter(hf, LoraSettings(r=2), name=POLICY)
    second = None
    if critic:
        add_adapter(peft, LoraSettings(r=2), name=CRITIC, seed=1)
        second = PackedModel(hf, head=ScalarHead(SIZE, 2))
    moved(peft, "lora_", 0.3)
    activate(peft, POLICY)
    for name, parameter in peft.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return ActorCritic(policy, peft=peft, critic=second), peft


def own_roles() -> ActorCritic:
    """Three models of their own."""
    policy = PackedModel(tiny_model(hidden_size=SIZE, num_layers=1)[0])
    critic = PackedModel(tiny_model(hidden_size=SIZE, num_layers=1, seed=1)[0], head=ScalarHead(SIZE))
    return ActorCritic(policy, critic=critic, reference=frozen_copy(policy))


def logprobs_of(model: torch.nn.Module, batch: Batch, **more: float) -> Tensor:
    with torch.no_grad():
        return model(batch, **more).logprobs


def trained(model: torch.nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_roles_of_one_base_share_it_and_of_their_own_do_not() -> None:
    assert lora_roles()[0].one_base
    assert not own_roles().one_base
    assert not lora_roles(critic=False)[0].one_base
    policy = PackedModel(tiny_model(hidden_size=SIZE, num_layers=1)[0], autocast=torch.bfloat16)
    roles = ActorCritic(policy)
    assert (roles.device, roles.autocast) == (torch.device("cpu"), torch.bfloat16)
    with roles.precision():
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


def test_what_is_trained_of_each_role_under_lora() -> None:
    roles, peft = lora_roles()
    policy, critic = roles.role_parameters()
    names = {id(p): name for name, p in roles.named_parameters()}
    found = [[names[id(p)] for p in part] for part in (policy, critic)]
    assert len(found[0]) == 7 * 2  # seven linear layers, A and B
    assert all(f".{POLICY}." in name for name in found[0])
    assert len(found[1]) == 7 * 2 + 2
    assert sorted(name for name in found[1] if f".{CRITIC}." not in name) == [
        "critic.head.bias",
        "critic.head.weight",
    ]
    roles.critic.head = None
    assert len(roles.role_parameters()[1]) == 7 * 2
    assert roles.peft is peft


def test_what_is_trained_of_each_role_of_its_own() -> None:
    roles = own_roles()
    policy, critic = roles.role_parameters()
    assert {id(p) for p in policy} == {id(p) for p in roles.policy.parameters()}
    assert {id(p) for p in critic} == {id(p) for p in roles.critic.parameters()}
    # the reference is neither trained nor saved
    assert sum(p.numel() for p in roles.parameters()) == sum(p.numel() for p in (*policy, *critic))
    alone = ActorCritic(PackedModel(tiny_model(hidden_size=SIZE, num_layers=1)[0]))
    policy, critic = alone.role_parameters()
    assert len(policy) == len(list(alone.parameters()))
    assert critic == []
    policy.clear()
    assert alone.role_parameters()[0]
    frozen = PackedModel(tiny_model(hidden_size=SIZE, num_layers=1)[0].requires_grad_(False))
    assert ActorCritic(frozen).role_parameters() == ([], [])


@pytest.mark.parametrize("kind", ["lora", "own"])
def test_each_role_reads_its_own_weights(kind: str, batch: Batch) -> None:
    """Adapters of both roles may be active one after another in a step; training goes on afterwards."""
    roles = lora_roles()[0] if kind == "lora" else own_roles()
    before = trained(roles)
    out = roles(batch, {"logprobs", "entropy", "scores", "values", "prompt_logprob"}, temperature=0.7)
    if roles.peft is not None:
        assert roles.peft.active_adapter == POLICY
    assert trained(roles) == before
    own = roles.policy(batch, {"logprobs", "entropy", "prompt_logprob"}, temperature=0.7)
    for name in ("logprobs", "entropy", "prompt_logprob"):
        assert torch.equal(getattr(out, name), getattr(own, name))
    if roles.peft is not None:
        roles.peft.set_adapter(CRITIC)
    read = roles.critic(batch, {"scores", "values"})
    assert torch.equal(out.scores, read.scores)
    assert torch.equal(out.values, read.values)
    if roles.peft is not None:
        roles.peft.set_adapter(POLICY)
        other = roles.critic(batch, {"scores", "values"})
        assert not torch.allclose(out.values, other.values, atol=1e-3)
    (out.logprobs.sum() + out.values.sum()).backward()
    policy, critic = roles.role_parameters()
    for part in (policy, critic):
        assert any(p.grad is not None and bool(p.grad.any()) for p in part)


def test_only_what_is_asked_for_is_read(batch: Batch) -> None:
    roles = own_roles()
    calls: list[str] = []
    roles.policy.register_forward_pre_hook(lambda *_: calls.append("policy"))
    roles.critic.register_forward_pre_hook(lambda *_: calls.append("critic"))
    roles.critic._logprobs = None  # of which nobody asks
    asked = [
        ({"logprobs"}, ["policy"], ["logprobs"]),
        ({"entropy"}, ["policy"], ["logprobs", "entropy"]),
        ({"prompt_logprob"}, ["policy"], ["prompt_logprob"]),
        ({"values"}, ["critic"], ["values"]),
        ({"scores"}, ["critic"], ["scores"]),
        ({"logprobs", "values"}, ["policy", "critic"], ["logprobs", "values"]),
    ]
    assert roles(batch).logprobs is not None
    for needs, ran, given in asked:
        calls.clear()
        out = roles(batch, needs)
        assert calls == ran
        names = ("logprobs", "entropy", "scores", "values", "prompt_logprob")
        assert [name for name in names if getattr(out, name) is not None] == given
    alone = ActorCritic(roles.policy)
    for wanted in ("values", "scores"):
        with pytest.raises(ValueError, match="no critic"):
            alone(batch, {wanted})
    with pytest.raises(ValueError, match="no reference"):
        alone.reference_logprobs(batch)


def test_the_reference_under_lora_is_the_base_until_it_is_refreshed(batch: Batch) -> None:
    roles, peft = lora_roles()
    before = trained(roles)
    with peft.disable_adapter():
        base = logprobs_of(roles.policy, batch, temperature=0.6)
    for name, parameter in peft.named_parameters():
        parameter.requires_grad_("lora_" in name)
    found = roles.reference_logprobs(batch, temperature=0.6)
    assert torch.equal(found, base)
    assert not found.requires_grad
    assert trained(roles) == before
    assert roles.reference_state() == {}
    roles.refresh_reference()
    then = logprobs_of(roles.policy, batch, temperature=0.6)
    assert (then - base).abs().max() > 0.01
    moved(peft, f".{POLICY}.", 0.3)
    now = logprobs_of(roles.policy, batch, temperature=0.6)
    assert (now - then).abs().max() > 0.01
    assert torch.equal(roles.reference_logprobs(batch, temperature=0.6), then)
    assert torch.equal(logprobs_of(roles.policy, batch, temperature=0.6), now)  # the policy is put back
    assert trained(roles) == before


@pytest.mark.parametrize("kind", ["lora", "own"])
def test_a_refreshed_reference_is_saved_and_restored(kind: str, batch: Batch) -> None:
    def fresh() -> ActorCritic:
        torch.manual_seed(0)
        return lora_roles()[0] if kind == "lora" else own_roles()

    roles = fresh()
    start = roles.reference_logprobs(batch)
    assert roles.reference_state() == {}
    moved(roles.policy, "lora_" if kind == "lora" else "")
    if kind == "own":
        assert torch.equal(roles.reference_logprobs(batch), start)
    roles.refresh_reference()
    then = roles.reference_logprobs(batch)
    assert torch.equal(then, logprobs_of(roles.policy, batch))
    assert not torch.equal(then, start)
    moved(roles.policy, "lora_" if kind == "lora" else "")
    state = {name: weight.clone() for name, weight in roles.reference_state().items()}
    assert all(name.startswith("reference.") for name in state)
    assert not any(weight.requires_grad for weight in roles.reference_state().values())
    if kind == "lora":
        assert len(state) == 7 * 2
        assert all(f".{POLICY}." in name for name in state)
    again = fresh()
    again.load_reference_state({"policy.weight": torch.zeros(1)})
    assert again.reference_state() == {}
    again.load_reference_state({**state, "policy.weight": torch.zeros(1)})
    assert torch.equal(again.reference_logprobs(batch), then)


def test_a_frozen_copy_is_another_model_of_the_same_kind(batch: Batch) -> None:
    model = PackedModel(
        tiny_model(hidden_size=SIZE, num_layers=1)[0], shared_prefix=False, autocast=torch.bfloat16
    )
    model.train()
    copied = frozen_copy(model)
    assert (copied.layout, copied.autocast) == ("padded", torch.bfloat16)
    assert not copied.hf.training
    assert trained(copied) == []
    expected = logprobs_of(model.eval(), batch)
    moved(model)
    assert torch.equal(logprobs_of(copied, batch), expected)
    assert trained(model)


def test_an_error_in_a_role_puts_the_policy_back(batch: Batch) -> None:
    roles, peft = lora_roles()
    before = trained(roles)

    def fail(*_: object) -> None:
        raise RuntimeError("stop")

    hook = roles.critic.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        roles(batch, {"logprobs", "values"})
    hook.remove()
    assert peft.active_adapter == POLICY
    assert trained(roles) == before
    now = logprobs_of(roles.policy, batch)
    roles.refresh_reference()
    moved(peft, f".{POLICY}.", 0.3)
    now = logprobs_of(roles.policy, batch)
    hook = roles.policy.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        roles.reference_logprobs(batch)
    hook.remove()
    assert torch.equal(logprobs_of(roles.policy, batch), now)
