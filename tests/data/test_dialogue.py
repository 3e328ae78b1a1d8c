"""The assistant's turns in a rendering, for renderers of a few lines, by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from alignloop.data.plain_text import Shielded
from alignloop.data.template_probe import TemplateTraits
from alignloop.data.trained_turns import Dialogue, RenderedTurn, bare, encode_turns, render_turns
from alignloop.records import Message

U1, A1, U2, A2 = (
    Message(r, c) for r, c in (("user", "q"), ("assistant", "xy"), ("user", "p"), ("assistant", "z"))
)
NONE = (0, 0, False)


class Stub:
    """Renders `u:q;a:xy;` behind a head that hangs on the messages and on whether an answer is to come."""

    def __init__(self, head: Callable[[Sequence[Message], bool], str] = lambda messages, asks: "") -> None:
        self.head = head

    def render(self, messages: Sequence[Message], *, tools: Any = (), asks: bool = False) -> str:
        assert messages, "no template renders nothing"
        said = "".join(f"{m.role[0]}:{m.content};" for m in messages)
        return self.head(messages, asks) + "".join(map(str, tools)) + said

    def render_prompt(self, messages: Sequence[Message], tools: Any = ()) -> str:
        return self.render(messages, tools=tools, asks=True) + "a:"

    def render_completion(self, message: Message, prompt: Any, tools: Any, *, given: str) -> str:
        assert given == self.render_prompt(prompt, tools)
        return message.content + ";"


def turns(template: Stub, *messages: Message, tools: Any = ()) -> tuple[str, list[tuple[int, int, bool]]]:
    text, found = render_turns(template, messages, tools)  # pyright: ignore[reportArgumentType]
    places = [place for place, m in enumerate(messages) if m.role == "assistant"]
    assert [turn.place for turn in found] == places
    return text, [(turn.start, turn.stop, turn.exact) for turn in found]


def test_turns_from_the_first_sign_behind_their_end() -> None:
    assert turns(Stub(), U1, A1, U2, A2) == ("u:q;a:xy;u:p;a:z;", [(6, 9, True), (15, 17, True)])
    assert turns(Stub(), U1, A1, U2) == ("u:q;a:xy;u:p;", [(6, 9, True)])
    assert turns(Stub(), U1) == ("u:q;", [])
    assert turns(Stub(), U1, A1, tools=[7]) == ("7u:q;a:xy;", [(7, 10, True)])


def test_a_greeting_has_no_prompt() -> None:
    assert turns(Stub(), A1, U1, A2) == ("a:xy;u:q;a:z;", [NONE, (11, 13, True)])
    assert turns(Stub(), A1) == ("a:xy;", [NONE])


def test_the_last_turn_is_what_its_own_prompt_gives() -> None:
    """Here the whole begins otherwise than every prompt, so that the earlier turn is another row."""
    template = Stub(lambda messages, asks: "ask|" if asks else "whole|")
    assert turns(template, U1, A1, U2, A2) == ("ask|u:q;a:xy;u:p;a:z;", [NONE, (19, 21, True)])
    assert turns(template, U1, A1, U2) == ("whole|u:q;a:xy;u:p;", [NONE])


def test_an_earlier_turn_that_the_last_prompt_renders_otherwise_is_another_row() -> None:
    template = Stub(lambda messages, asks: "long|" if asks and len(messages) > 2 else "")
    assert turns(template, U1, A1, U2) == ("u:q;a:xy;u:p;", [(6, 9, True)])
    assert turns(template, U1, A1, U2, A2) == ("long|u:q;a:xy;u:p;a:z;", [NONE, (20, 22, True)])


def test_parts_are_encoded_at_the_borders_of_exact_turns() -> None:
    asked: list[tuple[str, str]] = []

    def encode(text: str, hidden: Any, *, after: str = "") -> list[int]:
        assert hidden == {"#": "<e>"}
        asked.append((text, after))
        return [len(text)] * (len(text) > 0)

    rows = (RenderedTurn(1, 2, 5, True), RenderedTurn(3, 0, 0, False), RenderedTurn(5, 7, 8, True))
    ids, found = encode_turns("0123456789", rows, encode, Shielded((), (), {"#": "<e>"}))
    assert asked == [("01", ""), ("234", "01"), ("56", "01234"), ("7", "0123456"), ("89", "01234567")]
    assert ids == [2, 3, 2, 1, 2]
    assert found == (RenderedTurn(1, 1, 2, True), RenderedTurn(3, 0, 0, False), RenderedTurn(5, 3, 4, True))
    ids, found = encode_turns("0123", (RenderedTurn(1, 0, 0, False),), encode, Shielded((), (), {"#": "<e>"}))
    assert (ids, found) == ([4], (RenderedTurn(1, 0, 0, False),))


def test_the_mask_of_a_dialogue_is_that_of_its_turns() -> None:
    found = Dialogue(
        np.arange(6, dtype=np.int32),
        (RenderedTurn(1, 1, 3, True), RenderedTurn(3, 0, 0, False), RenderedTurn(5, 5, 6, True)),
    )
    ids, mask = found
    assert ids is found.ids
    assert mask.tolist() == [False, True, True, False, False, True]


@pytest.mark.parametrize(("role", "left"), [("assistant", "a"), ("user", "a<e>"), ("tool", "a<e>")])
def test_only_the_assistants_text_loses_its_end_of_turn(role: str, left: str) -> None:
    class Template:
        found = TemplateTraits(
            **{"lead": "", "end": "<e>", "tail": "", "ends": True, "gap": "", "trims": False},
            **{"merges_system": False, "prompts": True, "thought": ("", ""), "opening": "", "closes": False},
            **{"after_thought": "", "takes_thinking": False, "tool_marks": ()},
        )  # pyright: ignore[reportArgumentType]

    one, other = Message(role, "a<e>", name="n"), Message(role, "b")
    found = bare(Template(), (one, other))  # pyright: ignore[reportArgumentType]
    assert found == (Message(role, left, name="n"), other)
    assert found[1] is other
