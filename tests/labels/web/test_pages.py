"""What the routes answer: a session, the owner's work, faults of the database."""

from __future__ import annotations

import inspect
import json
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import httpx
import pytest
from sqlalchemy import event, select

from alignloop.labels import database, people
from alignloop.labels.judging import LOCK_ATTEMPTS
from alignloop.labels.project import ItemAnswer, NewItem
from alignloop.labels.schema import judgements
from alignloop.labels.store import Store
from alignloop.labels.web.site import TEXTS
from alignloop.records import Message, ToolCall
from alignloop.web.pages import preferred_language
from tests.labels.web.conftest import Server


def judge(person, task: dict, verdict: str = "a", **more):
    body = {
        "assignment": task["id"],
        "expected": task["expected"],
        "key": f"k{task['id']}-{task['expected']}",
    }
    return person.call("judge", {**body, "answer": {"verdict": verdict}, "seconds": 0, **more})


def test_languages_have_the_same_words():
    assert set(TEXTS["en"]) == set(TEXTS["ko"])
    assert all(text for texts in TEXTS.values() for text in texts.values())
    hangul = [key for key, text in TEXTS["ko"].items() if re.search("[가-힣]", text)]
    assert len(hangul) > 0.97 * len(TEXTS["ko"])
    assert [
        preferred_language(None, "ko-KR,en;q=0.8"),
        preferred_language("fr", None),
        preferred_language("xx", "ko"),
    ] == [
        "ko",
        "en",
        "ko",
    ]


def test_every_word_that_a_page_or_script_asks_for_is_there():
    here = files("alignloop.labels.web")
    for folder in ("templates", "static"):
        for entry in here.joinpath(folder).iterdir():
            if entry.name.endswith((".html", ".js")):
                asked = set(re.findall(r"\bt\.(\w+)", entry.read_text("utf-8")))
                assert asked <= set(TEXTS["ko"]), (entry.name, asked - set(TEXTS["ko"]))
    reasons = re.findall(r"^    \"(\w+)\": \"the", inspect.getsource(database), re.MULTILINE)
    assert {f"fault_{reason}" for reason in reasons} <= set(TEXTS["ko"])


def test_a_session_over_the_wire(served, make_project):
    person = served.sign_in(make_project(served.store, count=3), "a")
    answer = person.call("next").json()
    task = answer["task"]
    assert set(task) == {
        "id", "kind", "prompt", "answers", "expected", "draft", "previous", "note", "flagged"
    }  # fmt: skip
    assert answer["progress"] == {
        "done": 0,
        "skipped": 0,
        "remaining": 2,
        "can_undo": False,
        "can_redo": False,
    }
    assert person.call("draft", {"assignment": task["id"], "draft": {"note": "절반"}}).json() == {
        "saved": True
    }
    assert person.call("next").json()["task"]["draft"] == {"note": "절반"}
    following = judge(person, task, "b_much", note="좋아요", flagged=True).json()
    assert following["judgement"] == 1
    assert following["task"]["id"] != task["id"]
    back = person.call("undo", {"key": "u"}).json()
    assert back["task"]["previous"] == {"verdict": "b_much"}
    assert (back["task"]["note"], back["task"]["flagged"]) == ("좋아요", True)
    assert person.call("redo", {"key": "r"}).json()["task"]["id"] == following["task"]["id"]
    assert person.call("redo", {"key": "r2"}).json()["reason"] == "redo"
    skipped = {"assignment": following["task"]["id"], "key": "s", "skip": "unsafe"}
    last = person.call("judge", skipped).json()
    assert judge(person, last["task"]).json()["task"] is None


def test_a_second_window_is_told(served, make_project):
    person = served.sign_in(make_project(served.store), "a")
    task = person.call("next").json()["task"]
    assert judge(person, task).status_code == 200
    assert judge(person, task).status_code == 200  # the same key: the same judgement
    other = judge(person, task, key="other window")
    assert (other.status_code, other.json()["reason"]) == (409, "conflict")


def test_the_page_is_in_the_readers_language(served, make_project):
    project = make_project(served.store)
    client = served.client()
    assert "초대" in client.get("/invite/x", headers={"Accept-Language": "ko"}).text
    assert "invited" in client.get("/invite/x?lang=en", headers={"Accept-Language": "ko"}).text
    person = served.sign_in(project, "a")
    assert '<html lang="en">' in person.client.get("/").text
    assert '<html lang="ko">' in person.client.get("/", headers={"Accept-Language": "ko-KR,ko"}).text
    assert person.form("/language", language="ko").status_code == 303
    assert '<html lang="ko">' in person.client.get("/").text
    assert people.find(served.store, person.annotator_id).language == "ko"
    person.client.cookies.delete("lang")
    assert '<html lang="ko">' in person.client.get("/", headers={"Accept-Language": "en"}).text
    assert person.form("/language", language="xx").status_code == 422


def test_many_people_sign_in_at_once(tmp_path):
    """Each sign-in is a line of the audit log; none may lock the database for another."""
    store = Store(tmp_path / "labels.sqlite", busy_timeout_s=0.001)
    tokens = [people.invite(store, None, f"{k}", role="owner")[1] for k in range(24)]
    server = Server(store)

    def sign_in(token: str) -> int:
        return httpx.post(f"{server.url}/login", data={"token": token}, timeout=30).status_code

    try:
        with ThreadPoolExecutor(24) as threads:
            assert list(threads.map(sign_in, tokens)) == [303] * 24
    finally:
        server.stop()
    assert sum(row.action == "signed in" for row in store.audit_log()) == 24
    store.close()


def test_signing_out_ends_the_browsers_session(served, make_project):
    person = served.sign_in(make_project(served.store), "a")
    assert person.form("/logout").status_code == 303
    assert "invitation" in person.client.get("/").text


def test_the_owner_invites_and_removes(served, make_project):
    project = make_project(served.store)
    owner = served.sign_in(None, "o", role="owner")
    page = owner.form(f"/owner/{project.id}/people", name="이수진", language="ko")
    token = re.search(r"/invite/([\w-]+)<", page.text)[1]
    invited = served.client()
    assert '<html lang="ko">' in invited.post("/login", data={"token": token}).text
    (person,) = people.list_annotators(served.store, project)
    again = owner.form(f"/owner/{project.id}/people/{person.id}/link")
    assert token not in again.text
    assert invited.post("/api/next", json={}).status_code == 403
    assert owner.form(f"/owner/{project.id}/people/{person.id}/remove").status_code == 303
    assert people.find(served.store, person.id).removed
    assert owner.form(f"/owner/{project.id}/people/999/remove").status_code == 404
    # a removed person comes back under the same name; a second one of that name is refused
    assert owner.form(f"/owner/{project.id}/people", name="이수진").status_code == 200
    assert people.find(served.store, person.id).removed is None
    taken = owner.form(f"/owner/{project.id}/people", name="이수진")
    assert taken.status_code == 409
    assert "already an annotator named" in taken.text
    ko = owner.client.post(
        f"/owner/{project.id}/people",
        data={"csrf": owner.csrf, "name": "이수진"},
        headers={"Accept-Language": "ko"},
    )
    assert "같은 이름의 평가자가 이미 있습니다" in ko.text
    for wrong in ({"name": ""}, {"name": "가" * 201}, {"name": "x", "language": "klingonisch"}):
        assert owner.form(f"/owner/{project.id}/people", **wrong).status_code == 422


def test_the_owner_changes_settings_and_guidelines(served, make_project):
    project = make_project(served.store)
    owner = served.sign_in(None, "o", role="owner")
    fields = {"overlap": "3", "overlap_share": "0.5", "price_pair": "1.5", "currency": "₩", "seed": "4"}
    assert owner.form(f"/owner/{project.id}/settings", **fields).status_code == 303
    settings = served.store.project().settings
    assert (settings.overlap, settings.overlap_share, settings.price_pair, settings.currency) == (
        3,
        0.5,
        1.5,
        "₩",
    )
    for wrong in ({"overlap": "x"}, {"overlap": "2.5"}, {"overlap_share": "7"}, {"price_pair": "nan"}):
        assert owner.form(f"/owner/{project.id}/settings", **wrong).status_code == 422
    assert owner.form(f"/owner/{project.id}/guidelines", text="# 새 지침\r\n1. 하나").status_code == 303
    now = served.store.project()
    assert (now.guideline_version, served.store.guidelines(now)) == (2, "# 새 지침\n1. 하나")
    person = served.sign_in(now, "a")
    assert "<h1>새 지침</h1>" in person.client.get("/").text


def test_the_owner_sees_decides_withdraws_and_exports(served, make_project):
    project = make_project(served.store, count=2, overlap=2, overlap_share=1.0)
    one, two = served.sign_in(project, "하나"), served.sign_in(project, "둘")
    for person, wanted in ((one, "answer 0"), (two, "answer 1")):
        task = person.call("next").json()["task"]
        while task:
            task = judge(person, task, "a" if wanted in task["answers"][0]["text"] else "b").json()["task"]
    owner = served.sign_in(None, "o", role="owner")
    page = owner.client.get(f"/owner/{project.id}").text
    assert page.count("/adjudicate") == 2
    item = owner.client.get(f"/owner/{project.id}/items/1").text
    assert "model-0" in item
    assert "1 &gt; 2" in item
    assert "2 &gt; 1" in item
    page = owner.client.get(f"/owner/{project.id}/items/1/adjudicate").text
    task = owner.call("adjudicate/1").json()["task"]
    # The votes speak of A and B as this owner sees them: 하나 preferred answer 0.
    expected = "A &gt; B" if "answer 0" in task["answers"][0]["text"] else "B &gt; A"
    assert f"<b>하나</b>: {expected}" in page
    judge(owner, task, "a" if "answer 1" in task["answers"][0]["text"] else "b")
    assert owner.form(f"/owner/{project.id}/items/2/withdraw", reason="개인 정보").status_code == 303
    answer = owner.client.get(f"/owner/{project.id}/export?kind=preference&ties=on")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["chosen"] for row in rows] == ["item 0 answer 1 word"]
    assert rows[0]["provenance"]["details"]["adjudicated"] is True
    assert answer.headers["content-disposition"] == 'attachment; filename="project-1-preference.jsonl"'
    log = owner.client.get(f"/owner/{project.id}").text
    assert "items withdrawn" in log
    assert "why: 개인 정보" in log
    assert "export" in log


@pytest.mark.parametrize(
    "path", ["/owner/99", "/owner/1/items/99", "/owner/1/items/99999999999", "/owner/x", "/x"]
)
def test_pages_that_are_not_there(served, make_project, path):
    make_project(served.store)
    owner = served.sign_in(None, "o", role="owner")
    answer = owner.client.get(path)
    assert answer.status_code == 404
    assert "There is no such page" in answer.text or "no such" in answer.text or "no project" in answer.text


def test_an_item_of_another_project_is_not_shown(served, make_project):
    make_project(served.store, name="one", count=1)
    other = make_project(served.store, name="two", count=0)
    owner = served.sign_in(None, "o", role="owner")
    assert owner.client.get("/owner/1/items/1").status_code == 200
    assert owner.client.get(f"/owner/{other.id}/items/1").status_code == 404


def test_a_locked_database_answers_503_and_the_judgement_can_be_sent_again(served, make_project, monkeypatch):
    project = make_project(served.store)
    person = served.sign_in(project, "a")
    task = person.call("next").json()["task"]
    monkeypatch.setattr("alignloop.labels.judging.LOCK_ATTEMPTS", 1)
    assert LOCK_ATTEMPTS > 1
    with served.store.writing():
        answer = judge(person, task)
    assert (answer.status_code, answer.json()["reason"]) == (503, "locked")
    assert answer.headers["retry-after"] == "2"
    assert judge(person, task).status_code == 200
    with served.store.reading() as connection:
        assert len(connection.execute(select(judgements.c.id)).all()) == 1


def test_a_full_disk_answers_503_and_the_judgement_can_be_sent_again(served, make_project):
    project = make_project(served.store, task="edit", num_answers=1)
    person = served.sign_in(project, "a")
    task = person.call("next").json()["task"]
    room = [2]  # pages beyond those in use

    @event.listens_for(served.store.engine, "begin")
    def limit(connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + room[0]}")

    def send():
        body = {"assignment": task["id"], "expected": task["expected"], "key": "k", "seconds": 1}
        return person.call("judge", {**body, "answer": {"text": "가" * 90_000, "base": 0}})

    answer = send()
    assert (answer.status_code, answer.json()["reason"]) == (503, "full")
    assert "disk" in answer.json()["error"]
    room[0] = 100_000
    assert send().status_code == 200
    with served.store.reading() as connection:
        assert len(connection.execute(select(judgements.c.id)).all()) == 1


def test_a_defect_in_one_operation_does_not_fail_its_neighbours(served, make_project):
    """The writer answers the others when a job raises something unexpected."""
    import asyncio

    from alignloop.labels.judging import Desk
    from alignloop.labels.writer import Writer

    def broken(connection):
        raise ZeroDivisionError

    async def run() -> list:
        writer = Writer(Desk(served.store))
        jobs = [writer.do(broken), writer.do(lambda c: 1), writer.do(lambda c: 2)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        await writer.close()
        return results

    results = asyncio.run(run())
    assert isinstance(results[0], ZeroDivisionError)
    assert results[1:] == [1, 2]


def test_an_export_that_does_not_fit_is_told_and_not_a_defect(served, make_project):
    project = make_project(served.store, task="ranking", num_answers=3)
    owner = served.sign_in(None, "o", role="owner")
    for query, message in (
        ("kind=preference", "ask for it by --derive"),
        ("kind=rating", "cannot give rating records"),
        ("kind=no-such-kind", "cannot give no-such-kind records"),
        ("min_agreement=x", "must be a number"),
    ):
        answer = owner.client.get(f"/owner/{project.id}/export?{query}")
        assert answer.status_code == 422, query
        assert message in answer.text
    assert owner.client.get(f"/owner/{project.id}/export?kind=preference&derive=on").status_code == 200


def test_people_see_what_became_of_their_judgements(served, make_project):
    """The owner by model, the annotator in one line that names no model."""
    project = make_project(served.store, count=0)
    rows = [
        NewItem(
            (Message("user", f"q{k}"),),
            (ItemAnswer(f"old {k}", "runs/start"), ItemAnswer(f"new {k}", "runs/r1")),
        )
        for k in range(5)
    ]
    served.store.add_items(project, rows)
    person, owner = served.sign_in(project, "a"), served.sign_in(None, "o", role="owner")
    assert 'id="learned"' not in person.client.get("/").text
    assert 'id="models"' not in owner.client.get(f"/owner/{project.id}").text
    task = person.call("next").json()["task"]
    while task:
        new_first = task["answers"][0]["text"].startswith("new")
        task = judge(person, task, "a" if new_first else "b").json()["task"]
    for path, accuracy, ids in (("runs/r0", 0.55, [1, 2]), ("runs/r1", 0.8, [1, 2, 3, 4, 5])):
        served.store.record_model(project, kind="reward", path=path, judgement_ids=ids, accuracy=accuracy)
    page = person.client.get("/").text
    assert "have learned from 5 judgements" in page
    assert "80 % of people" in page
    assert "At first: 55 %" in page
    assert "runs/" not in page
    page = re.sub(r"\s+", " ", owner.client.get(f"/owner/{project.id}").text)
    assert 'title="1–5"' in page
    row = r'>runs/r1</th><td class="said">runs/start</td><td>5</td><td>.*?>1.00 <small>'
    assert re.search(row, page)
    assert "against older models" in page


def test_tools_and_thoughts_are_on_both_pages(served):
    project = served.store.create_project("tools", task="pair")
    prompt = (
        Message("user", "Tide?", tools=('{"name": "tide"}',)),
        Message("assistant", "", "Hm.", (ToolCall("tide", '{"at": "Busan"}'),)),
        Message("tool", "1.2 m"),
    )
    served.store.add_items(project, [NewItem(prompt, (ItemAnswer("High."), ItemAnswer("Low.")))])
    project = served.store.project(project.id)
    task = served.sign_in(project, "a").call("next").json()["task"]
    assert [turn["role"] for turn in task["prompt"]] == ["tools", "user", "thinking", "call", "tool"]
    assert "Busan" in task["prompt"][3]["html"]
