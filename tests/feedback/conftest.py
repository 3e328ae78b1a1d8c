"""Label stores on SQLite and on a private PostgreSQL server, and projects to judge."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from alignloop.feedback import people
from alignloop.feedback.desk import Desk
from alignloop.feedback.exchange import Session
from alignloop.feedback.project import Answer, NewItem, Project, Settings
from alignloop.feedback.store import Store
from alignloop.records import Message


def missing(what: str) -> None:
    """Skip with a visible reason; in continuous integration nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is needed in CI")
    pytest.skip(f"{what} is not installed")


def _programs() -> Path | None:
    places = [shutil.which("initdb"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    return next((Path(p).resolve().parent for p in places if p), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL prefix of a PostgreSQL server started for the tests, without a database name."""
    programs = _programs()
    if programs is None:
        missing("PostgreSQL (Debian: postgresql)")
    # The server refuses root, and pytest's own temporary folders are closed to other users.
    prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="label-pg-"))
    if prefix:
        shutil.chown(folder, "nobody")

    def run(program: str, *arguments: str) -> None:
        command = [*prefix, str(programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60, cwd=folder)

    data = str(folder / "data")
    run("initdb", "-D", data, "-A", "trust", "-U", "label", "-E", "UTF8", "--locale=C", "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c max_connections=50"
    run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
    try:
        yield f"postgresql://label@/{{name}}?host={folder}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database on each kind of server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'labels.sqlite'}"
    template = request.getfixturevalue("postgres")
    name = f"t{uuid.uuid4().hex}"
    admin = create_engine(
        template.format(name="postgres").replace("postgresql:", "postgresql+psycopg:"),
        isolation_level="AUTOCOMMIT",
    )
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return template.format(name=name)


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
                Answer(f"item {number} answer {k}" + " word" * k, model=f"model-{k}")
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
