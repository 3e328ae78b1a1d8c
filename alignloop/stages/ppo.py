"""PPO: a critic judges every token, the KL to the start is part of the reward."""

from __future__ import annotations

from typing import Any

import torch

from alignloop.config.fields import fixed
from alignloop.config.rl import PPOConfig
from alignloop.data.columns import read_records
from alignloop.data.packing import Batch, Group
from alignloop.data.tokenize import tokenize
from alignloop.errors import ConfigError
from alignloop.model.adapter_load import load_adapter
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.load import same_vocabulary
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.model.roles import CRITIC, POLICY, ActorCritic, frozen_copy
from alignloop.model.scorer import load_head
from alignloop.objectives.base import Objective
from alignloop.rl.advantages import gae, group_advantages, token_rewards, whiten
from alignloop.rl.buffer import group_numbers, token_mask, token_values, with_values
from alignloop.rl.ptx import WithPretraining, mixed_in
from alignloop.runs import Run
from alignloop.stages import common
from alignloop.stages.checks import check_online
from alignloop.stages.online import end, learn, mini_batches, receive, running
from alignloop.stages.online_setup import Online, Rollout, set_up
from alignloop.stages.reward_model import fits_on, reward_folder
from alignloop.stages.rollouts import kl_metrics, read_tables, sample_rollout, with_old_logprobs
from alignloop.stages.rows import note_dropped, training_encoder


def ppo(config: PPOConfig, run: Run, objective: Objective) -> dict[str, Any]:
    """Train a policy with a critic on rewards of its own completions.

    Args:
        config: the recipe; `dataset` holds prompts.
        run: the run folder; receives metrics, samples, checkpoints and `model/`.
        objective: `PPO()` with its clipping ranges and coefficients.

    Returns:
        Results for run.json.
    """
    prepared = common.prepare(config)
    check_online(config, objective, run, prepared.model, prepared.loaded, prepared.template)
    reference = frozen_copy(prepared.model) if prepared.peft is None else None
    roles = ActorCritic(
        prepared.model, peft=prepared.peft, critic=make_critic(config, prepared), reference=reference
    )
    online = set_up(config, run, prepared, roles)
    online.trainer.optimizer.add_param_group(
        {
            "params": roles.role_parameters()[1],
            "weight_decay": 0.0,
            "scale": config.critic_learning_rate / fixed(config.learning_rate),
        }
    )
    demonstrations = read_demonstrations(config, run, prepared)
    history: list[dict[str, float]] = []
    with running(online):
        while online.unfinished:
            if not online.place.groups:
                rollout = sample_rollout(online)
                groups, metrics = with_advantages(online, rollout)
                receive(online, rollout, groups, metrics)
            warming = online.place.rollout < config.critic_warmup
            loss = objective.critic_only() if warming else objective
            if demonstrations:
                loss = WithPretraining(loss)
            for batch in mini_batches(online):
                seed = (config.seed, online.trainer.step)
                mixed = mixed_in(batch, demonstrations, coefficient=config.ptx_coefficient, seed=seed)
                history.append(learn(online, loss, mixed))
    return end(online, history)


def make_critic(config: PPOConfig, prepared: common.Prepared) -> PackedModel:
    """The critic with its scalar head; see `critic_init`.

    Under LoRA it is a second adapter on the policy's base: a fresh one, or the reward model's where that was
    trained from the same start (of an ensemble, the first member's). Else it is a model of its own, with
    adapters of its own under LoRA.

    Raises:
        ConfigError: the reward model's tokenizer is not the policy's.
    """
    settings = LoraSettings(config.lora_r, config.lora_alpha, 0.0, config.lora_target_modules)
    size = prepared.loaded.model.config.get_text_config().hidden_size
    device, peft = prepared.loaded.model.device, prepared.peft
    source = next((term["model"] for term in config.rewards if "model" in term), "")
    if config.critic_init == "policy" and peft is not None:
        add_adapter(peft, settings, name=CRITIC, seed=config.seed + 1)
        return critic_on_base(prepared, new_head(size))
    if config.critic_init == "reward" and peft is not None and fits_on(reward_folder(source), prepared):
        folder = reward_folder(source)
        load_adapter(peft, folder, name=CRITIC)
        return critic_on_base(prepared, load_head(folder))
    if config.critic_init == "policy":
        source, head = config.model_name_or_path, new_head(size)
    else:
        head = None
    loaded = common.load_trained(config, source)
    if not same_vocabulary(loaded.tokenizer, prepared.loaded.tokenizer):
        raise ConfigError(
            f"critic_init: '{source}' has another tokenizer than the policy, so it cannot read the policy's "
            "tokens; use critic_init: policy (the reward itself reads texts)"
        )
    if head is None:
        head = load_head(reward_folder(source))
    if config.lora_r:
        add_adapter(loaded.model, settings, seed=config.seed + 1)
    model = PackedModel(loaded.model, head=head.to(device), autocast=prepared.model.autocast)
    # the vocabulary is of no use to a critic, unless the input embeddings are the same weights
    if not config.lora_r and not loaded.model.config.tie_word_embeddings:
        loaded.model.get_output_embeddings().requires_grad_(False)  # pyright: ignore[reportOptionalMemberAccess]
    return model


def new_head(hidden_size: int) -> ScalarHead:
    """A critic's head that values everything at 0.

    A random one would give values as large as the hidden states are long, and the first advantages,
    reward − value, would be noise that the policy learns from.
    """
    head = ScalarHead(hidden_size)
    torch.nn.init.zeros_(head.weight)
    return head


def critic_on_base(prepared: common.Prepared, head: ScalarHead) -> PackedModel:
    """The adapter `critic` on the policy's base with its head; policy and critic train."""
    model, peft = prepared.loaded.model, prepared.peft
    assert peft is not None
    peft.set_adapter(POLICY)
    for name, parameter in peft.named_parameters():
        parameter.requires_grad_("lora_" in name)
    start = prepared.model
    return PackedModel(
        model, head=head.to(model.device), shared_prefix=start.shared_prefix, autocast=start.autocast
    )


def with_advantages(online: Online, rollout: Rollout) -> tuple[list[Group], dict[str, float]]:
    """Groups with `advantages`, `returns`, `old_values`, `old_logprobs` and `reference_logprobs`."""
    config, groups = online.config, rollout.groups
    assert isinstance(config, PPOConfig)
    mask, logprobs = token_mask(groups), token_values(groups, "sampler_logprobs")

    def read(batch: Batch) -> dict[str, torch.Tensor]:
        values = online.roles(batch, {"values"}).values
        reference = online.roles.reference_logprobs(batch, temperature=config.temperature)
        return {"old_values": values, "reference_logprobs": reference}

    tables = read_tables(online, groups, read)
    scores = torch.from_numpy(rollout.scores.total)
    if config.prompt_baseline:
        scores = group_advantages(scores, group_numbers(groups), kind="leave_one_out")
    rewards = token_rewards(scores.float(), logprobs, tables["reference_logprobs"], mask, beta=online.kl.beta)
    advantages, returns = gae(rewards, tables["old_values"], mask, gamma=config.gamma, lam=config.lam)
    if config.whiten_advantages:
        advantages = whiten(advantages, mask)
    if online.place.rollout < config.critic_warmup:
        advantages = torch.zeros_like(advantages)
    metrics = {**kl_metrics(groups, tables["reference_logprobs"]), "kl_coef": online.kl.beta}
    online.kl.update(metrics["kl"], num_completions=len(scores))
    tables |= {"advantages": advantages, "returns": returns}
    return with_old_logprobs(online, with_values(groups, **tables)), metrics


def read_demonstrations(config: PPOConfig, run: Run, prepared: common.Prepared) -> list[Group]:
    """Tokenized demonstrations for `ptx_dataset`, none without it."""
    if config.ptx_dataset is None:
        return []
    data = read_records(config.ptx_dataset, kind="demonstration", columns=config.columns)
    result = tokenize(data.records, training_encoder(config, prepared.loaded, prepared.template))
    note_dropped(run, "ptx_dataset", [*data.dropped, *result.dropped])
    return result.groups
