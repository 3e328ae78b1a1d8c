"""Label stores on SQLite and on a PostgreSQL server of their own, and projects to judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alignloop.labels import people
from alignloop.labels.judging import Desk
from alignloop.labels.messages import Session
from alignloop.labels.project import ItemAnswer, NewItem, Project, Settings
from alignloop.labels.store import Store
from alignloop.records import Message


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An open store on each kind of database."""
    opened = Store(url)
    yield opened
    opened.close()


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Store]:
    """An open SQLite store, for tests in which the database does not matter."""
    opened = Store(tmp_path / "labels.sqlite")
    yield opened
    opened.close()


def pair_items(count: int, *, num_answers: int = 2, start: int = 0) -> list[NewItem]:
    """Items whose prompt and answers say their number; answer k is one word longer than answer k − 1."""
    return [
        NewItem(
            (Message("user", f"question {number}"),),
            tuple(
                ItemAnswer(f"item {number} answer {k}" + " word" * k, model=f"model-{k}")
                for k in range(num_answers)
            ),
        )
        for number in range(start, start + count)
    ]


MakeProject = Callable[..., Project]


@pytest.fixture
def make_project() -> MakeProject:
    """Function that makes a project with items in a store; no overlap, gold or repeats unless asked."""

    def make(
        store: Store,
        *,
        task: str = "pair",
        count: int = 10,
        num_answers: int = 2,
        name: str = "p",
        **settings,
    ) -> Project:
        plain = {"overlap_share": 0.0, "gold_share": 0.0, "repeat_share": 0.0, **settings}
        project = store.create_project(
            name, task=task, settings=Settings(**plain), guidelines_text="Be *fair*."
        )
        if count:
            store.add_items(project, pair_items(count, num_answers=num_answers))
        return store.project(project.id)

    return make


@pytest.fixture
def sit_down() -> Callable[..., tuple[Desk, Session]]:
    """Function that gives a desk and a session of a new annotator."""

    def make(
        store: Store, project: Project, name: str = "ann", desk: Desk | None = None
    ) -> tuple[Desk, Session]:
        annotator, _ = people.invite(store, project, name)
        return desk or Desk(store), Session(annotator.id, annotator.epoch)

    return make
