from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from alignloop.config import resolve
from alignloop.data.packing import Completion, Group, collate, completion
from alignloop.errors import ConfigError
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.packed import Forward, PackedModel, ScalarHead
from alignloop.model.roles import CRITIC, POLICY, ActorCritic
from alignloop.model.tiny import tiny_model
from alignloop.objectives.ppo import PPO
from alignloop.stages.online import running
from alignloop.stages.online_setup import Online
from alignloop.training.loop import Trainer, train_step
from alignloop.training.optim import OptimizerSettings, build_optimizer
from tests.stages.task import mean_of_last, recipe, run_stage

SMALL = {"num_generations": 4, "rollout_prompts": 4, "per_device_train_batch_size": 2, "num_iterations": 2}


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("copies", {"max_steps": 30, "learning_rate": 2e-4, "critic_learning_rate": 1e-3}),
        ("copies", {"max_steps": 50, "learning_rate": 2e-3, "critic_learning_rate": 2e-3, "lora_r": 8}),
        ("is_b", {"max_steps": 40, "learning_rate": 2e-3, "critic_learning_rate": 2e-3, "lora_r": 8}),
    ],
)
def test_copy_task_and_bandit_are_solved(tmp_path: Path, task: str, keys: dict) -> None:
    more = {"rollout_prompts": 6, "per_device_train_batch_size": 6, "num_generations": 16}
    more |= {"num_iterations": 2, "kl_coef": 0.0, "kl_controller": "fixed"}
    rewards = [{"function": f"tests.stages.task:{task}"}]
    run = run_stage("ppo", recipe(tmp_path, **more, **keys, rewards=rewards))
    assert next(run.metrics())["reward"] < 0.7
    assert mean_of_last(run, "reward") > 0.95


@pytest.mark.parametrize("lora_r", [0, 4])
def test_the_first_mini_batch_is_on_policy(tmp_path: Path, lora_r: int) -> None:
    run = run_stage("ppo", recipe(tmp_path, **SMALL, max_steps=3, lora_r=lora_r))
    first, _, third = run.metrics()
    assert first["sampler_gap_max"] <= 1e-5
    assert first["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert first["clip_fraction"] == 0
    assert first["value_clip_fraction"] == 0  # the critic is still the one of the rollout
    assert first["kl"] == pytest.approx(0.0, abs=1e-5)
    assert third["approx_kl"] > first["approx_kl"]
    # a critic's adapter is no part of the policy that is saved
    assert not (run.model / "critic").exists()


@pytest.mark.parametrize("lora_r", [0, 4])
def test_policy_and_critic_have_rates_of_their_own(
    tmp_path: Path, lora_r: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's first step moves a weight by its rate, whatever its gradient."""
    seen: dict[str, Tensor] = {}

    @contextmanager
    def watched(online: Online) -> Iterator[None]:
        policy, critic = online.roles.role_parameters()
        before = [p.detach().clone() for p in (*policy, *critic)]
        with running(online):
            yield
        moved = [float((p.detach() - b).abs().max()) for p, b in zip((*policy, *critic), before, strict=True)]
        seen.update(policy=max(moved[: len(policy)]), critic=max(moved[len(policy) :]))

    monkeypatch.setattr("alignloop.stages.ppo.running", watched)
    rates = {"learning_rate": 1e-3, "critic_learning_rate": 4e-3, "lora_r": lora_r}
    run_stage("ppo", recipe(tmp_path, **{**SMALL, "num_iterations": 1}, **rates, max_steps=1))
    assert seen == pytest.approx({"policy": 1e-3, "critic": 4e-3}, rel=1e-3)


def test_warming_up_moves_the_critic_only(tmp_path: Path) -> None:
    run = run_stage("ppo", recipe(tmp_path, **SMALL, max_steps=4, critic_warmup=1, entropy_coefficient=0.1))
    before = load_file(tmp_path / "start/model.safetensors")
    after = load_file(run.model / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    losses = [row["value_loss"] for row in run.metrics()]
    assert losses[-1] != losses[0]


def test_demonstrations_are_mixed_in(tmp_path: Path) -> None:
    demos = tmp_path / "demos.jsonl"
    demos.write_text('{"prompt": "a", "response": "d"}\n', encoding="utf-8")
    more = {"ptx_dataset": str(demos), "ptx_coefficient": 5.0, "max_steps": 24, "learning_rate": 1e-3}
    rows = list(run_stage("ppo", recipe(tmp_path, **{**SMALL, **more})).metrics())
    assert rows[-1]["ptx_nll"] < rows[0]["ptx_nll"] / 2
    assert rows[0]["ratio"] == pytest.approx(1.0, abs=1e-6)


def test_kl_is_paid_for_and_its_weight_follows(tmp_path: Path) -> None:
    more = {"kl_coef": 0.5, "kl_target": 1e-6, "kl_horizon": 100, "max_steps": 12, "learning_rate": 1e-2}
    rows = [r for r in run_stage("ppo", recipe(tmp_path, **{**SMALL, **more})).metrics() if "kl_coef" in r]
    # the KL is above its target, so 16 completions raise the weight by 0.2·16/100
    assert rows[2]["kl_coef"] == pytest.approx(rows[1]["kl_coef"] * 1.032, rel=1e-6)


def test_roles_share_a_base_and_keep_apart() -> None:
    hf, _ = tiny_model(hidden_size=32, num_layers=1)
    peft = add_adapter(hf, LoraSettings(r=4), name=POLICY)
    add_adapter(peft, LoraSettings(r=4), name=CRITIC, seed=1)
    peft.set_adapter(POLICY)
    for name, parameter in peft.named_parameters():
        parameter.requires_grad_("lora_" in name)
    policy = PackedModel(hf, shared_prefix=True)
    roles = ActorCritic(policy, peft=peft, critic=PackedModel(hf, head=ScalarHead(32), shared_prefix=True))
    own, critics = roles.role_parameters()
    assert {id(p) for p in own}.isdisjoint({id(p) for p in critics})
    assert len(critics) == len(own) + 2  # weight and bias of the head

    batch = collate([Group(torch.arange(5, 9).numpy().astype("int32"), (completion([7, 8, 9]),), 0)])
    out = roles(batch, {"logprobs", "values"})
    out.logprobs.sum().backward(retain_graph=True)
    assert any(p.grad is not None for p in own)
    assert all(p.grad is None for p in critics)
    out.values.sum().backward()
    assert any(p.grad is not None for p in critics)
    torch.testing.assert_close(roles.reference_logprobs(batch), out.logprobs.detach())  # B = 0 at first
    assert all(p.requires_grad for p in (*own, *critics))


def test_the_critic_reads_when_the_policy_is_done() -> None:
    """Only one role's activations are held: forward and backward of one, then of the other."""
    hf, _ = tiny_model(hidden_size=32, num_layers=1)
    critic_hf, _ = tiny_model(hidden_size=32, num_layers=1, seed=1)
    roles = ActorCritic(PackedModel(hf), critic=PackedModel(critic_hf, head=ScalarHead(32)))
    seen: list[str] = []

    def follow(_: object, batch: object, out: Forward) -> None:
        name = "policy" if out.values is None else "critic"
        seen.append(f"{name} forward")
        read = out.logprobs if out.values is None else out.values
        assert read is not None
        read.register_hook(lambda _: seen.append(f"{name} backward"))

    roles.policy.register_forward_hook(follow)
    roles.critic.register_forward_hook(follow)
    ones = {name: np.ones(3, np.float32) for name in ("advantages", "returns", "old_values")}
    answer = Completion(
        np.arange(7, 10, dtype=np.int32), np.ones(3, bool), {**ones, "old_logprobs": -ones["returns"]}
    )
    groups = [Group(np.arange(5, 9, dtype=np.int32), (answer,), number) for number in range(2)]
    settings = OptimizerSettings(learning_rate=1e-3)
    trainer = Trainer(roles, build_optimizer(roles.parameters(), settings), settings, 1, token_budget=8)
    report = train_step(trainer, PPO(), groups)
    assert seen == ["policy forward", "policy backward", "critic forward", "critic backward"] * 2
    assert {"policy_loss", "value_loss"} <= report.metrics.keys()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"critic_init": "reward"}, "rewards names no model"),
        ({"prompt_baseline": True}, "num_generations of at least 2"),
        ({"ptx_coefficient": 1.0}, "set together"),
        ({"lora_r": 4, "gradient_checkpointing": True}, "change roles"),
    ],
)
def test_settings_that_cannot_work(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("ppo", {"output_dir": "x", "dataset": "y", "rewards": [{"verifier": "math"}], **keys})
