"""What a chat template renders of tools and thoughts, found out by rendering probes.

A template that drops a tool call makes an empty answer of it, and one that knows no tool messages may
render what a tool said as the assistant's own text: both would be trained without a word, so both are
refused. Tools on offer and thoughts that a template drops are only left out, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from alignloop.data.chat import ChatTemplate
from alignloop.data.template_turn import drops_thoughts
from alignloop.errors import DataError
from alignloop.records import Message, ToolCall, tools_of

_ASK = Message("user", "w3Vk")
_CALL = Message("assistant", "", tool_calls=(ToolCall("f9Qz", '{"a": "b"}', "c12345678"),))
_SAID = "p3Rt"
_TOOL = {
    "type": "function",
    "function": {
        "name": "f9Qz",
        "description": "d",
        "parameters": {"type": "object", "properties": {"a": {"type": "string", "description": "e"}}},
    },
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """What of a conversation with tools a template renders.

    Attributes:
        calls: the assistant's tool calls.
        offers: the tools on offer.
        answers: a tool's answer, told apart from the assistant's text.
    """

    calls: bool
    offers: bool
    answers: bool


@lru_cache(maxsize=64)
def rendered(template: ChatTemplate) -> Rendered:
    """What a template renders of tools; what it refuses counts as rendered, since every row shows it."""

    def holds(text: str, *messages: Message, tools: Sequence[dict[str, Any]] = ()) -> bool:
        found = _attempt(lambda: template.render(messages, tools=tools))
        return found is None or text in found

    answer = Message("tool", _SAID, name="f9Qz", tool_call_id="c12345678")
    said = _attempt(lambda: template.render((_ASK, _CALL, answer)))
    mistaken = _attempt(lambda: template.render((_ASK, _CALL, Message("assistant", _SAID))))
    return Rendered(
        calls=holds("f9Qz", _ASK, _CALL),
        offers=holds("f9Qz", _ASK, tools=[_TOOL]),
        answers=said is None or (_SAID in said and said != mistaken),
    )


def _attempt(render: Callable[[], str]) -> str | None:
    """The rendering, or None if the template refuses it."""
    try:
        return render()
    except DataError:
        return None


def check(template: ChatTemplate, messages: Sequence[Message]) -> None:
    """Refuse a conversation of which the template would lose tool calls or a tool's answer.

    Raises:
        DataError: reason `tools_not_rendered`.
    """
    calls = any(message.tool_calls for message in messages)
    answers = any(message.role == "tool" for message in messages)
    if not calls and not answers:
        return
    can = rendered(template)
    if (calls and not can.calls) or (answers and not can.answers):
        what = "tool calls" if calls and not can.calls else "a tool's answer"
        raise DataError(
            f"chat template '{template.name}' does not render {what}; use a template that does, such as "
            "the tokenizer's own or a .jinja file",
            field="prompt",
            reason="tools_not_rendered",
        )


def left_out(template: ChatTemplate, messages: Sequence[Message], trained: Sequence[int]) -> tuple[str, ...]:
    """What a template leaves out of a conversation: `tools on offer`, `thoughts` of trained turns."""
    found = []
    if tools_of(messages) and not rendered(template).offers:
        found.append("tools on offer")
    if any(_lost(template, messages[place]) for place in trained):
        found.append("thoughts")
    return tuple(found)


def _lost(template: ChatTemplate, turn: Message) -> bool:
    return bool(turn.thinking) and (_knows_none(template) or drops_thoughts(template.found, turn))


def _knows_none(template: ChatTemplate) -> bool:
    """Whether a template has neither marks of thoughts nor a place for them."""
    return not template.found.takes_thinking and not template.found.thought[0]


def without_lost_thoughts(template: ChatTemplate, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages as a template without thoughts reads them."""
    if not _knows_none(template):
        return tuple(messages)
    return tuple(replace(m, thinking="") if m.thinking else m for m in messages)
