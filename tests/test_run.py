"""Run folders: ownership, locks, logs that survive a kill, status, fingerprints, lineage."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from alignloop.data.template_choice import today
from alignloop.errors import EngineError, RunError
from alignloop.io import cut_lines
from alignloop.runs import (
    Input,
    Run,
    config_sha256,
    find_inputs,
    find_runs,
    fingerprint,
    lineage,
    work_sha256,
)
from alignloop.runs.environment import is_alive, process_start
from alignloop.runs.hashing import content_sha256, split_rows

CONFIG = {"output_dir": "x", "learning_rate": 1e-5, "dataset": "rows.jsonl", "이름": "값"}


def start(path: Path, *, config: dict | None = None, stage: str = "sft", **more: object) -> Run:
    return Run.create(path, stage=stage, config=config or CONFIG, seed=3, **more)  # pyright: ignore


def finished(path: Path, **more: object) -> Run:
    with start(path, **more) as run:  # pyright: ignore
        run.finish({"loss": 0.5})
    return run


def test_a_run_from_start_to_end(run_dir: Path) -> None:
    with start(run_dir, inputs={"dataset": Input("rows.jsonl", "ab")}) as run:
        assert Run.open(run_dir).status == "running"
        run.log(1, loss=np.float32(0.5), rate=float("nan"), n=np.int64(3))
        run.sample(step=1, completion="한국어 \u2028 🙂")
        run.set_rows("dataset", 12)
        run.set_environment(device="cuda:0")
        run.warn("slow")
        run.warn("slow")
        run.finish({"accuracy": np.float64(0.75), "inf": math.inf})
    again = Run.open(run_dir)
    record = again.record
    assert record["status"] == again.status == "finished"
    assert record["results"] == {"accuracy": 0.75, "inf": None}
    assert record["inputs"] == {"dataset": {"path": "rows.jsonl", "sha256": "ab", "rows": 12}}
    assert record["warnings"] == ["slow"]
    assert record["environment"]["device"] == "cuda:0"
    assert record["environment"]["memory_gb"] > 0
    assert record["name"] == "run"
    assert record["seed"] == 3
    assert record["config_sha256"] == config_sha256(CONFIG)
    assert set(record["code"]) == {"version", "git_commit", "sha256"}
    assert again.config() == CONFIG
    (row,) = again.metrics()
    assert row.pop("time_s") >= 0
    assert row == {"step": 1, "loss": 0.5, "rate": None, "n": 3}
    assert list(again.samples()) == [{"step": 1, "completion": "한국어 \u2028 🙂"}]
    with pytest.raises(RunError, match="reading only"):
        again.log(2, loss=1.0)


def test_another_run_in_the_folder(run_dir: Path) -> None:
    finished(run_dir)
    with pytest.raises(RunError, match="finished run of the same settings"):
        start(run_dir)
    changed = {**CONFIG, "learning_rate": 2e-5}
    with pytest.raises(RunError, match=r"belongs to another run .learning_rate: 1e-05 -> 2e-05"):
        start(run_dir, config=changed)
    with pytest.raises(RunError, match="stage: sft -> dpo"):
        start(run_dir, stage="dpo")
    with pytest.raises(RunError, match=r"dataset: the content of rows\.jsonl has changed"):
        start(run_dir, inputs={"dataset": Input("rows.jsonl", "other")})
    assert Run.open(run_dir).status == "finished"


def test_a_run_that_failed_before_it_made_anything_gives_way(run_dir: Path) -> None:
    start(run_dir).fail("rows.jsonl: no such file")
    changed = {**CONFIG, "learning_rate": 2e-5}
    with start(run_dir, config=changed) as second:
        assert not second.resumed
        second.log(1, loss=0.5)
        second.fail("broken")
    with pytest.raises(RunError, match=r"belongs to another run .learning_rate: 2e-05 -> 1e-05"):
        start(run_dir)


def test_a_folder_with_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        start(tmp_path)
    with pytest.raises(RunError, match="cannot write a run here"):
        start(tmp_path / "thesis.txt" / "run")


def test_a_damaged_run_json(run_dir: Path) -> None:
    finished(run_dir)
    (run_dir / "run.json").write_text('{"schema": 1', encoding="utf-8")
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        Run.open(run_dir)
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        start(run_dir)


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "interrupted"), (EngineError("no answer"), "failed")]
)
def test_an_exception_is_recorded(run_dir: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), start(run_dir):
        raise error
    run = Run.open(run_dir)
    assert run.status == status
    assert run.record.get("error", "no answer") == "no answer"
    with start(run_dir) as again:
        assert again.resumed
        assert Run.open(run_dir).status == "running"
        again.finish()
    assert "error" not in Run.open(run_dir).record


def test_leaving_without_finishing_is_a_failure(run_dir: Path) -> None:
    with start(run_dir):
        pass
    assert Run.open(run_dir).status == "failed"


def test_one_writer(run_dir: Path) -> None:
    with start(run_dir):
        with pytest.raises(RunError, match="another process"):
            start(run_dir)
        # an attempt that was refused leaves the lock where it was
        with pytest.raises(RunError, match="another process"):
            start(run_dir)
    with start(run_dir) as run:
        run.finish()


def test_a_killed_process_is_recognised(run_dir: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from alignloop.runs import Run\n"
        f"run = Run.create(sys.argv[1], stage='sft', config={CONFIG!r}, seed=3)\n"
        "run.log(1, loss=1.0)\n"
        "run.log(2, loss=0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run_dir)], check=False, env=environment())
    assert done.returncode == -signal.SIGKILL
    with open(run_dir / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 3, "lo')  # what a kill in the middle of a write leaves
    (run_dir / ".run.json-abc.tmp").write_text("{", encoding="utf-8")
    (run_dir / "rounds" / "1" / ".model-abc.tmp").mkdir(parents=True)
    (run_dir / "rounds" / "1" / ".model-abc.tmp" / "model.safetensors").touch()
    assert json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["status"] == "running"
    assert Run.open(run_dir).status == "interrupted"
    assert [row["step"] for row in Run.open(run_dir).metrics()] == [1, 2]
    with start(run_dir) as run:
        assert run.resumed
        run.rewind(1)
        assert [row["step"] for row in run.metrics()] == [1]
        run.log(2, loss=0.25)
        run.finish()
    assert [row.get("loss") for row in Run.open(run_dir).metrics()] == [1.0, 0.25]
    assert not list(run_dir.rglob(".*.tmp"))


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": root}


def test_process_identity() -> None:
    assert is_alive(os.getpid(), process_start(os.getpid()))
    assert not is_alive(os.getpid(), "another start time")
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        started = process_start(child.pid)
        child.wait()
    assert not is_alive(child.pid, started)


def test_time_goes_on_after_a_restart(run_dir: Path) -> None:
    with start(run_dir) as run:
        run.log(1, loss=1.0)
        run.interrupt()
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    row = {**json.loads(lines), "time_s": 100.0}
    (run_dir / "metrics.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with start(run_dir) as run:
        run.rewind(1)
        run.log(2, loss=1.0)
        run.finish()
    assert 100 <= list(run.metrics())[1]["time_s"] < 130
    assert 100 <= run.record["duration_s"] < 130


def test_rewinding_does_not_forget_the_time_before_it(run_dir: Path) -> None:
    with start(run_dir) as run:
        time.sleep(0.2)
        run.rewind(-1)  # as a stage does before it writes its samples, resumed or not
        run.finish()
    assert run.record["duration_s"] >= 0.2


def test_a_stage_taken_up_that_does_not_say_where_it_goes_on_starts_its_rows_anew(run_dir: Path) -> None:
    with start(run_dir) as run:
        run.log(1, loss=1.0)
        run.sample(step=0, completion="one")
        run.sample(completion="a row without a step")
        run.interrupt()
    with start(run_dir) as run:
        run.sample(step=0, completion="one")
        run.log(1, loss=1.0)
        run.log(2, loss=0.5)
        run.finish()
    assert [row["completion"] for row in run.samples()] == ["one"]
    assert [row["loss"] for row in run.metrics()] == [1.0, 0.5]


def test_cut_lines(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert cut_lines(file) == 0
    file.write_bytes(b'{"step": 1}\n{"note": "no step"}\nbroken\n{"step": 2}\n{"step": 3}\n{"ste')
    assert cut_lines(file, after_step=2) == 3  # the broken line, step 3, the torn end
    assert file.read_text(encoding="utf-8") == '{"step": 1}\n{"note": "no step"}\n{"step": 2}\n'
    assert cut_lines(file, after_step=2) == 0


# Fingerprints and lineage


def test_paths_count_by_content(tmp_path: Path) -> None:
    rows = {}
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rows.jsonl").write_text("{}\n", encoding="utf-8")
        path = str(folder / "rows.jsonl")
        inputs, parents = find_inputs({"dataset": f"{path}#5"})
        assert parents == []
        rows[name] = work_sha256("sft", {"dataset": f"{path}#5", "output_dir": name}, inputs, parents)
    assert rows["a"] == rows["b"]
    path = str(tmp_path / "a" / "rows.jsonl")
    inputs, _ = find_inputs({"dataset": path})
    assert work_sha256("sft", {"dataset": path}, inputs, []) != rows["a"]  # all rows, not five
    (tmp_path / "a" / "rows.jsonl").write_text("[]\n", encoding="utf-8")
    changed, _ = find_inputs({"dataset": path})
    assert changed["dataset"].sha256 != inputs["dataset"].sha256
    assert fingerprint("w", "code") != fingerprint("w", "other code")


def test_a_pattern_counts_by_the_files_that_it_fits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(name, encoding="utf-8")
    pattern = f"{tmp_path}/*.jsonl"
    first, _ = find_inputs({"dataset": f"{pattern}#5"})
    assert first["dataset"].path == pattern
    (tmp_path / "b.jsonl").write_text("c", encoding="utf-8")
    second, _ = find_inputs({"dataset": pattern})
    (tmp_path / "d.jsonl").write_text("", encoding="utf-8")
    third, _ = find_inputs({"dataset": pattern})
    assert len({found["dataset"].sha256 for found in (first, second, third)}) == 3
    assert find_inputs({"dataset": f"{tmp_path}/*.csv"}) == ({}, [])


def test_folders_and_names(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "w.safetensors").write_bytes(b"1")
    before = content_sha256(model)
    (model / ".cache").write_bytes(b"1")
    assert content_sha256(model) == before
    (model / "w.safetensors").rename(model / "sub" / "w.safetensors")
    assert content_sha256(model) != before
    inputs, parents = find_inputs({"a": "owner/name", "b": "", "c": "x" * 5000, "d": "a\0b", "e": str(model)})
    assert list(inputs) == ["e"]
    assert parents == []
    odd = tmp_path / "rows#5"
    odd.write_text("", encoding="utf-8")
    assert split_rows(str(odd)) == (str(odd), "")
    assert split_rows("rows.jsonl#12") == ("rows.jsonl", "#12")


def test_lineage(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n", encoding="utf-8")
    inputs, _ = find_inputs({"dataset": str(rows)})
    sft = finished(tmp_path / "sft", inputs=inputs)
    found, parents = find_inputs({"model_name_or_path": str(tmp_path / "sft")})
    assert found == {}
    dpo = finished(tmp_path / "dpo", stage="dpo", parents=parents)
    tree = lineage(dpo)
    assert (tree["stage"], tree["parents"][0]["stage"]) == ("dpo", "sft")
    assert tree["parents"][0]["fingerprint"] == sft.fingerprint
    assert tree["parents"][0]["inputs"]["dataset"]["sha256"] == inputs["dataset"].sha256
    assert "changed" not in tree["parents"][0]

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("sft", "dpo"):
        (tmp_path / name).rename(moved / name)
    assert lineage(moved / "dpo")["parents"][0]["path"] == str(moved / "sft")
    (moved / "sft").rename(moved / "gone")
    assert lineage(moved / "dpo")["parents"][0]["missing"] is True
    finished(moved / "sft", config={"other": 1})
    assert lineage(moved / "dpo")["parents"][0]["changed"] is True


def test_a_checkpoint_inside_a_run(tmp_path: Path) -> None:
    with start(tmp_path / "sft") as run:
        (run.path / "checkpoints" / "step-1").mkdir(parents=True)
        (run.path / "checkpoints" / "step-1" / "w").write_bytes(b"1")
        run.interrupt()
    inputs, parents = find_inputs({"m": str(tmp_path / "sft" / "checkpoints" / "step-1")})
    assert list(inputs) == ["m"]
    assert [parent.stage for parent in parents] == ["sft"]
    with pytest.raises(RunError, match="this run is interrupted, not finished"):
        find_inputs({"m": str(tmp_path / "sft")})


def test_find_runs(tmp_path: Path) -> None:
    for name in ("b", "a", "loop/sft", "loop/old/sft-1"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        finished(tmp_path / name)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{", encoding="utf-8")
    names = [run.path.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path)]
    assert names == ["a", "b", "loop/sft", "loop/old/sft-1"]
    with pytest.raises(RunError, match="no such folder"):
        list(find_runs(tmp_path / "none"))


def test_another_rank_than_the_first_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(tmp_path / "run") as run:
        run.log(1, loss=2.0)
        files = sorted(path.name for path in run.path.iterdir())
        text = (run.path / "run.json").read_text()
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with start(tmp_path / "run") as follower:  # the folder is locked by the first rank
            follower.rewind(0)
            follower.log(1, loss=3.0)
            follower.sample(step=1)
            follower.warn("careful")
            follower.track(("wandb",))
            assert [row["loss"] for row in follower.metrics()] == [2.0]
            follower.finish({"loss": 3.0})
        assert sorted(path.name for path in run.path.iterdir()) == files
        assert (run.path / "run.json").read_text() == text
        run.finish()


def test_chat_templates_tell_the_day_on_which_the_run_was_made(tmp_path: Path) -> None:
    run = start(tmp_path / "r")
    made = run.record["created"]
    run.interrupt()
    run.close()
    record = json.loads((tmp_path / "r" / "run.json").read_text(encoding="utf-8"))
    record["created"] = f"2031-05-17{made[10:]}"
    (tmp_path / "r" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with start(tmp_path / "r") as run:
        assert run.resumed
        assert today() == "2031-05-17"
        with start(tmp_path / "part"):  # a run within a run
            assert today() == "2031-05-17"
        run.finish()
    assert today() != "2031-05-17"
