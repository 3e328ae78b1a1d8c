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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from alignloop.data.chat import ChatTemplate
from alignloop.data.dialogue import Dialogue, Turn
from alignloop.data.overlength import Policy, fit, fit_turns
from alignloop.data.packing import Completion, Group
from alignloop.data.tool_use import without_lost_thoughts
from alignloop.errors import DataError
from alignloop.records import Demonstration, Message

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
class Made:
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
) -> Made:
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
    return Made(groups, len(trained), cut)


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


def _row(ids: np.ndarray, turns: Sequence[Turn]) -> _Part:
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
