"""The messages of a row: system, history, prompt, input and tools, and which of them contradict."""

from __future__ import annotations

from typing import Any

import pytest

from alignloop.data import forms
from alignloop.data.prompts import prompt_of, turns_of_row
from alignloop.errors import DataError
from alignloop.records import Message

USER = {"role": "user", "content": "q"}
BOT = {"role": "assistant", "content": "a"}
MORE = {"role": "user", "content": "p"}
SYSTEM = {"role": "system", "content": "s"}
Q, A, P, S = Message("user", "q"), Message("assistant", "a"), Message("user", "p"), Message("system", "s")
F, G = {"name": "f"}, {"name": "g"}


def asked(**row: Any) -> Any:
    return prompt_of(forms.fields_of(row, {}))


def fault(**row: Any) -> tuple[str, Any, str]:
    with pytest.raises(DataError) as caught:
        asked(**row)
    return caught.value.field, caught.value.value, caught.value.reason


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "q"}, (Q,)),
        ({"instruction": "q"}, (Q,)),
        ({"input": "q"}, (Q,)),
        ({"prompt": [USER, BOT, MORE]}, (Q, A, P)),
        ({"prompt": "p", "input": "1"}, (Message("user", "p\n\nInput:\n1"),)),
        ({"instruction": "p", "input": "1"}, (Message("user", "p\n\nInput:\n1"),)),
        ({"prompt": [USER, BOT, MORE], "input": "1"}, (Q, A, Message("user", "p\n\nInput:\n1"))),
        ({"messages": [USER, BOT]}, (Q,)),
        ({"messages": [USER, BOT, MORE]}, (Q, A, P)),
        ({"messages": [USER, BOT], "input": "q"}, (Q,)),
        ({"messages": [], "prompt": "q"}, (Q,)),
        ({"prompt": [], "instruction": "q"}, (Q,)),
        ({"prompt": "\n\nHuman: q\n\nAssistant:"}, (Q,)),
        ({"prompt": "\n\nHuman: q\n\nAssistant: a\n\nHuman: p\n\nAssistant:"}, (Q, A, P)),
        ({"prompt": "\n\nHuman: q\n\nAssistant: a"}, (Message("user", "\n\nHuman: q\n\nAssistant: a"),)),
        # two answers are compared: `messages` may be one of them
        ({"prompt": "p", "messages": [USER, BOT], "chosen": "x"}, (P,)),
        ({"prompt": "p", "messages": [USER, BOT], "response_a": "x"}, (P,)),
        ({"messages": [USER, BOT], "chosen": "x"}, (Q,)),
        ({"instruction": "p", "messages": [USER, BOT], "chosen": "x"}, (Q,)),
        # system and history
        ({"prompt": "q", "system": "s"}, (S, Q)),
        ({"prompt": "q", "system": SYSTEM}, (S, Q)),
        ({"prompt": "q", "system": [SYSTEM]}, (S, Q)),
        ({"prompt": [SYSTEM, USER], "system": " s\n"}, (S, Q)),
        ({"prompt": [SYSTEM, USER], "system": " "}, (S, Q)),
        ({"prompt": [SYSTEM, USER]}, (S, Q)),
        ({"prompt": "p", "history": [["q", "a"]]}, (Q, A, P)),
        ({"prompt": [SYSTEM, MORE], "history": [["q", "a"]]}, (S, Q, A, P)),
        ({"prompt": "p", "history": [["q", "a"]], "system": "s"}, (S, Q, A, P)),
        ({"messages": [USER, BOT], "history": []}, (Q,)),
    ],
)  # fmt: skip
def test_what_is_asked(row: dict[str, Any], prompt: Any) -> None:
    assert asked(**row) == prompt


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({}, ("prompt", None, "missing_field")),
        ({"prompt": " "}, ("prompt", " ", "empty_prompt")),
        ({"prompt": "\n\nAssistant:"}, ("prompt", "\n\nAssistant:", "empty_prompt")),
        ({"prompt": "\n\nAssistant:", "system": "s"}, ("prompt", "\n\nAssistant:", "empty_prompt")),
        ({"질문": [USER, BOT]}, ("질문", "assistant", "prompt_not_user")),
        ({"prompt": 5}, ("prompt", 5, "wrong_type")),
        ({"prompt": "q", "input": 5}, ("input", 5, "wrong_type")),
        ({"messages": [USER, BOT], "history": [["q", "a"]]}, ("history", None, "prompt_mismatch")),
        ({"prompt": "q", "system": 5}, ("system", 5, "wrong_type")),
        ({"prompt": "q", "system": USER}, ("system", USER, "wrong_type")),
        ({"prompt": "q", "system": [SYSTEM, USER]}, ("system", [SYSTEM, USER], "wrong_type")),
        ({"prompt": [SYSTEM, USER], "system": "t"}, ("system", "t", "system_mismatch")),
        (
            {"prompt": [SYSTEM, USER], "system": {**SYSTEM, "content": "t"}},
            ("system", "t", "system_mismatch"),
        ),
        ({"prompt": "q", "tools": ["f"]}, ("tools[0]", "f", "bad_tools")),
        ({"prompt": [{**USER, "tools": [F]}], "functions": [G]}, ("functions", None, "bad_tools")),
    ],
)
def test_what_is_no_question(row: dict[str, Any], found: tuple[str, Any, str]) -> None:
    assert fault(**row) == found


@pytest.mark.parametrize(
    ("beside", "fits"),
    [
        *(({"prompt": text}, True) for text in ("q", " q\n", "p", "", " ", [USER], [USER, BOT])),
        *(({"instruction": text}, True) for text in ("q", "p", "s")),
        ({"prompt": [SYSTEM, USER]}, True),
        *(({"prompt": text}, False) for text in ("a", "z", "qp", [MORE], [USER, MORE], [BOT])),
        ({"instruction": "z"}, False),
        ({"prompt": "q", "instruction": "z"}, True),  # the first one there is looked at
    ],
)
def test_a_prompt_beside_whole_messages_is_a_part_of_them(beside: dict[str, Any], fits: bool) -> None:
    middle = {"role": "user", "content": "m"}
    row = {"messages": [SYSTEM, USER, BOT, middle, BOT, MORE, BOT], **beside}
    if fits:
        assert asked(**row)[1] == Q
    else:
        (value,) = beside.values()
        assert fault(**row) == (next(iter(beside)), value, "prompt_mismatch")
    assert fault(**{**row, "prompt": "m"})[2] == "prompt_mismatch"  # neither the first nor the last question


@pytest.mark.parametrize("joint", ["\n\nInput:\n", "\n\n", "\n", " ", ""])
def test_an_instruction_and_its_input_stand_in_one_message(joint: str) -> None:
    messages = [{"role": "user", "content": f"Add{joint}1 2"}, BOT]
    assert asked(messages=messages, instruction="Add", input="1 2")[0].content == f"Add{joint}1 2"
    assert fault(messages=messages, instruction="Add", input="3")[2] == "prompt_mismatch"
    assert fault(messages=messages, instruction="Ad", input="1 2")[2] == "prompt_mismatch"


def test_which_column_the_messages_come_from() -> None:
    def read(**row: Any) -> tuple[str, str]:
        name, _, column = turns_of_row(forms.fields_of(row, {}))
        return name, column

    assert read(대화=[USER, BOT]) == ("messages", "대화")
    assert read(질문="q", input="1") == ("prompt", "질문")
    assert read(지시="q") == ("instruction", "지시")
    assert read(입력="q") == ("input", "입력")


def test_tools_of_a_column_and_of_the_first_message() -> None:
    first = {**USER, "tools": [F]}
    (own,) = asked(prompt=[first])[0].tools
    for row in (
        {"prompt": "q", "tools": [F]},
        {"prompt": [first], "tools": [F]},
        {"prompt": [first], "tools": []},
        {"messages": [first, BOT]},
        {"messages": [USER, BOT], "tools": [F]},
    ):
        assert asked(**row)[0].tools == (own,)
    # they stand on the first message, whatever is put in front
    system, question = asked(prompt=[first], system="s")
    assert (system.tools, question.tools) == ((own,), ())
    assert asked(prompt="q", tools=[])[0].tools == ()
    # a prompt with tools is compared with the messages without them
    assert asked(messages=[USER, BOT], prompt=[first])[0] == Q
    assert asked(messages=[first, BOT], prompt=[USER])[0].tools == (own,)
