"""--new and --overwrite: what happens to a folder in which something else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.cli.running import numbered
from alignloop.runs import Run
from tests.toy_stages import TOYS


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alignloop.config.plan.find_stage", lambda name, stages: TOYS[name])
    Path("rows.jsonl").write_text("{}\n", encoding="utf-8")
    Path("toy.yaml").write_text("stage: count\ndataset: rows.jsonl\n", encoding="utf-8")
    return lambda *words: CliRunner().invoke(app, ["run", *words])


def steps(folder: str) -> int:
    return Run.open(folder).record["results"]["steps"]


def test_a_refusal_names_both_ways_out(invoke) -> None:
    assert invoke("toy.yaml", "steps=3").exit_code == 0
    done = invoke("toy.yaml", "steps=4")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-2:] == [
        "error: runs/toy belongs to another run (steps: 3 -> 4); put the old value back, choose another "
        "output_dir, or keep the earlier run aside with --resume never",
        "  --new writes runs/toy-2 and keeps both; --overwrite deletes the run in runs/toy first.",
    ]
    assert steps("runs/toy") == 3


def test_new_takes_the_next_free_number(invoke) -> None:
    for number, folder in enumerate(("runs/toy", "runs/toy-2", "runs/toy-3"), 1):
        assert invoke("toy.yaml", f"steps={number}", "--new").exit_code == 0
        assert steps(folder) == number
    Path("runs/empty").mkdir()
    assert numbered(Path("runs/empty")) == Path("runs/empty")


def test_overwrite_replaces_a_run_and_reuses_the_same_one(invoke) -> None:
    invoke("toy.yaml", "steps=3")
    done = invoke("toy.yaml", "steps=4", "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert "runs again (steps: 3 -> 4); the earlier run is deleted" in done.stderr
    assert steps("runs/toy") == 4
    assert [path.name for path in Path("runs").iterdir()] == ["toy"]
    assert "reused" in invoke("toy.yaml", "steps=4", "--overwrite").stderr


def test_overwrite_deletes_no_folder_that_is_no_run(invoke) -> None:
    thesis = Path("runs/toy/thesis.tex")
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work", encoding="utf-8")
    done = invoke("toy.yaml", "--overwrite")
    assert done.exit_code == 2
    assert "--overwrite deletes runs only, and this folder is none." in done.stderr
    assert thesis.read_text(encoding="utf-8") == "years of work"


def test_overwrite_deletes_no_run_that_holds_files_of_a_person(invoke) -> None:
    invoke("toy.yaml", "steps=3")
    Path("runs/toy/notes.txt").write_text("mine", encoding="utf-8")
    done = invoke("toy.yaml", "steps=4", "--overwrite")
    assert done.exit_code == 2
    assert "runs/toy: holds files that no run writes (notes.txt)" in done.stderr
    assert steps("runs/toy") == 3


def test_overwrite_deletes_no_run_that_another_process_writes(invoke) -> None:
    with Run.create("runs/toy", stage="count", config={"seed": 1}, seed=1) as run:
        done = invoke("toy.yaml", "steps=4", "--overwrite")
        assert done.exit_code == 2
        assert "runs/toy is being written by another process" in done.stderr
        run.finish({"kept": 1})
    assert Run.open("runs/toy").record["results"] == {"kept": 1}


def test_overwrite_deletes_nothing_that_the_new_run_reads_or_another_was_made_from(invoke) -> None:
    invoke("toy.yaml", "steps=3")
    done = invoke("toy.yaml", "model_name_or_path=runs/toy/model", "--overwrite")
    assert done.exit_code == 2
    assert "--overwrite would delete runs/toy/model, which is this run's model_name_or_path" in done.stderr
    invoke("toy.yaml", "model_name_or_path=runs/toy", "output_dir=runs/child")
    done = invoke("toy.yaml", "steps=4", "--overwrite")
    assert done.exit_code == 2
    assert "runs/child was made from it; --new keeps both" in done.stderr
    assert steps("runs/toy") == 3


def test_a_pipeline_deletes_what_it_would_have_moved_aside(invoke) -> None:
    recipe = {
        "output_dir": "runs/loop",
        "dataset": "rows.jsonl",
        "stages": [
            {"stage": "count", "name": "one", "steps": 2},
            {"stage": "count", "name": "two", "model_name_or_path": "@one"},
        ],
    }
    Path("loop.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert invoke("loop.yaml").exit_code == 0
    done = invoke("loop.yaml", "one.steps=3", "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert steps("runs/loop/one") == 3
    assert not Path("runs/loop/old").exists()
    assert invoke("loop.yaml", "--new").exit_code == 0
    assert steps("runs/loop-2/one") == 2


def test_both_at_once_are_refused(invoke) -> None:
    done = invoke("toy.yaml", "--new", "--overwrite")
    assert done.exit_code == 2
    assert "give one of them" in done.stderr
    assert not Path("runs").exists()
