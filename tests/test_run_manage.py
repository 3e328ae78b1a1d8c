"""Tags, deletion and trackers of run folders, and the commands over them."""

import json
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.config import resolve
from alignloop.errors import RunError, UserError
from alignloop.runs import Run, children, config_sha256, delete_run, find_inputs, set_tags, tags


def make(path, *, parents=(), status="finished", loss=1.0, **config):
    _, links = find_inputs({f"parent{i}": str(parent) for i, parent in enumerate(parents)})
    keys = {"stage": "sft", "output_dir": str(path), "learning_rate": 1e-5, **config}
    with Run.create(path, stage="sft", config=keys, seed=0, parents=links) as run:
        run.log(1, loss=loss)
        run.finish({"loss": loss, "nested": {"kl": 2 * loss}}) if status == "finished" else run.fail("no")
    return path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """sft ← dpo, and a lone run."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    make(root / "sft")
    make(root / "dpo", parents=[root / "sft"], loss=0.5, learning_rate=1e-6)
    make(root / "혼자", loss=2.0)
    return root


def test_tags_are_kept_sorted_and_can_be_listed_by(runs):
    assert set_tags(runs / "sft", add=["좋음", "v1.0"]) == ["v1.0", "좋음"]
    assert set_tags(runs / "sft", add=["a"], remove=["v1.0", "never"]) == ["a", "좋음"]
    assert tags(runs / "dpo") == []
    with pytest.raises(RunError, match="letters, digits"):
        set_tags(runs / "sft", add=["no spaces"])
    with pytest.raises(RunError, match="no run here"):
        set_tags(runs, add=["a"])
    (runs / "dpo" / "tags.json").write_text("{", encoding="utf-8")
    assert tags(runs / "dpo") == []
    listed = call("runs", "list", "--tag", "좋음").stdout
    assert "sft" in listed
    assert "#좋음" in listed
    assert "dpo" not in listed
    assert call("runs", "tag", runs / "sft", "-r", "a").stdout == "좋음\n"


def test_a_parent_is_deleted_only_by_name(runs):
    assert [run.path.name for run in children(runs / "sft", [runs])] == ["dpo"]
    with pytest.raises(RunError, match=r"runs/dpo was made from it; .* --force sft"):
        delete_run(runs / "sft", roots=[runs])
    with pytest.raises(RunError, match="was made from it"):
        delete_run(runs / "sft", roots=[runs], force=["dpo"])
    delete_run(runs / "sft", roots=[runs], force=["sft"])
    assert not (runs / "sft").exists()
    assert sorted(p.name for p in runs.iterdir()) == ["dpo", "혼자"]


def test_foreign_folders_are_never_deleted(runs, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(b"x")
    with pytest.raises(RunError, match="no run here"):
        delete_run(folder, roots=[])
    (runs / "dpo" / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match=r"files that no run writes \(thesis.tex\)"):
        delete_run(runs / "dpo", roots=[runs])
    (runs / "dpo" / "thesis.tex").unlink()
    (runs / "link").symlink_to(runs / "dpo")
    with pytest.raises(RunError, match="is a link"):
        delete_run(runs / "link", roots=[runs])
    (runs / "혼자" / "pipeline.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="is a pipeline"):
        delete_run(runs / "혼자", roots=[runs])
    assert (folder / "one.jpg").exists()
    assert (runs / "dpo" / "run.json").exists()


def test_a_run_that_is_being_written_is_not_deleted(runs):
    with Run.create(runs / "now", stage="sft", config={}, seed=0) as run:
        with pytest.raises(RunError, match="being written by another process"):
            delete_run(runs / "now", roots=[runs])
        run.finish({})
    delete_run(runs / "now", roots=[runs])


def test_delete_asks_first(runs):
    asked = CliRunner().invoke(app, ["runs", "delete", "runs/혼자"], input="n\n")
    assert asked.exit_code == 1
    assert (runs / "혼자").exists()
    assert call("runs", "delete", "-y", "runs/혼자").stdout == "deleted runs/혼자\n"
    refused = call("runs", "delete", "-y", "runs/sft")
    assert (refused.exit_code, (runs / "sft").exists()) == (2, True)
    assert call("runs", "delete", "-y", "runs/sft", "--force", "sft").exit_code == 0


def test_list_names_the_runs_it_cannot_read(runs):
    (runs / "dpo" / "run.json").write_text("{", encoding="utf-8")
    done = call("runs", "list", "--json")
    assert [Path(row["path"]).name for row in json.loads(done.stdout)] == ["sft", "혼자"]
    assert done.stderr.startswith("left out: ")
    assert "dpo" in done.stderr


def test_list_sorts_and_matches(runs):
    lines = call("runs", "list", "--sort", "loss").stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["runs/dpo", "runs/sft", "runs/혼자"]
    assert "runs/혼자" in call("runs", "list", "--match", "혼").stdout
    assert call("runs", "list", "--match", "zzz").stdout == "no runs in runs that fit\n"
    assert call("runs", "list", "--status", "finshed").exit_code == 2
    assert "did you mean 'loss'?" in call("runs", "list", "--sort", "lss").stderr


def test_list_shows_what_counts_first(runs):
    results = {"num_prompts": 40, "win_rate": {"value": 0.571, "interval": [0.5, 0.6]}}
    with Run.create(runs / "evaluate", stage="evaluate", config={}, seed=0) as run:
        run.finish(results)
    assert "win_rate 0.571, num_prompts 40" in call("runs", "list").stdout


def test_compare_shows_what_differs(runs):
    shown = json.loads(call("runs", "compare", "--json", "runs/sft", "runs/dpo").stdout)
    assert shown["settings"] == {"learning_rate": [1e-05, 1e-06]}
    assert shown["results"] == {"loss": [1.0, 0.5], "nested.kl": [2.0, 1.0]}
    table = call("runs", "compare", "runs/sft", "runs/dpo").stdout
    assert "learning_rate" in table
    assert call("runs", "compare", "runs/sft").exit_code == 2


@pytest.fixture
def fake_wandb(monkeypatch):
    """A module with wandb's three functions; trackio's are the same."""
    calls = []
    for name in ("wandb", "trackio"):
        fake = types.ModuleType(name)
        fake.init = lambda _n=name, **keys: calls.append((_n, "init", keys))
        fake.log = lambda metrics, step, _n=name: calls.append((_n, "log", step, metrics))
        fake.finish = lambda _n=name: calls.append((_n, "finish"))
        monkeypatch.setitem(sys.modules, name, fake)
    return calls


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_trackers_get_what_the_run_folder_gets(tmp_path, fake_wandb, kind):
    with Run.create(tmp_path / "run", stage="sft", config={"beta": 0.1}, seed=0) as run:
        run.track((kind,))
        run.log(3, loss=0.5, broken=float("nan"), note="text")
        run.finish({})
    (_, _, keys), logged, ended = fake_wandb
    assert keys["config"] == {"beta": 0.1}
    assert keys["project"] == "alignloop"
    assert (keys.get("id") is not None) == (kind == "wandb")
    assert logged == (kind, "log", 3, {"loss": 0.5})
    assert ended == (kind, "finish")
    assert next(run.metrics())["loss"] == 0.5


def test_tensorboard_writes_event_files(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Run.create(tmp_path / "run", stage="sft", config={"beta": 0.1}, seed=0) as run:
        run.track(("tensorboard",))
        run.log(1, loss=0.5)
        run.log(2, loss=0.25)
        run.finish({})
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]


def test_a_tracker_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        Run.create(tmp_path / "run", stage="sft", config={}, seed=0) as run,
        pytest.raises(UserError, match=r"wandb is not installed; pip install 'alignloop\[track\]'"),
    ):
        run.track(("wandb",))


def test_where_metrics_go_does_not_change_what_a_run_is():
    keys = {"output_dir": "o", "dataset": "d", "report_to": "wandb"}
    assert resolve("sft", keys).config.report_to == ("wandb",)
    assert resolve("sft", {**keys, "report_to": "none"}).config.report_to == ()
    assert config_sha256({"a": 1, "report_to": ["wandb"]}) == config_sha256({"a": 1})
