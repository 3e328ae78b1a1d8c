"""What can go wrong in online RL: one clear message, and the last good state stays."""

import errno
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignloop.data.chat import load_template
from alignloop.errors import ConfigError, EngineError, ModelError, NonFiniteError, RunError
from alignloop.model.packed import ScalarHead
from alignloop.model.save import save_model
from alignloop.model.scheduler import Sampled
from alignloop.model.scorer import HEAD_FILE
from alignloop.model.tiny import tiny_model, train_tokenizer
from alignloop.rl.rollout import LocalEngine
from alignloop.runs import Run
from alignloop.stages import online
from alignloop.training import checkpoint
from alignloop.training.checkpoint import damage
from tests.stages.task import copies, prompts_file, recipe, run_stage

FAULTS = {
    "raises": r"'raises' failed on completion 0 \(row \d of .*RuntimeError: no judge at home",
    "hangs": r"'hangs' did not answer within 0\.2 s for 16 completions",
    "not_a_number": r"'not_a_number' gave nan for completion 3 \(row \d of the data set\)",
    "too_few": r"'too_few' returned 15 numbers in shape \(15,\) for 16 completions",
}
SMALL = {"num_generations": 4, "per_device_train_batch_size": 4, "rollout_prompts": 4}
calls: list[int] = []
"""Sizes of the batches scored so far; a function fails from its third batch on."""


def _broken(samples: list) -> bool:
    calls.append(len(samples))
    return len(calls) > 2


def raises(samples):
    if _broken(samples):
        raise RuntimeError("no judge at home")
    return copies(samples)


def always(samples):
    raise RuntimeError("no judge at home")


def hangs(samples):
    if _broken(samples):
        time.sleep(2)
    return copies(samples)


def not_a_number(samples):
    scores = copies(samples)
    return [*scores[:3], float("nan"), *scores[4:]] if _broken(samples) else scores


def too_few(samples):
    scores = copies(samples)
    return scores[1:] if _broken(samples) else scores


def huge(samples):
    return [1e39 * score for score in copies(samples)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_a_reward_that_fails_keeps_the_last_good_state(tmp_path: Path, stage: str, fault: str) -> None:
    calls.clear()
    term = {"function": f"tests.stages.test_online_faults:{fault}", "timeout_s": 0.2}
    keys = recipe(tmp_path, **SMALL, num_iterations=1, max_steps=6, save_steps=1, rewards=[term])
    with pytest.raises(EngineError, match=FAULTS[fault]):
        run_stage(stage, keys)
    run = Run.open(tmp_path / "run")
    assert run.status == "failed"
    newest = sorted(run.checkpoints.iterdir())[-1]
    assert newest.name == "step-00000002"
    assert damage(newest) is None


def test_rewards_too_large_for_float32_leave_the_weights(tmp_path: Path) -> None:
    term = {"function": "tests.stages.test_online_faults:huge"}
    with pytest.raises(NonFiniteError, match=r"step 1: loss .*weights are those before the step"):
        run_stage("dr_grpo", recipe(tmp_path, **SMALL, max_steps=2, rewards=[term]))


@pytest.mark.parametrize("window", [1, 50])  # the second is not full when the alarm goes off
def test_a_kl_that_explodes_is_caught_and_undone(tmp_path: Path, window: int) -> None:
    keys = {**SMALL, "learning_rate": 1.0, "kl_budget": 5.0, "num_iterations": 3, "guard_window": window}
    keys |= {"on_alarm": "rollback", "keep_best": "reward", "max_steps": 30}
    run = run_stage("grpo", recipe(tmp_path, **keys))
    results = run.record["results"]
    assert results["ended_by"] == "kl_over_budget"
    assert results["best"]["step"] == 0
    start, end = (
        load_file(p) for p in (tmp_path / "start/model.safetensors", run.model / "model.safetensors")
    )
    assert all(torch.equal(start[name], end[name]) for name in start)


def test_empty_completions_are_scored_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LocalEngine.generate

    def empty(engine, prompts, params, **keys):
        rows = plain(engine, prompts, params, **keys)
        end = engine.tokenizer.eos_token_id
        return [[Sampled([end], [-3.0], "", "eos") for _ in row] for row in rows]

    monkeypatch.setattr(LocalEngine, "generate", empty)
    monkeypatch.setattr(online, "check_gap", lambda *_: None)  # the log-probs above are nobody's
    run = run_stage("ppo", recipe(tmp_path, **SMALL, num_iterations=1, max_steps=1))
    row = next(run.metrics())
    assert (row["completion_length"], row["reward"], row["eos_rate"]) == (1.0, 0.0, 1.0)
    assert any("completion of a rollout is empty" in text for text in run.record["warnings"])


@pytest.mark.parametrize("stage", ["grpo", "ppo", "reinforce_pp"])
def test_every_completion_without_an_end(tmp_path: Path, stage: str) -> None:
    keys = {**SMALL, "max_new_tokens": 1, "max_steps": 2, "num_iterations": 1}
    keys |= {"missing_eos": "replace", "missing_eos_value": -1.0, "normalize_reward": True}
    run = run_stage(stage, recipe(tmp_path, **keys))
    rows = list(run.metrics())
    assert rows[0]["eos_rate"] == 0.0
    assert any("no completion of a rollout ended by itself" in text for text in run.record["warnings"])


def test_a_group_longer_than_the_token_budget_still_runs(tmp_path: Path) -> None:
    keys = {**SMALL, "token_budget": 64, "max_length": 400, "max_new_tokens": 330, "max_steps": 1}
    rows = list(run_stage("grpo", recipe(tmp_path, **keys)).metrics())
    assert rows[0]["completion_length"] > 0


def other_reward_model(folder: Path) -> Path:
    """A reward model whose tokenizer is not the policy's."""
    model, _ = tiny_model(hidden_size=64, num_layers=1, seed=5)
    tokenizer = train_tokenizer(["aaa bbb ccc", "0123456789"], 300)

    def head(target: Path) -> None:
        torch.manual_seed(0)
        checkpoint.save_file(dict(ScalarHead(64).state_dict()), target / HEAD_FILE)
        load_template("tokenizer", tokenizer).save(target)

    save_model(model, tokenizer, folder, extra=head)
    return folder


def test_a_reward_model_with_another_tokenizer_reads_texts(tmp_path: Path) -> None:
    model = other_reward_model(tmp_path / "other")
    keys = recipe(tmp_path, **SMALL, num_iterations=1, max_steps=1, rewards=[{"model": str(model)}])
    assert next(run_stage("grpo", keys).metrics())["reward_std"] > 0
    keys |= {"output_dir": str(tmp_path / "ppo"), "critic_init": "reward"}
    with pytest.raises(ConfigError, match=r"critic_init: '.*other' has another tokenizer than the policy"):
        run_stage("ppo", keys)


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    keys = recipe(tmp_path, **SMALL, num_iterations=1, max_steps=4, save_steps=1)
    whole = run_stage(stage, {**keys, "output_dir": str(tmp_path / "whole")})
    plain = checkpoint.save_file

    def full(tensors, file: Path) -> None:
        if sorted((tmp_path / "run/checkpoints").glob("step-00000002")):
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(tensors, file)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        with pytest.raises(RunError, match=r"checkpoint of step 3 .*the disk is full; .*step-00000002"):
            run_stage(stage, keys)
    assert Run.open(tmp_path / "run").status == "failed"
    again = run_stage(stage, keys)
    found = [load_file(run.model / "model.safetensors") for run in (whole, again)]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_samples_of_another_model_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Log-probs that the sampler reports 0.75 nats too low, as an engine with other weights would."""
    plain = LocalEngine.generate

    def shifted(self, *args, **kwargs):
        rows = plain(self, *args, **kwargs)
        for one in (one for row in rows for one in row):
            one.logprobs[:] = [logprob - 0.75 for logprob in one.logprobs]
        return rows

    monkeypatch.setattr(LocalEngine, "generate", shifted)
    sentence = (
        r"rollout 0: log-probs of LlamaForCausalLM in training differ from those it was sampled with by up "
        r"to 0\.75 nats, 0\.75 on average, where rounding in float32 explains less than 0\.5; it would learn"
    )
    with pytest.raises(ModelError, match=sentence) as raised:
        run_stage(stage, recipe(tmp_path, max_steps=4, **SMALL))
    assert raised.value.exit_code == 2
    run = Run.open(tmp_path / "run")
    (row,) = run.metrics()
    assert row["sampler_gap_max"] == pytest.approx(0.75, abs=1e-3)
    assert not list(run.checkpoints.glob("*"))  # the step that was made of them is not saved
    assert not run.model.exists()


def test_dropout_in_training_is_named_as_the_reason(tmp_path: Path) -> None:
    model, tokenizer = tiny_model()
    torch.nn.init.constant_(model.model.norm.weight, 8.0)
    model.config.attention_dropout = 0.9
    save_model(model, tokenizer, tmp_path / "start")
    prompts_file(tmp_path / "prompts.jsonl")
    with pytest.raises(ModelError, match=r"set attention_dropout to 0 in the model's config\.json"):
        run_stage("grpo", recipe(tmp_path, max_steps=1, **SMALL))
