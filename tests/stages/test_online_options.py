"""Keys of the online stages that change what is learned from, each by its arithmetic on the tiny model."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignloop import api
from alignloop.config import BestOfNConfig, InterpolateConfig, RecipePlan, StagePlan, find_stage, resolve
from alignloop.data.columns import read_records, write_records
from alignloop.data.instructions import instruction_prompts
from alignloop.errors import ConfigError, DataError, ModelError, RunError
from alignloop.model.load import load_model
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from alignloop.pipeline import run_plan
from alignloop.runs import Run
from tests.stages.task import LETTERS, copies, recipe, run_stage

SMALL = {"num_generations": 4, "rollout_prompts": 4, "per_device_train_batch_size": 4, "num_iterations": 1}


def shifted(samples):
    """The copy task with an offset of every prompt: rewards compare within a prompt only."""
    offsets = [8.0 * LETTERS.index(s.prompt.prompt[0].content) for s in samples]
    return [score + offset for score, offset in zip(copies(samples), offsets, strict=True)]


@pytest.mark.parametrize("lora_r", [0, 4])
@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_a_refreshed_reference_is_the_policy_again(tmp_path: Path, stage: str, lora_r: int) -> None:
    keys = {**SMALL, "max_steps": 5, "reference_refresh": 2, "lora_r": lora_r, "learning_rate": 2e-3}
    rows = list(run_stage(stage, recipe(tmp_path, **keys)).metrics())
    kl = [abs(row["kl"]) for row in rows]
    assert max(kl[i] for i in (0, 2, 4)) < 1e-5
    assert min(kl[i] for i in (1, 3)) > 1e-4


def test_nothing_to_refresh_is_said(tmp_path: Path) -> None:
    keys = {**SMALL, "max_steps": 1, "reference_refresh": 2, "track_kl": False, "beta": 0.0}
    with pytest.raises(ConfigError, match="reference_refresh: nothing reads the reference"):
        run_stage("grpo", recipe(tmp_path, **keys))


def test_the_prompts_baseline_cancels_its_shift(tmp_path: Path) -> None:
    found = {}
    for name in ("copies", "shifted"):
        module = "task" if name == "copies" else "test_online_options"
        for baseline in (False, True):
            keys = {**SMALL, "max_steps": 1, "prompt_baseline": baseline, "output_dir": str(tmp_path / "run")}
            keys |= {"rewards": [{"function": f"tests.stages.{module}:{name}"}]}
            keys["output_dir"] = str(tmp_path / f"{name}-{baseline}")
            row = next(run_stage("ppo", recipe(tmp_path, **keys)).metrics())
            found[name, baseline] = [row[key] for key in ("policy_loss", "value_loss", "grad_norm")]
    assert found["copies", True] == pytest.approx(found["shifted", True], rel=1e-4, abs=1e-6)
    assert found["copies", False][1] < found["shifted", False][1] / 10


def test_a_rollout_is_left_early_above_the_kl_aimed_at(tmp_path: Path) -> None:
    keys = {**SMALL, "num_iterations": 8, "max_steps": 16, "learning_rate": 5e-3, "target_kl": 1e-4}
    rows = list(run_stage("ppo", recipe(tmp_path, **keys)).metrics())
    left = [row for row in rows if "left_early" in row]
    assert left
    assert all(row["approx_kl"] > 1e-4 for row in left)
    assert rows[-1]["rollout"] < 16
    assert max(row["step"] for row in rows if row["rollout"] == 0) < 8


def test_resume_from_a_checkpoint_of_ones_choice(tmp_path: Path) -> None:
    keys = {**SMALL, "max_steps": 6, "save_steps": 2, "save_total_limit": 9, "keep_best": "reward"}
    keys = recipe(tmp_path, **keys, guard_window=1)
    whole = run_stage("grpo", {**keys, "output_dir": str(tmp_path / "whole")})
    plan = {**keys, "output_dir": str(tmp_path / "again")}
    resolved = resolve("grpo", plan)
    stage = StagePlan("grpo", "grpo", find_stage("grpo"), resolved.config, resolved.objective)
    told: list[str] = []
    run_plan(
        RecipePlan("", tmp_path / "again", (stage,), is_pipeline=False),
        resume=whole.checkpoints / "step-00000002",
        say=told.append,
    )
    again = Run.open(tmp_path / "again")
    assert [row["step"] for row in again.metrics()] == [3, 4, 5, 6]
    before = {row["step"]: row["reward"] for row in whole.metrics()}
    assert all(row["reward"] == before[row["step"]] for row in again.metrics())
    warnings = again.record["warnings"]
    best = whole.record["results"]["best"]["step"]
    assert any("the best weights so far, of step" in text for text in warnings) or best > 2


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    keys = recipe(tmp_path, **SMALL, max_steps=2, save_steps=1)
    run = run_stage("grpo", {**keys, "output_dir": str(tmp_path / "grpo")})
    resolved = resolve("ppo", {**keys, "output_dir": str(tmp_path / "ppo")})
    stage = StagePlan("ppo", "ppo", find_stage("ppo"), resolved.config, resolved.objective)
    plan = RecipePlan("", tmp_path / "ppo", (stage,), is_pipeline=False)
    with pytest.raises(RunError, match="stage: grpo -> ppo"):
        run_plan(plan, resume=run.checkpoints / "step-00000001", say=lambda text: None)


def test_stages_without_checkpoints_refuse_one(tmp_path: Path) -> None:
    config = InterpolateConfig(output_dir=str(tmp_path / "x"), before="tiny", after="tiny")
    stage = StagePlan("interpolate", "interpolate", find_stage("interpolate"), config, None)
    plan = RecipePlan("", tmp_path / "x", (stage,), is_pipeline=False)
    with pytest.raises(RunError, match="'interpolate' has no checkpoints"):
        run_plan(plan, resume=tmp_path / "step-00000001", say=lambda text: None)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_between_two_models(tmp_path: Path, share: float) -> None:
    names = ("before", "after")
    for seed, name in enumerate(names):
        save_model(*tiny_model(hidden_size=16, num_layers=1, seed=seed), tmp_path / name)
    keys = {name: str(tmp_path / name) for name in names}
    run = api.run(InterpolateConfig(output_dir=str(tmp_path / "run"), share=share, **keys))
    old, new, got = (
        load_file(p / "model.safetensors") for p in (tmp_path / "before", tmp_path / "after", run.model)
    )
    for name in got:
        torch.testing.assert_close(got[name], (1 - share) * old[name] + share * new[name])
    if share == 1.0:
        assert all(torch.equal(got[name], new[name]) for name in got)
    assert load_model(run.path).tokenizer.eos_token == "<|im_end|>"


def test_unlike_models_have_nothing_between_them(tmp_path: Path) -> None:
    save_model(*tiny_model(hidden_size=16, num_layers=1), tmp_path / "small")
    with pytest.raises(ModelError, match="have nothing between them"):
        api.run(
            InterpolateConfig(output_dir=str(tmp_path / "run"), before="tiny", after=str(tmp_path / "small"))
        )


def test_rounds_of_rejection_sampling_start_from_the_start(tmp_path: Path) -> None:
    write_records(tmp_path / "prompts.jsonl", instruction_prompts("train", 8, 0, ("lowercase", "no_commas")))
    keys = {"model_name_or_path": "tiny", "dataset": str(tmp_path / "prompts.jsonl"), "reward_model": "gold"}
    keys |= {"max_new_tokens": 12, "n": 4, "max_steps": 2, "learning_rate": 1e-3, "temperature": 1.0}
    runs = [
        api.run(BestOfNConfig(output_dir=str(tmp_path / str(rounds)), rounds=rounds, **keys))
        for rounds in (1, 2)
    ]
    first = Run.open(runs[1].path / "rounds/1")
    assert first.status == "finished"
    assert runs[1].record["results"]["best_of_n"][0]["n"] == 1
    rows = [len(read_records(str(run.path)).records) for run in (runs[0], first, runs[1])]
    assert rows[0] == rows[1] < rows[2]  # the second round adds its best to those of the first
    one, two = (load_file(run.model / "model.safetensors") for run in (runs[0], first))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_any_verifier_chooses_the_best(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"Say {i}.", "answer": "^[a-m]"}) for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    keys = {"model_name_or_path": "tiny", "dataset": str(tmp_path / "prompts.jsonl"), "temperature": 1.0}
    keys |= {"max_new_tokens": 8, "n": 8, "max_steps": 1}
    run = api.run(BestOfNConfig(output_dir=str(tmp_path / "regex"), reward_model="regex", **keys))
    chosen = read_records(str(run.path), kind="demonstration").records
    assert chosen
    assert all(re.match("[a-m]", record.completion) for record in chosen)
    (tmp_path / "prompts.jsonl").write_text(rows[0].replace("^[a-m]", r"\\frac") + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="no expression"):
        api.run(BestOfNConfig(output_dir=str(tmp_path / "math"), reward_model="math", **keys))
