"""Records as a model reads them: which text is given, which is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from alignloop.data.chat import ChatTemplate
from alignloop.data.normal import completion_texts
from alignloop.data.plain_text import Marks
from alignloop.data.tool_use import check, left_out, without_lost_thoughts
from alignloop.data.trained_turns import TrainOn, bare, render_turns, trained_places
from alignloop.errors import DataError
from alignloop.records import (
    Conversed,
    Demonstration,
    Document,
    Label,
    Message,
    Preference,
    Prompt,
    Ranking,
    Record,
    canonical,
    tools_of,
    written,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A text, and whether it is trained."""

    text: str
    trained: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """One training row of a record: its name within it, its pieces in order, and a remark.

    Marks of the template that messages hold as text are stand-ins in the pieces, with `hidden` for
    `plain_text.revealed` and `Marks.encode`.
    """

    name: str
    pieces: tuple[Piece, ...]
    remark: str = ""
    hidden: Mapping[str, str] = field(default_factory=dict)


def shown(
    record: Record, template: ChatTemplate, train_on: TrainOn = "all", marks: Marks | None = None
) -> list[Shown]:
    """What a record gives to train on.

    Args:
        record: of any kind.
        template: renders it.
        train_on: for demonstrations, which turns of the assistant are trained.
        marks: of a tokenizer, to keep marks in messages apart from the template's own.

    Returns:
        A row for each completion; of a demonstration one, and one each for turns that the template
        renders otherwise within the whole. A template that cannot render tools gets the messages one
        after the other, with the reason as a remark.

    Raises:
        DataError: the template refuses the messages.
    """
    if isinstance(record, Document):
        return [Shown("", (Piece(record.text, True),))]
    if marks is None:
        return _rows(record, template, train_on)
    record, hidden = _shielded(record, marks)
    return [replace(row, hidden=hidden) for row in _rows(record, template, train_on)]


def _shielded(record: Conversed, marks: Marks) -> tuple[Conversed, Mapping[str, str]]:
    """The record with stand-ins for marks in its texts, and the marks behind them."""
    if isinstance(record, Demonstration):
        found = marks.shield((*record.prompt, record.turn))
        *before, turn = found.messages
        answer = {"completion": turn.content, "thinking": turn.thinking, "tool_calls": turn.tool_calls}
        return replace(record, prompt=tuple(before), **answer), found.hidden
    texts = () if isinstance(record, Prompt) else completion_texts(record)
    found = marks.shield((*record.prompt, *(Message("assistant", text) for text in texts)))
    prompt = found.messages[: len(record.prompt)]
    contents = [message.content for message in found.messages[len(record.prompt) :]]
    if isinstance(record, Preference):
        chosen, rejected = contents
        return replace(record, prompt=prompt, chosen=chosen, rejected=rejected), found.hidden
    if isinstance(record, Ranking):
        return replace(record, prompt=prompt, completions=tuple(contents)), found.hidden
    if isinstance(record, Prompt):
        return replace(record, prompt=prompt), found.hidden
    return replace(record, prompt=prompt, completion=contents[0]), found.hidden


def _rows(record: Conversed, template: ChatTemplate, train_on: TrainOn) -> list[Shown]:
    messages = (*record.prompt, record.turn) if isinstance(record, Demonstration) else record.prompt
    try:
        check(template, messages)
    except DataError as error:
        return [_plainly(record, messages, train_on, error.message)]
    if isinstance(record, Demonstration):
        return _conversation(record, template, trained_places(record, train_on))
    given = template.render_prompt(record.prompt)
    prompt = Piece(given)
    if isinstance(record, Prompt):
        return [Shown("", (prompt,), _remark(template, record.prompt))]
    texts = [
        template.render_completion(text, record.prompt, given=given) for text in completion_texts(record)
    ]
    return [
        Shown(name, (prompt, Piece(text, True)), _remark(template, record.prompt))
        for name, text in zip(_names(record), texts, strict=True)
    ]


def _names(record: Record) -> list[str]:
    if isinstance(record, Preference):
        return ["chosen", "rejected"]
    if isinstance(record, Ranking):
        return [f"rank {rank}" for rank in record.ranks]
    return ["good" if record.desirable else "bad"] if isinstance(record, Label) else [""]


def _remark(template: ChatTemplate, messages: Sequence[Message], trained: Sequence[int] = ()) -> str:
    lost = left_out(template, messages, trained)
    return f"not rendered by chat template '{template.name}': {', '.join(lost)}" if lost else ""


def _conversation(record: Demonstration, template: ChatTemplate, trained: Sequence[int]) -> list[Shown]:
    """The rows that `trained_turns` makes, as text."""
    messages = (*record.prompt, record.turn)
    remark = _remark(template, messages, trained)
    messages = bare(template, without_lost_thoughts(template, messages))
    if tuple(trained) == (len(record.prompt),):
        return [Shown("", _alone(template, messages), remark)]
    text, turns = render_turns(template, messages)
    exact = [turn for turn in turns if turn.exact and turn.place in trained]
    rows = [
        Shown(f"turn {place + 1}", _alone(template, messages[: place + 1]), remark)
        for place in trained
        if all(turn.place != place for turn in exact)
    ]
    pieces, start = [], 0
    for turn in exact:
        pieces += [Piece(text[start : turn.start]), Piece(text[turn.start : turn.stop], True)]
        start = turn.stop
    name = f"turn {', '.join(str(turn.place + 1) for turn in exact)}" if rows else ""
    return [*rows, Shown(name, tuple(pieces), remark)] if exact else rows


def _alone(template: ChatTemplate, messages: Sequence[Message]) -> tuple[Piece, ...]:
    *before, turn = messages
    given = template.render_prompt(before)
    return Piece(given), Piece(template.render_completion(turn, before, given=given), True)


def _plainly(record: Record, messages: Sequence[Message], train_on: TrainOn, why: str) -> Shown:
    """Messages under the names of their roles."""
    trained = trained_places(record, train_on) if isinstance(record, Demonstration) else []
    pieces = [Piece(f"tool on offer: {canonical(tool)}\n") for tool in tools_of(messages)]
    for place, message in enumerate(messages):
        name = f" {message.name}" if message.name else ""
        pieces += [Piece(f"{message.role}{name}: "), Piece(written(message), place in trained), Piece("\n")]
    if not isinstance(record, Demonstration | Prompt | Document):
        for name, text in zip(_names(record), completion_texts(record), strict=True):
            pieces += [Piece(f"{name or 'assistant'}: "), Piece(text, True), Piece("\n")]
    return Shown("", tuple(pieces), why)
