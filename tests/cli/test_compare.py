import json

import pytest
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.run import Run


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "gsm8k.jsonl"
    rows = [{"question": f"1 + {i} = ?", "answer": f"#### {i + 1}"} for i in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_models_on_the_command_line(tmp_path, questions, monkeypatch):
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    recorded = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"1 + {i} = ?", "completion": f"It is {i + 1}."} for i in range(3)]
    recorded.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = call("compare", "tiny", recorded, "--set", f"exact={questions}", "max_new_tokens=2")
    assert done.exit_code == 0, done.output
    table = [line.split() for line in done.output.splitlines() if line.startswith("exact")]
    assert table[0][:3] == ["exact", "0.0", "%"]
    assert "100.0 %" in done.output
    assert Run.open("runs/compare").record["results"]["baseline"] == "tiny"


def test_a_failed_requirement_is_exit_code_5(tmp_path, questions, monkeypatch):
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "gate.yaml"
    recipe.write_text(
        f"stage: compare\nmodels: [tiny]\nsets: [{{kind: exact, path: {questions}}}]\n"
        f"max_new_tokens: 2\noutput_dir: {tmp_path / 'out'}\nrequire: ['tiny.exact > 0.5']\n",
        encoding="utf-8",
    )
    done = call("run", recipe)
    assert done.exit_code == 5
    assert "the requirement is not met: tiny.exact > 0.5 (measured 0)" in done.output


def test_what_is_missing_is_said():
    done = call("compare", "tiny")
    assert done.exit_code == 2
    assert "name the models and what to measure" in done.output
    done = call("compare", "tiny", "--set", "exakt=a.jsonl")
    assert "expected KIND=FILE with one of prompts, instructions" in done.output


def test_the_planner():
    done = call("compare", "--prompts-for", "0.6")
    assert done.output.startswith("194 prompts: with so many, a true win rate of 60.0% (0% ties)")
