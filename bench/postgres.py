"""A PostgreSQL server of one's own, started from Debian's package and gone afterwards.

    python bench/postgres.py            # prints the URL of an empty database, ends with Ctrl-C

Used by the tests and by bench/label_server.py. It answers on a Unix socket only and runs with the
package's settings, so a commit waits for the disk. PostgreSQL refuses root: as root it runs as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import create_engine, text


def programs() -> Path | None:
    """The folder with initdb and pg_ctl, None without PostgreSQL; Debian keeps it off the PATH."""
    places = [shutil.which("initdb"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)]
    return next((Path(place).resolve().parent for place in places if place), None)


@contextmanager
def private_server(*, max_connections: int = 50) -> Iterator[str]:
    """A running server; yields `postgresql://…/{name}…`, in which a database's name is still to be put.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    found = programs()
    if found is None:
        raise FileNotFoundError("PostgreSQL is not installed (Debian: postgresql)")
    prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="label-pg-"))
    if prefix:
        shutil.chown(folder, "nobody")

    def run(program: str, *arguments: str) -> None:
        command = [*prefix, str(found / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120, cwd=folder)

    data = str(folder / "data")
    options = f"-k {folder} -c listen_addresses='' -c max_connections={max_connections}"
    try:
        run("initdb", "-D", data, "-A", "trust", "-U", "label", "-E", "UTF8", "--locale=C", "--no-sync")
        run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql://label@/{{name}}?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def fresh_database(template: str) -> str:
    """URL of a new, empty database on the server of `private_server`."""
    name = f"t{uuid.uuid4().hex}"
    engine = create_engine(
        template.format(name="postgres").replace("postgresql:", "postgresql+psycopg:"),
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return template.format(name=name)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with private_server() as address:
        print(fresh_database(address), flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
