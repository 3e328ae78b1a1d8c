"""A label folder and the server over it.

The folder holds `labels.sqlite` (or `database.id` where a database URL is given), `session.key` and
`owner.token`, the last two readable by their owner only.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from alignloop.errors import UserError
from alignloop.io import new_file
from alignloop.labels import people
from alignloop.labels.importing import Pairs, Say, add, holds_samples
from alignloop.labels.label_folder import is_label_folder, opened, served_alone
from alignloop.labels.project import Project
from alignloop.labels.store import Store
from alignloop.labels.web.addresses import addresses_of, is_local, remember
from alignloop.labels.web.app import create_app
from alignloop.web.server import LOCAL_HOSTS, answered_hosts, listen, run

__all__ = ["add", "opened", "prepare", "project_for", "serve"]

OWNER = "owner"
"""Name of the owner's first invitation."""


def project_for(store: Store, name: str, *, task: str | None, guidelines: str = "") -> Project:
    """The project of this name, made if it is not there (a pair project unless told otherwise).

    Raises:
        UserError: it is there with another task.
    """
    found = next((p for p in store.projects() if p.name == name), None)
    if found is None:
        return store.create_project(name, task=task or "pair", guidelines_text=guidelines)
    if task not in (None, found.task):
        raise UserError(f"'{name}' is a {found.task} project; choose another --project for {task}")
    if guidelines and guidelines != store.guidelines(found):
        store.change_guidelines(found, guidelines, actor="command line")
        return store.project(found.id)
    return found


def prepare(
    path: Path,
    *,
    folder: Path | None,
    database: str | None,
    task: str | None,
    name: str,
    pairs: Pairs,
    new: bool = False,
    say: Say,
) -> tuple[Path, str | None]:
    """The label folder to serve: `path` itself, or a new one filled from the data at `path`.

    With `new` an empty folder is made at `path`; its projects are made in the browser.
    """
    empty = database is not None and path.is_dir() and not holds_samples(path)
    if is_label_folder(path) or empty:
        return path, database
    if new:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is there already; --new makes a folder of a name that is free")
        with opened(path, database, create=True):
            say(f"{path}: a label folder without projects; make one on the owner's page")
        return path, database
    if not path.exists():
        raise UserError(
            f"{path} does not exist; give a label folder, a data file or a sample run, "
            "or make an empty label folder with --new"
        )
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
    proxy: str = "",
    say: Say,
) -> None:
    """Serve until interrupted.

    Args:
        place: label folder, and URL of an outside database.
        host: address to listen on.
        port: 0 takes a free one.
        allow_hosts: further host names under which the page is reached.
        proxy: address of a reverse proxy; only what it says of its clients (X-Forwarded-For, -Proto) is
            believed, or anybody could choose the address by which sign-ins are counted.
        say: prints a line.

    Raises:
        UserError: the port is taken, or the folder is served already.
    """
    folder, database = place
    with opened(folder, database) as store, served_alone(store, folder):
        listening = listen(host, port)
        addresses = addresses_of(host, listening.getsockname()[1], allow_hosts)
        remember(folder, addresses)
        app = create_app(
            store,
            secret=session_secret(folder),
            allowed_hosts=answered_hosts(host, allow_hosts),
            addresses=addresses,
        )
        say(f"owner:  {addresses[0]}/invite/{owner_token(store, folder)}")
        for address in addresses:
            if not is_local(address):
                say(f"colleagues: {address}")
        say(f"invite: alignloop label invite {folder} NAME")
        if host not in LOCAL_HOSTS:
            say("Anybody who can reach this address can try to sign in; put HTTPS in front of it.")
        elif not allow_hosts:
            say("Only this machine can open these links; for colleagues add --host 0.0.0.0")
        run(app, listening, proxy=proxy, date_header=False)


def session_secret(folder: Path) -> bytes:
    """Key of the session cookies, made the first time."""
    path = folder / "session.key"
    known = path.read_bytes() if path.exists() else b""
    if len(known) < 32:
        known = secrets.token_bytes(32)
        _write(path, known)
    return known


def owner_token(store: Store, folder: Path) -> str:
    """The owner's token; a new one if the file is gone or no longer fits the database."""
    path = folder / "owner.token"
    token = path.read_text("utf-8").strip() if path.exists() else ""
    known = people.by_token(store, token) if token else None
    if known is not None and known.role == "owner":
        return token
    owner = next((a for a in people.list_annotators(store) if a.role == "owner"), None)
    if owner is None:
        _, token = people.invite(store, None, OWNER, role="owner")
    else:
        token = people.new_link(store, owner.id)
    _write(path, token.encode())
    return token


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    with new_file(path, mode=0o600) as made:
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
