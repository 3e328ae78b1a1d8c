"""The owner makes projects, imports files and finds items in the browser."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from alignloop.labels.votes import item_rows
from alignloop.labels.web.app import MAX_BODY
from tests.labels.web.browsing import press, project_of, rows

ROWS = [{"prompt": f"질문 {n}", "responses": [f"답 {n} {k}" for k in range(3)]} for n in range(4)]


def lines(found: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found).encode()


def send(owner, project_id: int, name: str, content: bytes, **fields: str):
    data = {"csrf": owner.csrf, **fields}
    return owner.client.post(f"/owner/{project_id}/import", data=data, files={"file": (name, content)})


@pytest.fixture
def owner(served):
    """A signed-in owner of a store without projects."""
    person = served.sign_in(None, "o", role="owner")
    found = re.search(r'name="csrf" value="([^"]+)"', person.client.get("/owner").text)
    person.csrf = found[1]
    return person


def test_a_project_is_made_and_filled(served, owner):
    made = owner.form("/owner/projects", name="순위 매기기", task="ranking", guidelines="짧게\r\n\\(x\\)")
    assert (made.status_code, made.headers["location"]) == (303, "/owner/1#import")
    project = served.store.project()
    assert (project.name, project.task, served.store.guidelines(project)) == (
        "순위 매기기",
        "ranking",
        "짧게\n\\(x\\)",
    )
    answer = send(owner, 1, "../내 답.jsonl.gz", gzip.compress(lines(ROWS)))
    assert "4 items added, 0 were there already" in answer.text
    assert "0 items added, 4 were there already" in send(owner, 1, "x.jsonl", lines(ROWS)).text
    with served.store.reading() as connection:
        provenance = item_rows(connection, [1])[1].provenance
    assert (provenance["file"], provenance["line"]) == ("내 답.jsonl.gz", 1)
    assert any(row.action == "items added" and row.actor == "o" for row in served.store.audit_log())


def test_pairs_columns_and_checks(served, owner):
    assert owner.form("/owner/projects", name="p", task="pair").status_code == 303
    assert "12 items added" in send(owner, 1, "a.jsonl", lines(ROWS), pairs="all").text
    other = [{"question": "q", "better": "good", "worse": "bad"}]
    fields = {"columns": "prompt=question, chosen=better,rejected=worse", "gold": "on"}
    assert "1 items added" in send(owner, 1, "b.json", json.dumps(other).encode(), **fields).text
    assert "Hidden gold" in owner.client.get("/owner/1/items/13").text
    assert owner.form("/owner/projects", name="s", task="scores", attributes="h, 정직").status_code == 303
    assert served.store.project("s").settings.attributes == ("h", "정직")


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.txt", b"x", {}, "a.txt&#39; is no data file"),
        ("a.jsonl", b'{"prompt": "q",\n', {}, "a.jsonl:1"),
        ("a.jsonl", b"", {}, "a.jsonl"),
        ("a.jsonl.gz", b"no gzip", {}, "a.jsonl.gz"),
        ("a.jsonl", lines(ROWS), {"columns": "prompt"}, "field=column"),
        ("a.jsonl", lines(ROWS), {"columns": "promt=x"}, "did you mean"),
        ("a.jsonl", lines([{"prompt": "q", "responses": ["one"]}]), {}, "a.jsonl holds nothing that a pair"),
    ],
)
def test_files_that_cannot_be_imported(served, owner, name, content, fields, message):
    owner.form("/owner/projects", name="p", task="pair")
    answer = send(owner, 1, name, content, **fields)
    assert answer.status_code == 422
    assert "cannot be imported" in answer.text
    assert message in answer.text
    assert "alignloop-import-" not in answer.text  # no path of the server's own
    assert list(served.store.unjudged_items(served.store.project())) == []


def test_projects_that_cannot_be_made(owner):
    owner.form("/owner/projects", name="p", task="pair")
    for wrong, message in (
        ({"name": "p", "task": "pair"}, "already a project named"),
        ({"name": " ", "task": "pair"}, "1 to 200"),
        ({"name": "x", "task": "guess"}, "unknown task"),
    ):
        answer = owner.form("/owner/projects", **wrong)
        assert answer.status_code == 422
        assert message in answer.text


def test_only_the_owner_may_and_only_imports_are_large(served, owner, make_project):
    project = make_project(served.store)
    person = served.sign_in(project, "a")
    large = lines([{"prompt": f"q{n}", "responses": ["가" * 1000, "나"]} for n in range(300)])
    assert len(large) > MAX_BODY
    assert send(person, project.id, "a.jsonl", large).status_code == 403
    assert served.client().post(f"/owner/{project.id}/import", content=large).status_code == 403
    assert person.form("/owner/projects", name="x", task="pair").status_code == 403
    assert person.client.get(f"/owner/{project.id}/items").status_code == 403
    forged = owner.client.post(f"/owner/{project.id}/import", files={"file": ("a.jsonl", large)})
    assert forged.status_code == 403
    assert "300 items added" in send(owner, project.id, "a.jsonl", large).text
    assert owner.form(f"/owner/{project.id}/guidelines", text="x" * (MAX_BODY + 1)).status_code == 413
    assert owner.client.post("/owner/1/import/x", content=large).status_code == 413


def test_the_list_of_projects_can_be_reached_with_one_project(served, owner, make_project):
    make_project(served.store)
    assert owner.client.get("/owner", follow_redirects=False).headers["location"] == "/owner/1"
    assert "New project" in owner.client.get("/owner/projects").text
    ko = owner.client.get("/owner/projects", headers={"Accept-Language": "ko"}).text
    assert "새 프로젝트" in ko


def test_search_pages(served, owner, make_project):
    make_project(served.store, count=60)
    first = owner.client.get("/owner/1/items?q=question").text
    assert "60 items" in first
    assert "1 / 2" in first
    assert 'href="/owner/1/items?q=question&amp;state=any&amp;person=&amp;page=2"' in first
    assert ">#51<" in owner.client.get("/owner/1/items?q=question&page=2").text
    assert "No item fits" in owner.client.get('/owner/1/items?q="><script>').text
    assert "&lt;script&gt;" in owner.client.get('/owner/1/items?q="><script>').text
    assert owner.client.get("/owner/1/items?state=x").status_code == 422
    assert owner.client.get("/owner/1/items?person=x&page=-1").status_code == 200


@pytest.mark.browser
def test_from_nothing_to_the_first_judgement_in_the_browser(server, visit, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_bytes(lines(ROWS))
    owner = visit(None, "o", role="owner", locale="ko-KR")
    owner.fill("#new [name=name]", "한국어 답변")
    owner.select_option("#new [name=task]", "pair")
    owner.fill("#new textarea", "**짧은** 답이 좋습니다.")
    owner.click("#new button")
    owner.set_input_files("#import input[type=file]", str(file))
    owner.click("#import button")
    owner.wait_for_selector(".notice .said")
    assert "4 items added" in owner.inner_text(".notice .said")
    owner.fill("#people [name=name]", "민지")
    owner.click("#people .start button")
    owner.wait_for_selector(".link-box")
    token = owner.inner_text(".link-box").rsplit("/", 1)[1]
    page = visit(None, token=token, locale="ko-KR", read=False)
    assert "짧은 답이 좋습니다." in page.inner_text("#guideline-text")
    page.fill("#note", "둘 다 짧음")
    press(page, "Escape", "3", "Enter")
    owner.goto(f"{server.url}/owner/1/items")
    owner.select_option("select[name=state]", "commented")
    owner.click("form[role=search] button")
    owner.wait_for_selector("td:has-text('둘 다 짧음')")
    assert owner.locator("tbody tr").count() == 1
    owner.click("tbody a")
    owner.wait_for_selector("h1:has-text('항목')")
    assert len(rows(server.store)) == 1


@pytest.mark.browser
def test_formulas_are_drawn_for_the_owner_too(server, visit):
    from alignloop.labels.project import ItemAnswer, NewItem
    from alignloop.records import Message

    project = project_of(server.store, count=0)
    server.store.add_items(
        project, [NewItem((Message("user", r"\(x^2\)"),), (ItemAnswer("a"), ItemAnswer("$$y$$")))]
    )
    owner = visit(None, "o", role="owner")
    owner.goto(f"{server.url}/owner/{project.id}/items/1")
    owner.wait_for_selector(".katex-display")
    assert owner.locator(".katex").count() == 2
