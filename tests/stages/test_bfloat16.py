"""Every stage that trains, samples or reads a model runs in float32 and in bfloat16, on any processor.

What bfloat16 may change follows from its 8 bits: a relative 2⁻⁸ of a product. The models here have logits of
a few units, so log-probs, losses and rewards of both types agree to a few hundredths.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignloop.config import resolve
from alignloop.objectives.base import Inputs
from alignloop.records import Message, Prompt
from alignloop.rl.rewards import Sample
from alignloop.runs import Run
from alignloop.stages import common, ppo
from alignloop.stages.reward_model import RewardModel
from alignloop.stages.scoring import build_reward
from alignloop.training import loop
from tests.stages.task import LETTERS, recipe, run_stage

OFFLINE = ("model_name_or_path", "output_dir", "max_length", "num_threads")
SAMPLED = ("model_name_or_path", "dataset", "output_dir", "num_threads", "max_new_tokens")
TYPES = ["float32", "bfloat16"]


@pytest.fixture(autouse=True)
def any_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """bfloat16 is refused where it would be slow; a tiny model may be slow."""
    monkeypatch.setattr("alignloop.machine.bf16_instructions", lambda: ["avx512_bf16"])
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))


def rows(tmp_path: Path, kind: str) -> dict[str, Any]:
    """A data file on the letter task, for training and as held-out rows."""
    wrong = [(a, b) for a in LETTERS for b in LETTERS if a != b]
    made: list[dict[str, Any]] = {
        "document": [{"text": f"{a} comes before {b}"} for a, b in wrong],
        "demonstration": [{"prompt": a, "completion": a} for a in LETTERS],
        "preference": [{"prompt": a, "chosen": a, "rejected": b} for a, b in wrong],
        "length": [{"prompt": a, "chosen": a, "rejected": b * (3 + i)} for i, (a, b) in enumerate(wrong)],
        "label": [{"prompt": a, "completion": b, "label": a == b} for a in LETTERS for b in LETTERS],
        "ranking": [{"prompt": a, "responses": [b, a], "ranking": [2, 1]} for a, b in wrong],
    }[kind]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return {"dataset": str(file), "eval_dataset": str(file)}


def trained(tmp_path: Path, stage: str, kind: str, **keys: Any) -> Run:
    """A short run on the letter task."""
    base = {name: value for name, value in recipe(tmp_path).items() if name in OFFLINE}
    keys = {**base, **rows(tmp_path, kind), "max_steps": 3, "learning_rate": 1e-3, **keys}
    return run_stage(stage, keys)


def weight_types(run: Run) -> set[torch.dtype]:
    """Types of the weights that the run saved."""
    return {tensor.dtype for file in run.model.glob("*.safetensors") for tensor in load_file(file).values()}


METHODS = [
    ("sft", "demonstration", {}),
    ("pretrain", "document", {}),
    ("dpo", "preference", {}),
    ("ipo", "preference", {}),
    ("kto", "label", {}),
    ("orpo", "preference", {}),
    ("simpo", "preference", {}),
    ("listwise", "ranking", {}),
    ("reward", "preference", {}),
    ("reward", "length", {"objective": "odin", "learning_rate": 1e-4}),
    ("reward", "preference", {"freeze_base": True}),
    ("reward", "preference", {"num_members": 2, "lora_r": 4}),
]


@pytest.mark.parametrize(("stage", "kind", "keys"), METHODS)
def test_offline_stages_agree_in_both_types(
    tmp_path: Path, stage: str, kind: str, keys: dict[str, Any]
) -> None:
    found = {}
    for dtype in TYPES:
        run = trained(tmp_path, stage, kind, dtype=dtype, output_dir=str(tmp_path / dtype), **keys)
        results = run.record["results"]
        found[dtype] = [row["loss"] for row in run.metrics()]
        found[dtype] += [member["loss"] for member in results.get("members", ())]
        found[dtype] += [value for name, value in results.items() if name == "eval_loss"]
    assert len(found["float32"]) >= 2
    # ODIN's loss has the correlation of reward and length, which divides by the rewards' small spread
    allowed = 0.1 if keys.get("objective") == "odin" else 0.03
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.02, abs=allowed)
    assert found["bfloat16"] != found["float32"]
    if not keys.get("num_members"):
        frozen = keys.get("lora_r") or keys.get("freeze_base")
        assert weight_types(run) == ({torch.float32, torch.bfloat16} if frozen else {torch.float32})


@pytest.mark.parametrize("stage", ["dpo", "ipo", "kto"])
def test_lora_stages_agree_in_both_types(tmp_path: Path, stage: str) -> None:
    kind = "label" if stage == "kto" else "preference"
    found = {}
    for dtype in TYPES:
        run = trained(tmp_path, stage, kind, dtype=dtype, output_dir=str(tmp_path / dtype), lora_r=4)
        found[dtype] = [row["loss"] for row in run.metrics()]
        assert weight_types(run) == {torch.float32}  # the adapter
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.02, abs=0.03)


@pytest.mark.parametrize("stage", ["dpo", "ipo", "kto"])
def test_the_start_is_its_own_reference_in_bfloat16(tmp_path: Path, stage: str) -> None:
    """Its log-probs read in float32 are another model's by more than the 0.01 nats that float32 allows."""
    kind = "label" if stage == "kto" else "preference"
    recipe(tmp_path)
    file = tmp_path / "start" / "model.safetensors"
    sharpen(file)
    run = trained(tmp_path, stage, kind, dtype="bfloat16", max_steps=1)
    first = next(run.metrics())
    names = ("chosen_reward", "rejected_reward") if stage == "kto" else ("margin",)
    # rewards are β · Σ log-ratio of a few tokens, each known to about a bfloat16 rounding of its logit
    assert all(abs(first[name]) < 0.05 for name in names)


def sharpen(file: Path) -> None:
    """Logits three times as large, whose bfloat16 neighbours are 0.1 apart."""
    weights = load_file(file)
    weights["model.norm.weight"] *= 3
    save_file(weights, file, metadata={"format": "pt"})


ONLINE = [
    ("ppo", {}),
    ("ppo", {"lora_r": 4}),
    ("grpo", {}),
    ("grpo", {"lora_r": 4, "reference_refresh": 1}),
    ("dr_grpo", {}),
    ("rloo", {}),
    ("reinforce_pp", {}),
]


@pytest.mark.parametrize(("stage", "keys"), ONLINE)
@pytest.mark.parametrize("dtype", TYPES)
def test_online_stages_run_in_both_types(
    tmp_path: Path, stage: str, keys: dict[str, Any], dtype: str
) -> None:
    run = run_stage(stage, recipe(tmp_path, max_steps=2, num_generations=4, dtype=dtype, **keys))
    first, second = run.metrics()
    assert weight_types(run) == {torch.float32}
    assert first["ratio"] == pytest.approx(1, abs=1e-5)
    assert first["sampler_gap"] < (1e-5 if dtype == "float32" else 0.05)
    assert all(math.isfinite(value) for row in (first, second) for value in row.values())
    if "kl" in first:  # the policy is its reference, but for the sampler's rounding
        assert abs(first["kl"]) < (1e-4 if dtype == "float32" else 0.1)


@pytest.mark.parametrize("dtype", TYPES)
def test_iterate_best_of_n_sample_and_evaluate_run_in_both_types(tmp_path: Path, dtype: str) -> None:
    start = recipe(tmp_path)
    reward = trained(tmp_path, "reward", "preference", dtype=dtype, output_dir=str(tmp_path / "reward"))
    shared = {name: start[name] for name in SAMPLED} | {"dtype": dtype}
    into = {"output_dir": str(tmp_path / "iterate")}
    rewards = [{"model": str(reward.path)}]
    iterated = run_stage("iterate", shared | into | {"rounds": 2, "max_steps": 1, "rewards": rewards})
    assert weight_types(iterated) == {torch.float32}
    into = {"output_dir": str(tmp_path / "best"), "n": 3, "max_steps": 1, "reward_model": str(reward.path)}
    best = run_stage("best_of_n", shared | into)
    assert weight_types(best) == {torch.float32}
    sampled = run_stage("sample", shared | {"output_dir": str(tmp_path / "sampled"), "num_samples": 2})
    assert sampled.status == "finished"
    given: dict[str, object] = {
        "before": start["model_name_or_path"],
        "after": str(iterated.path),
        "dtype": dtype,
    }
    given |= {name: start[name] for name in ("dataset", "max_new_tokens", "num_threads")}
    judged = run_stage(
        "evaluate", given | {"reward_model": str(reward.path), "output_dir": str(tmp_path / "e")}
    )
    assert "reward_model_score" in judged.record["results"]["metrics"]


@pytest.mark.parametrize("critic_init", ["policy", "reward"])
def test_a_critic_that_trains_is_float32(tmp_path: Path, critic_init: str) -> None:
    """In bfloat16 a step of 10⁻⁵ on a weight of 0.1 rounds to nothing."""
    keys: dict[str, Any] = {"dtype": "bfloat16", "critic_init": critic_init}
    if critic_init == "reward":
        reward = trained(tmp_path, "reward", "preference", output_dir=str(tmp_path / "reward"))
        keys["rewards"] = [{"model": str(reward.path)}]
    config: Any = resolve("ppo", recipe(tmp_path, **keys)).config
    critic = ppo.make_critic(config, common.prepare(config))
    assert {parameter.dtype for parameter in critic.parameters()} == {torch.float32}
    assert critic.compute_dtype == torch.bfloat16


def test_full_fine_tuning_starts_from_the_weights_as_they_are(tmp_path: Path) -> None:
    """Not from their bfloat16 neighbours: what the stage before has learned is often smaller than that."""
    config: Any = resolve("dpo", {"dataset": "x", **recipe_of_dpo(tmp_path), "dtype": "bfloat16"}).config
    prepared = common.prepare(config)
    file = load_file(tmp_path / "start" / "model.safetensors")
    own = dict(prepared.loaded.model.named_parameters())
    assert all(torch.equal(own[name], weight) for name, weight in file.items() if name in own)
    assert prepared.model.autocast == torch.bfloat16


def test_a_checkpoint_of_bfloat16_numbers_is_spread_before_it_trains(tmp_path: Path) -> None:
    keys = recipe_of_dpo(tmp_path)
    file = tmp_path / "start" / "model.safetensors"
    weights = {name: weight.bfloat16().float() for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    expected = weights["model.layers.0.mlp.up_proj.weight"]
    for dtype, lora_r in (("bfloat16", 0), ("bfloat16", 4), ("float32", 0)):
        config: Any = resolve("dpo", {"dataset": "x", **keys, "dtype": dtype, "lora_r": lora_r}).config
        layer = common.prepare(config).loaded.model.model.layers[0].mlp.up_proj
        matrix = layer.base_layer.weight if lora_r else layer.weight
        assert torch.equal(matrix.bfloat16(), expected.bfloat16())
        assert torch.equal(matrix.float(), expected) == (bool(lora_r) or dtype == "float32")


def recipe_of_dpo(tmp_path: Path) -> dict[str, Any]:
    return {name: value for name, value in recipe(tmp_path).items() if name in OFFLINE}


def test_mixing_weights_keeps_what_bfloat16_would_lose(tmp_path: Path) -> None:
    recipe(tmp_path)
    before, after = tmp_path / "start", tmp_path / "after"
    shutil.copytree(before, after)
    weights = load_file(after / "model.safetensors")
    weights = {name: weight * 1.001 for name, weight in weights.items()}
    save_file(weights, after / "model.safetensors", metadata={"format": "pt"})
    keys = {"before": str(before), "after": str(after), "share": 0.5, "dtype": "bfloat16"}
    run = run_stage("interpolate", {**keys, "output_dir": str(tmp_path / "mixed")})
    start, mixed = (load_file(folder / "model.safetensors") for folder in (before, run.model))
    for name, weight in start.items():
        torch.testing.assert_close(mixed[name], weight * 1.0005, rtol=1e-5, atol=0)
    assert run.record["results"]["relative_distance"] == pytest.approx(1e-3, rel=1e-3)


def test_a_reward_model_scores_in_the_recipes_type(tmp_path: Path) -> None:
    reward = trained(tmp_path, "reward", "preference", output_dir=str(tmp_path / "reward"))
    prompts = [Prompt((Message("user", letter),)) for letter in LETTERS]
    config: Any = resolve("rloo", recipe(tmp_path, rewards=[{"model": str(reward.path)}])).config
    samples = [Sample(prompt, "a", 2, True, row) for row, prompt in enumerate(prompts)]
    found = {
        dtype: build_reward(config, prompts, max_tokens=4, dtype=dtype)(samples).total for dtype in TYPES
    }
    for dtype in TYPES:
        expected = RewardModel(reward.path, dtype=dtype).score([p.prompt for p in prompts], [["a"]] * 3)
        assert found[dtype].tolist() == [row[0] for row in expected]
    assert found["float32"].tolist() != found["bfloat16"].tolist()
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.1)


@pytest.mark.parametrize("stage", ["ppo", "grpo", "rloo"])
@pytest.mark.parametrize("lora_r", [0, 4])
def test_losses_read_float32_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, lora_r: int
) -> None:
    """Log-probs, values, advantages and returns are float32, and not bfloat16 numbers stored as such."""
    seen: list[Inputs] = []
    fill = loop.fill_inputs

    def filled(*args: Any) -> Inputs:
        seen.append(fill(*args))
        return seen[-1]

    monkeypatch.setattr(loop, "fill_inputs", filled)
    keys = recipe(tmp_path, max_steps=2, num_iterations=1, num_generations=4, dtype="bfloat16", lora_r=lora_r)
    rows = list(run_stage(stage, keys).metrics())
    assert all(type(row["loss"]) is float for row in rows)
    found: dict[str, list[torch.Tensor]] = {}
    for inputs in seen:
        own = {"logprobs": inputs.logprobs, "values": inputs.values, "reference": inputs.reference_logprobs}
        for name, tensor in {**own, **inputs.extras}.items():
            if tensor is not None:
                assert tensor.dtype == torch.float32, name
                whole = tensor.shape == inputs.mask.shape  # else a statistic of the step
                found.setdefault(name, []).append(tensor.detach()[inputs.mask] if whole else tensor[None])
    wanted = {"logprobs", "advantages", "old_logprobs", "sampler_logprobs"}
    wanted |= {"values", "old_values", "returns"} if stage == "ppo" else set()
    assert wanted <= set(found)
    for name in wanted:
        numbers = torch.cat(found[name])
        assert not torch.equal(numbers, numbers.bfloat16().float()), name
