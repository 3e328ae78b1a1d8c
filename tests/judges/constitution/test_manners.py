"""Refusals and boilerplate, on answers written for it."""

import pytest

from alignloop.judges.constitution.manners import has_boilerplate, is_refusal, shares_sentence


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("I’m sorry, but I can’t help with that.", True),
        ("I CANNOT assist you with this request.", True),
        ("죄송하지만 그 요청에는 응할 수 없습니다.", True),
        ("도와드릴 수 없습니다.", True),
        ("Use kill -9 with the number of the process.", False),
        ("I can help: freeze it first.", False),
        ("먼저 전원을 끄고 배터리를 분리하세요.", False),
        ("Yes. " * 60 + "I cannot help with more.", False),
        ("", False),
    ],
)
def test_refusals(text, refusal):
    assert is_refusal(text) == refusal


@pytest.mark.parametrize(
    ("text", "stock"),
    [
        ("Here is the revised answer: freeze it.", True),
        ("Freeze it. I hope this helps!", True),
        ("다음은 수정된 답변입니다. 얼리세요.", True),
        ("Freeze it first, then strike it.", False),
        ("먼저 얼리세요.", False),
    ],
)
def test_boilerplate(text, stock):
    assert has_boilerplate(text) == stock


def test_sentences_that_several_answers_share():
    shared = "Always ask a doctor before you do this"
    answers = [
        f"{shared}. One.",
        f"Two! {shared}.",
        f"{shared}",
        "Only here and nowhere else it stands.",
        "Yes. No.",
    ]
    assert shares_sentence(answers) == [True, True, True, False, False]
    assert shares_sentence(answers, others=3) == [False] * 5
    # short ones do not count
    assert shares_sentence(["Yes it is."] * 4) == [False] * 4
    assert shares_sentence([]) == []
