"""The small commands, called in this process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli import app, doctor
from alignloop.config import Recipe, make_plan, parse_overrides, read_recipe, stage_names
from alignloop.config.shipped import SHIPPED


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words, **options: CliRunner().invoke(app, list(words), **options)


def test_init_writes_a_recipe_once(invoke) -> None:
    done = invoke("init", "dpo")
    assert done.exit_code == 0
    assert done.stdout == "dpo.yaml written; fill in the keys at its top, then: alignloop run dpo.yaml\n"
    assert make_plan(read_recipe("dpo.yaml")).stages[0].stage == "dpo"
    again = invoke("init", "dpo")
    assert (again.exit_code, again.stderr) == (2, "error: dpo.yaml exists already; give another file name\n")
    assert invoke("init", "best-of-n", "여기.yaml").exit_code == 0
    assert Path("여기.yaml").exists()


def test_schema(invoke) -> None:
    assert json.loads(invoke("schema", "best-of-n", "--json").stdout)["title"] == "best_of_n"
    assert set(json.loads(invoke("schema", "--json").stdout)) == set(stage_names())
    assert "| `beta` | a number above 0 | `0.1` |" in invoke("schema", "dpo", "--markdown").stdout
    assert invoke("schema", "dop").exit_code == 2


def test_schema_is_for_people_unless_json_is_asked_for(invoke) -> None:
    listed = invoke("schema").stdout
    assert [line.split()[0] for line in listed.partition("\n\n")[0].splitlines()] == stage_names()
    shown = invoke("schema", "dpo").stdout
    parts = [
        line for line in shown.splitlines() if line in ("To be given", "Of the method", "With a default")
    ]
    assert parts == ["To be given", "Of the method", "With a default"]
    needed, _, rest = shown.partition("Of the method")
    assert "\ndataset " in needed
    assert "learning_rate" not in needed
    own, _, others = rest.partition("With a default")
    assert "\nbeta " in own
    assert "\nlearning_rate " in others
    keys = set(json.loads(invoke("schema", "dpo", "--json").stdout)["properties"])
    assert keys <= {word for line in shown.splitlines() for word in line.split()[:1]}


def test_recipes_are_grouped_and_each_is_there_once(invoke) -> None:
    listed = invoke("recipes").stdout
    blocks = [block.splitlines() for block in listed.split("\n\n")[:-1]]
    assert blocks[0][0] == "Start here"
    assert blocks[0][1].split()[0] == "quickstart-tiny"
    names = [line.split()[0] for block in blocks for line in block[1:]]
    assert sorted(names) == sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    groups = {line.split()[0]: block[0] for block in blocks for line in block[1:]}
    assert groups["kto"] == "Train on comparisons"
    assert groups["full-loop"] == "Whole loops, several stages"
    assert groups["ppo"] == "Train by reward"
    assert groups["compare"] == "Evaluate"


def test_the_help_of_train_names_keys_that_there_are(invoke) -> None:
    shown = invoke("train", "--help", env={"COLUMNS": "100"}).stdout
    usual = [line.strip() for line in shown.partition("The usual ones:")[2].splitlines()[1:11]]
    keys = [key.strip(",") for line in usual for key in line.partition("  ")[0].split()]
    known = set(json.loads(invoke("schema", "dpo", "--json").stdout)["properties"])
    assert len(usual) == 10
    assert set(keys) <= known
    example = re.search(r"alignloop (train dpo .*)", shown)
    assert example is not None
    _, method, *settings = example[1].split()
    make_plan(Recipe(), parse_overrides(settings), stage=method)  # raises for a key that is not there


def test_recipes(invoke) -> None:
    assert "dpo-loop" in invoke("recipes").stdout
    assert invoke("recipes", "sft").stdout.startswith("# Supervised fine-tuning")


def test_train_takes_the_recipe_of_the_method(invoke) -> None:
    row = {"prompt": "p", "chosen": "yes", "rejected": "no"}
    for name in ("a.jsonl", "b.jsonl"):
        Path(name).write_text(json.dumps(row) + "\n", encoding="utf-8")
    done = invoke("train", "simpo", "dataset=a.jsonl", "model_name_or_path=tiny", "--dry-run")
    assert done.exit_code == 0
    assert "# data: 1 preference rows, 1 to train on\n" in done.stdout
    assert "gamma: 1.0\n" in done.stdout
    assert "output_dir: runs/simpo\n" in done.stdout
    assert "note: settings of recipes/simpo.yaml" in done.stderr
    missing = invoke("train", "simpo")
    assert missing.exit_code == 2
    assert missing.stderr.splitlines()[-1].startswith("error: recipes/simpo.yaml: 'dataset' is missing")
    Path("mine.yaml").write_text("dataset: b.jsonl\nlr: 1e-6\n", encoding="utf-8")
    done = invoke("train", "dpo", "mine.yaml", "beta=0.3", "model_name_or_path=tiny", "--dry-run")
    assert "dataset: b.jsonl\n" in done.stdout
    assert "beta: 0.3\n" in done.stdout
    assert "output_dir: runs/mine\n" in done.stdout
    assert "note: mine.yaml:2: 'lr' is read as 'learning_rate'\n" in done.stderr


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("regression", "objective: regression\n"),
        ("plackett-luce", "objective: plackett_luce\n"),
        ("bradley_terry", "objective: bradley_terry\n"),
        ("lipo_lambda", "method: lipo_lambda\n"),
        ("group-relative", "method: group_relative\n"),
    ],
)
def test_methods_that_are_a_choice_within_a_stage(invoke, method, line) -> None:
    rows = {
        "regression": {"prompt": "p", "completion": "c", "score": 3},
        "bradley_terry": {"prompt": "p", "chosen": "yes", "rejected": "no"},
    }
    ranking = {"prompt": "p", "responses": ["a", "b", "c"], "ranking": [1, 2, 3]}
    row = json.dumps(rows.get(method, ranking)) + "\n"
    Path("a.jsonl").write_text(row * 25, encoding="utf-8")
    words = ("dataset=a.jsonl", "model_name_or_path=tiny", "eval_fraction=0")
    done = invoke("train", method, *words, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert line in done.stdout
    assert "# memory: about " in done.stdout
    Path("mine.yaml").write_text("learning_rate: 2e-5\ndataset: a.jsonl\n", encoding="utf-8")
    own = invoke("train", method, "mine.yaml", "model_name_or_path=tiny", "--dry-run")
    assert line in own.stdout
    assert "learning_rate: 2.0e-05\n" in own.stdout


def test_recipes_are_found_by_name_and_by_the_path_that_messages_give(invoke, tmp_path: Path) -> None:
    by_path = invoke("run", "recipes/quickstart-tiny.yaml", "--dry-run")
    assert by_path.exit_code == 0, by_path.stderr
    assert by_path.stdout == invoke("run", "quickstart-tiny", "--dry-run").stdout
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "evaluate.yaml").write_text("stage: evaluate\nbefor: tiny\n", encoding="utf-8")
    assert "did you mean 'before'" in invoke("evaluate", "recipes/evaluate.yaml").output  # one's own first
    done = invoke("run", "recipes/gone.yaml")
    assert done.exit_code == 2
    assert "recipes/gone.yaml" in done.output


def test_a_dry_run_without_its_data_says_so(invoke) -> None:
    done = invoke("train", "dpo", "dataset=nowhere.jsonl", "model_name_or_path=tiny", "--dry-run")
    assert done.exit_code == 2
    assert "beta: 0.1\n" in done.stdout  # the recipe is shown all the same
    assert done.stderr.splitlines()[-1].startswith("error: nowhere.jsonl")


def test_a_dry_run_of_a_pipeline_says_what_has_to_come_first(invoke) -> None:
    words = ("sample.dataset=p.jsonl", "evaluate.dataset=q.jsonl")
    done = invoke("run", "dpo-loop", *words, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "# summary: not yet, runs/dpo-loop/sample has to be made first" in done.stdout
    assert done.stdout.count("\nstage: ") == 5


def test_doctor_knows_this_machine(invoke) -> None:
    done = invoke("doctor", "--json")
    facts = json.loads(done.stdout)
    assert facts["cores"] >= 1
    assert facts["memory_gb"] > 0.1
    assert facts["packages"]["torch"]
    assert (done.exit_code == 2) == bool(facts["problems"])


def test_doctor_in_words(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"packages": {"torch": "2"}, "gpus": [], "bf16_usable": True, "disk_free_gb": 1.0}
    rest = {"memory_gb": 16.0, "cache_writable": True}
    monkeypatch.setattr(doctor, "machine_facts", lambda: {**facts, **rest})
    done = invoke("doctor")
    assert done.exit_code == 2
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["packages", "torch", "2"]
    assert lines[1].split() == ["gpus", "none"]
    assert lines[2].split() == ["bf16_usable", "yes"]
    assert lines[-1].startswith("problem: only 1.0 GB of disk are free")


def test_doctor_finds_problems() -> None:
    healthy = {"packages": {"torch": "2"}, "disk_free_gb": 50.0, "memory_gb": 16.0, "cache_writable": True}
    assert doctor.find_problems(healthy) == []
    ill = {
        "packages": {"torch": "missing"},
        "disk_free_gb": 1.0,
        "memory_gb": 2.0,
        "cache_writable": False,
        "cache": "c",
    }
    assert len(doctor.find_problems(ill)) == 4


def test_doctor_checks_a_recipe(invoke) -> None:
    Path("r.yaml").write_text("stage: dpo\nbeta: -1\n", encoding="utf-8")
    done = invoke("doctor", "r.yaml")
    assert done.exit_code == 2
    assert "r.yaml:2: beta: value -1 is not accepted" in done.stdout
    assert "r.yaml: 'dataset' is missing" in done.stdout
    row = {"prompt": "p", "chosen": "yes", "rejected": "no"}
    Path("a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    words = ("doctor", "r.yaml", "dataset=a.jsonl", "model_name_or_path=tiny")
    assert invoke(*words, "beta=1", "max_steps=60").stdout == "r.yaml: no problems found (dpo)\n"
    trap = invoke(*words, "beta=7", "max_steps=60")
    assert trap.exit_code == 2
    assert trap.stdout.startswith("dpo: AL202 warning: beta: 7 is outside")
    assert json.loads(invoke("doctor", "r.yaml", "--json").stdout)["findings"]


def test_no_runs_yet(invoke) -> None:
    assert invoke("runs").stdout == "no runs yet: there is no folder runs/ here\n"
    assert invoke("runs", "list", "elsewhere").exit_code == 2
