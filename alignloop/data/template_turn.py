"""What a model writes in its turn, given a template's generation prompt.

The rule: what the rendering of the whole conversation has after the prompt. Where that rendering does
not begin with the prompt, or leaves out thoughts that the row has, the completion is what the model
would have been given and would have written:

| prompt ends | the answer has | completion |
|---|---|---|
| with begun thoughts | thoughts | the thoughts go on where the prompt leaves off |
| with begun thoughts | no thoughts | the thoughts are closed at once, then the answer |
| with closed thoughts | thoughts | the answer alone: there is no place for thoughts |
| otherwise | thoughts that the template drops | thoughts and answer as they stand in the row |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from alignloop.data.template_probe import TemplateTraits
from alignloop.errors import DataError
from alignloop.records import Message

Departure = Literal["", "prompt", "thoughts"]
"""Why a completion is not the rendering's: that does not begin with the prompt, or has other thoughts."""


def completion(found: TemplateTraits, message: Message, given: str, whole: Callable[[Message], str]) -> str:
    """What the model writes after a prompt.

    Args:
        found: what is known of the template.
        message: the assistant's turn.
        given: the rendered prompt, with the generation prompt.
        whole: renders the conversation with a given last turn.

    Returns:
        Text up to the end of the turn, exactly one.
    """
    turn = replace(message, content=without_end(found, message.content))
    if turn.thinking and not found.takes_thinking:
        turn = Message(turn.role, as_text(found, turn))
    for candidate in _candidates(found, turn):
        text = whole(candidate)
        if text.startswith(given) and (found.closes or _keeps(found, candidate, text[len(given) :])):
            return _ended(found, text[len(given) :])
    return _literal(found, turn)


def departure(
    found: TemplateTraits, turn: Message, given: str, written: str, whole: Callable[[Message], str]
) -> Departure:
    """Whether `written` after `given` is the rendering of the whole conversation, its tail left out.

    Args:
        found: what is known of the template.
        turn: the assistant's turn as the row has it.
        given: the rendered prompt, with the generation prompt.
        written: `completion(found, turn, given, whole)`.
        whole: renders the conversation with a given last turn.

    Returns:
        "" if it is, else why not.
    """
    text = without_end(found, turn.content)
    begun = not turn.thinking and split(found, text) is not None
    rendering = whole(replace(turn, content=opened(found, text) if begun else text))
    if not rendering.startswith(given):
        return "prompt"
    return "" if written == _ended(found, rendering[len(given) :]) else "thoughts"


def without_end(found: TemplateTraits, text: str) -> str:
    """A text without ends of a turn after it."""
    mark = found.end.strip()
    while mark and text.rstrip().endswith(mark):
        text = text.rstrip().removesuffix(mark)
    return text


def as_text(found: TemplateTraits, message: Message) -> str:
    """Thoughts and answer as one text, with the template's marks or `<think>`."""
    if not message.thinking:
        return message.content
    opening, closing = found.thought if found.thought[0] else ("<think>", "</think>")
    return f"{opening}\n{message.thinking}\n{closing}\n\n{message.content}"


def opened(found: TemplateTraits, text: str) -> str:
    """What a model wrote after the prompt, with the beginning of its thoughts that the prompt has."""
    if not found.opening or text.lstrip().startswith(found.thought[0]):
        return text
    return found.opening + text


def split(found: TemplateTraits, text: str) -> tuple[str, str] | None:
    """(thoughts, answer) of a text that begins with thoughts, or goes on with begun ones; else None."""
    opening, closing = found.thought
    before, mark, answer = text.partition(closing) if closing else (text, "", "")
    begun = before.lstrip().startswith(opening)
    if not mark or not (begun or (found.opening and opening not in before)):
        return None
    return (before.lstrip().removeprefix(opening) if begun else before), answer.lstrip("\n")


def drops_thoughts(found: TemplateTraits, message: Message) -> bool:
    """Whether a turn's thoughts are left out, because the prompt says that there are none."""
    thoughts = message.thinking or (split(found, message.content) or ("", ""))[0]
    return found.closes and bool(thoughts.strip())


def _candidates(found: TemplateTraits, turn: Message) -> list[Message]:
    """The turn in the forms in which the template may render it after its own prompt; the first is best."""
    if turn.thinking:
        return [turn, replace(turn, thinking="")] if found.closes else [turn]
    text = turn.content
    parts = split(found, text)
    if parts is not None:
        whole = replace(turn, content=opened(found, text))
        return [whole, replace(turn, content=parts[1])] if found.closes else [whole]
    if not found.opening:
        return [turn]
    if text.lstrip().startswith(found.thought[0]):
        return []  # thoughts that were cut off
    return [turn, replace(turn, content=f"{found.opening}{found.thought[1]}{found.after_thought}{text}")]


def _keeps(found: TemplateTraits, turn: Message, written: str) -> bool:
    """Whether the turn's thoughts are in what would be trained."""
    thoughts = turn.thinking or (split(found, turn.content) or ("", ""))[0]
    return thoughts.strip() in written


def _ended(found: TemplateTraits, text: str) -> str:
    """The rest of a rendering up to the end of the turn."""
    if found.ends:
        return text.removesuffix(found.tail)
    text = text.removesuffix(found.gap)
    return text if text.endswith(found.end) else text + found.end


def _literal(found: TemplateTraits, turn: Message) -> str:
    """The turn as it stands in the row, going on where the prompt leaves off.

    Raises:
        DataError: it calls tools, which only the template can render.
    """
    if getattr(turn, "tool_calls", ()):
        raise DataError(
            "the chat template renders a turn with tool calls otherwise than after its generation prompt",
            field="prompt",
            reason="template_refused",
        )
    text = as_text(found, turn)
    parts = split(found, text)
    if found.opening:
        if parts is None and not text.lstrip().startswith(found.thought[0]):
            text = f"{found.thought[1]}{found.after_thought}{text}"
        elif text.startswith(found.opening):
            text = text.removeprefix(found.opening)
        elif text.lstrip().startswith(found.thought[0]):
            text = text.lstrip().removeprefix(found.thought[0]).lstrip("\n")
    elif parts is not None and found.closes:
        text = parts[1]
    text = text.strip() if found.trims else text
    lead = "" if any(mark and mark in found.lead for mark in found.thought) else found.lead
    return lead + text + found.end
