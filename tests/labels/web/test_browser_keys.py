"""What keys and clicks do on the task page, so that no judgement is sent that nobody meant."""

from __future__ import annotations

import pytest

from tests.labels.web.browsing import READY, press, project_of, rows

pytestmark = pytest.mark.browser


def shown_ranks(row) -> list[int]:
    """Ranks of a stored judgement in the order of the letters on the screen."""
    return [row.answer["ranks"][index] for index in row.display_order]


@pytest.mark.parametrize("keys", ["cabed", "31254"])
def test_a_letter_or_digit_ranks_the_answer_that_bears_it(server, visit, keys):
    page = visit(project_of(server.store, "ranking", count=2, num_answers=5))
    press(page, *keys, "Enter")
    (row,) = rows(server.store)
    assert shown_ranks(row) == [2, 3, 1, 5, 4]


def test_letters_rank_while_a_korean_keyboard_is_on(server, visit):
    page = visit(project_of(server.store, "ranking", count=1, num_answers=3))
    for key, code in (("ㅠ", "KeyB"), ("ㅁ", "KeyA"), ("ㅊ", "KeyC")):
        page.evaluate(
            "([key, code]) => document.body.dispatchEvent("
            "new KeyboardEvent('keydown', {key, code, bubbles: true}))",
            [key, code],
        )
    press(page, "Enter")
    assert shown_ranks(rows(server.store)[0]) == [2, 1, 3]


def test_the_screen_says_what_each_ranking_key_does(server, visit):
    page = visit(project_of(server.store, "ranking", count=1, num_answers=3), locale="ko-KR")
    chips = page.locator("#answers .rank")
    assert chips.all_inner_texts() == ["A 1 → 1위", "B 2 → 1위", "C 3 → 1위"]
    press(page, "b")
    assert chips.all_inner_texts() == ["A 1 → 2위", "1위", "C 3 → 2위"]
    press(page, "=")
    assert chips.all_inner_texts() == ["A 1 → 1위", "1위", "C 3 → 1위"]
    press(page, "a", "b")  # B has its rank; nothing changes silently
    assert chips.all_inner_texts() == ["1위", "1위", "C 3 → 2위"]
    assert page.inner_text("#message").startswith("B에는 이미 순위가")
    press(page, "Backspace", "c", "a", "Enter")
    assert shown_ranks(rows(server.store)[0]) == [3, 1, 2]


def test_keys_go_on_with_the_best_rank_that_is_free(server, visit):
    page = visit(project_of(server.store, "ranking", count=1, num_answers=3))
    page.click("#answers article:nth-child(1) [data-value='3']")  # A is the worst
    assert page.locator("#answers .rank").all_inner_texts() == ["3rd", "B 2 → 1st", "C 3 → 1st"]
    press(page, "c", "b", "Enter")
    assert shown_ranks(rows(server.store)[0]) == [3, 2, 1]


def test_enter_submits_after_any_click(server, visit):
    clicked = ["#raw", "#diff", "#flag", "#guide", ".more summary", "#skip"]
    page = visit(project_of(server.store, count=len(clicked) + 1))
    for number, place in enumerate(clicked, start=1):
        press(page, "2")
        page.click(place)
        if place == "#skip":
            page.click("#skip-dialog form button")
            page.locator("dialog[open]").wait_for(state="detached")
        pressed = page.get_attribute("#raw", "aria-pressed")
        press(page, "Enter")
        assert [row.action for row in rows(server.store)] == ["judge"] * number, place
        assert page.get_attribute("#raw", "aria-pressed") == pressed
    assert page.locator("dialog[open]").count() == 0
    assert [row.flagged for row in rows(server.store)].count(True) == 1


def test_enter_on_a_button_reached_by_tab_presses_it(server, visit):
    page = visit(project_of(server.store, count=2))
    press(page, "2")
    page.focus("#flag")
    press(page, "Enter")
    assert rows(server.store) == []
    assert page.get_attribute("#flag", "aria-pressed") == "true"


def test_enter_held_down_judges_once(server, visit):
    page = visit(project_of(server.store, count=3))
    press(page, "2", "Enter")
    press(page, "z")  # the judgement is back on the screen, ready to be sent
    page.keyboard.down("Enter")
    page.wait_for_function(READY)
    press(page, "z")
    page.keyboard.down("Enter")  # a repetition: playwright marks it so while the key is down
    page.wait_for_function(READY)
    page.keyboard.up("Enter")
    assert [row.action for row in rows(server.store)] == ["judge", "undo", "judge", "undo"]


IME = """([where, before, init]) => {
  const field = document.querySelector(where);
  field.focus();
  if (before) field.dispatchEvent(new CompositionEvent('compositionend', {bubbles: true, data: '다'}));
  const enter = {key: 'Enter', code: 'Enter', bubbles: true, cancelable: true};
  const event = new KeyboardEvent('keydown', {...enter, ...init});
  if (init.code229) Object.defineProperty(event, 'keyCode', {value: 229});
  field.dispatchEvent(event);
}"""


ENDINGS = {
    "within the syllable": (False, {"isComposing": True}),
    "Safari, after the end of the syllable": (True, {"code229": True}),
    "keyCode alone": (False, {"code229": True}),
    "a second, plain Enter right after it": (True, {}),
}


@pytest.mark.parametrize(("task", "where"), [("pair", "#note"), ("edit", "textarea:not(#note)")])
def test_the_enter_that_ends_a_syllable_sends_nothing(server, visit, task, where):
    page = visit(project_of(server.store, task, count=2))
    press(page, "2", "Escape")
    control = {"ctrlKey": True} if task == "edit" else {}
    for name, (before, init) in ENDINGS.items():
        page.evaluate(IME, [where, before, {**init, **control}])
        page.wait_for_function(READY)
        assert rows(server.store) == [], name
    page.wait_for_timeout(200)
    press(page, "Control+Enter" if task == "edit" else "Enter")
    assert len(rows(server.store)) == 1


def test_a_comment_goes_with_the_vote(server, visit):
    page = visit(project_of(server.store, count=1), viewport={"width": 360, "height": 720}, locale="ko-KR")
    assert page.get_attribute("#note", "placeholder") == "의견 (선택)"
    page.fill("#note", "A는 사실과 다름")
    page.press("#note", "Shift+Enter")
    page.keyboard.type("둘째 줄")
    page.click("[data-verdict=b]")
    page.click("#submit")
    page.wait_for_selector(".finished")
    assert rows(server.store)[0].note == "A는 사실과 다름\n둘째 줄"


def test_guidelines_open_the_first_time_and_for_each_new_version(server, visit):
    project = project_of(server.store, count=4)
    page = visit(project, read=False)
    assert page.is_visible("#guidelines")
    page.reload()
    page.wait_for_function(READY)
    assert page.is_visible("#guidelines")  # not closed yet
    page.click("#guide-read")
    page.reload()
    page.wait_for_function(READY)
    assert page.is_hidden("#guidelines")
    server.store.change_guidelines(project, "둘째 판: **짧게**")
    # The task on the screen was read under the first version, the next one is under the second.
    press(page, "1", "Enter")
    page.wait_for_selector("#guidelines:not([hidden]) strong:has-text('짧게')")
    assert "v2" in page.inner_text("#guideline-version")
    assert "guidelines have changed" in page.inner_text("#message")
    press(page, "1", "Enter")
    assert [row.guideline_version for row in rows(server.store)] == [1, 2]
    page.click("#guide-close")
    page.reload()
    page.wait_for_function(READY)
    assert page.is_hidden("#guidelines")


def test_no_guidelines_open_nothing(server, visit):
    project = project_of(server.store, count=1)
    server.store.change_guidelines(project, "")
    page = visit(server.store.project(project.id), read=False)
    assert page.is_hidden("#guidelines")
