"""docs/walk.md against what runs: each row is called, in its order, and no walk is long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import alignloop
from alignloop.data.columns import write_records
from alignloop.labels.export import records
from alignloop.labels.store import Store
from alignloop.labels.web.app import create_app
from tests.helpers_walk import PAGE, check_order, traced, walks

LONGEST = 15


def train(method: str, dataset: Path, output: Path, **keys: Any) -> None:
    """One step of a tiny model."""
    alignloop.train(
        method,
        model_name_or_path="tiny",
        dataset=str(dataset),
        output_dir=str(output),
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=1e-4,
        save_steps=0,
        **keys,
    )


def write(file: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as JSON lines."""
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Eight pairs."""
    rows = [{"prompt": f"Say {i}", "chosen": "Yes!", "rejected": "No."} for i in range(8)]
    return write(tmp_path / "pairs.jsonl", rows)


def test_few_files() -> None:
    assert len(walks()) == PAGE.count("\n## ") == 3
    for walk in walks().values():
        assert len({file for file, _ in walk}) <= LONGEST
        assert len(walk) >= 9


def test_a_pair(tmp_path: Path, pairs: Path) -> None:
    with traced() as found:
        train("dpo", pairs, tmp_path / "dpo", eval_fraction=0)
    check_order(walks()["pair"], found)


def test_a_reward(tmp_path: Path, pairs: Path) -> None:
    train("reward", pairs, tmp_path / "reward", eval_fraction=0)
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"Say {i}"} for i in range(8)])
    with traced() as found:
        train(
            "grpo",
            prompts,
            tmp_path / "grpo",
            rewards=[{"model": str(tmp_path / "reward")}],
            num_generations=2,
            rollout_prompts=4,
            max_new_tokens=8,
        )
    check_order(walks()["reward,"], found)


def test_a_vote(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from tests.labels.web.browsing import project_of
    from tests.labels.web.conftest import SECRET, Served

    store = Store(tmp_path / "labels.sqlite")
    project = project_of(store, count=8)
    with traced() as found:
        with TestClient(create_app(store, secret=SECRET), base_url="http://localhost") as client:
            person = Served(store, lambda: client).sign_in(project, "a")
            task = person.call("next").json()["task"]
            while task is not None:
                body = {"assignment": task["id"], "expected": task["expected"], "key": f"k{task['id']}"}
                answer = person.call("judge", {**body, "answer": {"verdict": "a"}, "seconds": 3})
                task = answer.json()["task"]
        made = records(store, project).records
        write_records(tmp_path / "judged.jsonl", made)
        train("reward", tmp_path / "judged.jsonl", tmp_path / "reward", eval_fraction=0)
    assert len(made) == 8
    check_order(walks()["vote,"], found)
    store.close()
