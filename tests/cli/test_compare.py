import json

import numpy as np
import pytest
from typer.testing import CliRunner

from alignloop.cli import app
from alignloop.runs import Run
from tests.report.fake_runs import make_run


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


def test_two_models_alone_are_asked_held_out_instructions(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    done = call("compare", "tiny:1", "tiny:2", "num_rows=4", "max_new_tokens=2", "output_dir=둘")
    assert done.exit_code == 0, done.output
    assert "no --set is given" in done.output
    results = Run.open("둘/compare").record["results"]
    assert (results["models"], results["num_prompts"]) == (["tiny:1", "tiny:2"], {"instructions": 4})
    assert [row["judge"] for row in results["win_rates"]] == ["gold"]
    assert "alignloop report '둘/compare'" in done.output


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
    # (1.95996 + 0.84162)² · (0.24 + 0.25) / 0.1² = 384.6; with ρ = ½ the variance is 0.49 − √(0.24 · 0.25)
    done = call("compare", "--prompts-for", "0.4:0.5")
    assert done.output.startswith("385 prompts: with so many, true pass rates of 40.0% and 50.0%")
    done = call("compare", "--prompts-for", "0.4:0.5", "--correlation", "0.5")
    assert done.output.startswith("193 prompts")
    for wrong in ("many", "0.4:0.5:0.6"):
        done = call("compare", "--prompts-for", wrong)
        assert done.exit_code == 2
        assert "expected a win rate as 0.55, or two pass rates as 0.40:0.45" in done.output


def test_audit_says_its_verdict_and_where_the_report_comes_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [
        {
            "step": i,
            "kl": i / 10,
            "reward": i / 10 + 0.01 * rng.normal(),
            "gold": -i / 20 + 0.01 * rng.normal(),
        }
        for i in range(40)
    ]
    make_run(tmp_path / "ppo", stage="ppo", metrics=rows, fingerprint="f", work_sha256="w")
    done = call("audit", "ppo")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("The run learned to fool its reward")
    assert "ALARM    gold" in done.output
    assert "unknown  diversity" in done.output
    assert f"alignloop report {tmp_path / 'ppo-audit'}" in done.stdout.rstrip().splitlines()[-1]
    assert call("audit", "gone").exit_code == 2
    other = call("audit", "ppo", "--no-canaries")
    assert other.exit_code == 2
    assert "ppo-audit-2 and keeps both; --overwrite deletes" in other.output
    assert call("audit", "ppo", "--no-canaries", "--new").exit_code == 0
    assert (tmp_path / "ppo-audit-2" / "run.json").is_file()
