"""Stages killed at any write or step end as if they had run through (`kill_points` runs more trials)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignloop.runs import Run
from tests.stages.task import prompts_file, run_stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("stage", "number"), [("sample", 3), ("iterate", 1)])
def test_a_stage_killed_five_times_is_bit_identical(tmp_path: Path, stage: str, number: int) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.stages.kill_points",
        str(tmp_path),
        stage,
        str(number),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == number
    assert all(outcome["kills"] for outcome in outcomes)
    assert [outcome["differs"] for outcome in outcomes] == [[]] * number


def test_a_sample_killed_after_its_last_row_does_not_write_them_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"model_name_or_path": "tiny", "num_threads": 1, "num_samples": 2, "max_new_tokens": 5}
    keys |= {"dataset": str(prompts_file(tmp_path / "prompts.jsonl")), "output_dir": str(tmp_path / "run")}

    def killed(run: Run, results: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stage("sample", keys)
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    assert len(before.splitlines()) == 3
    run_stage("sample", keys)
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before
