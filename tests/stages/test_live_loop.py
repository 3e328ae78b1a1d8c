"""The live loop on SQLite and PostgreSQL: rounds, what it names, and what it survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from alignloop.errors import ConfigError, UserError
from alignloop.labels import people
from alignloop.labels.judging import Desk
from alignloop.labels.label_folder import DATABASE
from alignloop.labels.messages import Session, Submission
from alignloop.labels.overview import overview
from alignloop.labels.project import ItemAnswer, NewItem, Settings
from alignloop.labels.schema import items
from alignloop.labels.store import Store
from alignloop.records import Message
from alignloop.runs import Run
from alignloop.stages import live_loop
from bench.postgres import fresh_database
from tests.stages.task import run_stage

PLAIN = Settings(overlap_share=0.0, gold_share=0.0, repeat_share=0.0)


@dataclass(frozen=True)
class Labels:
    """A label folder and where its database is; "" is the folder's own file."""

    folder: Path
    database: str = ""

    def store(self) -> Store:
        return Store(self.database or self.folder / DATABASE)

    def keys(self, **more: Any) -> dict[str, object]:
        """Settings of a loop over these labels."""
        place = self.folder.parent
        return {
            "labels": str(self.folder),
            "database": self.database,
            "dataset": str(place / "prompts.jsonl"),
            "output_dir": str(place / "loop"),
            "model_name_or_path": "tiny",
            "every": 4,
            "rounds": 1,
            "poll_s": 0.05,
            "idle_s": 0.3,
            "prompts_per_round": 3,
            "max_new_tokens": 6,
            "max_steps": 1,
            "learning_rate": 1e-3,
            "reward_learning_rate": 1e-3,
            **more,
        }


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def labels(request: pytest.FixtureRequest, tmp_path: Path) -> Labels:
    """A label folder with a pair project of 12 items, on each kind of database."""
    folder = tmp_path / "labels"
    folder.mkdir()
    on_server = request.param == "postgresql"
    labels = Labels(folder, fresh_database(request.getfixturevalue("postgres")) if on_server else "")
    store = labels.store()
    project = store.create_project("p", task="pair", settings=PLAIN)
    rows = [
        NewItem((Message("user", f"질문 {k}"),), (ItemAnswer(f"good {k}", "m"), ItemAnswer(f"bad {k}", "m")))
        for k in range(12)
    ]
    store.add_items(project, rows)
    store.close()
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"prompt {k}"}) + "\n" for k in range(6)), encoding="utf-8"
    )
    return labels


def judge_some(labels: Labels, count: int, name: str = "민지", verdict: str = "a") -> None:
    """Have a person judge the next `count` items."""
    store = labels.store()
    project = store.project()
    known = {a.name: a for a in people.list_annotators(store, project)}
    who = known.get(name) or people.invite(store, project, name)[0]
    desk, session = Desk(store), Session(who.id, who.epoch)
    task = desk.call(lambda c: desk.next(c, session)).task
    for number in range(count):
        assert task is not None
        sent = Submission(
            task.id, f"{name}-{verdict}-{task.id}-{number}", task.expected, {"verdict": verdict}
        )
        task = desk.call(lambda c, s=sent: desk.submit(c, session, s)).task
    store.close()


def queued(labels: Labels) -> list[Any]:
    store = labels.store()
    project = store.project()
    with store.reading() as connection:
        query = select(items).where(items.c.project_id == project.id).order_by(items.c.id)
        found = list(connection.execute(query))
    store.close()
    return found


def test_judgements_become_models_and_models_new_items(tmp_path, labels):
    judge_some(labels, 5)
    run = run_stage("loop", labels.keys(rounds=2, strategy="uncertainty", eval_fraction=0.25))
    # the second round waits in vain and the loop ends
    results = run.record["results"]
    assert results["num_rounds"] == 1
    assert results["rounds"][0]["judgements"] == "1–5"
    first = run.path / "rounds" / "1"
    store = labels.store()
    project = store.project()
    models = store.models(project)
    assert [(m.kind, m.path, m.judgement_ids) for m in models] == [
        ("reward", str(first / "reward"), [1, 2, 3, 4, 5]),
        ("dpo", str(first / "policy"), [1, 2, 3, 4, 5]),
    ]
    assert 0 <= models[0].accuracy <= 1
    store.close()
    for name in ("reward", "policy"):
        table = Run.open(first / name).record["results"]["labels"]
        assert [(row["source"], row["by"], row["rows"], row["judgements"]) for row in table] == [
            ("human", "민지", 5, "1–5")
        ]
    *fresh, versus = queued(labels)[12:]
    assert len(fresh) == 3
    assert {row.answers[0]["model"] for row in fresh} == {str(first / "policy")}
    assert {row.arm for row in fresh} == {"random", "uncertainty"}
    assert all(row.priority == 1 and len(row.scores) == 2 for row in fresh)
    # a fifth of the prompts, rounded up: the new policy beside the one before
    assert (versus.arm, versus.prompt[-1]["content"]) == ("versus", "prompt 0")
    assert [answer["model"] for answer in versus.answers] == [str(first / "policy"), "tiny"]
    # the new items come first, and their judgements start the next round
    judge_some(labels, 5, verdict="b")  # the one that was open before they came, and all four
    store = labels.store()
    (duel,) = overview(store, store.project()).duels
    assert (duel.newer, duel.older, duel.won.n) == (str(first / "policy"), "tiny", 1)
    store.close()
    again = run_stage(
        "loop",
        labels.keys(rounds=2, strategy="uncertainty", eval_fraction=0.25, output_dir=str(tmp_path / "again")),
    )
    assert again.record["results"]["rounds"][0]["judgements"] == "1–10"


@pytest.mark.parametrize("labels", ["sqlite"], indirect=True)
def test_too_few_judgements_make_no_round(tmp_path, labels):
    judge_some(labels, 3)
    run = run_stage("loop", labels.keys())
    assert run.record["results"]["num_rounds"] == 0
    assert len(queued(labels)) == 12


def test_each_step_is_done_once_however_often_the_loop_is_killed(tmp_path, labels, monkeypatch):
    judge_some(labels, 4)

    class Killed(Exception):
        pass

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    for name in ("train_policy", "draw", "enqueue", "_write_json"):
        if name == "_write_json":
            judge_some(labels, 1)  # comes too late for the round that has begun
        with monkeypatch.context() as patch:
            patch.setattr(live_loop, name, dies)
            with pytest.raises(Killed):
                run_stage("loop", labels.keys())
    calls = []
    train = live_loop.reward
    monkeypatch.setattr(live_loop, "reward", lambda *a: calls.append(a) or train(*a))
    run = run_stage("loop", labels.keys())
    assert calls == []  # the reward model was finished before the first kill
    assert run.record["results"]["rounds"][0]["judgements"] == "1–4"
    store = labels.store()
    project = store.project()
    assert len(store.models(project)) == 2
    store.close()
    assert len(queued(labels)) == 12 + 3 + 1


def test_people_who_left_and_items_withdrawn(tmp_path, labels):
    judge_some(labels, 3, "민지")
    judge_some(labels, 3, "Sam")
    store = labels.store()
    project = store.project()
    sam = next(a for a in people.list_annotators(store, project) if a.name == "Sam")
    people.remove(store, sam.id)
    mine = store.new_labels_since(project)
    with store.reading() as connection:
        from alignloop.labels.votes import live_votes

        withdrawn = live_votes(connection, project.id)[0].item_id
    store.withdraw(project, [withdrawn], reason="broken")
    store.close()
    assert len(mine) == 6
    # what a removed person judged stays, what is withdrawn goes
    kept = run_stage("loop", labels.keys(train="reward"))
    assert kept.record["results"]["rounds"][0]["judgements"] == "2–6"
    without = labels.keys(train="reward", without=["Sam"], output_dir=str(tmp_path / "other"))
    row = run_stage("loop", without).record["results"]["rounds"][0]
    assert row["judgements"] == "2–3"
    assert row["policy"] == "tiny"


@pytest.mark.parametrize("labels", ["sqlite"], indirect=True)
def test_folders_and_projects_that_are_not_there(tmp_path, labels):
    with pytest.raises(UserError, match="holds no labels"):
        run_stage("loop", labels.keys(labels=str(tmp_path / "none")))
    with pytest.raises(UserError, match="there is no project 'q'"):
        run_stage("loop", labels.keys(project="q", output_dir=str(tmp_path / "q")))
    with pytest.raises(ConfigError, match="needs a reward model"):
        run_stage("loop", labels.keys(strategy="gap", train="policy", output_dir=str(tmp_path / "r")))


def test_a_killed_process_goes_on(tmp_path, labels):
    """SIGKILL while the loop works, then the same command."""
    judge_some(labels, 4)
    words = [f"{key}={value}" for key, value in labels.keys().items() if value and key != "labels"]
    command = [sys.executable, "-m", "alignloop", "loop", str(labels.folder), *words]
    environment = {**os.environ, "ALIGNLOOP_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300  # a busy machine takes long to import
    while not (tmp_path / "loop" / "rounds" / "1" / "judgements.json").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "loop" / "rounds" / "1" / "round.json").exists()
    run = run_stage_again(labels)
    assert run.record["results"]["rounds"][0]["judgements"] == "1–4"
    assert len(queued(labels)) == 12 + 3 + 1


def run_stage_again(labels: Labels) -> Run:
    """The loop's own command line, in this process."""
    from typer.testing import CliRunner

    from alignloop.cli import app

    words = [f"{key}={value}" for key, value in labels.keys().items() if value and key != "labels"]
    done = CliRunner().invoke(app, ["loop", str(labels.folder), *words])
    assert done.exit_code == 0, done.output
    return Run.open(labels.folder.parent / "loop")
