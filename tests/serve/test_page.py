"""The chat page: its files and votes over HTTP, and as a person uses it, in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from alignloop.data.columns import read_records
from alignloop.labels.project import clean
from alignloop.records import Label, Message, Preference
from alignloop.serve.app import create_app
from alignloop.serve.votes import VoteFiles
from alignloop.serve.web.page import TEXTS
from tests.serve.conftest import running, tiny_policy

PROMPT = [{"role": "user", "content": "비는 왜 와요?"}]
ANSWERS = [{"text": "물", "model": "one"}, {"text": "불", "model": "two"}]


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("votes")


@pytest.fixture(scope="module")
def site(votes: Path) -> Iterator[str]:
    policies = [tiny_policy("one", 0), tiny_policy("두<b>", 1)]
    with running(create_app(policies, api_key="k", votes=VoteFiles(votes))) as address:
        yield address


def vote(site: str, body: object, key: str = "k") -> httpx.Response:
    return httpx.post(f"{site}/api/vote", json=body, headers={"authorization": f"Bearer {key}"})


def test_every_language_has_the_same_words() -> None:
    assert {tuple(words) for words in TEXTS.values()} == {tuple(TEXTS["en"])}
    web = files("alignloop.serve.web")
    script = web.joinpath("static/chat.js").read_text(encoding="utf-8")
    page = web.joinpath("templates/chat.html").read_text(encoding="utf-8")
    used = set(re.findall(r"\bt\.(\w+)", script + page)) | {"a", "b", "tie", "both_bad", "good", "bad"}
    assert used == set(TEXTS["en"])


def test_the_page_needs_nothing_from_elsewhere(site: str) -> None:
    page = httpx.get(site, headers={"accept-language": "ko-KR,ko;q=0.9"})
    assert page.status_code == 200
    assert '<html lang="ko">' in page.text
    assert "보내기" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|style=|https?://", page.text)
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
        assert httpx.get(site + name).status_code == 200, name
    assert httpx.get(f"{site}/static/../page.py").status_code == 404
    assert '<html lang="en">' in httpx.get(f"{site}/?lang=en", headers={"accept-language": "ko"}).text


def test_votes_over_http(site: str, votes: Path) -> None:
    body = {"prompt": PROMPT, "answers": ANSWERS, "verdict": "b"}
    assert vote(site, body).json() == {"kept": str(votes)}
    (pair,) = read_records(str(votes / "preferences.jsonl")).records
    assert isinstance(pair, Preference)
    assert (pair.chosen, pair.rejected) == ("불", "물")
    assert vote(site, body, key="wrong").status_code == 401
    foreign = httpx.post(
        f"{site}/api/vote", json=body, headers={"authorization": "Bearer k", "origin": "https://evil.example"}
    )
    assert foreign.status_code == 403
    assert len((votes / "preferences.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    (votes / "preferences.jsonl").unlink()


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "good"},
        {"verdict": "worse"},
        {"answers": ANSWERS[:1]},
        {"answers": ANSWERS * 2},
        {"answers": [ANSWERS[0], ANSWERS[0]]},
        {"answers": [ANSWERS[0], {"text": " ", "model": "x"}]},
        {"prompt": []},
        {"prompt": [{"role": "tool", "content": "a"}]},
        {"prompt": [*PROMPT, {"role": "assistant", "content": "a"}]},
        {"extra": 1},
    ],
)
def test_votes_that_say_nothing(site: str, votes: Path, change: dict[str, Any]) -> None:
    answer = vote(site, {"prompt": PROMPT, "answers": ANSWERS, "verdict": "a"} | change)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]
    assert not any(votes.iterdir())


def test_votes_are_refused_where_none_are_kept(address: str) -> None:
    body = {"prompt": PROMPT, "answers": ANSWERS, "verdict": "a"}
    assert httpx.post(f"{address}/api/vote", json=body).status_code == 404


@pytest.mark.browser
def test_a_person_chats_compares_and_votes(chromium: Any, site: str, votes: Path) -> None:
    context = chromium.new_context(
        locale="ko-KR", color_scheme="dark", viewport={"width": 1100, "height": 800}
    )
    page = context.new_page()
    page.set_default_timeout(15_000)
    faults: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda m: faults.append(m.text) if "Content Security" in m.text else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(site)
    page.wait_for_selector(
        "#message:has-text('API 키')"
    )  # said once the server has refused the list of models
    page.click("details.more summary")
    page.fill("#key", "k")
    page.fill("#max-tokens", "8")
    page.fill("#system", "짧게 답하세요.")
    page.click("details.more summary")
    page.wait_for_function("document.getElementById('model').options.length === 2")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"

    answer = _answer_and_thumb(page, votes)
    second = _compare_and_vote(page, votes, answer)
    page.select_option("#other", "")
    page.fill("#question", "끝으로")
    # Safari's Enter that ends a syllable sends nothing.
    page.evaluate("""() => {
      const event = new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true});
      Object.defineProperty(event, 'keyCode', {value: 229});
      document.getElementById('question').dispatchEvent(event);
    }""")
    assert page.input_value("#question") == "끝으로"
    with page.expect_request("**/v1/chat/completions") as sent:
        page.keyboard.press("Enter")
    turns = sent.value.post_data_json["messages"]
    assert [turn["content"] for turn in turns] == [
        "짧게 답하세요.",
        "비는 왜 와요?",
        answer,
        "또 물어요",
        second,
        "끝으로",
    ]
    page.wait_for_selector("#retry:enabled")
    _other_buttons(page)
    assert all(url.startswith(site) for url in asked)
    assert faults == []
    context.close()


def _until_votes_are_offered(page: Any, verdict: str) -> None:
    """Asks again while an answer is blank, which has no verdict: what a random model says is chance."""
    for _ in range(30):
        page.wait_for_selector("#retry:enabled")
        if page.locator(f"[data-verdict={verdict}]").count():
            return
        page.click("#retry")
    raise AssertionError("thirty blank answers")


def _answer_and_thumb(page: Any, votes: Path) -> str:
    """One model: an answer, then a thumb. Returns the answer as it is shown."""
    page.fill("#question", "비는 왜 와요?")
    page.keyboard.press("Enter")
    _until_votes_are_offered(page, "good")
    page.click("[data-verdict=good]")
    page.wait_for_selector("text=평가를 저장한 곳")
    (label,) = read_records(str(votes / "labels.jsonl")).records
    assert isinstance(label, Label)
    assert label.prompt == (Message("system", "짧게 답하세요."), Message("user", "비는 왜 와요?"))
    answer = page.text_content(".answers .text", strict=True)
    assert label.completion == clean(answer)
    assert label.provenance.details["model"] == "one"
    return answer


def _compare_and_vote(page: Any, votes: Path, answer: str) -> str:
    """Two models: names hidden until the vote, the better answer goes on."""
    page.select_option("#other", "두<b>")
    page.fill("#question", "또 물어요")
    page.click("#send")
    _until_votes_are_offered(page, "b")
    shown = page.locator(".answers.two .who").all_inner_texts()
    assert shown == ["답변 1", "답변 2"]
    page.click("[data-verdict=b]")
    page.wait_for_selector(".card.chosen")
    names = page.locator(".answers.two .who").all_inner_texts()
    assert sorted(names, key=lambda n: "one" in n) == sorted(
        [f"답변 {1 + ('one' in names[0])} · 두<b>", f"답변 {2 - ('one' in names[0])} · one"],
        key=lambda n: "one" in n,
    )
    first, second = page.locator(".answers.two .text").all_text_contents()
    (pair,) = read_records(str(votes / "preferences.jsonl")).records
    assert isinstance(pair, Preference)
    assert (pair.chosen, pair.rejected) == (clean(second), clean(first))
    assert pair.prompt[2] == Message("assistant", clean(answer))
    return second


def _other_buttons(page: Any) -> None:
    """Stopping, answering again, starting anew, the other language, the other theme."""
    page.route("**/v1/chat/completions", lambda route: None)  # an answer that does not come
    page.click("#retry")
    page.click("#stop")
    page.wait_for_selector("#send:enabled")
    page.unroute("**/v1/chat/completions")
    assert page.locator("#talk > li").count() == 6
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "light"
    page.click("#fresh")
    assert page.locator("#talk > li").count() == 0
    page.click("a[hreflang=en]")
    assert page.inner_text("#send") == "Send"
