"""Wrong input on purpose: one clear sentence, exit code 2, no traceback, nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PAIR = {"prompt": "a question", "chosen": "a good answer", "rejected": "a bad one"}


def alignloop(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ALIGNLOOP_CACHE": str(cwd / "cache")}
    command = [sys.executable, "-m", "alignloop", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def train(cwd: Path, rows: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    (cwd / "rows.jsonl").write_text(rows, encoding="utf-8")
    (cwd / "dpo.yaml").write_text(
        "stage: dpo\nmodel_name_or_path: tiny\ndataset: rows.jsonl\noutput_dir: out\nmax_steps: 1\n",
        encoding="utf-8",
    )
    return alignloop("run", "dpo.yaml", *overrides, cwd=cwd)


def lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows)


CASES = {
    "missing file": (lines(PAIR), ["dataset=nowhere.jsonl"], "nowhere.jsonl"),
    "empty file": ("", [], "rows.jsonl"),
    "unknown key": (lines(PAIR), ["lerning_rate=1"], "did you mean 'learning_rate'?"),
    "out of range": (lines(PAIR), ["learning_rate=-1"], "learning_rate"),
    "wrong type": (lines(PAIR), ["max_length=many"], "max_length"),
    "model folder without tokenizer": (lines(PAIR), ["model_name_or_path=bare"], "has no tokenizer"),
    "no such model": (lines(PAIR), ["model_name_or_path=./nothing"], "./nothing"),
    "all rows dropped": (lines({**PAIR, "chosen": ""}), [], "rows.jsonl:1"),
    "too long under error": (lines(PAIR), ["max_length=8", "overlength=error"], "rows.jsonl:1"),
    "wrong kind": (lines({"prompt": "p", "response": "r"}), [], "rows.jsonl"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_exit_code_2(name, tmp_path):
    rows, overrides, expected = CASES[name]
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text('{"model_type": "llama"}')
    (bare / "model.safetensors").write_bytes(b"")
    done = train(tmp_path, rows, *overrides)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.count("error:") == 1


def test_broken_json_in_line_7_names_the_line(tmp_path):
    rows = [json.dumps(PAIR)] * 6 + ['{"prompt": "x", ', json.dumps(PAIR)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    done = alignloop("data", "check", "rows.jsonl", "--strict", cwd=tmp_path)
    assert done.returncode == 2
    assert "rows.jsonl:7" in done.stderr
    assert "Traceback" not in done.stderr


def test_training_on_a_damaged_file_stops_at_its_line(tmp_path):
    done = train(tmp_path, "\n".join([json.dumps(PAIR)] * 6 + ['{"prompt": "x", ']))
    assert done.returncode == 2
    assert "rows.jsonl:7" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unusable_row_is_counted_and_the_rest_is_trained_on(tmp_path):
    done = train(tmp_path, lines(*[PAIR] * 6, {**PAIR, "chosen": ""}))
    assert done.returncode == 0, done.stderr
    assert "1 rows dropped" in done.stderr
    assert "rows.jsonl:7" in done.stderr


def test_the_folder_of_another_run_is_refused_and_left_alone(tmp_path):
    assert train(tmp_path, lines(PAIR)).returncode == 0
    before = (tmp_path / "out" / "run.json").read_bytes()
    done = train(tmp_path, lines(PAIR), "beta=0.3")
    assert done.returncode == 2
    assert "out" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "run.json").read_bytes() == before
