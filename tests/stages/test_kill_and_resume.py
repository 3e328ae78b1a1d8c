"""Real processes killed at awkward moments; the same command then ends with the same weights, bit for bit."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = """\
output_dir: {out}
stage: dpo
model_name_or_path: tiny
dataset: {data}
learning_rate: 1e-3
per_device_train_batch_size: 2
max_steps: 60
save_steps: 3
seed: 3
"""


def start(recipe: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ALIGNLOOP_CACHE": str(recipe.parent / "cache")}
    command = [sys.executable, "-m", "alignloop", "run", str(recipe)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until metrics.jsonl shows that step."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            lines = (folder / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            lines = []
        if len(lines) >= step:
            return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached: {process.stdout.read() if process.stdout else ''}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"prompt": f"질문 {i}", "chosen": f"좋은 답 {i}", "rejected": f"나쁜 답 {i}!"} for i in range(12)]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file


def recipe_in(folder: Path, data: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    recipe, out = folder / "dpo.yaml", folder / "run"
    recipe.write_text(RECIPE.format(out=out, data=data), encoding="utf-8")
    return recipe, out


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data):
    recipe, out = recipe_in(tmp_path_factory.mktemp("whole"), data)
    process = start(recipe)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return digest(out), [
        json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()
    ]


def test_kill_9_again_and_again_ends_with_the_same_weights(tmp_path, data, uninterrupted):
    recipe, out = recipe_in(tmp_path, data)
    for step in (1, 10, 24):  # before the first checkpoint, and twice between checkpoints
        process = start(recipe)
        wait_for_step(out, step, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(recipe)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "goes on" in output
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert losses == uninterrupted[1]
    assert digest(out) == uninterrupted[0]


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(tmp_path, data, uninterrupted):
    recipe, out = recipe_in(tmp_path, data)
    process = start(recipe)
    wait_for_step(out, 7, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert re.search(r"The same command goes on from step \d+\.", output)
    assert "Traceback" not in output
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    done = len((out / "metrics.jsonl").read_text().splitlines())
    assert (out / "checkpoints" / f"step-{done:08d}").is_dir()
    process = start(recipe)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert digest(out) == uninterrupted[0]


def test_a_checkpoint_cut_short_is_passed_over_and_said(tmp_path, data, uninterrupted):
    recipe, out = recipe_in(tmp_path, data)
    process = start(recipe)
    wait_for_step(out, 20, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = sorted((out / "checkpoints").glob("step-*"))[-1]
    weights = newest / "weights-model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    process = start(recipe)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert f"damaged checkpoint passed over: {newest.name}" in output
    assert digest(out) == uninterrupted[0]
