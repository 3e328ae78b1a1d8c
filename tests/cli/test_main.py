"""The command line as a person meets it: help, messages, exit codes, start-up time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import alignloop
from alignloop.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent.parent
MAIN = "from alignloop.cli import main; main()"
HEAVY = {"torch", "transformers", "pandas", "sqlalchemy", "pydantic", "numpy", "peft", "datasets"}

# A stage table with toys, put in before the command line runs.
TOY_MAIN = """
from unittest.mock import patch
from tests.toy_stages import TOYS
with patch("alignloop.config.plan.find_stage", lambda name, stages: TOYS[name]):
    from alignloop.cli import main
    main()
"""


def call(*words: str, cwd: Path = ROOT, code: str = MAIN, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_help_and_version() -> None:
    done = call("--help")
    assert done.returncode == 0
    for name in ("run", "train", "sample", "evaluate", "recipes", "init", "schema", "doctor", "runs"):
        assert f" {name} " in done.stdout
    assert call("--version").stdout == f"alignloop {alignloop.__version__}\n"


def test_commands_without_a_module_are_not_offered() -> None:
    listed = call("--help").stdout
    for name, lazy in COMMANDS.items():
        there = any((ROOT / "alignloop/cli" / file).exists() for file in (f"{lazy.module}.py", lazy.module))
        assert (f"│ {name} " in listed) == there, name


def test_bare_it_shows_its_help() -> None:
    done = call()
    assert done.returncode == 0
    assert done.stdout == call("--help").stdout
    for group, command in (("data", "check"), ("label", "export")):
        done = call(group)
        assert done.returncode == 0
        assert f" {command} " in done.stdout


def test_a_mistyped_command() -> None:
    done = call("trian")
    assert done.returncode == 2
    assert "Did you mean 'train'?" in done.stderr


@pytest.mark.parametrize("words", [("run", "--help"), ("train", "--help"), ("runs", "list", "--help")])
def test_help_of_commands(words: tuple[str, ...]) -> None:
    done = call(*words)
    assert done.returncode == 0
    assert "Usage" in done.stdout


@pytest.mark.parametrize("code", ["import alignloop", "import alignloop.cli", MAIN])
def test_nothing_heavy_is_imported(code: str) -> None:
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    )
    done = call("--help", code=script)
    assert not HEAVY & set(done.stderr.split())


def test_start_up_time() -> None:
    """0.3 s and 0.5 s of processor time; the best of five, doubled, for a slower machine."""

    def spent() -> float:  # of the children that have ended; waiting for a processor costs nothing
        found = os.times()
        return found.children_user + found.children_system

    def best(*words: str, code: str) -> float:
        times = []
        for _ in range(5):
            started = spent()
            call(*words, code=code)
            times.append(spent() - started)
        return min(times)

    assert best(code="import alignloop") < 0.6
    assert best("--help", code=MAIN) < 1.0


def test_errors_are_messages(tmp_path: Path) -> None:
    file = tmp_path / "dpo.yaml"
    file.write_text("stage: dpo\nlerning_rate: 1\ndataset: a\nbeta: 0\n", encoding="utf-8")
    done = call("run", "dpo.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: dpo.yaml:2: unknown key 'lerning_rate'; did you mean 'learning_rate'?",
        "error: dpo.yaml:4: beta: value 0 is not accepted; expected a number above 0 "
        "(AL212: 0 would train nothing)",
    ]
    assert call("run", "dpoo", cwd=tmp_path).stderr == (
        "error: recipe 'dpoo': no such file, and no recipe of that name; did you mean 'dpo'?\n"
    )


def toy(tmp_path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "toy.yaml").write_text("stage: count\ndataset: rows.jsonl\n", encoding="utf-8")
    return call("run", "toy.yaml", *words, cwd=tmp_path, code=TOY_MAIN, **environment)


def told(done: subprocess.CompletedProcess) -> list[str]:
    """Lines on stderr without those that only a slow machine shows."""
    return [line for line in done.stderr.splitlines() if not re.search(r"…(  \d+s)?$", line)]


def test_run_and_run_again(tmp_path: Path) -> None:
    done = toy(tmp_path, "steps=3")
    assert done.returncode == 0, done.stderr
    assert told(done) == ["count: starts: runs/toy"]
    lines = done.stdout.splitlines()
    assert lines[0] == "steps 3"
    assert re.fullmatch(r"run:    runs/toy \(\d+s\)", lines[2])
    assert lines[3] == "report: runs/toy/report.html"
    assert lines[4:] == ["next:", "  alignloop report runs/toy  # curves, samples and lineage as a page"]
    again = toy(tmp_path, "steps=3")
    assert "run:    runs/toy (reused)" in again.stdout.splitlines()
    other = toy(tmp_path, "steps=4")
    assert other.returncode == 2
    assert "error: runs/toy belongs to another run (steps: 3 -> 4)" in other.stderr
    assert toy(tmp_path, "steps=4", "--resume", "never").returncode == 0
    listed = call("runs", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [
        ["runs/toy", "count", "finished"],
        ["runs/toy-old-1", "count", "finished"],
    ]
    found = call("runs", "list", "runs", "--stage", "sft", cwd=tmp_path)
    assert found.stdout == "no runs in runs that fit\n"
    assert '"steps": 4' in call("runs", "list", "--json", cwd=tmp_path).stdout


def test_a_pipeline_ends_with_its_stages_a_verdict_and_a_report(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    stages = "[{stage: count, name: first, steps: 2}, {stage: count, name: the-second, steps: 3}]"
    (tmp_path / "p.yaml").write_text(
        f"output_dir: out\ndataset: rows.jsonl\nstages: {stages}\n", encoding="utf-8"
    )
    done = call("run", "p.yaml", cwd=tmp_path, code=TOY_MAIN)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"first +\d+s  steps 2", lines[0])
    assert re.fullmatch(r"the-second +\d+s  steps 3", lines[1])
    assert lines[3].startswith("Verdict: none yet, because no stage compares the-second with its start")
    assert lines[5:7] == ["run:    out", "report: out/report.html"]
    assert lines[7:] == [
        "next:",
        "  alignloop report out/the-second  # curves, samples and lineage as a page",
    ]
    assert (tmp_path / "out/report.html").is_file()


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = toy(tmp_path, "lr=1", "--dry-run")
    assert done.returncode == 2
    assert "unknown key 'lr'" in done.stderr
    done = toy(tmp_path, "steps=4", "--dry-run")
    assert "steps: 4\n" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_failure_of_the_engine_has_its_exit_code(tmp_path: Path) -> None:
    done = toy(tmp_path, "fail_at=2")
    assert done.returncode == 4
    assert told(done)[1:] == [
        "error: failed at step 2",
        "  count failed. The same command goes on from here.",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "toy.yaml").write_text("stage: count\ndataset: rows.jsonl\npause_s: 20\n", encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-c", TOY_MAIN, "run", "toy.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "runs/toy/checkpoints/state.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.splitlines()[-2:] == [
        "interrupted",
        "  count was interrupted. The same command goes on from here.",
    ]
    assert "Traceback" not in said
    assert " interrupted " in call("runs", cwd=tmp_path).stdout


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    code = TOY_MAIN.replace(
        "with patch",
        'import os\ndef full(*_):\n    raise OSError(28, "No space left")\nos.replace = full\nwith patch',
    )
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "toy.yaml").write_text("stage: count\ndataset: rows.jsonl\n", encoding="utf-8")
    done = call("run", "toy.yaml", cwd=tmp_path, code=code)
    assert done.returncode == 2
    assert "could not be written: the disk is full" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "schema"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0
