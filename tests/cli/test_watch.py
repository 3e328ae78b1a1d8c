import threading
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from alignloop.cli import watch as watching
from alignloop.cli.watch import app, picture, shown
from alignloop.errors import RunError
from alignloop.report.folder import RunFolder, read_run
from alignloop.runs import Run
from tests.report.fake_runs import comparisons, curve, make_run, write_json


def test_once_shows_curves_and_the_latest_completion(tmp_path: Path) -> None:
    run = make_run(tmp_path / "실험", stage="dpo", metrics=curve(40), samples=comparisons(3))
    output = CliRunner().invoke(app, [str(run), "--once"]).output
    assert output.startswith("실험  dpo  finished  step 40")
    for line in (
        "Loss, held out",
        "Log-probability, rejected",
        "Memory",
        "Completion  한국의 가을은",
    ):
        assert line in output, line


def test_a_damaged_run_is_shown_with_what_is_wrong(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", stage="dpo", metrics=curve(5))
    (run / "run.json").write_text("{", encoding="utf-8")
    output = CliRunner().invoke(app, [str(run), "--once"]).output
    assert "Warning: run.json is not a JSON object" in output
    assert "Loss" in output


def test_texts_of_a_run_are_not_markup(tmp_path: Path) -> None:
    samples = [{"prompt": "[red]x[/red]", "completion": "\x1b[2Jgone", "step": 1}]
    run = make_run(tmp_path / "r", stage="[bold]", status="failed", error="[link]", samples=samples)
    console = Console(width=100, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    console.print(picture(read_run(run)))
    text = console.export_text()
    for literal in ("[red]x[/red]", "␛[2Jgone", "[bold]", "Error: [link]"):
        assert literal in text


def test_watching_ends_with_the_run(tmp_path: Path, monkeypatch) -> None:
    run = make_run(tmp_path / "r", stage="sft", status="running", metrics=curve(2))
    monkeypatch.setattr(Console, "is_terminal", True)

    def finish() -> None:
        time.sleep(0.4)
        write_json(run / "run.json", {"stage": "sft", "status": "finished"})

    ending = threading.Thread(target=finish)
    ending.start()
    started = time.monotonic()
    result = CliRunner().invoke(app, [str(run), "--interval", "0.1"])
    ending.join()
    assert result.exit_code == 0
    assert 0.3 < time.monotonic() - started < 5


def pipeline(folder: Path) -> Path:
    folder.mkdir()
    stages = [{"name": name, "stage": "sft", "path": name} for name in ("first", "second")]
    write_json(folder / "pipeline.json", {"stages": stages})
    return folder


def test_of_a_pipeline_the_stage_that_runs_is_shown(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "loop")
    with pytest.raises(RunError, match="no stage of this pipeline was started yet"):
        shown(folder)
    with Run.create(folder / "second", stage="sft", config={}, seed=0) as running:
        with Run.create(folder / "first", stage="sft", config={}, seed=0) as done:
            done.finish({})
        assert shown(folder) == folder / "second"
        assert CliRunner().invoke(app, [str(folder), "--once"]).output.startswith("second  sft  running")
        running.finish({})
    assert shown(folder) == folder / "first"  # started last


def test_watching_a_pipeline_waits_for_the_next_stage(tmp_path: Path, monkeypatch) -> None:
    folder = pipeline(tmp_path / "loop")
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setattr(watching, "BETWEEN_STAGES_S", 3.0)
    seen: list[tuple[str, str]] = []

    def noted(run: RunFolder) -> str:
        seen.append((run.name, run.status))
        return ""

    monkeypatch.setattr(watching, "picture", noted)
    first = Run.create(folder / "first", stage="sft", config={}, seed=0)

    def go_on() -> None:
        time.sleep(0.3)
        first.finish({})
        time.sleep(0.3)
        with Run.create(folder / "second", stage="sft", config={}, seed=0) as second:
            second.finish({})

    going = threading.Thread(target=go_on)
    going.start()
    result = CliRunner().invoke(app, [str(folder), "--interval", "0.1"])
    going.join()
    assert result.exit_code == 0
    assert seen[0] == ("first", "running")
    assert seen[-1] == ("second", "finished")
