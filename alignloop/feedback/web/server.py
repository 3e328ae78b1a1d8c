"""A label folder and the server over it.

The folder holds `labels.sqlite` (unless a PostgreSQL URL is given), `session.key` and `owner.token`,
the last two readable by their owner only.
"""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from alignloop.errors import UserError
from alignloop.feedback.importing import Pairs, read_items
from alignloop.feedback.project import Project
from alignloop.feedback.store import Store
from alignloop.feedback.web.app import LOCAL_HOSTS, create_app
from alignloop.feedback.web.secrets import owner_token, session_secret

DATABASE = "labels.sqlite"
Say = Callable[[str], object]


@contextmanager
def opened(folder: Path, database: str | None = None, *, create: bool = False) -> Iterator[Store]:
    """The store of a label folder.

    Raises:
        UserError: there is none and it may not be made.
    """
    if not create and database is None and not (folder / DATABASE).exists():
        raise UserError(f"{folder} holds no labels ({DATABASE}); make it with `alignloop label import`")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be used as a label folder: {error.strerror}") from error
    store = Store(database or folder / DATABASE)
    try:
        yield store
    finally:
        store.close()


def project_for(store: Store, name: str, *, task: str, guidelines: str = "") -> Project:
    """The project of this name, made if it is not there."""
    found = [p for p in store.projects() if p.name == name]
    if not found:
        return store.create_project(name, task=task, guidelines_text=guidelines)
    return found[0]


def add(
    store: Store, project: Project, data: str | Path, *, pairs: Pairs, gold: bool = False, say: Say
) -> None:
    """Import data into a project and say what became of it."""
    read = read_items(data, task=project.task, pairs=pairs, gold=gold)
    done = store.add_items(project, read.items, actor="command line")
    say(f"{project.name}: {done.added} items added, {done.duplicates} were there already")
    for reason, count in read.left_out.items():
        say(f"  left out: {count} {reason}")
    for number, reason in done.refused[:10]:
        say(f"  refused: item {number + 1}: {reason}")
    if not done.added and not done.duplicates:
        raise UserError(f"{data} holds nothing that a {project.task} project can use")


def prepare(
    path: Path,
    *,
    folder: Path | None,
    database: str | None,
    task: str,
    name: str,
    pairs: Pairs,
    say: Say,
) -> tuple[Path, str | None]:
    """The label folder to serve: `path` itself, or a new one filled from the data at `path`."""
    if (path / DATABASE).exists() or (database is not None and path.is_dir()):
        return path, database
    if not path.exists():
        raise UserError(f"{path} does not exist; give a label folder, a data file or a sample run")
    place = folder or Path(f"{path.name.split('.')[0]}-labels")
    with opened(place, database, create=True) as store:
        add(store, project_for(store, name, task=task), path, pairs=pairs, say=say)
    return place, database


def serve(
    place: tuple[Path, str | None],
    *,
    host: str = "127.0.0.1",
    port: int = 8321,
    allow_hosts: Sequence[str] = (),
    say: Say,
) -> None:
    """Serve until interrupted.

    Raises:
        UserError: the port is taken, or the folder is served already.
    """
    folder, database = place
    with opened(folder, database) as store, _alone(folder):
        app = create_app(store, secret=session_secret(folder), allowed_hosts=_hosts(host, allow_hosts))
        listening = _listen(host, port)
        address = f"http://{_written(host)}:{listening.getsockname()[1]}"
        say(f"owner:  {address}/invite/{owner_token(store, folder)}")
        say(f"invite: alignloop label invite {folder} NAME --url {address}")
        if host not in LOCAL_HOSTS:
            say("Anybody who can reach this address can try to sign in; put HTTPS in front of it.")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
            limit_concurrency=2000,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    listening.listen(512)
    return listening


def _written(host: str) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"[{shown}]" if ":" in shown else shown


def _hosts(host: str, more: Sequence[str]) -> list[str]:
    """Host names the page answers to. Listening on every address, any name may be the right one."""
    if host in ("0.0.0.0", "::") and not more:
        return ["*"]
    return [*LOCAL_HOSTS, host, *more]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two servers would hand out the same items."""
    with open(folder / "serve.lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder} is being served already") from error
        yield
