"""Pipelines: what is used again, what runs, and that any kill followed by the same command ends the same."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import alignloop.pipeline as pipeline
from alignloop.config import RecipePlan, make_plan, parse_overrides, parse_recipe
from alignloop.errors import EngineError, RunError
from alignloop.pipeline import run_plan
from alignloop.runs import Run, lineage
from alignloop.training.checkpoint import save_checkpoint
from tests.toy_stages import TOYS

ROOT = Path(__file__).resolve().parent.parent
RECIPE = """output_dir: {out}
dataset: {rows}
stages:
  - stage: count
    name: first
  - stage: count
    name: second
    model_name_or_path: "@first"
    steps: 6
  - stage: count
    name: third
    model_name_or_path: "@second"
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "하나"}\n', encoding="utf-8")
    return file


def make(rows: Path, *words: str, out: str = "out") -> RecipePlan:
    text = RECIPE.format(out=rows.parent / out, rows=rows)
    return make_plan(parse_recipe(text, file="toy.yaml"), parse_overrides(words), stages=TOYS)


def run(plan: RecipePlan, **more: object) -> tuple[list[str], list[str]]:
    """(status of each stage, what was said)."""
    said: list[str] = []
    outcomes = run_plan(plan, say=said.append, **more)  # pyright: ignore
    return [outcome.status for outcome in outcomes], said


def content(folder: Path) -> dict[str, object]:
    """Everything of a run that must not depend on how often it was stopped."""
    found = Run.open(folder)
    metrics = [{k: v for k, v in row.items() if k != "time_s"} for row in found.metrics()]
    return {
        "metrics": metrics,
        "samples": list(found.samples()),
        "results": found.record["results"],
        "fingerprint": found.fingerprint,
        "model": (folder / "model" / "value.txt").read_bytes(),
    }


def test_a_second_run_uses_everything_again(rows: Path) -> None:
    assert run(make(rows))[0] == ["finished"] * 3
    before = {p: p.stat().st_mtime_ns for p in (rows.parent / "out").glob("*/*") if p.is_file()}
    statuses, said = run(make(rows))
    assert statuses == ["reused"] * 3
    assert said[0].startswith("stage 'first' (1 of 3): reused")
    assert before == {p: p.stat().st_mtime_ns for p in (rows.parent / "out").glob("*/*") if p.is_file()}


def test_a_change_runs_what_depends_on_it(rows: Path) -> None:
    run(make(rows))
    earlier = content(rows.parent / "out" / "second")
    statuses, said = run(make(rows, "second.steps=7"))
    assert statuses == ["reused", "finished", "finished"]
    assert "runs again (steps: 6 -> 7); the earlier run is kept in" in said[1]
    assert content(rows.parent / "out" / "old" / "second-1") == earlier
    rows.write_text('{"text": "둘"}\n', encoding="utf-8")
    statuses, said = run(make(rows, "second.steps=7"))
    assert statuses == ["finished"] * 3
    assert re.search(r"dataset: the content of \S+ has changed", said[0])
    assert (rows.parent / "out" / "old" / "second-2").is_dir()


def test_changed_code_runs_again(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(make(rows))
    monkeypatch.setattr("alignloop.pipeline.code_of", lambda *_: "other")
    statuses, said = run(make(rows))
    assert statuses == ["finished"] * 3
    assert "the code has changed" in said[0]


def test_the_folder_can_be_moved(rows: Path) -> None:
    run(make(rows))
    (rows.parent / "out").rename(rows.parent / "moved")
    assert run(make(rows, out="moved"))[0] == ["reused"] * 3


def test_never_runs_all_anew(rows: Path) -> None:
    run(make(rows))
    assert run(make(rows), resume="never")[0] == ["finished"] * 3
    assert (rows.parent / "out" / "old" / "first-1").is_dir()


def test_a_failure_stops_and_says_how_to_go_on(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make(rows, "second.fail_at=3")
    with pytest.raises(EngineError) as caught:
        run(plan)
    assert caught.value.__notes__ == [
        "stage 'second' (2 of 3) failed; the stages before it are done and kept. "
        "The same command goes on from here."
    ]
    assert Run.open(rows.parent / "out" / "second").status == "failed"
    assert not (rows.parent / "out" / "third").exists()
    monkeypatch.setenv("TOY_HEALTHY", "1")
    statuses, said = run(plan)
    assert statuses == ["reused", "finished", "finished"]
    assert "stage 'second' (2 of 3): goes on" in said[1]
    assert [row["step"] for row in Run.open(rows.parent / "out" / "second").metrics()] == [1, 2, 3, 4, 5, 6]


def test_interrupted(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: object, run: Run) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr("tests.toy_stages.count", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(make(rows))
    assert "was interrupted" in caught.value.__notes__[0]
    assert Run.open(rows.parent / "out" / "first").status == "interrupted"


def test_a_folder_that_is_no_pipeline(rows: Path) -> None:
    (rows.parent / "out").mkdir()
    (rows.parent / "out" / "thesis.txt").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match=r"holds other files \(thesis\.txt\), not a pipeline"):
        run(make(rows))


def test_pipeline_file_and_lineage(rows: Path) -> None:
    run(make(rows))
    record = json.loads((rows.parent / "out" / "pipeline.json").read_text(encoding="utf-8"))
    assert [stage["path"] for stage in record["stages"]] == ["first", "second", "third"]
    recipe = parse_recipe(record["recipe"], file="again.yaml")
    assert make_plan(recipe, stages=TOYS).output_dir == rows.parent / "out"
    tree = lineage(rows.parent / "out" / "third")
    first = tree["parents"][0]["parents"][0]
    assert first["name"] == "first"
    assert first["inputs"]["dataset"]["path"] == str(rows)


def test_the_recorded_recipe_runs_the_same_stages(rows: Path) -> None:
    run(make(rows))
    record = json.loads((rows.parent / "out" / "pipeline.json").read_text(encoding="utf-8"))
    plan = make_plan(parse_recipe(record["recipe"], file="again.yaml"), stages=TOYS)
    assert run(plan)[0] == ["reused"] * 3


def single(rows: Path, *words: str, stage: str = "count") -> RecipePlan:
    given = parse_overrides([f"dataset={rows}", f"output_dir={rows.parent / 'one'}", *words])
    return make_plan(parse_recipe(f"stage: {stage}", file="one.yaml"), given, stages=TOYS)


def test_a_single_stage(rows: Path) -> None:
    assert run(single(rows))[0] == ["finished"]
    assert run(single(rows))[0] == ["reused"]
    with pytest.raises(RunError, match=r"belongs to another run .steps: 5 -> 6"):
        run(single(rows, "steps=6"))
    assert run(single(rows, "steps=6"), resume="never")[0] == ["finished"]
    assert Run.open(rows.parent / "one-old-1").record["results"]["steps"] == 5


def test_an_objective_is_handed_over(rows: Path) -> None:
    outcome = run_plan(single(rows, "beta=0.3", stage="objective"), say=lambda text: None)[0]
    assert outcome.results == {"objective": "DPO", "beta": 0.3}


def test_a_checkpoint_by_path(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: object, run: Run) -> dict:
        for step in (1, 2, 3):
            save_checkpoint(
                run.checkpoints, step=step, modules={}, optimizers={}, state={"origin": run.origin}, keep=3
            )
        raise KeyboardInterrupt

    def look(config: object, run: Run) -> dict:
        return {"found": sorted(p.name for p in run.checkpoints.iterdir())}

    checkpoint = rows.parent / "one" / "checkpoints" / "step-00000002"
    with pytest.raises(RunError, match="expected a checkpoint folder"):
        run(single(rows), resume=checkpoint)
    monkeypatch.setattr("tests.toy_stages.count", stop)
    with pytest.raises(KeyboardInterrupt):
        run(single(rows))
    with pytest.raises(RunError, match="for a recipe of one stage"):
        run(make(rows), resume=checkpoint)
    monkeypatch.setattr("tests.toy_stages.count", look)
    other = single(rows, f"output_dir={rows.parent / 'two'}")
    (copied,) = run_plan(other, resume=checkpoint, say=lambda text: None)
    assert copied.results == {"found": ["step-00000002"]}
    (outcome,) = run_plan(single(rows), resume=checkpoint, say=lambda text: None)
    assert outcome.results == {"found": ["step-00000001", "step-00000002"]}
    assert (rows.parent / "one" / "checkpoints-unused" / "step-00000003").is_dir()
    with pytest.raises(RunError, match="is finished, there is nothing to go on with"):
        run(single(rows), resume=checkpoint)


# kill -9


SCRIPT = """
import os, signal, sys
from alignloop.config import make_plan, parse_overrides, read_recipe
from alignloop.pipeline import run_plan
from tests.toy_stages import TOYS

deadly = os.environ.get("DIE_WHEN_SAID", "nothing like this is said")

def say(text):
    if deadly in text:
        os.kill(os.getpid(), signal.SIGKILL)

run_plan(make_plan(read_recipe(sys.argv[1]), parse_overrides(sys.argv[2:]), stages=TOYS), say=say)
"""


def command(recipe: Path, *words: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(recipe), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.fixture
def recipe(rows: Path) -> Path:
    file = rows.parent / "toy.yaml"
    file.write_text(RECIPE.format(out=rows.parent / "out", rows=rows), encoding="utf-8")
    return file


def contents(folder: Path) -> dict[str, object]:
    return {name: content(folder / name) for name in ("first", "second", "third")}


def test_killed_at_chosen_moments(rows: Path, recipe: Path) -> None:
    """Before the first step of a stage, around a checkpoint, between stages: the end is the same."""
    run(make(rows, out="whole"))
    moments = (
        {"DIE_WHEN_SAID": "stage 'first' (1 of 3): starts"},
        {"TOY_KILL": "first:5:after"},  # all steps done, not finished
        {"DIE_WHEN_SAID": "stage 'second' (2 of 3): starts"},
        {"DIE_WHEN_SAID": "stage 'first' (1 of 3): reused"},  # between the stages
        {"TOY_KILL": "second:4:before"},  # logged, not in the checkpoint
        {"DIE_WHEN_SAID": "stage 'third' (3 of 3): starts"},
    )
    for moment in moments:
        assert command(recipe, **moment).wait(60) == -signal.SIGKILL, moment
    assert command(recipe).wait(60) == 0
    assert contents(rows.parent / "out") == contents(rows.parent / "whole")
    assert not (rows.parent / "out" / "old").exists()


def test_killed_at_random_moments(rows: Path, recipe: Path) -> None:
    words = ("pause_s=0.03", "second.steps=9")
    run(make(rows, *words, out="whole"))
    generator = random.Random(7)

    def num_lines() -> int:
        files = (rows.parent / "out").glob("*/metrics.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files)

    for _ in range(4):
        process = command(recipe, *words)
        goal, before = num_lines() + generator.randint(2, 5), num_lines()
        while process.poll() is None and not before < num_lines() >= goal:
            time.sleep(0.001)
            before = min(before, num_lines())  # a resumed stage first cuts what it will write again
        time.sleep(0.03 * generator.random())
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert command(recipe, *words).wait(60) == 0
    assert contents(rows.parent / "out") == contents(rows.parent / "whole")


def test_two_processes_at_once(rows: Path, recipe: Path) -> None:
    process = command(recipe, "pause_s=5")
    try:
        folder = rows.parent / "out" / "first"
        deadline = time.monotonic() + 30
        while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        for words in (("pause_s=5",), ("pause_s=5", "seed=9")):
            with pytest.raises(RunError, match="being written by another process"):
                run(make(rows, *words))
        assert Run.open(folder).status == "running"
    finally:
        process.kill()
        process.wait()
    assert Run.open(folder).status == "interrupted"


def test_load_function() -> None:
    assert pipeline.load_function("alignloop.pipeline:run_plan") is run_plan
