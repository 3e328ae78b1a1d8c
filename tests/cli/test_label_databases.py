"""`alignloop label` over outside databases, and what it does with existing projects."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import pytest

from alignloop.labels.store import Store
from bench.postgres import fresh_database
from tests.cli.test_label import answers_file, fails, run, start


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return answers_file(tmp_path, prompts=4, answers=3)


def test_a_second_folder_is_refused_and_adopts_by_name(tmp_path, data, url):
    one, two = tmp_path / "one", tmp_path / "two"
    run("import", one, data, "--database", url)
    for command in (
        ("import", two, data),
        ("status", two),
        ("invite", two, "x"),
        ("serve", two, "--port", 0),
    ):
        said = fails(*command, "--database", url)
        assert f"holds the labels of the folder {one}" in said
    assert "give it with --database" in fails("status", one)
    assert "8 wanted" in run("status", one, "--database", url)
    assert "its projects: 'labels'" in run("adopt", two, "--database", url)
    assert f"the folder {two}" in fails("status", one, "--database", url)
    assert "give the database" in fails("adopt", two)


@pytest.mark.postgres
def test_two_servers_on_one_postgres(tmp_path, data, postgres):
    """The second is refused in one sentence; after a kill -9 of the first, the next one starts."""
    url = fresh_database(postgres)
    one, copy = tmp_path / "one", tmp_path / "copy"
    run("import", one, data, "--database", url)
    copy.mkdir()
    (copy / "database.id").write_bytes((one / "database.id").read_bytes())
    server = start(one, "--port", 0, "--database", url, cwd=tmp_path)
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("owner:")
        second = start(copy, "--port", 0, "--database", url, cwd=tmp_path)
        output, _ = second.communicate(timeout=120)
        assert "this database is being served already" in output
        server.send_signal(signal.SIGKILL)
        server.wait()
        since = time.monotonic()
        third = start(copy, "--port", 0, "--database", url, cwd=tmp_path)
        try:
            assert third.stdout is not None
            assert third.stdout.readline().startswith("owner:")
            assert time.monotonic() - since < 60
        finally:
            third.kill()
            third.wait()
    finally:
        server.kill()
        server.wait()


def test_a_sample_run_is_data_also_with_an_outside_database(tmp_path, data, url, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "data").mkdir(parents=True)
    data.rename(tmp_path / "run" / "data" / "rows.jsonl")
    from alignloop.labels.web import server

    said: list[str] = []
    place, database = server.prepare(
        Path("run"), folder=None, database=url, task=None, name="labels", pairs="one", say=said.append
    )
    assert (place, database) == (Path("run-labels"), url)
    assert said[0] == "labels: 4 items added, 0 were there already"
    assert not (tmp_path / "run" / "database.id").exists()
    again = server.prepare(
        place, folder=None, database=url, task=None, name="labels", pairs="one", say=said.append
    )
    assert again == (place, url)


def test_a_project_keeps_its_task_and_takes_new_guidelines(tmp_path, data):
    folder, rules = tmp_path / "labels", tmp_path / "rules.md"
    run("import", folder, data, "--task", "ranking")
    assert "'labels' is a ranking project" in fails("import", folder, data, "--task", "pair")
    rules.write_text("# 지침", encoding="utf-8")
    for _ in range(2):
        assert "0 items added, 4 were there" in run("import", folder, data, "--guidelines", rules)
    store = Store(folder / "labels.sqlite")
    project = store.project()
    assert (project.task, project.guideline_version, store.guidelines(project)) == ("ranking", 2, "# 지침")
    store.close()
    assert "cannot be read" in fails("import", folder, data, "--guidelines", tmp_path / "none.md")


def test_columns_of_other_names(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"ask": "q", "said": ["a", "b"]}\n', encoding="utf-8")
    words = ("--column", "prompt=ask", "--column", "responses=said")
    assert "1 items added" in run("import", tmp_path / "labels", path, *words)
    assert "field=column" in fails("import", tmp_path / "labels", path, "--column", "prompt")


def test_a_plan_says_how_much_of_the_curve_is_known(tmp_path, data):
    folder = tmp_path / "labels"
    run("import", folder, data)
    store = Store(folder / "labels.sqlite")
    store.record_model(store.project(), kind="reward", path="r", judgement_ids=[1, 2], accuracy=0.5)
    store.close()
    said = run("plan", folder, "--budget", 500, "--price-pair", 0.5, "--price-demonstration", 2)
    assert "accuracy unknown: 1 of the 3 points" in said


def test_a_made_up_address_does_not_evade_the_count_of_sign_ins(tmp_path, data):
    """X-Forwarded-For counts only from the proxy named with --proxy."""
    folder = tmp_path / "labels"
    run("import", folder, data)
    for words, slowed in (((), True), (("--proxy", "127.0.0.1"), False)):
        server = start(folder, "--port", 0, *words, cwd=tmp_path)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[1].rsplit("/invite/", 1)[0]
            headers = ({"X-Forwarded-For": f"198.51.100.{k}"} for k in range(30))
            found = [
                httpx.post(f"{address}/login", data={"token": "x"}, headers=h, timeout=30).status_code
                for h in headers
            ]
            assert (429 in found) is slowed
        finally:
            server.kill()
            server.wait()
