"""What a model writes after a prompt, for hand-made findings about a template."""

from __future__ import annotations

from typing import Any

import pytest

from alignloop.data import template_turn
from alignloop.data.template_probe import TemplateTraits
from alignloop.errors import DataError
from alignloop.records import Message, ToolCall

GIVEN = "Hi?|bot:"
THINK = ("<think>", "</think>")
OPENING = "<think>\n"
THOUGHT = "<think>\nOh.\n</think>\n\nSo."


def found(**more: Any) -> TemplateTraits:
    plain: dict[str, Any] = {
        **{"lead": "", "end": "<e>", "tail": "\n", "ends": True, "gap": "", "trims": False},
        **{"merges_system": False, "prompts": True, "thought": THINK, "opening": "", "closes": False},
        **{"after_thought": "\n\n", "takes_thinking": False, "tool_marks": ()},
    }
    return TemplateTraits(**{**plain, **more})


def bot(text: str, thinking: str = "", *calls: ToolCall) -> Message:
    return Message("assistant", text, thinking, calls)


def refuses(turn: Message) -> str:
    """A rendering of the whole that never begins with the prompt."""
    return f"other|{turn.content}<e>\n"


def renders(turn: Message) -> str:
    """A rendering of the whole that shows all that a turn has."""
    return f"{GIVEN}{turn.thinking}{turn.content}{''.join(call.name for call in turn.tool_calls)}<e>\n"


@pytest.mark.parametrize(
    ("more", "turn", "written"),
    [
        ({}, bot("So."), "So.<e>"),
        ({}, bot(THOUGHT), f"{THOUGHT}<e>"),
        ({}, bot("So.", "Oh."), f"{THOUGHT}<e>"),
        ({"takes_thinking": True}, bot("So.", "Oh."), f"{THOUGHT}<e>"),
        ({"thought": ("[T]", "[/T]")}, bot("So.", "Oh."), "[T]\nOh.\n[/T]\n\nSo.<e>"),
        ({"thought": ("", "")}, bot("So.", "Oh."), f"{THOUGHT}<e>"),
        ({"closes": True}, bot(THOUGHT), "So.<e>"),
        ({"closes": True}, bot("So."), "So.<e>"),
        ({"opening": OPENING}, bot("So."), "</think>\n\nSo.<e>"),
        ({"opening": OPENING, "after_thought": "|"}, bot("So."), "</think>|So.<e>"),
        ({"opening": OPENING}, bot(THOUGHT), "Oh.\n</think>\n\nSo.<e>"),
        ({"opening": OPENING}, bot("<think>Oh.</think>So."), "Oh.</think>So.<e>"),
        ({"opening": OPENING}, bot(" <think>\n\nOh"), "Oh<e>"),
        ({"opening": OPENING}, bot("Oh.</think>So."), "Oh.</think>So.<e>"),
        ({}, bot(" So. "), " So. <e>"),
        ({"trims": True}, bot(" So. "), "So.<e>"),
        ({"lead": "> "}, bot("So."), "> So.<e>"),
        ({"lead": "> ", "thought": ("", "")}, bot("So."), "> So.<e>"),
        ({"lead": "<think></think>"}, bot("So."), "So.<e>"),
        ({"lead": "<think>"}, bot("So."), "So.<e>"),
        ({"lead": "so</think>"}, bot("So."), "So.<e>"),
        ({}, bot("So.<e> <e>\n"), "So.<e>"),
    ],
)
def test_a_turn_that_the_whole_renders_otherwise_is_written_as_it_stands(
    more: dict[str, Any], turn: Message, written: str
) -> None:
    assert template_turn.completion(found(**more), turn, GIVEN, refuses) == written


def test_tool_calls_cannot_be_written_as_they_stand() -> None:
    turn = bot("", "", ToolCall("f"))
    with pytest.raises(DataError, match="renders a turn with tool calls otherwise") as caught:
        template_turn.completion(found(), turn, GIVEN, refuses)
    assert (caught.value.field, caught.value.reason) == ("prompt", "template_refused")
    assert template_turn.completion(found(), turn, GIVEN, renders) == "f<e>"


@pytest.mark.parametrize(
    ("more", "turn", "written"),
    [
        ({}, bot("So."), "So.<e>"),
        ({}, bot("So.", "Oh."), f"{THOUGHT}<e>"),  # no field for them: they go into the text
        ({"takes_thinking": True}, bot("So.", "Oh."), "Oh.So.<e>"),
        ({"takes_thinking": True}, bot("So.<e>", "Oh."), "Oh.So.<e>"),
        ({"opening": OPENING}, bot("Oh.</think>So."), "<think>\nOh.</think>So.<e>"),
        ({"opening": OPENING}, bot("<think>cut off"), "cut off<e>"),  # that is not rendered at all
        ({"opening": OPENING}, bot("So."), "So.<e>"),
        ({"tail": ""}, bot("So."), "So.<e>\n"),
        ({"ends": False, "gap": "<e>\n"}, bot("So."), "So.<e>"),
        ({"ends": False, "end": "</s>", "gap": "\n"}, bot("So."), "So.<e></s>"),
        ({"ends": False, "end": "</s>", "gap": ""}, bot("So."), "So.<e>\n</s>"),
    ],
)
def test_the_rendering_of_the_whole_goes_before(more: dict[str, Any], turn: Message, written: str) -> None:
    assert template_turn.completion(found(**more), turn, GIVEN, renders) == written


def test_a_rendering_without_the_thoughts_is_taken_only_after_a_prompt_that_closed_them() -> None:
    def drops(turn: Message) -> str:
        return f"{GIVEN}{turn.content.split('</think>')[-1].strip()}<e>\n"

    def only_without(turn: Message) -> str:
        return refuses(turn) if turn.thinking or "<think>" in turn.content else drops(turn)

    assert template_turn.completion(found(), bot(THOUGHT), GIVEN, drops) == f"{THOUGHT}<e>"
    assert template_turn.completion(found(closes=True), bot(THOUGHT), GIVEN, drops) == "So.<e>"
    for turn in (bot(THOUGHT), bot(" SO ", "Oh.")):
        more = {"closes": True, "takes_thinking": bool(turn.thinking)}
        answer = "SO<e>" if turn.thinking else "So.<e>"
        assert template_turn.completion(found(**more), turn, GIVEN, only_without) == answer

    def loud(turn: Message) -> str:
        return refuses(turn) if "<think>" in turn.content else f"{GIVEN}{turn.content.upper()}<e>\n"

    assert template_turn.completion(found(closes=True), bot(THOUGHT), GIVEN, loud) == "SO.<e>"
    # a prompt that begins thoughts: they are closed at once where the whole has only that form
    opened = found(opening=OPENING)

    def closed(turn: Message) -> str:
        return f"{GIVEN}{turn.content}<e>\n" if "</think>" in turn.content else "other"

    assert template_turn.completion(opened, bot("so"), GIVEN + OPENING, closed) == "</think>\n\nso<e>"


@pytest.mark.parametrize(
    ("more", "text", "parts"),
    [
        ({}, THOUGHT, ("\nOh.\n", "So.")),
        ({}, f" \n{THOUGHT}", ("\nOh.\n", "So.")),
        ({}, "<think>a</think>b</think>c", ("a", "b</think>c")),
        ({}, "So.", None),
        ({}, "a</think>b", None),
        ({"opening": OPENING}, "a</think>b", ("a", "b")),
        ({"opening": OPENING}, " a </think>\n\n b", (" a ", " b")),
        ({"opening": OPENING}, THOUGHT, ("\nOh.\n", "So.")),
        ({"opening": OPENING}, "Well, <think>a</think>b", None),
        ({}, "Well, <think>a</think>b", None),
        ({"opening": OPENING}, "<think>cut off", None),
        ({"thought": ("", "")}, THOUGHT, None),
        ({"thought": ("", ""), "opening": OPENING}, "a", None),
    ],
)
def test_thoughts_and_answer_of_a_text(
    more: dict[str, Any], text: str, parts: tuple[str, str] | None
) -> None:
    assert template_turn.split(found(**more), text) == parts


@pytest.mark.parametrize(
    ("more", "text", "whole"),
    [
        ({}, "a", "a"),
        ({"opening": OPENING}, "a", "<think>\na"),
        ({"opening": OPENING}, " <think>a", " <think>a"),
    ],
)
def test_begun_thoughts_get_their_beginning_once(more: dict[str, Any], text: str, whole: str) -> None:
    assert template_turn.opened(found(**more), text) == whole


@pytest.mark.parametrize(
    ("end", "text", "left"),
    [
        ("<e>", "a<e>", "a"),
        ("<e>", "a<e> <e>\n", "a"),
        ("<e>\n", "a<e>", "a"),
        ("<e>", "a \n", "a \n"),
        ("<e>", "<e>a", "<e>a"),
        ("", "a ", "a "),
        ("\n", "a\n", "a\n"),
    ],
)
def test_ends_of_a_turn_after_a_text(end: str, text: str, left: str) -> None:
    assert template_turn.without_end(found(end=end), text) == left


def test_thoughts_are_dropped_where_the_prompt_says_that_there_are_none() -> None:
    closed = found(closes=True)
    assert template_turn.drops_thoughts(closed, bot("So.", "Oh.")) is True
    assert template_turn.drops_thoughts(closed, bot(THOUGHT)) is True
    for turn in (bot("So."), bot("So.", " \n"), bot("<think>\n</think>So.")):
        assert template_turn.drops_thoughts(closed, turn) is False
    assert template_turn.drops_thoughts(found(), bot("So.", "Oh.")) is False


@pytest.mark.parametrize(
    ("more", "turn", "written", "why"),
    [
        ({}, bot("So."), "So.<e>", ""),
        ({}, bot("So.<e>"), "So.<e>", ""),
        ({}, bot("So."), "<think></think>So.<e>", "thoughts"),
        ({"opening": OPENING}, bot("Oh.</think>So."), "<think>\nOh.</think>So.<e>", ""),
        ({"opening": OPENING}, bot("So."), "So.<e>", ""),
        ({"opening": OPENING, "takes_thinking": True}, bot("a</think>b", "t"), "ta</think>b<e>", ""),
    ],
)
def test_whether_what_is_written_is_the_rendering(
    more: dict[str, Any], turn: Message, written: str, why: str
) -> None:
    assert template_turn.departure(found(**more), turn, GIVEN, written, renders) == why
    assert template_turn.departure(found(**more), turn, GIVEN, written, refuses) == "prompt"
