"""The page of a full loop: times, memory, and the comparison's table with the models as rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import full_loop, gguf_check
from tests.report.fake_runs import make_pipeline, make_run, write_json, write_lines


def test_cpu_time_of_a_stage_is_its_share_of_the_polls() -> None:
    points = [(0.0, 0.0), (10.0, 5.0), (20.0, 15.0), (30.0, 0.0), (40.0, 8.0)]  # a new process at 30
    assert full_loop.cpu_seconds(points, 0, 20) == 15
    assert full_loop.cpu_seconds(points, 5, 12) == pytest.approx(2.5 + 2)
    assert full_loop.cpu_seconds(points, 15, 40) == pytest.approx(5 + 8)


def test_page(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "loop", num_steps=3, num_samples=1)
    cell = {"value": 0.25, "interval": [0.2, 0.3]}
    better = {"value": 0.5, "interval": [0.4, 0.6], "verdict": "better"}
    metric = {
        "name": "instructions", "unit": "share", "higher_is_better": True, "num_prompts": 40,
        "models": {"start": cell, "dpo": better},
    }  # fmt: skip
    results = {"models": ["start", "dpo"], "baseline": "start", "comparison": [metric]}
    name = "stages/compare"
    make_run(folder / name, stage="compare", results=results, duration_s=60.0, peak_memory_gb=2.5)
    record = {"schema": 1, "recipe": "", "stages": [{"name": "compare", "stage": "compare", "path": name}]}
    write_json(folder / "pipeline.json", record)
    text = full_loop.page(folder, "full-loop")
    assert "| start (baseline) | 25.0 % [20.0 to 30.0] |" in text
    assert "| dpo | 50.0 % [40.0 to 60.0] better |" in text
    assert "| all | 1 min | – | 2.5 GB |" in text
    write_lines(full_loop.cpu_file(folder), [{"t": 0.0, "cpu": 0.0}, {"t": 1.0, "cpu": 1.0}])
    assert "| – |" not in full_loop.page(folder, "full-loop")


def test_a_gguf_file_answers_as_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    gguf_check.main(["--model", "tiny", "--tokens", "6", "--storages", "f32"])
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| f32 | ")
    assert "| 5 of 5 |" in row
