"""How rewards become advantages in an online stage, on the tiny model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.stages.task import recipe, run_stage

SMALL = {"num_generations": 4, "rollout_prompts": 3, "per_device_train_batch_size": 3, "num_iterations": 1}


def nothing(samples):
    """The same for every answer."""
    return [0.0 for _ in samples]


def by_length(samples):
    """A reward that differs within every group."""
    return [float(len(s.completion) + 0.01 * i) for i, s in enumerate(samples)]


def in_cents(samples):
    """The same order, in a hundredth of the units, of the opposite sign."""
    return [-value / 100 for value in by_length(samples)]


def reward(name: str, **keys: object) -> dict[str, object]:
    return {"function": f"tests.stages.test_online_rewards:{name}", **keys}


def test_a_penalty_alone_does_not_keep_a_group(tmp_path: Path) -> None:
    """All answers are worth 0, their lengths differ: the groups have no gradient under dynamic sampling."""
    parts = [reward("nothing"), {"penalty": "length", "weight": 0.001}]
    keys = {**SMALL, "max_steps": 1, "temperature": 3.0, "max_new_tokens": 6, "rewards": parts}
    (row,) = run_stage("grpo", recipe(tmp_path, **keys)).metrics()
    assert row["zero_spread_without_penalties"] == 3 > row["zero_spread_groups"]
    assert row["grad_norm"] > 0
    keys |= {"dynamic_sampling": True, "max_sampling_rounds": 2, "output_dir": str(tmp_path / "dynamic")}
    rows = list(run_stage("grpo", recipe(tmp_path, **keys)).metrics())
    assert rows[0]["zero_spread_without_penalties"] == 6
    assert all("grad_norm" not in row or row["grad_norm"] == 0 for row in rows)


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_a_masked_answer_trains_nothing(tmp_path: Path, stage: str) -> None:
    """With a longest length of one token every answer is cut, so no weight may move."""
    keys = {
        **SMALL,
        "max_steps": 1,
        "max_new_tokens": 1,
        "missing_eos": "mask",
        "rewards": [reward("by_length")],
    }
    if stage == "ppo":
        keys |= {"adam_epsilon": 1e-5}
    run = run_stage(stage, recipe(tmp_path, **keys))
    (row,) = run.metrics()
    assert row["eos_rate"] == 0
    before, after = (load_file(p / "model.safetensors") for p in (tmp_path / "start", run.path / "model"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_each_part_standardised_by_itself(tmp_path: Path) -> None:
    """Of two parts that disagree and differ a hundredfold, that of greater weight is learned from."""
    keys = {**SMALL, "max_steps": 1, "temperature": 3.0, "beta": 0.0, "normalize_each_reward": True}
    weights = {}
    for name, parts in {
        "both": [reward("by_length"), reward("in_cents", weight=3.0)],
        "small": [reward("in_cents")],
        "large": [reward("by_length")],
    }.items():
        run = run_stage("grpo", recipe(tmp_path, **keys, rewards=parts, output_dir=str(tmp_path / name)))
        weights[name] = load_file(run.path / "model" / "model.safetensors")[
            "model.layers.0.mlp.up_proj.weight"
        ]
    start = load_file(tmp_path / "start" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    moved = {name: (weight - start).flatten() for name, weight in weights.items()}
    assert torch.cosine_similarity(moved["both"], moved["small"], dim=0) > 0.99
    assert torch.cosine_similarity(moved["both"], moved["large"], dim=0) < 0
