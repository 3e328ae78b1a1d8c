"""Two gloo ranks that share rollouts and updates learn what one process learns; the first one writes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignloop.config import make_plan, read_recipe
from alignloop.data.columns import write_records
from alignloop.data.instructions import instruction_prompts
from alignloop.pipeline import run_plan
from alignloop.runs import Run
from tests.stages.task import recipe

SCRIPT = """
import os, sys
from alignloop.cli import main
from alignloop.rl.rollout import LocalEngine
plain = LocalEngine.generate
def counted(engine, prompts, params, **more):
    print("PROMPTS", os.environ["RANK"], len(prompts), flush=True)
    return plain(engine, prompts, params, **more)
LocalEngine.generate = counted
main()
"""
FAILS = "tests.stages.test_online_faults:always"
SMALL = {"num_generations": 4, "rollout_prompts": 4, "learning_rate": 1e-3, "save_steps": 0}
SMALL |= {"num_iterations": 2, "per_device_train_batch_size": 2, "normalize_reward": True, "max_steps": 2}


def ranks_of(file: Path, count: int = 2) -> list[subprocess.Popen[str]]:
    """`alignloop run FILE` in as many processes, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "WORLD_SIZE": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "run", str(file)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def write_recipe(file: Path, output_dir: Path, stages: list[dict[str, Any]]) -> Path:
    content = {"output_dir": str(output_dir), "stages": stages}  # JSON is YAML, and has no anchors
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def every_stage(tmp_path: Path, output_dir: Path) -> list[dict[str, Any]]:
    """Small stages of all that learn from their own samples, and two that do not."""
    base: dict[str, Any] = recipe(tmp_path)
    shared = {name: base[name] for name in ("model_name_or_path", "dataset", "max_new_tokens", "rewards")}
    shared |= {"num_threads": 1, "max_length": 64}
    prompts = tmp_path / "instructions.jsonl"
    if not prompts.exists():
        write_records(prompts, instruction_prompts("train", 7, 0, ("lowercase", "no_commas")))
    best = {"model_name_or_path": "tiny", "dataset": str(prompts), "reward_model": "gold", "n": 3}
    train = {"num_threads": 1, "learning_rate": 1e-3, "max_steps": 2}
    pairs = str(output_dir / "iterate/rounds/1-rows.jsonl")
    rounds = {"num_generations": 8, "pairs_per_prompt": 4, "rounds": 2, **train}
    adapters = {"lora_r": 2, "num_members": 2, "eval_fraction": 0.4, "normalize": False}
    return [
        {"stage": "ppo", **shared, **SMALL},
        # a group for each step, of which the second rank has no share
        {"stage": "grpo", **shared, **SMALL, "rollout_prompts": 1, "per_device_train_batch_size": 1},
        {"stage": "best_of_n", **best, "rounds": 2, "max_new_tokens": 12, **train},
        {"stage": "iterate", **shared, **rounds},
        {
            "stage": "reward",
            "model_name_or_path": str(tmp_path / "start"),
            "dataset": pairs,
            **adapters,
            **train,
        },
        {"stage": "interpolate", "before": str(tmp_path / "start"), "after": "@ppo", "num_threads": 1},
    ]


def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    """Every stage once, and at the end one whose reward fails on the first rank, which ends both."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    one = write_recipe(tmp_path / "one.yaml", alone, every_stage(tmp_path, alone))
    broken = {**every_stage(tmp_path, shared)[1], "name": "broken", "rewards": [{"function": FAILS}]}
    two = write_recipe(tmp_path / "two.yaml", shared, [*every_stage(tmp_path, shared), broken])
    ranks = ranks_of(two)
    run_plan(make_plan(read_recipe(one), {}), say=lambda text: None)
    told = [rank.communicate(timeout=240) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [4, 4], told[0][1][-2000:] + told[1][1][-2000:]
    assert all("no judge at home" in err and "Traceback" not in err for _, err in told)
    assert Run.open(shared / "broken").status == "failed"
    # the first rank speaks; each samples 2 of PPO's 4 prompts
    assert "ppo" in told[0][1]
    assert "ppo" not in told[1][1].replace("error:", "")
    assert all(out.split("PROMPTS", 1)[1].split()[:2] == [str(n), "2"] for n, (out, _) in enumerate(told))
    for name in ("ppo", "grpo", "best_of_n", "iterate", "reward", "interpolate"):
        runs = [Run.open(folder / name) for folder in (alone, shared)]
        assert [run.status for run in runs] == ["finished", "finished"]
        expected, found = (weights(run.model) for run in runs)
        assert expected.keys() == found.keys()
        # a bias cancels in comparisons: its gradient is rounding noise, which AdamW makes steps of
        for key in (key for key in expected if key != "scalar_head.safetensors bias"):
            torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4, msg=f"{name} {key}")
        same_metrics(*runs)
        files = [sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*")) for run in runs]
        assert files[0] == files[1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.name} {k}": v for file in files for k, v in load_file(file).items()}


def same_metrics(one: Run, two: Run) -> None:
    timeless = {"time_s", "step_s", "tokens_per_s", "memory_gb"}
    timeless |= {"sampler_gap", "sampler_gap_max", "sampler_effective"}
    rows = [list(run.metrics()) for run in (one, two)]
    assert len(rows[0]) == len(rows[1])
    for expected, found in zip(*rows, strict=True):
        assert expected.keys() == found.keys()
        for name in expected.keys() - timeless:
            assert found[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-4), name
