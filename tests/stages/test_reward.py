"""The reward stage on the tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from alignloop.config import resolve
from alignloop.data.columns import read_records
from alignloop.data.packing import Completion, Group, collate
from alignloop.errors import ConfigError
from alignloop.model import loading
from alignloop.model.load import load_model
from alignloop.model.roles import POLICY, ActorCritic
from alignloop.model.save import save_model
from alignloop.model.scorer import load_head
from alignloop.model.tiny import tiny_model
from alignloop.records import Message, Prompt
from alignloop.rl.rewards import Sample
from alignloop.runs import Run
from alignloop.stages import common
from alignloop.stages import reward as stage
from alignloop.stages.ppo import make_critic
from alignloop.stages.reward_model import RewardModel
from alignloop.stages.scoring import build_reward
from tests.stages.task import prompts_file, recipe, run_stage


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chosen answers contain a word that rejected ones lack, and are shorter every second time."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = []
    for i in range(24):
        filler = " the hills are green" * 3
        chosen, rejected = "yes, rain falls", "no, mist"
        if i % 2:
            rejected += filler
        else:
            chosen += filler
        rows.append({"prompt": f"question {i}", "chosen": chosen, "rejected": rejected})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def keys(pairs: Path, folder: Path, **more: object) -> dict[str, object]:
    return {
        "model_name_or_path": "tiny",
        "dataset": str(pairs),
        "output_dir": str(folder),
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-3,
        "eval_fraction": 0,
        "num_threads": 1,
        **more,
    }


def test_rewards_are_centred_on_a_sample_that_the_seed_alone_draws() -> None:
    answers = tuple(Completion(np.array([i], np.int32), np.array([True])) for i in (1, 2))
    groups = [Group(np.array([i], np.int32), answers, i) for i in range(1000)]
    one, again, other = (stage.sample_of(groups, 256, seed) for seed in (1, 1, 2))
    places = [group.index for group in one]
    assert places == [group.index for group in again]
    assert places != [group.index for group in other]
    assert len(set(places)) == 128  # 256 completions
    assert places == sorted(places)
    assert max(places) > 900  # of the whole file, not its beginning
    assert stage.sample_of(groups[:128], 256, 3) == groups[:128]


def test_held_out_accuracy_is_in_the_results(pairs: Path, tmp_path: Path) -> None:
    run = run_stage("reward", keys(pairs, tmp_path / "r", eval_fraction=0.25, num_train_epochs=4))
    results = run.record["results"]
    held = results["held_out"]
    assert held["pairs"] == 6
    assert held["accuracy"] == pytest.approx(results["eval_accuracy"], abs=1e-6)
    low, high = held["accuracy_interval"]
    assert low < held["accuracy"] <= high
    assert results["normalized_on_rows"] == 18  # three quarters of 24, fewer than the sample
    # the terminal shows the first numbers of the results
    assert next(iter(results.items())) == ("held_out_accuracy", held["accuracy"])
    table = results["held_out_by_length"]
    assert sum(row["pairs"] for row in table) == 6
    assert table[2]["pairs"] == 0  # no pair of nearly equal length
    right = sum(row["pairs"] * row["accuracy"] for row in table if row["pairs"])
    assert right / 6 == pytest.approx(held["accuracy"])


def test_without_held_out_rows_nothing_is_claimed(pairs: Path, tmp_path: Path) -> None:
    results = run_stage("reward", keys(pairs, tmp_path / "r", max_steps=1)).record["results"]
    assert not [name for name in results if name.startswith("held_out")]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    save_model(*tiny_model(), folder)
    return folder


@pytest.fixture(scope="module")
def ensemble(pairs: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three LoRA members on one base, combined by UWO."""
    folder = tmp_path_factory.mktemp("runs") / "ensemble"
    more = {
        "model_name_or_path": str(start),
        "lora_r": 4,
        "num_members": 3,
        "combine": "uwo",
        "learning_rate": 1e-2,
    }
    more |= {"uwo_coefficient": 2.0, "eval_fraction": 0.25, "num_train_epochs": 2}
    return run_stage("reward", keys(pairs, folder, **more))


@pytest.fixture(scope="module")
def single(pairs: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One LoRA reward model."""
    folder = tmp_path_factory.mktemp("runs") / "single"
    more = {"model_name_or_path": str(start), "lora_r": 4, "num_train_epochs": 2, "learning_rate": 1e-2}
    return run_stage("reward", keys(pairs, folder, **more))


def some_texts(pairs: Path) -> tuple[list, list[list[str]]]:
    records = read_records(str(pairs), kind="preference").records
    return [r.prompt for r in records], [[r.chosen, r.rejected] for r in records]


def test_an_ensemble_is_its_members_combined(ensemble: Run, pairs: Path) -> None:
    together = RewardModel(ensemble.path)
    assert together.num_members == 3
    assert not together.shared
    bases = {id(member.hf) for member in together.scorer.members}
    assert len(bases) == 1
    prompts, texts = some_texts(pairs)
    # each member by itself, loaded as the run it was trained in
    alone = [np.asarray(RewardModel(ensemble.path / "members" / n).score(prompts, texts)) for n in "123"]
    for number, expected in enumerate(alone):
        np.testing.assert_allclose(together.score(prompts, texts, member=number), expected, atol=1e-5)
    assert abs(alone[0] - alone[1]).max() > 0.01  # seeds of their own
    stack = np.stack(alone)
    np.testing.assert_allclose(together.score(prompts, texts), stack.mean(0) - 2.0 * stack.var(0), atol=1e-4)


def test_results_of_an_ensemble(ensemble: Run) -> None:
    results = ensemble.record["results"]
    assert [row["member"] for row in results["members"]] == [1, 2, 3]
    assert len({row["seed"] for row in results["members"]}) == 3
    assert results["held_out"]["pairs"] == 6
    assert results["member_spread"] > 0
    held_out = [Run.open(ensemble.path / "members" / n).record["results"]["held_out"] for n in "123"]
    assert {row["prompts"] for row in held_out} == {6}


def test_a_stopped_ensemble_keeps_its_finished_members(
    pairs: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"model_name_or_path": str(start), "lora_r": 2, "num_members": 2, "max_steps": 1}
    trained: list[int] = []
    train_one = stage.train_one

    def stopping(config, run, objective, *, split_seed):
        if len(trained) == 1:
            trained.append(0)
            raise KeyboardInterrupt
        trained.append(config.seed)
        return train_one(config, run, objective, split_seed=split_seed)

    monkeypatch.setattr(stage, "train_one", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_stage("reward", keys(pairs, tmp_path / "r", **more))
    run = run_stage("reward", keys(pairs, tmp_path / "r", **more))
    assert trained == [42, 0, 43]
    assert run.status == "finished"


def online_keys(single: Run, tmp_path: Path, model: Path | None = None, **more: object) -> dict[str, object]:
    """PPO or GRPO on that reward model, by default from its own start."""
    (tmp_path / "start").mkdir(exist_ok=True)  # or a model would be trained there
    prompts_file(tmp_path / "prompts.jsonl")
    keys = recipe(tmp_path, rewards=[{"model": str(single.path)}], lora_r=4, max_steps=2, **more)
    return keys | {"model_name_or_path": str(model or single.config()["model_name_or_path"])}


def test_policy_critic_and_reward_model_share_one_base(
    single: Run, ensemble: Run, pairs: Path, tmp_path: Path
) -> None:
    config = resolve("ppo", online_keys(single, tmp_path, critic_init="reward")).config
    prepared = common.prepare(config)
    bare = {p.data_ptr() for name, p in prepared.loaded.model.named_parameters() if "lora_" not in name}
    critic = make_critic(config, prepared)
    roles = ActorCritic(prepared.model, peft=prepared.peft, critic=critic)
    trained = {id(p) for part in roles.role_parameters() for p in part}
    models = [RewardModel(run.path, base=prepared) for run in (single, ensemble)]
    assert all(model.shared for model in models)
    held = [roles.policy, critic, *(m for model in models for m in model.scorer.members)]
    heads = {p.data_ptr() for packed in held if packed.head is not None for p in packed.head.parameters()}
    found = {p.data_ptr() for packed in held for name, p in packed.named_parameters() if "lora_" not in name}
    assert found - heads == bare
    assert len(bare) == len(list(load_model(config.model_name_or_path).model.parameters()))

    prompts, texts = some_texts(pairs)
    for model, run in zip(models, (single, ensemble), strict=True):
        expected = RewardModel(run.path).score(prompts, texts)
        np.testing.assert_allclose(model.score(prompts, texts), expected, atol=1e-5)
    # scoring leaves the policy's adapter on, and what is trained as it was
    assert prepared.peft is not None
    assert prepared.peft.active_adapter == POLICY
    assert {id(p) for p in prepared.loaded.model.parameters() if p.requires_grad} | {
        id(p) for p in critic.head.parameters()
    } == trained

    # the critic reads what the reward model reads
    groups = [
        Group(
            models[0].encoder.prompt(p),
            tuple(Completion.counted(models[0].encoder.completion(t)) for t in ts),
        )
        for p, ts in zip(prompts[:3], texts[:3], strict=True)
    ]
    with torch.no_grad():
        read = roles(collate(groups), {"scores"}).scores
    expected = np.concatenate(models[0].score(prompts[:3], texts[:3]))
    np.testing.assert_allclose(read[:, 0].numpy(), expected, atol=1e-5)


def test_a_critic_of_its_own_starts_as_the_reward_model(single: Run, pairs: Path, tmp_path: Path) -> None:
    config = resolve("ppo", {**online_keys(single, tmp_path, critic_init="reward"), "lora_r": 0}).config
    prepared = common.prepare(config)
    critic = make_critic(config, prepared)
    assert critic.hf is not prepared.loaded.model
    model = RewardModel(single.path, base=prepared)
    assert not model.shared  # full fine-tuning moves the base
    prompts, texts = some_texts(pairs)
    groups = [
        Group(
            model.encoder.prompt(prompts[0]),
            tuple(Completion.counted(model.encoder.completion(t)) for t in texts[0]),
        )
    ]
    with torch.no_grad():
        read = critic(collate(groups), {"scores"}).scores
    np.testing.assert_allclose(read[:, 0].numpy(), model.score(prompts[:1], texts[:1])[0], atol=1e-5)


def test_ppo_loads_one_base(single: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    class Counted(AutoModelForCausalLM):
        @classmethod
        def from_pretrained(cls, *args, **kwargs):
            loads.append(str(args[0]))
            return AutoModelForCausalLM.from_pretrained(*args, **kwargs)

    monkeypatch.setattr(loading, "AutoModelForCausalLM", Counted)
    run = run_stage("ppo", online_keys(single, tmp_path, critic_init="reward", num_generations=2))
    assert len(loads) == 1
    assert {p.name for p in run.model.iterdir() if p.is_dir()} == set()  # the policy's adapter alone
    first = next(run.metrics())
    assert first["reward_model"] == pytest.approx(first["reward"])


def test_a_policy_from_elsewhere_gets_its_own_copy(single: Run, tmp_path: Path) -> None:
    save_model(*tiny_model(), tmp_path / "other")
    prepared = common.prepare(resolve("grpo", online_keys(single, tmp_path, tmp_path / "other")).config)
    assert not RewardModel(single.path, base=prepared).shared


def test_an_ensemble_run_is_an_ensemble_reward(ensemble: Run, tmp_path: Path) -> None:
    base = {"dataset": "x", "output_dir": "y", "num_generations": 4}
    term = {"rewards": [{"model": str(ensemble.path)}]}
    reward = build_reward(resolve("grpo", {**base, **term}).config, [], max_tokens=8)
    assert (len(reward.ensemble), reward.combine, reward.uwo_coefficient) == (3, "uwo", 2.0)
    least = build_reward(resolve("grpo", {**base, **term, "ensemble": "min"}).config, [], max_tokens=8)
    assert least.combine == "min"
    prompt = Prompt((Message("user", "question 1"),))
    samples = [Sample(prompt, text, 3, True) for text in ("yes, rain falls", "no, mist")]
    scores = reward(samples)
    expected = RewardModel(ensemble.path).score([prompt.prompt], [[s.completion for s in samples]])
    np.testing.assert_allclose(scores.total, expected[0], atol=1e-5)
    assert scores.spread is not None


def test_odin_drops_its_length_head(pairs: Path, start: Path, tmp_path: Path) -> None:
    more = {"model_name_or_path": str(start), "objective": "odin", "num_train_epochs": 3, "seed": 1}
    run = run_stage("reward", keys(pairs, tmp_path / "r", per_device_train_batch_size=24, **more))
    assert load_head(run.model).weight.shape[0] == 1
    rows = list(run.metrics())
    assert rows[-1]["length_tokens_correlation"] > rows[0]["length_tokens_correlation"]
    prompts, texts = some_texts(pairs)
    scores = np.asarray(RewardModel(run.path).score(prompts, texts))
    assert (scores.mean(), scores.std(ddof=1)) == pytest.approx((0, 1), abs=1e-4)


def test_ratings_train_one_output_for_each_attribute(start: Path, tmp_path: Path) -> None:
    file = tmp_path / "rated.jsonl"
    rows = [
        {"prompt": f"q{i}", "response": "yes" if i % 2 else "no", "scores": {"help": 4 * (i % 2), "truth": 2}}
        for i in range(8)
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    more = {"objective": "regression", "model_name_or_path": str(start), "max_steps": 2}
    run = run_stage("reward", keys(file, tmp_path / "r", **more))
    assert load_head(run.model).weight.shape[0] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"num_members": 3}, "set lora_r"),
        ({"combine": "min"}, "has no effect on one reward model"),
        ({"num_members": 3, "lora_r": 4, "uwo_coefficient": 1.0}, "combine: uwo only"),
    ],
)
def test_settings_that_do_nothing_are_refused(more: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("reward", {"dataset": "x", "output_dir": "y", **more})
