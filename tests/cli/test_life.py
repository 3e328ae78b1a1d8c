"""A real run of the tiny model as a person sees it: first words, no noise, and Ctrl-C once and twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TICK = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with 256 pairs and a recipe of long steps."""
    rows = [{"prompt": f"Say {i}", "chosen": "yes " * 20, "rejected": f"no {i} " * 15} for i in range(256)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = "stage: dpo\nmodel_name_or_path: tiny\ndataset: pairs.jsonl\nlogging_steps: 1\nnum_threads: 1\n"
    (tmp_path / "mine.yaml").write_text(recipe, encoding="utf-8")
    return tmp_path


@contextmanager
def started(place: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "alignloop", *words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ALIGNLOOP_CACHE": str(place / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < ends
        time.sleep(0.02)


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_first_words_come_within_seconds_of_work(place: Path) -> None:
    """About 1 s on an idle machine; bounded in CPU time, so that other processes do not count."""
    with started(place, "run", "mine.yaml", "max_steps=1") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("dpo: ")
        assert cpu_seconds(process) < 4


def test_nothing_is_said_but_our_own_words(place: Path) -> None:
    words = ("max_steps=1", "per_device_train_batch_size=4", "lora_r=2", "gradient_checkpointing=true")
    with started(place, "run", "mine.yaml", *words) as process:
        _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    ours = r"dpo: \w+ [\d.e-]+: .*|warning: AL213: .*|dpo: starts: .*|dpo  step \d.*"
    ours += r"|.* …(  \w+)?|reference log-probs  row .*|"
    assert [line for line in said.splitlines() if not re.fullmatch(ours, line)] == []


def test_ctrl_c_is_answered_at_once_and_the_run_goes_on_from_its_step(place: Path) -> None:
    words = ("run", "mine.yaml", "per_device_train_batch_size=64", "max_steps=8")
    with started(place, *words) as process:
        wait_for((place / "runs/mine/metrics.jsonl").exists, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopping after this step; Ctrl-C again stops now" in said.splitlines()
    (saved,) = (place / "runs/mine/checkpoints").iterdir()
    step = int(saved.name.removeprefix("step-"))
    assert said.splitlines()[-1] == f"  dpo was interrupted. The same command goes on from step {step}."
    with started(place, *words) as process:
        _, said = process.communicate(timeout=200)
    assert "dpo: goes on: runs/mine" in said
    rows = (place / "runs/mine/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, 9))


def test_a_second_ctrl_c_stops_now_and_promises_nothing(place: Path) -> None:
    with started(place, "run", "mine.yaml", "per_device_train_batch_size=256", "max_steps=40") as process:
        assert process.stderr is not None
        wait_for((place / "runs/mine/metrics.jsonl").exists, process)
        process.send_signal(signal.SIGINT)
        before = []
        for line in process.stderr:
            before.append(line)
            if line.startswith("stopping after"):
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 130
    # The second one may come while the step's checkpoint is written, which is then there or not at all.
    saved = sorted((place / "runs/mine/checkpoints").glob("step-*"))
    promised = "Nothing of it was saved yet. The same command starts this stage from its beginning."
    if saved:
        step = int(saved[-1].name.removeprefix("step-"))
        promised = f"The same command goes on from step {step}."
    assert said.splitlines()[-1] == f"  dpo was interrupted. {promised}", "".join(before) + said
    assert "Traceback" not in said
