"""A label folder and its database: which belongs to which, and who serves it.

Labels lie in the folder's own SQLite file, or in an outside database given by URL. An outside database
belongs to the one folder that used it first: two folders in one database would share projects of the
same name and end each other's owner link. Both keep a token, so the folder may be moved or restored from
a backup; a folder that is lost is replaced by `adopt`.

One server serves one database. For PostgreSQL that is an advisory lock, which a thread takes again when its
connection is lost: PostgreSQL gives it back when the connection ends, that of a killed server but also that
of a living one whose backend was killed or whose PostgreSQL was started again.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.exc import DBAPIError

from alignloop.errors import UserError
from alignloop.foreign import loads
from alignloop.io import write_whole
from alignloop.labels.database import insert_new
from alignloop.labels.schema import meta
from alignloop.labels.store import Store, log

DATABASE = "labels.sqlite"
IDENTITY = "database.id"
"""File of a folder with the identity of its outside database and the token of its claim on it."""
_CLAIM = "claim"


@contextmanager
def opened(
    folder: Path | None, database: str | None = None, *, create: bool = False, adopt: bool = False
) -> Iterator[Store]:
    """The store of a label folder.

    Args:
        folder: the label folder; None for an outside database that is used beside its folder.
        database: URL of an outside database.
        create: make the folder's own database if there is none.
        adopt: take an outside database over from a folder that is lost.

    Yields:
        The store, closed on leaving.

    Raises:
        UserError: there is none and it may not be made, or the database belongs to another folder.
    """
    if folder is not None and database is None:
        _check_own(folder, create)
    if folder is not None:
        try:
            _make_private(folder, database is None)
        except OSError as error:
            raise UserError(f"{folder} cannot be used as a label folder: {error.strerror}") from error
    elif database is None:
        raise ValueError("neither a folder nor a database")
    store = Store(database or (folder or Path()) / DATABASE)
    try:
        if folder is not None and database is not None:
            _claim(store, folder, adopt)
        yield store
    finally:
        store.close()


def _make_private(folder: Path, keeps_labels: bool) -> None:
    """Make the folder if it is not there; it and its database are for their owner only.

    Judgements name people, and a folder that others may write to could be given another database. SQLite
    gives the files beside the database its mode. A folder of somebody else stays as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):
        folder.chmod(0o700)
        if keeps_labels:
            (folder / DATABASE).touch(mode=0o600, exist_ok=True)
            for file in folder.glob(f"{DATABASE}*"):
                file.chmod(0o600)


def is_label_folder(path: Path) -> bool:
    """Whether labels were kept here before."""
    return (path / DATABASE).exists() or (path / IDENTITY).exists()


def _check_own(folder: Path, create: bool) -> None:
    if (folder / DATABASE).exists():
        return
    if (folder / IDENTITY).exists():
        raise UserError(f"{folder} keeps its labels in an outside database; give it with --database")
    if not create:
        raise UserError(f"{folder} holds no labels ({DATABASE}); make it with `alignloop label import`")


def _claim(store: Store, folder: Path, adopt: bool) -> None:
    """Bind an outside database and a folder to each other by a token that both keep.

    The file is written before the commit: after a crash between them the same folder claims again.
    """
    path, here = folder / IDENTITY, str(folder.absolute())
    identity, _, token = (path.read_text("utf-8").strip() if path.exists() else "").partition(" ")
    with store.writing() as connection:
        known = _read_claim(connection)
        if known is not None and (identity, token) == (store.identity, known["token"]):
            return
        if identity not in ("", store.identity) and not adopt:
            raise UserError(f"{folder} keeps its labels in another database than the one given")
        mine = {"token": secrets.token_hex(16), "folder": here}
        text = json.dumps(mine, ensure_ascii=False)
        if known is None:
            connection.execute(insert_new(connection, meta).values(key=_CLAIM, value=text))
            # Two folders at the same moment: the second waited for the first one's commit.
            known = _read_claim(connection)
        elif adopt:
            connection.execute(update(meta).where(meta.c.key == _CLAIM).values(value=text))
            log(connection, "database adopted", actor="command line", folder=here, before=known["folder"])
            known = mine
        if known != mine:
            owner = "another folder" if known is None else f"the folder {known['folder']}"
            raise UserError(
                f"this database holds the labels of {owner}; use that folder, or another database for "
                f"{folder} (if that folder is lost: `alignloop label adopt {folder} --database …`)"
            )
        write_whole(path, f"{store.identity} {mine['token']}\n")


def _read_claim(connection: Connection) -> dict[str, str] | None:
    value = connection.scalar(select(meta.c.value).where(meta.c.key == _CLAIM))
    return None if value is None else loads(value)


@contextmanager
def served_alone(store: Store, folder: Path) -> Iterator[None]:
    """Hold folder and database for one server: two would hand out the same items.

    Raises:
        UserError: another server holds one of them.
    """
    with ExitStack() as held:
        held.enter_context(_file_lock(folder / "serve.lock", f"{folder} is being served already"))
        busy = "this database is being served already, from another folder or machine"
        engine = store.engine
        if engine.dialect.name == "postgresql":
            held.enter_context(advisory_lock(engine, busy))
        elif engine.url.database and Path(engine.url.database).absolute() != (folder / DATABASE).absolute():
            held.enter_context(_file_lock(Path(f"{engine.url.database}.serve.lock"), busy))
        yield


@contextmanager
def _file_lock(path: Path, message: str) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(message) from error
        yield


SERVING_LOCK = 727275
"""Number of the lock."""
LOCK_S = 5.0
"""A server that was killed lets go of its lock within this time, in seconds."""
CHECK_S = 2.0
"""How often the connection that holds the lock is looked at, in seconds."""


def stop_server() -> None:
    """End this process's server in order, as Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def advisory_lock(
    engine: Engine, message: str, *, check_s: float = CHECK_S, lost: Callable[[], object] = stop_server
) -> Iterator[None]:
    """Hold the database for this server.

    Args:
        engine: of the database.
        message: what is said when another server holds it.
        check_s: how often the lock's connection is looked at, in seconds.
        lost: called once if another server has taken the lock meanwhile.

    Raises:
        UserError: another server holds the lock, at the start or later.
    """
    connection = _taken(engine)
    if connection is None:
        raise UserError(message)
    keeper = _Keeper(engine, connection, check_s, lost)
    keeper.start()
    try:
        yield
    finally:
        keeper.end()
    if keeper.is_lost:
        raise UserError(message)


def _taken(engine: Engine) -> Connection | None:
    """A connection that holds the lock, None if another's does."""
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    since = time.monotonic()
    try:
        while not connection.scalar(select(func.pg_try_advisory_lock(SERVING_LOCK))):
            if time.monotonic() - since > LOCK_S:
                connection.close()
                return None
            time.sleep(0.1)
    except DBAPIError:
        connection.close()
        raise
    return connection


class _Keeper(threading.Thread):
    """Looks whether the connection lives and takes the lock again where it does not."""

    def __init__(
        self, engine: Engine, connection: Connection, check_s: float, lost: Callable[[], object]
    ) -> None:
        super().__init__(name="serving-lock", daemon=True)
        self._engine, self._check_s, self._lost = engine, check_s, lost
        self._connection: Connection | None = connection
        self._ending = threading.Event()
        self.is_lost = False

    def run(self) -> None:
        """Until `end`."""
        while not self._ending.wait(self._check_s):
            try:
                if self._connection is not None:
                    self._connection.scalar(select(1))
                    continue
                self._connection = _taken(self._engine)
            except DBAPIError:  # not reachable: nobody else can serve either
                self._let_go()
                continue
            if self._connection is None:
                self.is_lost = True
                self._lost()
                return

    def end(self) -> None:
        """Give the lock back."""
        self._ending.set()
        self.join()
        if self._connection is not None:
            with suppress(DBAPIError):
                self._connection.scalar(select(func.pg_advisory_unlock(SERVING_LOCK)))
        self._let_go()

    def _let_go(self) -> None:
        if self._connection is not None:
            with suppress(DBAPIError):
                self._connection.close()
            self._connection = None
