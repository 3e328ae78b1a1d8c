"""Two gloo ranks that share rollouts and updates learn what one process learns."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignloop.run import Run
from tests.stages.task import recipe, run_stage

SCRIPT = """
import json, sys
from alignloop.rl.rollout import LocalEngine
from alignloop.training import distributed
from tests.stages.task import run_stage
stage, keys = sys.argv[1], json.loads(sys.argv[2])
distributed.start()
plain, asked = LocalEngine.generate, []
def counted(engine, prompts, params, **more):
    asked.append(len(prompts))
    return plain(engine, prompts, params, **more)
LocalEngine.generate = counted
rank = distributed.world()[0]
try:
    run_stage(stage, {**keys, "output_dir": f"{keys['output_dir']}-{rank}"})
finally:
    print("PROMPTS", json.dumps(asked))
"""
SMALL = {"num_generations": 4, "rollout_prompts": 4, "per_device_train_batch_size": 4, "max_steps": 4}
SMALL |= {"learning_rate": 1e-3, "save_steps": 0}
SMALL |= {"num_iterations": 2, "per_device_train_batch_size": 2, "normalize_reward": True}


def two_ranks(stage: str, keys: dict) -> list[subprocess.CompletedProcess[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, stage, json.dumps(keys)],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=240) for rank in ranks]
    return [
        subprocess.CompletedProcess([], rank.returncode, *output)
        for rank, output in zip(ranks, outputs, strict=True)
    ]


def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    keys = recipe(tmp_path, **SMALL)
    alone = run_stage("ppo", {**keys, "output_dir": str(tmp_path / "alone")})
    ranks = two_ranks("ppo", {**keys, "output_dir": str(tmp_path / "rank")})
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr[-2000:]
    # each rank samples 2 of the 4 prompts
    assert all(set(json.loads(rank.stdout.split("PROMPTS", 1)[1])) == {2} for rank in ranks)
    runs = [alone, *(Run.open(tmp_path / f"rank-{rank}") for rank in range(2))]
    expected, found = (load_file(run.model / "model.safetensors") for run in runs[:2])
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
    for name in ("reward", "loss", "kl", "approx_kl", "grad_norm", "explained_variance"):
        rows = [[row[name] for row in run.metrics() if name in row] for run in runs]
        assert rows[1] == rows[2]
        assert rows[0] == pytest.approx(rows[1], rel=1e-3, abs=1e-5)


def test_a_reward_that_fails_on_one_rank_ends_both(tmp_path: Path) -> None:
    keys = recipe(tmp_path, **SMALL, rewards=[{"function": "tests.stages.test_online_faults:always"}])
    ranks = two_ranks("grpo", {**keys, "output_dir": str(tmp_path / "rank")})
    assert all(rank.returncode != 0 for rank in ranks)
    assert all("no judge at home" in rank.stderr for rank in ranks)
