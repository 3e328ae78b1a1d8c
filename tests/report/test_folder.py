from pathlib import Path

import pytest

from alignloop.errors import RunError
from alignloop.report.folder import read_pipeline, read_run
from tests.report.fake_runs import make_pipeline, make_run, write_json


def test_a_whole_run(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "가", stage="sft", metrics=[{"step": 1, "loss": 2.0}]))
    assert (run.name, run.stage, run.status, run.problems) == ("가", "sft", "finished", ())
    assert run.metrics == ({"step": 1, "loss": 2.0},)


def test_broken_files_are_noted_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"stage": "dpo", "sta', encoding="utf-8")
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": NaN}\n[1]\n{"step": 2\n\xff\xfe\n')
    run = read_run(tmp_path)
    assert len(run.metrics) == 1
    assert run.problems == (
        "run.json is not a JSON object",
        "recipe.yaml is missing",
        "metrics.jsonl: 3 lines could not be read",
    )


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(RunError, match="neither run"):
        read_run(tmp_path)
    with pytest.raises(RunError, match="is missing"):
        read_pipeline(tmp_path)
    write_json(tmp_path / "pipeline.json", {"stages": [{"name": "sft", "path": "sft"}]})
    with pytest.raises(RunError, match="names no stage that was run"):
        read_pipeline(tmp_path)


def test_stages_come_in_the_recipes_order_and_missing_ones_are_noted(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p", num_steps=2, num_samples=1)
    (folder / "stages/ppo").rename(folder / "stages/elsewhere")
    pipeline = read_pipeline(folder)
    assert [run.name for run in pipeline.runs][-3:] == ["kto", "grpo", "evaluate"]
    assert pipeline.problems == ("stage 'ppo' has no run folder yet (stages/ppo)",)
