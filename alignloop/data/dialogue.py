"""A whole conversation as tokens, with the assistant's turns in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignloop.data.chat import ChatTemplate
from alignloop.data.plain_text import Shielded
from alignloop.data.template_turn import without_end
from alignloop.records import Message


@dataclass(frozen=True, slots=True)
class Turn:
    """An assistant's turn within a rendered conversation.

    Attributes:
        place: its place in the messages.
        start, stop: what the model writes, from its first token to behind its end of turn; in characters
            of a rendering, or in tokens of a `Dialogue`.
        exact: whether the conversation up to `stop` is what the model would have been given and would
            have written. Where a template drops the thoughts of earlier turns it is not, `start` equals
            `stop`, and the turn has to be trained as a row of its own.
    """

    place: int
    start: int
    stop: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation as tokens.

    Attributes:
        ids: int32 [T], up to the end of the last turn if that is the assistant's.
        turns: the assistant's turns, in order, in tokens.
    """

    ids: np.ndarray
    turns: tuple[Turn, ...]

    @property
    def mask(self) -> np.ndarray:
        """bool [T], True for what the assistant writes in its exact turns."""
        found = np.zeros(len(self.ids), dtype=bool)
        for turn in self.turns:
            found[turn.start : turn.stop] = True
        return found

    def __iter__(self) -> Iterator[np.ndarray]:
        """Ids and mask, so that `ids, mask = encoder.conversation(messages)`."""
        yield from (self.ids, self.mask)


def render_turns(
    template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
) -> tuple[str, tuple[Turn, ...]]:
    """The rendering of a conversation, and the assistant's turns in it in characters.

    Args:
        template: the chat template.
        messages: the conversation.
        tools: descriptions of tools.

    Returns:
        The text, less the template's tail if the last turn is the assistant's, and the turns.

    Raises:
        DataError: the template refuses the conversation.
    """
    whole = template.render(messages, tools=tools)
    turns = []
    for place, message in enumerate(messages):
        if message.role != "assistant":
            continue
        if place == 0:  # a greeting: there is no prompt that the model could have been given
            turns.append(_none(place))
            continue
        given = template.render_prompt(messages[:place], tools)
        written = template.render_completion(message, messages[:place], tools, given=given)
        if place == len(messages) - 1:  # the last turn is what training gives, whatever the whole looks like
            before, whole = whole, given + written
            turns = [t if whole.startswith(before[: t.stop]) else _none(t.place) for t in turns]
        exact = whole.startswith(given + written)
        stop = len(given) + len(written)
        turns.append(Turn(place, len(given), stop, True) if exact else _none(place))
    return whole, tuple(turns)


def bare(template: ChatTemplate, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, the assistant's without an end of turn that their text already has."""
    return tuple(
        message
        if message.role != "assistant"
        else _with_content(message, without_end(template.found, message.content))
        for message in messages
    )


def encode_turns(
    text: str, turns: Sequence[Turn], encode: Any, shielded: Shielded
) -> tuple[list[int], tuple[Turn, ...]]:
    """Tokens of a rendering, encoded in parts at the turns' borders as prompts and completions are.

    Args:
        text: the rendering.
        turns: in characters.
        encode: `Marks.encode`.
        shielded: what was rendered.

    Returns:
        The ids, and the turns in tokens.
    """
    ids: list[int] = []
    place, found = 0, []
    for turn in turns:
        if not turn.exact:
            found.append(turn)
            continue
        ids += encode(text[place : turn.start], shielded.hidden, after=text[:place])
        begun = len(ids)
        ids += encode(text[turn.start : turn.stop], shielded.hidden, after=text[: turn.start])
        found.append(Turn(turn.place, begun, len(ids), True))
        place = turn.stop
    return ids + encode(text[place:], shielded.hidden, after=text[:place]), tuple(found)


def shifted(turns: Sequence[Turn], by: int) -> tuple[Turn, ...]:
    """The exact turns, later by some tokens."""
    return tuple(replace(t, start=t.start + by, stop=t.stop + by) if t.exact else t for t in turns)


def _none(place: int) -> Turn:
    return Turn(place, 0, 0, False)


def _with_content(message: Message, content: str) -> Message:
    return message if content == message.content else replace(message, content=content)
