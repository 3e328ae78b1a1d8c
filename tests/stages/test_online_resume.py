"""A run that is killed at any moment ends with the weights of one that is not, bit for bit."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignloop.model import resume
from alignloop.runs import Run
from tests.stages.task import recipe, run_stage

PPO = {"num_generations": 2, "num_iterations": 2, "rollout_prompts": 4, "per_device_train_batch_size": 2}
PPO |= {"normalize_reward": True, "kl_controller": "adaptive", "kl_horizon": 50}
CASES = {
    "grpo": {
        "num_generations": 4,
        "per_device_train_batch_size": 2,
        "num_iterations": 2,
        "reference_refresh": 1,
    },
    "ppo": PPO,
    "ppo_lora": {**PPO, "lora_r": 4, "reference_refresh": 1},
    "dapo": {"num_generations": 4, "keep_best": "reward", "guard_window": 2},
}

KILLS = 20


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def keys_of(tmp_path: Path, case: str, name: str) -> dict[str, object]:
    common = {"max_steps": 10, "save_steps": 1, "output_dir": str(tmp_path / name)}
    return recipe(tmp_path, **{**CASES[case], **common})


def run_until_killed(case: str, keys: dict[str, object], moment: Callable[[int], bool]) -> bool:
    """Run the stage in a child, killed when `moment` says so of its number; True if it finished before."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            run_stage(case.partition("_")[0], keys)
            code = 0
        finally:
            os._exit(code)  # never back into the test runner
    while not moment(child):
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
    started = time.process_time()
    run_stage(case.partition("_")[0], whole)
    duration = time.process_time() - started

    killed, moments, kills = keys_of(tmp_path, case, "killed"), random.Random(case), 0
    # short enough that the run is not over before the last, long enough for some steps between two
    while kills < KILLS and not run_until_killed(case, killed, after(duration * moments.uniform(0.02, 0.25))):
        kills += 1
    if Run.open(tmp_path / "killed").status != "finished":
        run_stage(case.partition("_")[0], killed)
    assert kills > KILLS // 2
    assert_same_runs(tmp_path)


def after(seconds: float) -> Callable[[int], bool]:
    """Whether a process has had so much of a processor, which other load does not shorten."""

    def moment(child: int) -> bool:
        fields = Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") > seconds

    return moment


def assert_same_runs(tmp_path: Path) -> None:
    """Weights, metrics and samples of `whole` and `killed` are the same, bit for bit."""
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


# completions of a flat distribution go on for long, so that a rollout has many steps
LONG = {"temperature": 4.0, "max_new_tokens": 20, "rollout_save_s": 0.02, "max_steps": 5, "save_steps": 2}


@pytest.mark.parametrize("case", ["ppo_lora", "dapo"])
def test_killed_in_the_middle_of_a_rollout(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in the second case hardly a group has a spread, so three attempts are made for every rollout
    more = {**LONG, "max_steps": 5 if case == "ppo_lora" else 2}
    whole, killed = ({**keys_of(tmp_path, case, name), **more} for name in ("whole", "killed"))
    run_stage(case.partition("_")[0], {**whole, "rollout_save_s": 0})

    def within_rollout(number: int) -> Callable[[int], bool]:
        """Whether a rollout is half done, with completions that have ended and others that have not."""

        def moment(_: int) -> bool:
            try:
                file = next((tmp_path / "killed/rollout").glob("step-*/checkpoint.json"))
                state = json.loads(file.read_text(encoding="utf-8"))["state"]
            except (StopIteration, OSError, ValueError):
                return False
            generation = state["unfinished"]["generation"]
            return state["key"][1] >= number and bool(state["unfinished"]["done"] and generation["running"])

        return moment

    taken_up: list[object] = []
    plain = resume.load_state_dict
    monkeypatch.setattr(
        resume, "load_state_dict", lambda *saved: (taken_up.append(saved[1]["running"]), plain(*saved))
    )
    for number in (0, 1):
        assert not run_until_killed(case, killed, within_rollout(number))
    run_stage(case.partition("_")[0], killed)
    assert taken_up
    assert all(taken_up)  # each had running completions
    assert_same_runs(tmp_path)
    assert not (tmp_path / "killed/rollout").exists()


def test_ctrl_c_in_the_middle_of_a_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = ({**keys_of(tmp_path, "grpo", name), **LONG} for name in ("whole", "killed"))
    whole, stopped = ({**keys, "rollout_save_s": 0, "save_steps": 0} for keys in (whole, stopped))
    run_stage("grpo", whole)
    looks = iter([False] * 11 + [True] * 99)

    class Stop(threading.Event):
        def is_set(self) -> bool:
            return next(looks)

    with monkeypatch.context() as patched:
        patched.setattr(threading, "Event", Stop)
        with pytest.raises(KeyboardInterrupt):
            run_stage("grpo", stopped)
    assert Run.open(tmp_path / "killed").status == "interrupted"
    assert list((tmp_path / "killed/checkpoints").glob("step-*"))
    assert list((tmp_path / "killed/rollout").glob("step-*"))
    run_stage("grpo", stopped)
    assert_same_runs(tmp_path)
