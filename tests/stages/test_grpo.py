from pathlib import Path

import pytest

from alignloop.config import resolve
from alignloop.errors import ConfigError, DataError
from tests.stages.task import mean_of_last, recipe, run_stage

SOLVE = {"rollout_prompts": 6, "per_device_train_batch_size": 6, "num_generations": 16}


def equal(samples):
    return [1.0] * len(samples)


@pytest.mark.parametrize(
    ("stage", "keys"),
    [
        ("grpo", {"max_steps": 20, "learning_rate": 3e-4, "beta": 0.0, "track_kl": False}),
        ("grpo", {"max_steps": 32, "learning_rate": 2e-3, "beta": 0.0, "track_kl": False, "lora_r": 8}),
        ("reinforce_pp", {"max_steps": 28, "learning_rate": 3e-4}),
    ],
)
def test_the_copy_task_is_solved(tmp_path: Path, stage: str, keys: dict) -> None:
    run = run_stage(stage, recipe(tmp_path, **SOLVE, **keys))
    assert next(run.metrics())["reward"] < 0.7
    assert mean_of_last(run, "reward") > 0.95


def test_the_bandit_is_learned_with_lora(tmp_path: Path) -> None:
    keys = recipe(tmp_path, **SOLVE, max_steps=24, learning_rate=2e-3, lora_r=4)
    run = run_stage("rloo", {**keys, "rewards": [{"function": "tests.stages.task:is_b"}]})
    assert next(run.metrics())["reward"] < 0.4
    assert mean_of_last(run, "reward") > 0.95
    assert (run.model / "adapter_config.json").exists()


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_what_was_sampled_is_what_is_trained(tmp_path: Path, temperature: float) -> None:
    keys = recipe(tmp_path, max_steps=2, temperature=temperature, num_iterations=2, num_generations=4)
    first, second = run_stage("grpo", keys).metrics()
    assert first["sampler_gap_max"] <= 1e-5
    assert first["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert first["kl"] == pytest.approx(0.0, abs=1e-5)  # the policy is its reference
    assert first["approx_kl"] < 1e-9 < second["approx_kl"]  # the second pass is off-policy


def test_recomputed_log_probs_give_ratio_one_exactly(tmp_path: Path) -> None:
    row = next(run_stage("grpo", recipe(tmp_path, max_steps=1, recompute_logprobs=True)).metrics())
    assert row["ratio"] == pytest.approx(1.0, abs=1e-7)
    assert row["sampler_weight"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
@pytest.mark.parametrize("lora_r", [0, 4])
def test_in_bfloat16_the_samplers_rounding_is_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, lora_r: int
) -> None:
    monkeypatch.setattr("alignloop.machine.bf16_instructions", lambda: ["avx512_bf16"])
    keys = recipe(tmp_path, max_steps=1, num_iterations=1, num_generations=8, dtype="bfloat16", lora_r=lora_r)
    row = next(run_stage(stage, keys).metrics())
    assert row["ratio"] == 1.0  # the old log-probs are the trainer's, of the same precision
    assert 0 < row["sampler_gap"] < 0.05  # the sampler's are nearly
    assert 0.99 < row["sampler_effective"] < 1
    assert row["sampler_weight"] == pytest.approx(1, abs=0.05)
    plain = {**keys, "recompute_logprobs": False, "output_dir": str(tmp_path / "plain")}
    assert "sampler_weight" not in next(run_stage(stage, plain).metrics())


def test_groups_without_spread_are_counted_and_teach_nothing(tmp_path: Path) -> None:
    keys = recipe(tmp_path, max_steps=1, beta=0.0, rewards=[{"function": "tests.stages.test_grpo:equal"}])
    row = next(run_stage("grpo", keys).metrics())
    assert row["zero_spread_groups"] == 4
    assert row["grad_norm"] == 0
    dynamic = {**keys, "output_dir": str(tmp_path / "dapo"), "num_generations": 2}
    run = run_stage("dapo", dynamic)
    assert next(run.metrics())["zero_spread_groups"] == 3 * 4  # three rounds of four prompts
    assert "nothing was learned" in run.record["warnings"][0]


def test_prompts_without_room_for_an_answer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompt is within 2 tokens"):
        run_stage("grpo", recipe(tmp_path, max_length=8, max_new_tokens=6, max_steps=1))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_generations": 1}, "at least 2 per prompt"),
        ({"top_p": 0.9}, "top_p: RL learns from the log-probs of the whole distribution"),
        ({"repetition_penalty": 1.1}, "repetition_penalty: RL learns"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"rollout_prompts": 6}, "must be a multiple of"),
        ({"keep_best": "gold"}, "gold is none"),
        ({"rewards": []}, "rewards"),
        ({"rewards": [{"verifier": "math", "penalty": "length"}]}, "exactly one of"),
    ],
)
def test_settings_that_cannot_work(keys: dict, message: str) -> None:
    base = {"output_dir": "x", "dataset": "y", "rewards": [{"verifier": "math"}]}
    with pytest.raises(ConfigError, match=message):
        resolve("grpo", {**base, "per_device_train_batch_size": 4, **keys})


def test_members_of_the_family_have_their_own_defaults() -> None:
    base = {"output_dir": "x", "dataset": "y", "rewards": [{"verifier": "math"}]}
    config, objective = resolve("dapo", base)
    assert (objective.epsilon_high, objective.loss_aggregation, objective.beta) == (0.28, "token_mean", 0.0)
    assert config.dynamic_sampling  # type: ignore[attr-defined]
    config, objective = resolve("rloo", {**base, "epsilon_low": 0.3})
    assert (objective.epsilon_low, objective.constant_length) == (0.3, 1)
    assert config.advantage == "leave_one_out"  # type: ignore[attr-defined]
