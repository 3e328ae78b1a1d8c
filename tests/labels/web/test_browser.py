"""The labelling page as a person uses it, in Chromium."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from alignloop.labels import people
from alignloop.labels.project import ItemAnswer, NewItem, Settings
from alignloop.labels.schema import assignments, drafts
from alignloop.records import Message
from tests.labels.web.browsing import PLAIN, READY, press, project_of, rows, seen

pytestmark = pytest.mark.browser


def test_a_whole_session_by_keyboard(server, visit):
    project = project_of(server.store, count=6)
    page = visit(project)
    assert page.locator("[aria-checked=true]").count() == 0
    keystrokes, height = 0, page.locator(".top").bounding_box()["height"]
    for key in ("1", "2", "3", "4"):
        press(page, key, "Enter")
        keystrokes += 2
    assert "per hour" in page.text_content("#counts")
    assert page.locator(".top").bounding_box()["height"] == height  # what is read does not jump
    fourth = seen(page)
    press(page, "z")
    assert "Taken back" in page.text_content("#message")
    assert page.get_attribute("[data-verdict=b]", "aria-checked") == "true"
    press(page, "y")
    assert seen(page) == fourth
    page.keyboard.press("d")
    assert page.locator("#answers mark").count() > 0
    page.keyboard.press("d")
    page.keyboard.press("r")
    assert "*the same*" in page.text_content("#answers pre.plain")
    page.keyboard.press("r")
    page.keyboard.press("g")
    assert page.inner_text("#guideline-text") == "공정하게"
    page.keyboard.press("g")
    page.keyboard.press("f")
    page.keyboard.press("n")
    page.keyboard.type("끝이 잘림")
    press(page, "Enter")  # nothing chosen yet
    assert page.text_content("#message") == "Not complete yet."
    page.keyboard.press("Escape")
    press(page, "0", "Enter")
    press(page, "s", "2")
    assert "Nothing is left" in page.text_content("#answers")
    stored = rows(server.store)
    assert [row.action for row in stored] == ["judge"] * 4 + ["undo", "redo", "judge", "skip"]
    shown = [
        (row.answer["preference"] if row.display_order[0] == 0 else -row.answer["preference"])
        for row in stored[:4]
    ]
    assert shown == [2, 1, 0, -1]
    assert (stored[6].flagged, stored[6].note, stored[6].answer["both_bad"]) == (True, "끝이 잘림", True)
    assert stored[7].skip_reason == "knowledge"
    assert keystrokes / 4 <= 3
    assert all(0 < row.seconds < 20 for row in stored[:4])


def test_a_whole_session_by_mouse_in_korean(server, visit):
    project = project_of(server.store, count=3)
    page = visit(project)
    page.click(".more summary")
    with page.expect_navigation():
        page.click("button[name=language][value=ko]")
    page.wait_for_function(READY)
    assert page.text_content("#question") == "어느 답변이 더 좋은가요?"
    page.click("[data-verdict=a_much]")
    page.click("#submit")
    page.wait_for_function(READY)
    assert "1건 완료" in page.text_content("#counts")
    page.click("#undo")
    page.wait_for_function(READY)
    assert "되돌렸습니다" in page.text_content("#message")
    page.click("[data-verdict=tie]")
    page.click("#flag")
    page.fill("#note", "둘 다 비슷합니다")
    page.click("#submit")
    page.wait_for_function(READY)
    page.click("#skip")
    page.click(".reasons button[value=unclear]")
    page.wait_for_function(READY)
    page.click("[data-verdict=b]")
    page.click("#submit")
    page.wait_for_selector(".finished")
    assert "남은 항목이 없습니다" in page.text_content(".finished")
    assert [row.action for row in rows(server.store)] == ["judge", "undo", "judge", "skip", "judge"]
    assert rows(server.store)[2].note == "둘 다 비슷합니다"


def test_keys_work_while_a_korean_keyboard_is_on(server, visit):
    page = visit(project_of(server.store))
    # A Korean layout sends the syllable as `key` and the physical key as `code`.
    event = "new KeyboardEvent('keydown', {key: 'ㄴ', code: 'KeyS', bubbles: true})"
    page.evaluate(f"() => document.body.dispatchEvent({event})")
    assert page.locator("#skip-dialog[open]").count() == 1


@pytest.mark.parametrize(
    ("task", "keys", "said"),
    [
        (
            "ranking",
            ["2", "=", "3", "1"],
            lambda order: {"ranks": [(2, 1, 1)[order.index(i)] for i in range(3)]},
        ),
        (
            "scores",
            list("543210"),
            lambda order: {
                "scores": {
                    "h": [(5, 3, 1)[order.index(i)] for i in range(3)],
                    "정직": [(4, 2, 0)[order.index(i)] for i in range(3)],
                }
            },
        ),
        (
            "thumbs",
            ["1", "1", "Backspace", "2", "1"],
            lambda order: {"thumbs": [(True, False, True)[order.index(i)] for i in range(3)]},
        ),
    ],
)
def test_other_tasks_by_keyboard(server, visit, task, keys, said):
    page = visit(project_of(server.store, task, count=2, num_answers=3, attributes=("h", "정직")))
    assert page.locator("#answers [aria-checked=true]").count() == 0
    press(page, *keys, "Enter")
    (row,) = rows(server.store)
    assert row.answer == said(row.display_order)


def test_an_answer_is_edited(server, visit):
    page = visit(project_of(server.store, "edit", count=2))
    assert page.input_value("textarea") == ""
    page.click(".editor [data-value='1']")
    page.fill("textarea", "고친 답입니다")
    page.click(".editor summary")
    page.wait_for_selector(".editor del")
    page.focus("textarea")
    press(page, "Control+Enter")
    (row,) = rows(server.store)
    assert row.answer == {"text": "고친 답입니다", "base": row.display_order[1]}


def test_a_draft_survives_a_reload(server, visit):
    page = visit(project_of(server.store, "edit", count=2))
    with page.expect_response("**/api/draft"):
        page.fill("textarea", "반쯤 쓴 답")
    with page.expect_response("**/api/draft"):
        page.fill("#note", "메모")
    page.reload()
    page.wait_for_function(READY)
    assert (page.input_value("textarea"), page.input_value("#note")) == ("반쯤 쓴 답", "메모")
    page.click("#submit")
    page.wait_for_function("() => document.querySelector('textarea').value === ''")
    with server.store.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(drafts)) == 0


def test_reload_and_back_button_count_nothing_twice(server, visit):
    page = visit(project_of(server.store, count=4))
    press(page, "1", "Enter")
    second = seen(page)
    page.reload()
    page.wait_for_function(READY)
    assert seen(page) == second
    press(page, "2", "Enter")
    third = seen(page)
    page.go_back()
    page.go_forward()
    page.wait_for_function(READY)
    assert seen(page) == third
    press(page, "2", "Enter")
    assert len(rows(server.store)) == 3


def test_a_double_click_counts_once(server, visit):
    page = visit(project_of(server.store, count=4))
    page.click("[data-verdict=a]")
    page.dblclick("#submit", delay=0)
    page.wait_for_function("() => document.getElementById('counts').textContent.startsWith('1 ')")
    press(page, "2", "Enter")
    page.keyboard.press("Enter")
    page.wait_for_function(READY)
    assert len(rows(server.store)) == 2
    with server.store.reading() as connection:
        done = select(func.count()).where(assignments.c.state == "done")
        assert connection.scalar(done) == 2


def test_a_lost_connection_during_submit_loses_nothing(server, visit):
    page = visit(project_of(server.store, count=4))
    # The request arrives and is stored, its answer is lost: the worst moment.
    lost = []

    def swallow(route):
        if lost:
            route.continue_()
        else:
            lost.append(route.fetch())
            route.abort("connectionreset")

    page.route("**/api/judge", swallow)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#message.bad")
    assert "Not saved yet" in page.text_content("#message")
    assert len(rows(server.store)) == 1
    page.wait_for_function("() => document.getElementById('counts').textContent.startsWith('1 ')")
    assert len(rows(server.store)) == 1
    assert page.is_hidden("#message")


def test_an_unsent_judgement_is_sent_after_a_reload(server, visit):
    page = visit(project_of(server.store, count=4))
    page.context.set_offline(True)
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    page.wait_for_selector("#message.bad")
    assert rows(server.store) == []
    page.context.set_offline(False)
    page.reload()
    page.wait_for_function("() => document.getElementById('counts').textContent.startsWith('1 ')")
    (row,) = rows(server.store)
    assert abs(row.answer["preference"]) == 2
    assert page.evaluate("() => Object.keys(localStorage).filter((k) => k.includes('outbox')).length") == 0


def test_two_browsers_of_one_person_do_not_count_twice(server, visit):
    project = project_of(server.store, count=4)
    _, token = people.invite(server.store, project, "a")
    one, two = visit(project, token=token), visit(project, token=token)
    assert seen(one) == seen(two)
    press(one, "1", "Enter")
    press(two, "5", "Enter")
    assert "another window" in two.text_content("#message")
    assert seen(one) == seen(two)
    assert len(rows(server.store)) == 1


def test_two_people_at_once_get_different_items(server, visit):
    project = project_of(server.store, count=8)
    one, two = visit(project, "one"), visit(project, "two")
    for _ in range(4):
        assert seen(one) != seen(two)
        press(one, "1", "Enter")
        press(two, "4", "Enter")
    assert one.locator(".finished").count() == two.locator(".finished").count() == 1
    assert sorted(row.item_id for row in rows(server.store)) == list(range(1, 9))


def test_withdrawal_and_removal_while_the_page_is_open(server, visit):
    project = project_of(server.store, count=3)
    annotator, token = people.invite(server.store, project, "a")
    page = visit(project, token=token)
    with server.store.reading() as connection:
        item_id = connection.scalar(select(assignments.c.item_id))
    server.store.withdraw(project, [item_id], reason="x")
    press(page, "1", "Enter")
    assert "withdrawn" in page.text_content("#message")
    people.remove(server.store, annotator.id)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#message.bad:has-text('ended')")
    assert rows(server.store) == []


def test_scripts_in_answers_do_nothing(server, visit):
    hostile = (
        '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>[x](javascript:window.hacked=1)'
    )
    project = server.store.create_project("x", task="pair", settings=Settings(**PLAIN))
    server.store.add_items(
        project, [NewItem((Message("user", hostile),), (ItemAnswer(hostile), ItemAnswer("b")))]
    )
    page = visit(project)
    for key in ("r", "r", "d"):
        page.keyboard.press(key)
    assert page.locator("#answers img, #answers script, #answers a, #prompt a, #prompt img").count() == 0
    assert page.evaluate("() => window.hacked === undefined")


def test_the_owner_decides_in_the_browser(server, visit):
    project = project_of(server.store, count=1, overlap=2, overlap_share=1.0)
    one, two = visit(project, "one"), visit(project, "two")
    best = "number 0"
    for page, wanted in ((one, True), (two, False)):
        first = best in page.text_content("#answers .card:nth-child(1)")
        press(page, "1" if first == wanted else "5", "Enter")
    owner = visit(None, "o", role="owner")
    owner.wait_for_selector("#disagreements a.button")
    owner.click("#disagreements a.button")
    owner.wait_for_selector(".verdicts")
    assert "one" in owner.text_content(".votes")
    owner.keyboard.press("3")
    owner.keyboard.press("Enter")
    owner.wait_for_selector("#disagreements .hint")
    assert rows(server.store)[-1].answer == {"preference": 0, "both_bad": False}


def test_the_theme_follows_the_system_and_the_choice(server, visit):
    page = visit(project_of(server.store), color_scheme="dark")
    colour = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.click(".more summary")
    page.click("#theme")
    light = page.evaluate(colour)
    assert dark != light
    page.reload()
    assert page.evaluate(colour) == light
