"""Addresses of a served folder: those of this machine, and those that colleagues can open."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

from alignloop.labels import people
from alignloop.labels.web import addresses
from alignloop.labels.web.app import create_app
from tests.labels.web.browsing import project_of, rows
from tests.labels.web.conftest import SECRET


@pytest.mark.parametrize(
    ("host", "names", "expected"),
    [
        ("127.0.0.1", (), ["http://127.0.0.1:80"]),
        ("0.0.0.0", (), ["http://127.0.0.1:80", "http://10.1.2.3:80"]),
        ("0.0.0.0", ("label.example",), ["http://127.0.0.1:80", "http://label.example:80"]),
        ("10.1.2.3", (), ["http://10.1.2.3:80"]),
        ("::1", (), ["http://[::1]:80"]),
    ],
)
def test_addresses_of_what_is_listened_on(monkeypatch, host, names, expected):
    monkeypatch.setattr(addresses, "machine_addresses", lambda: ["10.1.2.3"])
    assert addresses.addresses_of(host, 80, names) == expected


def test_the_machines_own_addresses_are_none_that_only_it_can_reach():
    for address in addresses.machine_addresses():
        assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", address)
        assert not address.startswith(("127.", "169.254.", "0."))


def test_which_address_is_shared():
    known = ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9", "http://10.1.2.3:9"]
    assert addresses.shared_address(known) == "http://10.1.2.3:9"
    assert addresses.shared_address(known[:3]) is None


def test_what_is_remembered_survives_a_damaged_file(tmp_path):
    assert addresses.recall(tmp_path) == []
    addresses.remember(tmp_path, ["http://127.0.0.1:9"])
    assert addresses.recall(tmp_path) == ["http://127.0.0.1:9"]
    for text in ("{", '{"a": 1}', "[1]"):
        (tmp_path / addresses.ADDRESSES).write_text(text, encoding="utf-8")
        assert addresses.recall(tmp_path) == []


@pytest.mark.parametrize(
    ("base", "link"),
    [
        ("http://127.0.0.1:8321", "http://10.1.2.3:8321/invite/"),
        ("http://label.example", "http://label.example/invite/"),
    ],
)
def test_the_owners_invitations_can_be_opened_by_others(lite, make_project, base, link):
    project = make_project(lite)
    _, token = people.invite(lite, None, "o", role="owner")
    shared = ["http://127.0.0.1:8321", "http://10.1.2.3:8321"]
    app = create_app(lite, secret=SECRET, allowed_hosts=["*"], addresses=shared)
    with TestClient(app, base_url=base) as client:
        client.post("/login", data={"token": token})
        page = client.get(f"/owner/{project.id}").text
        csrf = re.search(r'name="csrf" value="([^"]+)"', page)[1]
        answer = client.post(f"/owner/{project.id}/people", data={"csrf": csrf, "name": "x"})
    assert f'link-box">{link}' in answer.text


def test_tasks_are_changed_by_one_link(served, make_project):
    one, two = (make_project(served.store, name=name, count=2) for name in ("첫째", "둘째"))
    other = make_project(served.store, name="셋째", count=2)
    person = served.sign_in(one, "혼자")
    assert "둘째" not in person.client.get("/").text
    assert person.form("/project", project=str(two.id)).status_code == 404
    owner = served.sign_in(None, "o", role="owner")
    page = owner.form(f"/owner/{one.id}/people", name="민지", everywhere="on").text
    client = served.client()
    first = client.post("/login", data={"token": re.search(r"/invite/([\w-]+)<", page)[1]}).text
    assert all(project.name in first for project in (one, two, other))
    csrf = re.search(r'name="csrf" content="([^"]+)"', first)[1]
    task = client.post("/api/next", headers={"X-CSRF-Token": csrf}).json()["task"]
    # A forged change is refused; a real one ends the first page's calls instead of misplacing its votes.
    assert client.post("/project", data={"csrf": "x", "project": str(two.id)}).status_code == 403
    second = client.post("/project", data={"csrf": csrf, "project": str(two.id)}).text
    assert "<title>둘째" in second
    stale = {"assignment": task["id"], "key": "k", "answer": {"verdict": "a"}}
    assert client.post("/api/judge", json=stale, headers={"X-CSRF-Token": csrf}).status_code == 403
    fresh = {"X-CSRF-Token": re.search(r'name="csrf" content="([^"]+)"', second)[1]}
    assert client.post("/api/judge", json=stale, headers=fresh).status_code == 404
    assert rows(served.store) == []


@pytest.mark.browser
def test_the_next_task_is_offered_when_one_is_done(server, visit):
    project_of(server.store, "pair", count=1)
    project_of(server.store, "ranking", count=1)
    token = people.link_for(server.store, "민지")
    page = visit(None, token=token, locale="ko-KR")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_selector(".finished button:visible")
    assert "다른 작업" in page.inner_text(".finished")
    page.click(".finished button:visible")
    page.wait_for_selector("body.task-ranking #answers article")
    page.click("#guide-read")
    page.click(".tasks summary")
    page.click(".tasks button:not(:disabled)")
    page.wait_for_selector("body.task-pair .finished")
