"""Records to tokenized groups, and the counted reasons for those that do not make one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from alignloop.data.chat import ChatTemplate
from alignloop.data.normal import completion_texts, fault_of
from alignloop.data.overlength import Policy, fit
from alignloop.data.packing import Completion, Group
from alignloop.data.plain_text import Marks, Shielded, marks_of
from alignloop.data.tool_use import check, left_out
from alignloop.data.trained_turns import (
    Dialogue,
    RowGroups,
    TrainOn,
    bare,
    demonstration_groups,
    encode_turns,
    render_turns,
    shifted,
)
from alignloop.errors import DataError
from alignloop.records import (
    Demonstration,
    Document,
    Label,
    Message,
    Preference,
    Prompt,
    Ranking,
    Rating,
    Record,
    tools_of,
)


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Tokenized:
    """What became of records.

    Attributes:
        groups: tokenized rows.
        dropped: a fault for each row that made none.
        truncated: how many groups were shortened.
        turns: how many turns of the assistant the demonstrations train.
        left_out: how many rows hold what the template does not render, by what that is.
    """

    groups: list[Group]
    dropped: list[DataError]
    truncated: int = 0
    turns: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def reasons(self) -> Counter[str]:
        """Dropped rows counted by reason."""
        return Counter(error.reason for error in self.dropped)


@dataclass(frozen=True, slots=True)
class Encoder:
    """Text to token ids, the same way in training and at inference.

    The prompt and the completion are encoded separately, so no token straddles their boundary and a
    sampled continuation starts at exactly the same place. Marks of the template within a message, such
    as '<|im_end|>', are read as text (see `plain_text`).

    Attributes:
        tokenizer: transformers tokenizer.
        template: chat template.
        max_length: tokens of prompt and longest completion together.
        overlength: drop, truncate or error.
        special_tokens: whether marks within a message become special tokens, for data that was rendered
            before.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    max_length: int = 1024
    overlength: Policy = "truncate"
    special_tokens: bool = False

    @property
    def marks(self) -> Marks:
        """The marks of tokenizer and template."""
        return marks_of(self.tokenizer, self.template)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> np.ndarray:
        """int32 ids of the rendered prompt, a BOS in front if the tokenizer wants one and it has none."""
        shielded = self._shield(messages, tools)
        text = self.template.render_prompt(shielded.messages, shielded.tools)
        return self._begun(self.marks.encode(text, shielded.hidden))

    def completion(
        self,
        turn: str | Message,
        prompt: Sequence[Message] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> np.ndarray:
        """int32 ids of what the model writes after a prompt, with its end of turn.

        Args:
            turn: the assistant's text, or its message with thoughts and tool calls.
            prompt: the messages before it; a plain question if None.
            tools: descriptions of tools.

        Returns:
            The ids.

        Raises:
            DataError: the template refuses the conversation.
        """
        message = Message("assistant", turn) if isinstance(turn, str) else turn
        asked = (Message("user", "?"),) if prompt is None or not len(prompt) else prompt
        shielded = self._shield((*asked, message), tools)
        *before, last = shielded.messages
        given = self.template.render_prompt(before, shielded.tools)
        text = self.template.render_completion(last, before, shielded.tools, given=given)
        return np.asarray(self.marks.encode(text, shielded.hidden, after=given), dtype=np.int32)

    def conversation(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Dialogue:
        """A whole conversation as tokens, with the assistant's turns in it.

        A conversation with one turn of the assistant at its end has the ids of `prompt` and `completion`.

        Args:
            messages: the conversation.
            tools: descriptions of tools.

        Returns:
            Ids, turns, and a mask of what the assistant writes.

        Raises:
            DataError: no message, or messages that the template refuses.
        """
        shielded = self._shield(messages, tools)
        text, turns = render_turns(self.template, shielded.messages, shielded.tools)
        ids, found = encode_turns(text, turns, self.marks.encode, shielded)
        whole = self._begun(ids)
        return Dialogue(whole, shifted(found, len(whole) - len(ids)))

    def ending(self) -> np.ndarray:
        """int32 ids of the end of an assistant's turn."""
        return np.asarray(self.marks.encode(self.template.end), dtype=np.int32)

    def begin(self, text: str, prompt: Sequence[Message]) -> np.ndarray:
        """int32 ids of the beginning of an answer: `completion` without the end of turn."""
        ids, end = self.completion(text, prompt), self.ending()
        return ids[: -len(end)] if len(end) and ids[-len(end) :].tolist() == end.tolist() else ids

    def document(self, text: str) -> np.ndarray:
        """int32 ids of raw text, BOS in front if the tokenizer adds one, EOS at the end."""
        shielded = self._shield((Message("user", text),))
        if shielded.hidden:
            ids = self._begun(self.marks.encode(shielded.messages[0].content, shielded.hidden)).tolist()
        else:
            ids = self.tokenizer.encode(text, add_special_tokens=True)
        if self.tokenizer.eos_token_id is not None and ids[-1:] != [self.tokenizer.eos_token_id]:
            ids = [*ids, self.tokenizer.eos_token_id]
        return np.asarray(ids, dtype=np.int32)

    def _shield(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Shielded:
        check(self.template, messages)
        messages = bare(self.template, messages)
        tools = tools or tools_of(messages)
        return Shielded(messages, tuple(tools)) if self.special_tokens else self.marks.shield(messages, tools)

    def _begun(self, ids: list[int]) -> np.ndarray:
        leading = self.tokenizer.encode("", add_special_tokens=True)[:1]
        if leading and leading[0] == self.tokenizer.bos_token_id and ids[:1] != leading:
            ids = leading + ids
        return np.asarray(ids, dtype=np.int32)

    def group(self, record: Record, index: int = 0, *, train_on_prompt: bool = False) -> Group:
        """One record as a group, of a demonstration its last turn.

        Args:
            record: any kind but `Document` and `Prompt`.
            index: row number, kept in the group.
            train_on_prompt: for demonstrations, count the prompt's tokens too.

        Returns:
            The group.

        Raises:
            DataError: longer than `max_length` under overlength 'drop' or 'error', or nothing to train on.
        """
        if isinstance(record, Document):
            raise TypeError("a document makes several groups: use tokenize")
        return _made(self, record, index, "last", train_on_prompt).groups[0]


def _made(
    encoder: Encoder, record: Record, index: int, train_on: TrainOn, train_on_prompt: bool
) -> RowGroups:
    """The groups of a record.

    Raises:
        DataError: it cannot be trained on; with its place.
    """
    try:
        if isinstance(record, Demonstration):
            return demonstration_groups(
                encoder, record, index, train_on=train_on, train_on_prompt=train_on_prompt
            )
        return _compared(encoder, record, index)
    except DataError as error:
        where = record.provenance
        raise DataError(
            error.message,
            file=error.file or where.file,
            line=error.line or where.line,
            field=error.field or ("prompt" if error.reason == "overlength" else ""),
            value=error.value,
            reason=error.reason,
        ) from None


def _compared(encoder: Encoder, record: Record, index: int) -> RowGroups:
    """The one group of answers that are compared or judged: each of them the last turn."""
    values, texts = _values(record), completion_texts(record)
    assert not isinstance(record, Document)
    prompt = encoder.prompt(record.prompt)
    completions = [encoder.completion(text, record.prompt) for text in texts]
    if any(not text.strip() for text in texts):
        raise DataError("the completion is empty", reason="empty_completion")
    fitted = fit(
        prompt.tolist(),
        [c.tolist() for c in completions],
        encoder.max_length,
        encoder.overlength,
        bos_token_id=encoder.tokenizer.bos_token_id,
    )
    cut = fitted.prompt_truncated or any(fitted.truncated)
    counted = tuple(Completion.counted(np.asarray(ids, dtype=np.int32)) for ids in fitted.completions)
    key = prompt.tobytes() if fitted.prompt_truncated else b""
    return RowGroups(
        [Group(np.asarray(fitted.prompt_ids, dtype=np.int32), counted, index, values, key)], 0, cut
    )


def tokenize(
    records: Iterable[Record],
    encoder: Encoder,
    *,
    train_on: TrainOn = "all",
    train_on_prompt: bool = False,
) -> Tokenized:
    """Tokenize records; documents longer than `max_length` become several groups.

    Args:
        records: of any kinds.
        encoder: text to tokens.
        train_on: for demonstrations, which turns of the assistant are trained.
        train_on_prompt: for demonstrations, count the prompt's tokens too.

    Returns:
        The groups in the records' order, and what was dropped, cut and lost.

    Raises:
        DataError: nothing is left, or the first overlong row under overlength 'error'.
    """
    groups: list[Group] = []
    dropped: list[DataError] = []
    truncated = turns = 0
    lost: Counter[str] = Counter()
    last: Record | None = None
    for index, record in enumerate(records):
        last = record
        if isinstance(record, Document):
            pieces = document_pieces(encoder.document(record.text), encoder.max_length)
            key = pieces[0].tobytes() if len(pieces) > 1 else b""
            groups += [
                Group(np.zeros(0, np.int32), (Completion.counted(piece),), index, key=key) for piece in pieces
            ]
            continue
        try:
            made = _made(encoder, record, index, train_on, train_on_prompt)
        except DataError as error:
            if encoder.overlength == "error" and error.reason == "overlength":
                raise
            dropped.append(error)
            continue
        truncated += made.truncated
        turns += made.turns
        lost.update(_left_out(encoder, record))
        groups += made.groups
    if not groups:
        reasons = ", ".join(
            f"{count}× {reason}" for reason, count in Counter(e.reason for e in dropped).items()
        )
        where = last.provenance.file if last is not None else ""
        example = f"; first: {dropped[0]}" if dropped else ""
        raise DataError(
            f"no row is left to train on ({reasons or 'no rows'}){example}", file=where, reason="no_rows"
        )
    return Tokenized(groups, dropped, truncated, turns, lost)


def _left_out(encoder: Encoder, record: Record) -> tuple[str, ...]:
    """What the template does not render of a record."""
    if isinstance(record, Demonstration):
        return left_out(encoder.template, (*record.prompt, record.turn), record.trained)
    return () if isinstance(record, Document) else left_out(encoder.template, record.prompt, ())


def document_pieces(ids: np.ndarray, max_length: int) -> list[np.ndarray]:
    """A long document as consecutive pieces of at most `max_length` tokens.

    A piece starts with the last token of the one before, so that every token but the document's first
    is predicted once. Pieces without a predicted token are left out.
    """
    step = max(1, max_length - 1)
    pieces = (ids[start : start + max_length] for start in range(0, len(ids), step))
    return [piece for piece in pieces if len(piece) > 1]


def attributes_of(records: Iterable[Record]) -> tuple[str, ...]:
    """Names of all attributes that any rating scores, in the order in which they first appear."""
    return tuple(dict.fromkeys(name for r in records if isinstance(r, Rating) for name in r.scores))


def with_attributes(records: Sequence[Record], attributes: Sequence[str]) -> list[Record]:
    """Ratings that score exactly these attributes in this order, NaN where a row has none.

    A head has one output per attribute, so the place of a score must not depend on the row.

    Args:
        records: of any kind; those that are no ratings stay as they are.
        attributes: the training data's.

    Returns:
        Records of the same number and order.
    """
    return [
        replace(r, scores={name: r.scores.get(name, math.nan) for name in attributes})
        if isinstance(r, Rating)
        else r
        for r in records
    ]


def _values(record: Record) -> dict[str, Any]:
    """What objectives are told of the completions of a group, in their order."""
    match record:
        case Preference():
            return {"probability": record.probability, "margin": record.margin}
        case Label():
            return {"desirable": np.asarray([record.desirable])}
        case Rating():
            return {"ratings": np.asarray([list(record.scores.values())], dtype=np.float32)}
        case Ranking():
            return {"ranks": [float(rank) for rank in record.ranks]}
        case Prompt():
            message = "a prompt without completion cannot be trained on; use `sample` first"
            raise fault_of(record, "no_completion", message)
    raise TypeError(f"not a record: {type(record).__name__}")
