"""Forged forms, guessed tokens, oversized bodies, other people's items."""

from __future__ import annotations

import json
import re

import pytest
from sqlalchemy import select

from alignloop.labels import people
from alignloop.labels.project import ItemAnswer, NewItem
from alignloop.labels.schema import judgements, metadata
from alignloop.labels.web import annotate
from alignloop.labels.web import owner as owner_routes
from alignloop.labels.web.render import render
from alignloop.labels.web.sessions import RateLimit
from alignloop.records import Message
from alignloop.web.connections import network_of
from alignloop.web.shell import host_name


def body_for(task: dict, verdict: str = "a", key: str = "k1") -> dict:
    return {
        "assignment": task["id"],
        "expected": task["expected"],
        "key": key,
        "answer": {"verdict": verdict},
    }


def stored(store) -> int:
    with store.reading() as connection:
        return len(connection.execute(select(judgements.c.id)).all())


def test_every_answer_carries_the_headers(served, make_project):
    person = served.sign_in(make_project(served.store), "a")
    for path in ("/", "/invite/x", "/static/label.js", "/nowhere", "/health"):
        headers = person.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
    assert person.client.get("/").headers["cache-control"] == "no-store"


def test_pages_have_no_inline_script_or_style(served, make_project):
    project = make_project(served.store)
    annotator, owner = served.sign_in(project, "a"), served.sign_in(None, "o", role="owner")
    pages = [
        annotator.client.get("/"),
        owner.client.get(f"/owner/{project.id}"),
        served.client().get("/invite/x"),
    ]
    pages.append(owner.client.get(f"/owner/{project.id}/items/1"))
    for answer in pages:
        assert answer.status_code == 200
        assert "<script>" not in answer.text
        assert " style=" not in answer.text
        assert " onclick=" not in answer.text
        assert "http://" not in answer.text.replace("http://localhost", "").replace("http://www.w3.org", "")
        assert "https://" not in answer.text


def test_the_session_cookie_is_signed_http_only_and_same_site(served, make_project):
    _, token = people.invite(served.store, make_project(served.store), "a")
    client = served.client()
    answer = client.post("/login", data={"token": token}, follow_redirects=False)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    value = client.cookies["alignloop_label"]
    client.cookies.clear()
    for forged in (
        value[:-1] + ("A" if value[-1] != "A" else "B"),
        value.split(".")[0],
        "",
        "WzEsMCwieCJd.x.y",
    ):
        client.cookies.set("alignloop_label", forged)
        assert client.post("/api/next", json={}).status_code == 403
        client.cookies.clear()


def test_a_form_without_the_token_is_refused(served, make_project):
    person = served.sign_in(make_project(served.store), "a")
    task = person.call("next").json()["task"]
    for headers in ({"X-CSRF-Token": ""}, {"X-CSRF-Token": "x" * 32}, {"Origin": "https://evil.example"}):
        answer = person.call("judge", body_for(task), **headers)
        assert (answer.status_code, answer.json()["reason"]) == (403, "forged")
    assert person.call("judge", body_for(task), **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert stored(served.store) == 0
    assert person.call("judge", body_for(task), Origin="http://localhost").status_code == 200


def test_another_sessions_token_does_not_fit(served, make_project):
    project = make_project(served.store)
    one, two = served.sign_in(project, "one"), served.sign_in(project, "two")
    task = one.call("next").json()["task"]
    assert one.call("judge", body_for(task), **{"X-CSRF-Token": two.csrf}).status_code == 403


def writing_routes() -> list[str]:
    """Every address that takes a POST, with numbers put in."""
    routes = [route for route in [*annotate.ROUTES, *owner_routes.ROUTES] if "POST" in (route.methods or ())]
    return [re.sub(r"\{\w+:int\}", "1", route.path) for route in routes]


@pytest.mark.parametrize("path", writing_routes())
def test_no_writing_request_is_carried_out_without_the_sessions_token(served, make_project, path):
    project = make_project(served.store)
    _, token = people.invite(served.store, project, "guest")
    for person in (served.sign_in(project, "a"), served.sign_in(None, "o", role="owner")):
        before = served.store.audit_log()
        fields = {"name": "x", "text": "x", "reason": "x", "language": "ko", "token": token}
        for extra in ({}, {"csrf": "x" * 32}, {"csrf": ""}):
            # as another site's form would arrive: the cookie goes along, the token does not
            headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
            forged = person.client.post(path, data={**fields, **extra}, headers=headers)
            assert forged.status_code == 403, (path, extra)
            if path != "/login":
                assert person.client.post(path, data={**fields, **extra}).status_code == 403, (path, extra)
        assert served.store.audit_log() == before
    assert stored(served.store) == 0


def test_reading_requests_change_nothing(served, make_project):
    project = make_project(served.store)
    person, owner = served.sign_in(project, "a"), served.sign_in(None, "o", role="owner")
    person.call("judge", body_for(person.call("next").json()["task"]))

    def everything() -> list:
        with served.store.reading() as connection:
            tables = [t for t in metadata.sorted_tables if t.name != "audit"]
            return [connection.execute(select(table)).all() for table in tables]

    before = everything()
    pages = ("", "/items/1", "/items/1/adjudicate", "/export", "/people", "/settings", "/items/1/withdraw")
    for path in ("/", "/owner", "/login", "/logout", "/api/next", "/api/undo", "/api/adjudicate/1"):
        person.client.get(path)
        owner.client.get(path)
    for page in pages:
        owner.client.get(f"/owner/{project.id}{page}")
    assert everything() == before


def test_owner_forms_need_the_token_too(served, make_project):
    project = make_project(served.store)
    owner = served.sign_in(None, "o", role="owner")
    answer = owner.client.post(f"/owner/{project.id}/people", data={"name": "x", "csrf": "wrong"})
    assert answer.status_code == 403
    assert people.list_annotators(served.store, project) == []


@pytest.mark.parametrize("path", ["", "/export", "/items/1", "/items/1/adjudicate"])
def test_annotators_cannot_see_the_owners_pages(served, make_project, path):
    project = make_project(served.store)
    person = served.sign_in(project, "a")
    assert person.client.get(f"/owner/{project.id}{path}").status_code == 403
    assert served.client().get(f"/owner/{project.id}{path}", follow_redirects=False).status_code == 303


def test_annotators_cannot_use_the_owners_forms(served, make_project):
    project = make_project(served.store)
    person = served.sign_in(project, "a")
    for path in (
        "people",
        "settings",
        "guidelines",
        "items/1/withdraw",
        f"people/{person.annotator_id}/remove",
    ):
        assert person.form(f"/owner/{project.id}/{path}", name="x", reason="x").status_code == 403
    assert person.call("adjudicate/1").status_code == 404


def test_another_annotators_task_looks_as_if_it_did_not_exist(served, make_project):
    project = make_project(served.store)
    one, two = served.sign_in(project, "one"), served.sign_in(project, "two")
    task = one.call("next").json()["task"]
    two.call("next")
    theirs = two.call("judge", body_for(task))
    none = two.call("judge", body_for({**task, "id": 9999}))
    assert (theirs.status_code, theirs.text) == (none.status_code, none.text) == (404, none.text)
    assert two.call("draft", {"assignment": task["id"], "draft": {}}).status_code == 404
    assert stored(served.store) == 0


def test_annotators_see_neither_models_nor_checks_nor_votes(served, make_project):
    project = make_project(served.store, overlap=2, overlap_share=1.0, gold_share=0.5)
    gold = {"preference": 2, "both_bad": False}
    served.store.add_items(
        project,
        [
            NewItem(
                (Message("user", f"g{n}"),),
                (ItemAnswer("x", "secret-model"), ItemAnswer("y", "secret-model")),
                gold=gold,
            )
            for n in range(9)
        ],
    )
    one, two = served.sign_in(project, "somebody"), served.sign_in(project, "me")
    seen = ""
    for person in (one, two):
        seen = ""
        answer = person.call("next")
        for k in range(8):
            seen += answer.text
            answer = person.call("judge", body_for(answer.json()["task"], key=f"{person.annotator_id}-{k}"))
        seen += person.client.get("/").text
    for secret in ("model-0", "secret-model", "gold", "preference", '"arm"', "random", "somebody"):
        assert secret not in seen


def test_guessing_tokens_is_slowed_down_and_a_right_token_is_never_refused(served, make_project):
    """Ten wrong tokens from an address, a proxy's perhaps, shut nobody else out."""
    _, token = people.invite(served.store, make_project(served.store), "a")
    client = served.client()
    statuses = [client.post("/login", data={"token": f"guess-{k}"}).status_code for k in range(8)]
    assert statuses == [403] * 5 + [429] * 3
    # another beginning is another person's mistake; the address's own limit bounds what is written down
    assert client.post("/login", data={"token": "other"}).status_code == 403
    refused = [row for row in served.store.audit_log() if row.action == "sign-in refused"]
    assert len(refused) == 5
    assert "guess" not in json.dumps([row.details for row in refused])
    answer = client.post("/login", data={"token": "guess-9"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert client.post("/login", data={"token": token}, follow_redirects=False).status_code == 303


def test_failures_are_forgiven_with_time_and_memory_is_bounded(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    limit = RateLimit(burst=2, refill_s=10.0, max_keys=3)
    assert [limit.failed("a") for _ in range(3)] == [False, False, True]
    now[0] = 19.9
    assert limit.failed("a")
    now[0] = 40.1
    assert not limit.failed("a")
    for key in "bcdef":
        limit.failed(key)
    assert len(limit._keys) == 3


def test_guesses_sent_at_the_same_moment_are_a_debt(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    limit = RateLimit(burst=2, refill_s=10.0)
    for _ in range(30):
        limit.failed("a")
    now[0] = 10.0 * 28 + 9
    assert limit._left("a", now[0]) < 1
    now[0] = 10.0 * 29
    assert limit._left("a", now[0]) == 1


def test_one_client_is_one_address_or_one_network():
    assert network_of("192.0.2.7") == "192.0.2.7"
    assert network_of("2001:db8:0:1::5") == network_of("2001:db8:0:1:ffff::6") == "2001:db8:0:1::/64"
    assert network_of("2001:db8:0:2::5") != network_of("2001:db8:0:1::5")
    assert network_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("testclient") == "testclient"


def test_unknown_hosts_are_refused(served):
    answer = served.client().get("/", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert served.client().get("/", headers={"Host": "127.0.0.1:8321"}).status_code == 200
    assert [host_name(h) for h in ("[::1]:80", "a.b:1", "", "[")] == ["::1", "a.b", "", ""]


def test_oversized_bodies_are_refused_before_they_are_read(served, make_project):
    person = served.sign_in(make_project(served.store), "a")
    task = person.call("next").json()["task"]
    answer = person.call("judge", {**body_for(task), "note": "x" * 600_000})
    assert (answer.status_code, answer.json()["reason"]) == (413, "size")

    def chunks():
        for _ in range(700):
            yield b"x" * 1024

    headers = {"X-CSRF-Token": person.csrf, "Content-Type": "application/json"}
    assert person.client.post("/api/judge", content=chunks(), headers=headers).status_code == 413
    assert stored(served.store) == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"assignment": NaN}',
        b'{"note": "\\ud800"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"assignment": 1e400}',
    ],
)
def test_broken_json_is_refused(served, make_project, raw):
    person = served.sign_in(make_project(served.store), "a")
    headers = {"X-CSRF-Token": person.csrf, "Content-Type": "application/json"}
    assert person.client.post("/api/judge", content=raw, headers=headers).status_code in (400, 422)


@pytest.mark.parametrize(
    "change",
    [
        {"assignment": "1"},
        {"assignment": True},
        {"assignment": 2**40},
        {"key": ""},
        {"key": "x" * 65},
        {"answer": [1]},
        {"answer": None},
        {"skip": "because"},
        {"answer": None, "skip": "because"},
        {"seconds": "5"},
        {"seconds": -1},
        {"expected": "x"},
        {"note": "x" * 2001},
    ],
)
def test_wrong_fields_are_refused_and_nothing_is_stored(served, make_project, change):
    person = served.sign_in(make_project(served.store), "a")
    task = person.call("next").json()["task"]
    answer = person.call("judge", {**body_for(task), **change})
    assert answer.status_code == 422, answer.text
    assert stored(served.store) == 0


def test_no_request_reaches_the_file_system(served, make_project):
    person = served.sign_in(make_project(served.store), "a")
    for path in (
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2fapp.py",
        "/static//etc/passwd",
        "/static/..\\app.py",
        "/static/label.js%00",
        "/../../etc/passwd",
        "/templates/label.html",
    ):
        answer = person.client.get(path)
        assert answer.status_code in (400, 404), path
        assert "import" not in answer.text
    assert person.client.get("/static/label.js").status_code == 200


def test_texts_of_strangers_are_escaped_everywhere(served):
    hostile = '"><script>alert(1)</script>'
    project = served.store.create_project(hostile, task="pair", guidelines_text=hostile)
    served.store.add_items(
        project, [NewItem((Message("user", hostile),), (ItemAnswer(hostile, hostile), ItemAnswer("b")))]
    )
    person, owner = served.sign_in(project, hostile), served.sign_in(None, "o", role="owner")
    task = person.call("next").json()["task"]
    person.call("judge", {**body_for(task), "note": hostile, "flagged": True})
    pages = [person.client.get("/"), *(owner.client.get(f"/owner/{project.id}{p}") for p in ("", "/items/1"))]
    pages.append(owner.client.get(f"/owner/{project.id}/items/1/adjudicate"))
    pages.append(owner.client.get("/owner"))
    pages.append(owner.form(f"/owner/{project.id}/people", name="x" + hostile))
    served.store.create_project("second", task="pair")
    pages.append(owner.client.get("/owner"))
    pages.append(person.client.get("/invite/" + hostile.split("/")[0]))
    for page in pages:
        assert page.status_code == 200
        assert "<script>alert" not in page.text
    assert "<script>" not in task["prompt"][0]["html"]
    wrong = owner.form(f"/owner/{project.id}/settings", overlap=hostile)
    assert wrong.status_code == 422
    assert "<script>alert" not in wrong.text


def test_a_removed_annotator_is_out_at_once(served, make_project):
    person = served.sign_in(make_project(served.store), "a")
    task = person.call("next").json()["task"]
    people.remove(served.store, person.annotator_id)
    answer = person.call("judge", body_for(task))
    assert (answer.status_code, answer.json()["reason"]) == (403, "removed")
    assert "Open your invitation link" in person.client.get("/").text
    assert stored(served.store) == 0


@pytest.mark.parametrize("mark", ["\u202e", "\u2066", "\u200b"])
def test_invisible_characters_are_shown(mark):
    """`\u202e` turns the rest of a line around: what people judge would not be what is stored."""
    html = render(f"safe {mark}evil [a](b{mark}c)")
    assert mark not in html
    assert html.count(f"U+{ord(mark):04X}") == 1  # an address is percent-encoded
    assert mark not in render("x" * 30_000 + mark)
    assert render("שלום עולם") == "<p>שלום עולם</p>\n"
