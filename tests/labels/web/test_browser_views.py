"""What the pages look like and keep: phones, taken-back judgements, other databases, new tasks."""

from __future__ import annotations

import json

import pytest

from alignloop.labels import people
from alignloop.labels.project import ItemAnswer, NewItem, Settings
from alignloop.records import Message
from tests.labels.web.browsing import PLAIN, READY, press, project_of, rows, seen

pytestmark = pytest.mark.browser

WIDTH = "() => document.documentElement.scrollWidth"
PHONE = {"viewport": {"width": 360, "height": 720}, "locale": "ko-KR"}


def wide_items(count: int, num_answers: int) -> list[NewItem]:
    """Answers with everything that could push a page apart."""
    code = "```\n" + "x" * 300 + "\n```\n\n"
    table = "|" + "아주 긴 제목|" * 8 + "\n|" + "---|" * 8 + "\n|" + "값|" * 8 + "\n\n"
    return [
        NewItem(
            (Message("user", f"{n} " + "https://example.org/" + "a" * 200),),
            tuple(
                ItemAnswer(f"{k} {code}{table}{'띄어쓰기없는긴글' * 20}", f"model-{k}")
                for k in range(num_answers)
            ),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("task", "num_answers"), [("pair", 2), ("ranking", 5), ("scores", 3), ("thumbs", 3), ("edit", 2)]
)
def test_no_task_is_wider_than_a_phone(server, visit, task, num_answers):
    project = project_of(server.store, task, count=0)
    server.store.add_items(project, wide_items(1, num_answers))
    page = visit(project, **PHONE)
    for key in ("", "r", "d", "d", "r", "g"):
        if key:
            page.keyboard.press(key)
        assert page.evaluate(WIDTH) <= 360, key
    page.keyboard.press("g")
    for name in ("#submit", "#skip", "#flag", "#answers article", ".top nav"):
        box = page.locator(name).first.bounding_box()
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= 360, name
    page.click("#flag")
    assert page.locator("#note").bounding_box()["width"] > 200  # a flag without a word says little
    page.click("#skip")
    assert page.evaluate(WIDTH) <= 360


def test_no_owners_page_is_wider_than_a_phone(server, visit):
    project = project_of(server.store, count=0, overlap=2, overlap_share=1.0)
    server.store.add_items(project, wide_items(1, 2))
    for name, wanted in (("가나다라마바사아자차카타파하" * 3, True), ("two", False)):
        page = visit(project, name)
        first = page.text_content("#answers article .text").strip().startswith("0")
        page.keyboard.press("f")
        press(page, "1" if first == wanted else "5", "Enter")
    path = "runs/" + "a-long-name-of-a-run/" * 6
    server.store.record_model(project, kind="reward", path=path, judgement_ids=[1, 2], accuracy=0.5)
    owner = visit(None, "o", role="owner", **PHONE)
    owner.wait_for_selector("#disagreements a.button")
    assert "이 평가로 만든 모델" in owner.text_content("#models")
    for path in ("", "/items/1", "/items/1/adjudicate", "/items/99"):
        owner.goto(f"{server.url}/owner/{project.id}{path}")
        assert owner.evaluate(WIDTH) <= 360, path
    owner.goto(f"{server.url}/invite/x")
    assert owner.evaluate(WIDTH) <= 360


def test_a_note_and_a_flag_come_back_with_what_is_taken_back(server, visit):
    page = visit(project_of(server.store, count=3))
    press(page, "1", "f", "n")
    page.keyboard.type("끝이 잘림")
    press(page, "Enter")
    press(page, "z")
    assert page.input_value("#note") == "끝이 잘림"
    assert page.get_attribute("#flag", "aria-pressed") == "true"
    press(page, "2", "Enter")
    assert page.input_value("#note") == ""
    assert page.get_attribute("#flag", "aria-pressed") == "false"
    last = rows(server.store)[-1]
    assert (last.flagged, last.note) == (True, "끝이 잘림")


def test_what_was_typed_is_there_after_looking_back(server, visit):
    """Undo at once after typing, then redo: the half-written text is not lost."""
    page = visit(project_of(server.store, "edit", count=3))
    page.fill("textarea", "첫 답")
    page.click("#submit")
    page.wait_for_function("() => document.querySelector('textarea').value === ''")
    page.fill("textarea", "반쯤 쓴 답")
    page.click("#undo")
    page.wait_for_function("() => document.querySelector('textarea').value === '첫 답'")
    page.click("#redo")
    page.wait_for_function("() => document.querySelector('textarea').value === '반쯤 쓴 답'")


def test_a_judgement_left_from_another_database_is_not_sent(server, visit):
    """Two label folders take turns at the same address; their annotators have the same numbers."""
    project = project_of(server.store, count=2)
    annotator, token = people.invite(server.store, project, "a")
    page = visit(project, token=token)
    task = page.evaluate("() => JSON.parse(document.getElementById('config').textContent).owner")
    assert server.store.identity in task
    left = {"assignment": 1, "expected": None, "key": "left", "answer": {"verdict": "a"}, "seconds": 1}
    page.evaluate(f"() => localStorage.setItem('alignloop.outbox.{annotator.id}', '{json.dumps(left)}')")
    page.reload()
    page.wait_for_function(READY)
    assert rows(server.store) == []


def test_a_judgement_that_is_refused_after_a_reload_does_not_block_the_page(server, visit):
    page = visit(project_of(server.store, count=2))
    first = seen(page)
    left = {"assignment": 999, "expected": None, "key": "left", "answer": {"verdict": "a"}, "seconds": 1}
    page.evaluate(
        "([left]) => { const c = JSON.parse(document.getElementById('config').textContent);"
        "localStorage.setItem(`alignloop.outbox.${c.owner}`, JSON.stringify(left)) }",
        [left],
    )
    page.reload()
    page.wait_for_selector("#answers article")
    assert seen(page) == first
    press(page, "1", "Enter")
    assert len(rows(server.store)) == 1


def test_new_tasks_appear_while_the_page_waits(server, visit):
    """As when the live loop queues a new model's answers."""
    project = project_of(server.store, count=1)
    page = visit(project)
    page.clock.install()
    page.reload()
    page.wait_for_selector("#answers article")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_selector(".finished")
    more = NewItem((Message("user", "새 질문"),), (ItemAnswer("하나"), ItemAnswer("둘")))
    server.store.add_items(project, [more])
    page.clock.fast_forward(31_000)
    page.wait_for_selector("#answers article")
    assert seen(page) == "새 질문"


def test_hostile_texts_do_nothing_on_the_owners_pages(server, visit):
    hostile = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
    project = server.store.create_project(hostile, task="pair", settings=Settings(**PLAIN))
    texts = (ItemAnswer(hostile, hostile), ItemAnswer("b", hostile))
    server.store.add_items(project, [NewItem((Message("user", hostile),), texts)])
    page = visit(project, hostile)
    press(page, "1", "f", "n")
    page.keyboard.type(hostile)
    press(page, "Enter")
    server.store.record_model(project, kind=hostile[:16], path=hostile, judgement_ids=[1], accuracy=None)
    owner = visit(None, "o", role="owner")
    for path in ("", "/items/1", "/items/1/adjudicate"):
        owner.goto(f"{server.url}/owner/{project.id}{path}")
        owner.wait_for_load_state()
        assert owner.locator("img[onerror]").count() == 0
        assert owner.evaluate("() => window.hacked === undefined")
