"""An adviser whose replies are computed by the test."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from alignloop.judges.adviser import Account, Ask, OnReply, Reply
from alignloop.records import Message

PROMPT = (Message("user", "Name a colour."),)


class Scripted:
    """Answers by a function; keeps what it was asked."""

    def __init__(self, answer: Callable[[Ask], Reply], name: str = "scripted") -> None:
        self.answer, self.name, self.identity, self.account = answer, name, f"{name}-1", Account()
        self.asked: list[Ask] = []

    def ask(self, asks: Sequence[Ask], *, on_reply: OnReply | None = None) -> list[Reply]:
        replies = []
        for number, one in enumerate(asks):
            self.asked.append(one)
            self.account.num_asked += 1
            replies.append(self.answer(one))
            if on_reply is not None:
                on_reply(number, replies[-1])
        return replies


def shown(ask: Ask) -> tuple[str, str]:
    """The two answers in the order they were shown."""
    text = ask.messages[1].content
    found = [re.search(rf"<answer_{k}>\n(.*?)\n</answer_{k}>", text, re.DOTALL) for k in "ab"]
    assert found[0] is not None
    assert found[1] is not None
    return found[0][1], found[1][1]


def by_taste(value: Callable[[str], float], name: str = "scripted") -> Scripted:
    """A judge that surely prefers the answer of the higher value, in whatever order; a tie where equal."""

    def answer(ask: Ask) -> Reply:
        if not ask.choices:
            return Reply("because")
        first, second = (value(text) for text in shown(ask))
        sides = (float(first > second), float(second > first), float(first == second))
        return Reply("", sides)

    return Scripted(answer, name)
