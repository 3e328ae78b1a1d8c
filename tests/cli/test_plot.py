from pathlib import Path
from xml.etree import ElementTree

from typer.testing import CliRunner

from alignloop.cli.report import plot_app as app
from alignloop.errors import UserError
from tests.report.fake_runs import curve, make_run

SVG = "{http://www.w3.org/2000/svg}"


def test_runs_share_one_picture(tmp_path: Path) -> None:
    runs = [str(make_run(tmp_path / name, stage="dpo", metrics=curve(9))) for name in ("첫째", "b<c")]
    target = tmp_path / "kl.svg"
    assert CliRunner().invoke(app, [*runs, "-m", "kl", "-o", str(target)]).output.strip() == str(target)
    root = ElementTree.fromstring(target.read_text(encoding="utf-8"))
    labels = [list(text.itertext()) for text in root.iter(f"{SVG}text") if text.get("class") == "label"]
    assert labels == [["첫째", "첫째"], ["b<c", "b<c"]]  # the whole name as its tooltip
    assert len([p for p in root.iter(f"{SVG}path") if p.get("data-name")]) == 2


def test_one_run_writes_into_its_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", stage="dpo", metrics=curve(9))
    assert CliRunner().invoke(app, [str(run)]).output.strip() == str(run / "loss.svg")


def test_an_unknown_metric_lists_those_there_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", stage="dpo", metrics=[{"step": 1, "loss": 1.0, "kl": 0.1}])
    result = CliRunner().invoke(app, [str(run), "-m", "kll"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == "no run has a metric 'kll'; there are: kl, loss"
    seven = CliRunner().invoke(app, [str(run)] * 7)
    assert isinstance(seven.exception, UserError)
