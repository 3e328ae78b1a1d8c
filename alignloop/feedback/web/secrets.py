"""The label folder's own secrets: key of the session cookies, token of the owner."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from alignloop.feedback import people
from alignloop.feedback.store import Store
from alignloop.io import new_file

OWNER = "owner"


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
