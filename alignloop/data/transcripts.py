"""Dialogues written as one text: the marks of turns in published data, and the messages between them.

Each way of marking is one entry of `MARKS`. Marks within a sentence are text: they count at the
beginning of the text, after a blank line or wherever their expression says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from alignloop.data import values as read
from alignloop.errors import DataError
from alignloop.records import Conversation, Message


@dataclass(frozen=True, slots=True)
class TurnMarks:
    """How one tool or data set marks the turns of a dialogue in a text.

    Attributes:
        name: of the tool or data set.
        turn: a mark; its first group tells whose turn begins.
        roles: role by what the group holds; `input` continues the user's turn before it.
        ends: what stands behind turns and belongs to the form.
        preface: what may stand before the first mark and belongs to the form; it has no groups.
    """

    name: str
    turn: re.Pattern[str]
    roles: Mapping[str, str]
    ends: tuple[str, ...] = ()
    preface: re.Pattern[str] = field(default=re.compile(r"\s*"))

    def begin(self, text: str) -> bool:
        """Whether a text is a dialogue of this form: it begins with a mark of somebody who asks."""
        first = _start(self.preface, self.turn).match(text)
        return first is not None and self.roles[first[1]] in ("user", "system")

    def pieces(self, text: str) -> list[tuple[str, str, int]]:
        """Role, text and beginning of the mark of each turn, white space and ends removed."""
        found = list(self.turn.finditer(text))
        stops = [mark.start() for mark in found[1:]] + [len(text)]
        return [
            (self.roles[mark[1]], self._plain(text[mark.end() : stop]), mark.start())
            for mark, stop in zip(found, stops, strict=True)
        ]

    def _plain(self, said: str) -> str:
        said = said.strip()
        while any(said.endswith(end) for end in self.ends):
            end = next(end for end in self.ends if said.endswith(end))
            said = said.removesuffix(end).strip()
        return said


@cache
def _start(preface: re.Pattern[str], turn: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(preface.pattern + turn.pattern, turn.flags)


_ASK = {"user": "user", "assistant": "assistant", "system": "system"}
_BELOW = re.compile(r"\s*(?:(?:Below is an instruction|아래는 작업을 설명하는)[^#]*)?")

MARKS: tuple[TurnMarks, ...] = (
    TurnMarks(
        "HH-RLHF",
        re.compile(r"(?:\A\s*|\r?\n\s*\n)(Human|Assistant):"),
        {"Human": "user", "Assistant": "assistant"},
    ),
    TurnMarks(
        "guanaco",
        re.compile(r"(?:\A|(?<=\S)|\n)\s*### (Human|Assistant):"),
        {"Human": "user", "Assistant": "assistant"},
    ),
    TurnMarks(
        "Alpaca",
        re.compile(r"(?:\A|\n)\s*### (System|User|Instruction|Input|Response|Assistant):"),
        {
            **{"System": "system", "User": "user", "Instruction": "user", "Input": "input"},
            **{"Response": "assistant", "Assistant": "assistant"},
        },
        ("</s>", "<|endoftext|>"),
        _BELOW,
    ),
    TurnMarks(
        "Korean Alpaca",
        re.compile(r"(?:\A|\n)\s*### ?(명령어|질문|입력|맥락|응답|답변) ?:"),
        {
            **{"명령어": "user", "질문": "user", "입력": "input", "맥락": "input"},
            **{"응답": "assistant", "답변": "assistant"},
        },
        ("</s>", "<|endoftext|>"),
        _BELOW,
    ),
    TurnMarks(
        "ChatML",
        re.compile(r"<\|im_start\|>(system|user|assistant|tool)\n"),
        {**_ASK, "tool": "tool"},
        ("<|im_end|>", "<|endoftext|>"),
    ),
    TurnMarks(
        "Llama 3",
        re.compile(r"<\|start_header_id\|>(system|user|assistant)<\|end_header_id\|>"),
        _ASK,
        ("<|eot_id|>", "<|end_of_text|>"),
        re.compile(r"\s*(?:<\|begin_of_text\|>)?\s*"),
    ),
    TurnMarks(
        "Llama 2",
        re.compile(r"(?:<s>\s*)?(\[INST\]|\[/INST\]|<<SYS>>|<</SYS>>)"),
        {"[INST]": "user", "[/INST]": "assistant", "<<SYS>>": "system", "<</SYS>>": "user"},
        ("</s>",),
    ),
    TurnMarks(
        "Zephyr", re.compile(r"(?:\A|\n)<\|(system|user|assistant)\|>\n"), _ASK, ("</s>", "<|endoftext|>")
    ),
    TurnMarks(
        "Vicuna and glaive",
        re.compile(r"(?:\A|(?<=\s)|(?<=</s>))(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):"),
        {"SYSTEM": "system", "USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"},
        ("</s>", "<|endoftext|>"),
        re.compile(r"\s*(?:A chat between [^\n]*?)?\s*"),
    ),
)
"""The first form that a text begins with is its form."""

HH = MARKS[0]


def marks_of(value: object) -> TurnMarks | None:
    """The marks that a text begins with, None for any other value."""
    if not isinstance(value, str):
        return None
    return next((marks for marks in MARKS if marks.begin(value)), None)


def messages_of(text: str, marks: TurnMarks, field: str) -> Conversation:
    """The messages of a dialogue in one text; turns that say nothing are left out, but for the last.

    Raises:
        DataError: no valid text, an input without an instruction before it, or the end of a turn within one.
    """
    found: list[Message] = []
    pieces = marks.pieces(read.text(text, field))
    for place, (role, said, _) in enumerate(pieces):
        if not said and place < len(pieces) - 1:
            continue
        strange = next((end for end in marks.ends if end in said), None)
        if strange is not None:
            message = f"holds '{strange}' within a turn, so that its turns are not those of {marks.name}"
            raise DataError(message, field=field, value=said, reason="bad_messages")
        if role == "input":
            if not found or found[-1].role != "user":
                message = "expected an instruction before the input"
                raise DataError(message, field=field, reason="bad_messages")
            if said:
                found[-1] = Message("user", found[-1].content + read.INPUT_MARK + said)
            continue
        found.append(Message(role, said))
    return tuple(found)


def answered(text: str, marks: TurnMarks, field: str) -> Conversation:
    """The messages of a dialogue that ends with an answer: what follows the last answer's mark is its text.

    A user's mark without an answer behind it stands within that text.
    """
    pieces = marks.pieces(text)
    last = max((k for k, (role, _, _) in enumerate(pieces) if role == "assistant"), default=len(pieces) - 1)
    if last == len(pieces) - 1:
        return messages_of(text, marks, field)
    mark = marks.turn.match(text, pieces[last][2])
    assert mark is not None
    earlier = messages_of(text[: pieces[last][2]], marks, field)
    return (*earlier, Message("assistant", text[mark.end() :].strip()))


def asked(text: str, field: str) -> Conversation | None:
    """The messages of a prompt that ends with the mark of the answer to come; None for any other text."""
    if HH.turn.match(text) is None:
        return None
    *messages, last = messages_of(text, HH, field)
    return tuple(messages) if (last.role, last.content) == ("assistant", "") else None
