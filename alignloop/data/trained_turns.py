"""A demonstration to tokenized groups: which tokens of a conversation are trained.

A conversation is one group. Its prompt ends before the first trained turn of the assistant; its one
completion is the rest up to the end of the last trained turn, of which the tokens count that the
assistant writes in its trained turns. What users and tools say and turns with weight 0 stand between
them, uncounted.

A turn that the template renders otherwise within the whole than after its own prompt (templates that
drop earlier thoughts do so) is a group of its own: the conversation up to it, and what the model writes
there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from alignloop.data.chat import ChatTemplate
from alignloop.data.overlength import Policy, fit, fit_turns
from alignloop.data.packing import Completion, Group
from alignloop.data.plain_text import Shielded
from alignloop.data.template_turn import without_end
from alignloop.data.tool_use import without_lost_thoughts
from alignloop.errors import DataError
from alignloop.records import Demonstration, Message


@dataclass(frozen=True, slots=True)
class RenderedTurn:
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
    turns: tuple[RenderedTurn, ...]

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
) -> tuple[str, tuple[RenderedTurn, ...]]:
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
        turns.append(RenderedTurn(place, len(given), stop, True) if exact else _none(place))
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
    text: str, turns: Sequence[RenderedTurn], encode: Any, shielded: Shielded
) -> tuple[list[int], tuple[RenderedTurn, ...]]:
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
        found.append(RenderedTurn(turn.place, begun, len(ids), True))
        place = turn.stop
    return ids + encode(text[place:], shielded.hidden, after=text[:place]), tuple(found)


def shifted(turns: Sequence[RenderedTurn], by: int) -> tuple[RenderedTurn, ...]:
    """The exact turns, later by some tokens."""
    return tuple(replace(t, start=t.start + by, stop=t.stop + by) if t.exact else t for t in turns)


def _none(place: int) -> RenderedTurn:
    return RenderedTurn(place, 0, 0, False)


def _with_content(message: Message, content: str) -> Message:
    return message if content == message.content else replace(message, content=content)


TrainOn = Literal["all", "last"]
"""Which turns of the assistant are trained: all that the row does not except, or the last one."""


class ConversationEncoder(Protocol):
    """What is needed of `alignloop.data.tokenize.Encoder`."""

    @property
    def template(self) -> ChatTemplate: ...
    @property
    def max_length(self) -> int: ...
    @property
    def overlength(self) -> Policy: ...
    @property
    def tokenizer(self) -> Any: ...

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> np.ndarray: ...

    def completion(
        self,
        turn: str | Message,
        prompt: Sequence[Message] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> np.ndarray: ...

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Dialogue: ...


@dataclass(frozen=True, slots=True)
class RowGroups:
    """The groups of a demonstration, how many of its turns they train, and how many groups were cut."""

    groups: list[Group]
    turns: int
    truncated: int = 0


def demonstration_groups(
    encoder: ConversationEncoder,
    record: Demonstration,
    index: int = 0,
    *,
    train_on: TrainOn = "all",
    train_on_prompt: bool = False,
) -> RowGroups:
    """A demonstration as groups.

    Args:
        encoder: text to tokens.
        record: the conversation.
        index: row number, kept in the groups.
        train_on: `last` trains the last turn alone.
        train_on_prompt: count everything but turns that the row excepts, as one group.

    Returns:
        The groups. Their `key` is the conversation up to the first answer, so that conversations which
        begin alike are held out together.

    Raises:
        DataError: no turn to train, longer than `max_length` under overlength 'drop' or 'error', or
            messages that the template refuses.
    """
    messages = without_lost_thoughts(encoder.template, (*record.prompt, record.turn))
    last, trained = len(messages) - 1, trained_places(record, train_on)
    if not trained:
        raise DataError("the last turn has weight 0 and train_on is last", reason="nothing_to_train")
    turn = messages[last]
    if not turn.content.strip() and not turn.tool_calls:
        raise DataError("the completion is empty", reason="empty_completion")
    excepted = {k for k, m in enumerate(messages) if m.train is False}
    if train_on_prompt:
        parts = [_everything(encoder, messages, excepted)]
    elif trained == [last]:
        parts = [_alone(encoder, messages)]
    else:
        parts = _together(encoder, messages, trained)
    key = _question(encoder, messages).tobytes()
    fitted = [_fitted(encoder, part) for part in parts]
    groups = [_group(part, index, key) for part in fitted]
    cut = sum(part.length < whole.length for part, whole in zip(fitted, parts, strict=True))
    return RowGroups(groups, len(trained), cut)


def trained_places(record: Demonstration, train_on: TrainOn) -> list[int]:
    """Places of the turns that are trained, in the messages of prompt and turn."""
    last = len(record.prompt)
    return [place for place in record.trained if train_on == "all" or place == last]


@dataclass(frozen=True, slots=True)
class _Part:
    """A prompt, what follows it, which of that counts, and where the first trained turn ends in it."""

    prompt: np.ndarray
    ids: np.ndarray
    mask: np.ndarray
    first: int

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.ids)


def _alone(encoder: ConversationEncoder, messages: Sequence[Message]) -> _Part:
    """The last of the messages after the others."""
    *before, turn = messages
    prompt = encoder.prompt(before)
    ids = encoder.completion(turn, before)
    return _Part(prompt, ids, np.ones(len(ids), dtype=bool), len(ids))


def _together(
    encoder: ConversationEncoder, messages: Sequence[Message], trained: Sequence[int]
) -> list[_Part]:
    """The trained turns in one row as far as the rendering of the whole allows, the others alone."""
    whole = encoder.conversation(messages)
    turns = [turn for turn in whole.turns if turn.place in trained]
    exact = [turn for turn in turns if turn.exact]
    parts = [_alone(encoder, messages[: turn.place + 1]) for turn in turns if not turn.exact]
    return [*parts, _row(whole.ids, exact)] if exact else parts


def _row(ids: np.ndarray, turns: Sequence[RenderedTurn]) -> _Part:
    """A conversation from its beginning to the end of its last trained turn."""
    start, stop = turns[0].start, turns[-1].stop
    mask = np.zeros(stop - start, dtype=bool)
    for turn in turns:
        mask[turn.start - start : turn.stop - start] = True
    return _Part(ids[:start], ids[start:stop], mask, turns[0].stop - start)


def _everything(encoder: ConversationEncoder, messages: Sequence[Message], excepted: set[int]) -> _Part:
    """The whole conversation, counted but for the excepted turns.

    Raises:
        DataError: the template renders an excepted turn otherwise within the whole, so that its tokens
            are not known.
    """
    none = np.zeros(0, np.int32)
    if not excepted:
        alone = _alone(encoder, messages)
        ids = np.concatenate([alone.prompt, alone.ids])
        return _Part(none, ids, np.ones(len(ids), dtype=bool), len(ids))
    whole = encoder.conversation(messages)
    mask = np.ones(len(whole.ids), dtype=bool)
    for turn in whole.turns:
        if turn.place in excepted and not turn.exact:
            raise DataError(
                "a turn with weight 0 cannot be told apart in this template's rendering; use "
                "completion_only: true",
                reason="nothing_to_train",
            )
        if turn.place in excepted:
            mask[turn.start : turn.stop] = False
    return _trimmed(_Part(none, whole.ids, mask, len(mask)))


def _question(encoder: ConversationEncoder, messages: Sequence[Message]) -> np.ndarray:
    """Tokens of what was asked before the assistant's first answer."""
    asked = next((k for k, m in enumerate(messages) if m.role in ("user", "tool")), 0)
    answer = next(k for k, m in enumerate(messages) if k >= asked and m.role == "assistant")
    return encoder.prompt(messages[:answer])


def _fitted(encoder: ConversationEncoder, part: _Part) -> _Part:
    """The part within `max_length`.

    Raises:
        DataError: it is too long and not to be truncated.
    """
    arguments = (encoder.max_length, encoder.overlength)
    bos = encoder.tokenizer.bos_token_id
    if part.first < len(part.ids):
        fitted = fit_turns(part.prompt.tolist(), part.ids.tolist(), part.first, *arguments, bos_token_id=bos)
    else:
        fitted = fit(part.prompt.tolist(), [part.ids.tolist()], *arguments, bos_token_id=bos)
    prompt, ids = (np.asarray(x, dtype=np.int32) for x in (fitted.prompt_ids, fitted.completions[0]))
    return _trimmed(replace(part, prompt=prompt, ids=ids, mask=part.mask[: len(ids)]))


def _trimmed(part: _Part) -> _Part:
    """The part without what follows its last counted token: nothing is learned from that."""
    stop = int(np.flatnonzero(part.mask)[-1]) + 1
    return replace(part, ids=part.ids[:stop], mask=part.mask[:stop])


def _group(part: _Part, index: int, key: bytes) -> Group:
    own = b"" if part.prompt.tobytes() == key else key
    return Group(part.prompt, (Completion(part.ids, part.mask),), index, key=own)
