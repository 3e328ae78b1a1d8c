"""Which unjudged items come first, chosen by real reward models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from alignloop.cli.label import app
from alignloop.errors import ModelError, UserError
from alignloop.labels.label_folder import DATABASE
from alignloop.labels.project import ItemAnswer, NewItem, Project
from alignloop.labels.schema import items
from alignloop.labels.store import Store
from alignloop.records import Message
from alignloop.stages.choosing import choose_next
from alignloop.stages.reward import RewardModel
from tests.stages.task import run_stage


@pytest.fixture(scope="module")
def reward_runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two reward models of the tiny model with different seeds."""
    folder = tmp_path_factory.mktemp("rewards")
    file = folder / "pairs.jsonl"
    rows = [{"prompt": f"{k}", "chosen": f"good {k}", "rejected": f"bad {k}"} for k in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    keys = {"dataset": str(file), "model_name_or_path": "tiny", "max_steps": 1, "learning_rate": 1e-3}
    made = [run_stage("reward", {**keys, "seed": s, "output_dir": str(folder / f"{s}")}) for s in (1, 2)]
    return [str(run.path) for run in made]


def fill(store: Store, count: int = 12) -> Project:
    project = store.create_project("p", task="pair")
    texts = [(f"질문 {k}", "word " * (k + 1), f"other {k}") for k in range(count)]
    rows = [NewItem((Message("user", p),), (ItemAnswer(a), ItemAnswer(b))) for p, a, b in texts]
    store.add_items(project, rows)
    return store.project(project.id)


def rows_of(store: Store) -> list:
    with store.reading() as connection:
        return list(connection.execute(select(items).order_by(items.c.id)))


def test_near_ties_of_the_ensemble_come_first(tmp_path: Path, reward_runs: list[str]) -> None:
    store = Store(tmp_path / DATABASE)
    project = fill(store)
    arms = choose_next(store, project, strategy="uncertainty", count=3, reward_models=reward_runs)
    assert arms == {"random": 1, "uncertainty": 2}  # a fifth, at least one, is the control
    rows = rows_of(store)
    prompts = [(Message("user", row.prompt[0]["content"]),) for row in rows]
    answers = [[a["text"] for a in row.answers] for row in rows]
    scores = np.array([RewardModel(path).score(prompts, answers) for path in reward_runs])
    np.testing.assert_allclose([row.scores for row in rows], scores.transpose(1, 0, 2), rtol=1e-5, atol=1e-6)
    # entropy of the mean of both models' preferences falls with its distance from one half
    distance = np.abs((1 / (1 + np.exp(scores[..., 1] - scores[..., 0]))).mean(0) - 0.5)
    chosen = [n for n, row in enumerate(rows) if row.priority == 1.0]
    assert len(chosen) == 3
    control = {n for n in chosen if rows[n].arm == "random"}
    # 4 · 2 candidates, over which the choice is spread by text
    pool = [n for n in np.argsort(distance, kind="stable") if n not in control][:8]
    assert {n for n in chosen if rows[n].arm == "uncertainty"} <= set(pool)
    # a second choice goes before the first, and what was chosen can be chosen again
    choose_next(store, project, strategy="random", count=2, seed=1)
    assert sorted(row.priority for row in rows_of(store))[-2:] == [2.0, 2.0]
    assert store.audit_log(project)[0].actor == "command line"
    store.close()


def test_from_the_command_line(tmp_path: Path, reward_runs: list[str]) -> None:
    store = Store(tmp_path / DATABASE)
    fill(store)
    store.close()

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["choose", str(tmp_path), *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    said = run("--count", "5", "--strategy", "gap", "--reward-model", reward_runs[0])
    assert said == "p: 5 items come first, 1 by random, 4 by gap\n"
    assert "3 items come first, 1 by random, 2 by diversity" in run("--count", "3", "--strategy", "diversity")
    with pytest.raises(UserError, match="uncertainty needs reward-model scores"):
        run("--count", "2")
    with pytest.raises(UserError, match="--strategy is one of random, uncertainty"):
        run("--count", "2", "--strategy", "best")
    with pytest.raises(ModelError, match="no reward model"):
        run("--count", "2", "--reward-model", str(tmp_path))


def test_nothing_to_choose_from(tmp_path: Path) -> None:
    store = Store(tmp_path / DATABASE)
    with pytest.raises(UserError, match="'p' has no item left"):
        choose_next(store, fill(store, 0), strategy="random", count=3)
    store.close()
