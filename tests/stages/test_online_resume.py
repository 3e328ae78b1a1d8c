"""A run that is killed at any moment ends with the weights of one that is not, bit for bit."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignloop.run import Run
from tests.stages.task import recipe, run_stage

PPO = {"num_generations": 2, "num_iterations": 2, "rollout_prompts": 4, "per_device_train_batch_size": 2}
PPO |= {"normalize_reward": True, "kl_controller": "adaptive", "kl_horizon": 50}
CASES = {
    "grpo": {"num_generations": 4, "per_device_train_batch_size": 2, "num_iterations": 2},
    "ppo": PPO,
    "ppo_lora": {**PPO, "lora_r": 4},
    "dapo": {"num_generations": 4, "keep_best": "reward", "guard_window": 2},
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def keys_of(tmp_path: Path, case: str, name: str) -> dict[str, object]:
    common = {"max_steps": 10, "save_steps": 1, "output_dir": str(tmp_path / name)}
    return recipe(tmp_path, **{**CASES[case], **common})


def run_until_killed(case: str, keys: dict[str, object], after_s: float) -> bool:
    """Run the stage in a child and kill it after a while; True if it had finished before."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            run_stage(case.partition("_")[0], keys)
            code = 0
        finally:
            os._exit(code)  # never back into the test runner
    deadline = time.monotonic() + after_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0
            return True
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments(tmp_path: Path, case: str) -> None:
    whole = keys_of(tmp_path, case, "whole")
    started = time.monotonic()
    run_stage(case.partition("_")[0], whole)
    duration = time.monotonic() - started

    killed, moments, kills = keys_of(tmp_path, case, "killed"), random.Random(case), 0
    while kills < 5 and not run_until_killed(case, killed, duration * moments.uniform(0.05, 0.6)):
        kills += 1
    if Run.open(tmp_path / "killed").status != "finished":
        run_stage(case.partition("_")[0], killed)
    assert kills > 0

    expected, found = weights(tmp_path / "whole/model"), weights(tmp_path / "killed/model")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    timeless = {"time_s", "step_s", "tokens_per_s", "memory_gb"}
    rows = [
        [{k: v for k, v in row.items() if k not in timeless} for row in Run.open(tmp_path / name).metrics()]
        for name in ("whole", "killed")
    ]
    assert rows[0] == rows[1]
    samples = [list(Run.open(tmp_path / name).samples()) for name in ("whole", "killed")]
    assert samples[0] == samples[1]
