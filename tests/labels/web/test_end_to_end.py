"""From sampled answers over a person at the page to models whose report names the judgements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignloop import api
from alignloop.config import PreferenceConfig, RewardConfig, SampleConfig
from alignloop.data.columns import read_records, write_records
from alignloop.labels import people
from alignloop.labels.export import records
from alignloop.labels.importing import read_items
from alignloop.labels.project import Settings
from alignloop.objectives.bradley_terry import BradleyTerry
from alignloop.objectives.dpo import DPO
from alignloop.report import write_report

pytestmark = pytest.mark.browser

READY = "() => document.getElementById('work')?.getAttribute('aria-busy') === 'false'"
NUM_JUDGEMENTS = 40


def judge_in_the_browser(chromium, server, project, name: str, count: int) -> None:
    """Sign in and judge by keyboard: much better, better, equal, worse, … in turn."""
    _, token = people.invite(server.store, project, name)
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.goto(f"{server.url}/invite/{token}")
    page.click("button.primary")
    page.wait_for_function(READY)
    for number in range(count):
        page.keyboard.press("12345"[number % 5])
        page.keyboard.press("Enter")
        page.wait_for_function(READY)
    context.close()


def test_sample_judge_export_train_report(chromium, server, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(
            json.dumps({"prompt": f"질문 {k}: say something"}, ensure_ascii=False) + "\n" for k in range(46)
        ),
        encoding="utf-8",
    )
    shared = {"model_name_or_path": "tiny", "num_threads": 1}
    sample = api.run(
        SampleConfig(
            dataset=str(prompts),
            output_dir=str(tmp_path / "sample"),
            num_samples=2,
            max_new_tokens=5,
            **shared,
        )
    )
    plain = Settings(overlap_share=0.0, gold_share=0.0, repeat_share=0.0)
    project = server.store.create_project("loop", task="pair", settings=plain)
    server.store.add_items(project, read_items(sample.path, task="pair").items)
    judge_in_the_browser(chromium, server, project, "민지", NUM_JUDGEMENTS)

    export = records(server.store, project)
    assert export.judgement_ids == list(range(1, NUM_JUDGEMENTS + 1))
    labels = tmp_path / "labels.jsonl"
    write_records(labels, export.records)
    rows = read_records(str(labels)).records
    assert len(rows) == NUM_JUDGEMENTS
    assert {row.provenance.origin for row in rows} == {"human"}
    assert sum(row.probability == 0.5 for row in rows) == NUM_JUDGEMENTS // 5  # pyright: ignore

    training = {"dataset": str(labels), "max_steps": 2, "learning_rate": 1e-3, **shared}
    reward = api.run(RewardConfig(output_dir=str(tmp_path / "reward"), **training), BradleyTerry())
    dpo = api.run(PreferenceConfig(output_dir=str(tmp_path / "dpo"), **training), DPO())
    for run in (reward, dpo):
        (row,) = run.record["results"]["labels"]
        assert (row["source"], row["by"], row["rows"]) == ("human", "민지", NUM_JUDGEMENTS)
        assert row["judgements"] == f"1–{NUM_JUDGEMENTS}"
        page = write_report(run.path).read_text(encoding="utf-8")
        assert f"1–{NUM_JUDGEMENTS}" in page
        assert "민지" in page
