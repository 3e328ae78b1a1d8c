"""Label folders and outside databases: who belongs to whom, and only one server at a time."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alignloop.errors import UserError
from alignloop.labels import label_folder
from alignloop.labels import label_folder as folders
from alignloop.labels.label_folder import DATABASE, IDENTITY, opened, served_alone
from alignloop.labels.store import Store
from alignloop.labels.web.server import owner_token


def names(folder: Path | None, url: str) -> list[str]:
    with opened(folder, url) as store:
        return [project.name for project in store.projects()]


def test_an_outside_database_belongs_to_the_folder_that_used_it_first(url, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    with opened(one, url) as store:
        store.create_project("labels", task="pair")
        token = owner_token(store, one)
    with pytest.raises(UserError, match=rf"holds the labels of the folder {one}; use that folder") as caught:
        names(two, url)
    assert "\n" not in str(caught.value)
    assert not (two / IDENTITY).exists()
    # nothing of the first one changed: its owner's link is the same
    with opened(one, url) as store:
        assert owner_token(store, one) == token
    # a folder may be moved, and a copy is a backup
    moved = one.rename(tmp_path / "moved")
    assert names(moved, url) == ["labels"]
    shutil.copytree(moved, tmp_path / "copy")
    assert names(tmp_path / "copy", url) == ["labels"]
    # what only looks, or writes beside, needs no folder
    assert names(None, url) == ["labels"]


def test_a_lost_folder_is_replaced_by_name(url, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    with opened(one, url) as store:
        store.create_project("labels", task="pair")
    with opened(two, url, adopt=True) as store:
        assert store.audit_log()[0].action == "database adopted"
    assert names(two, url) == ["labels"]
    with pytest.raises(UserError, match=f"the labels of the folder {two}"):
        names(one, url)


def test_a_folder_has_one_database(url, tmp_path):
    folder = tmp_path / "labels"
    names(folder, url)
    with pytest.raises(UserError, match="keeps its labels in an outside database; give it with --database"):
        names(folder, None)  # pyright: ignore[reportArgumentType]
    with (
        pytest.raises(UserError, match="keeps its labels in another database"),
        opened(folder, f"sqlite:///{tmp_path / 'other.sqlite'}"),
    ):
        pass
    assert not (folder / DATABASE).exists()


def test_two_folders_at_the_same_moment(url, tmp_path):
    Store(url).close()

    def claim(number: int) -> bool:
        try:
            names(tmp_path / str(number), url)
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(claim, range(4))) == [False, False, False, True]


def test_a_claim_cut_short_is_made_again(url, tmp_path, monkeypatch):
    """The folder's file is written, the database's row is not."""

    class Killed(Exception):
        pass

    write = folders.write_whole

    def dies(path: Path, text: str) -> None:
        write(path, text)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_whole", dies)
        with pytest.raises(Killed):
            names(tmp_path / "labels", url)
    assert (tmp_path / "labels" / IDENTITY).exists()
    assert names(tmp_path / "labels", url) == []


def test_one_server_for_a_database(url, tmp_path, monkeypatch):
    monkeypatch.setattr(label_folder, "LOCK_S", 0.2)
    one, copy = tmp_path / "one", tmp_path / "copy"
    with opened(one, url) as store, served_alone(store, one):
        with pytest.raises(UserError, match="is being served already"), served_alone(store, one):
            pass
        shutil.copytree(one, copy)
        with (
            opened(copy, url) as other,
            pytest.raises(UserError, match="this database is being served already"),
            served_alone(other, copy),
        ):
            pass
    with opened(copy, url) as other, served_alone(other, copy):
        pass


def test_the_folders_own_database_needs_no_claim(tmp_path):
    with opened(tmp_path / "a", create=True) as store:
        store.create_project("labels", task="pair")
        identity = store.identity
    (tmp_path / "a").rename(tmp_path / "b")
    with opened(tmp_path / "b") as store, served_alone(store, tmp_path / "b"):
        assert (store.identity, store.projects()[0].name) == (identity, "labels")
    assert not (tmp_path / "b" / IDENTITY).exists()
    with pytest.raises(UserError, match="holds no labels"), opened(tmp_path / "none"):
        pass


def test_labels_are_for_their_owner_only(tmp_path):
    """The folder, the database and the files beside it; an older folder is closed when it is opened."""
    folder = tmp_path / "labels"
    folder.mkdir(mode=0o755)
    (folder / DATABASE).touch(mode=0o644)
    with opened(folder, create=True) as store:
        store.create_project("p", task="pair")
        modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert modes[DATABASE] == 0o600
    assert set(modes.values()) == {0o600}
