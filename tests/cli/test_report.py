import json
from pathlib import Path

from typer.testing import CliRunner

from alignloop.cli.report import app
from alignloop.errors import RunError
from tests.report.fake_runs import curve, make_run


def test_html_goes_into_the_folder_and_its_path_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "실험", stage="sft", metrics=curve(3))
    result = CliRunner().invoke(app, [str(run)])
    assert result.exit_code == 0
    assert result.output.strip() == str(run / "report.html")
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_json_and_markdown_go_to_standard_output(tmp_path: Path) -> None:
    run = make_run(tmp_path / "실험", stage="sft", metrics=curve(3))
    assert json.loads(CliRunner().invoke(app, [str(run), "--format", "json"]).output)["title"] == "실험"
    assert CliRunner().invoke(app, [str(run), "--format", "md"]).output.startswith("# 실험\n")
    assert not (run / "report.md").exists()


def test_output_names_a_file_or_standard_output(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", stage="sft")
    target = tmp_path / "out.md"
    assert CliRunner().invoke(app, [str(run), "--format", "md", "-o", str(target)]).exit_code == 0
    assert target.read_text(encoding="utf-8").startswith("# r\n")
    assert CliRunner().invoke(app, [str(run), "-o", "-"]).output.startswith("<!DOCTYPE html>")


def test_a_folder_that_is_no_run_is_a_users_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert isinstance(result.exception, RunError)
    assert CliRunner().invoke(app, [str(tmp_path), "--format", "pdf"]).exit_code == 2
