"""Dialogues in one text: which form a text begins with, and the turns between its marks."""

from __future__ import annotations

from typing import Any

import pytest

from alignloop.data.transcripts import HH, MARKS, answered, asked, marks_of, messages_of
from alignloop.errors import DataError

FORMS = {marks.name: marks for marks in MARKS}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("\n\nHuman: q", "HH-RLHF"),
        ("Human: q", "HH-RLHF"),
        (" \n Human: q", "HH-RLHF"),
        ("\n\nAssistant: a", None),
        ("so Human: q", None),
        ("### Human: q", "guanaco"),
        ("### Assistant: a", None),
        ("### Instruction:\nq", "Alpaca"),
        ("### System:\ns", "Alpaca"),
        ("### Input:\nq", None),
        ("Below is an instruction that describes a task.\n\n### Instruction:\nq", "Alpaca"),
        ("아래는 작업을 설명하는 명령어입니다.\n\n### 명령어:\nq", "Korean Alpaca"),
        ("###질문 : q", "Korean Alpaca"),
        ("Here is an instruction.\n\n### Instruction:\nq", None),
        ("<|im_start|>user\nq", "ChatML"),
        ("<|im_start|>assistant\nq", None),
        ("<|im_start|>user q", None),
        ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nq", "Llama 3"),
        ("<s>[INST] q [/INST] a", "Llama 2"),
        ("<|user|>\nq", "Zephyr"),
        ("USER: q", "Vicuna and glaive"),
        ("A chat between a user and a bot. USER: q", "Vicuna and glaive"),
        ("FUNCTION RESPONSE: 1", None),
        ("q", None),
        ("", None),
        (5, None),
        (None, None),
    ],
)
def test_the_form_that_a_text_begins_with(text: Any, name: str | None) -> None:
    found = marks_of(text)
    assert (None if found is None else found.name) == name


def turns(name: str, text: str) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in messages_of(text, FORMS[name], "text")]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("HH-RLHF", "\n\nHuman: q \n\nAssistant: a\nb\n\nHuman: ",
         [("user", "q"), ("assistant", "a\nb"), ("user", "")]),
        ("HH-RLHF", "Human: \n\nAssistant: a", [("assistant", "a")]),
        ("HH-RLHF", "Human: q\n\nAssistant:", [("user", "q"), ("assistant", "")]),
        ("HH-RLHF", "Human: q\nAssistant: a", [("user", "q\nAssistant: a")]),
        ("guanaco", "### Human: q### Assistant: a", [("user", "q"), ("assistant", "a")]),
        ("Alpaca", "### Instruction:\nq\n\n### Input:\n1 2\n\n### Response:\na</s> <|endoftext|>\n",
         [("user", "q\n\nInput:\n1 2"), ("assistant", "a")]),
        ("Alpaca", "### Instruction:\nq\n\n### Input:\n\n### Response:\na",
         [("user", "q"), ("assistant", "a")]),
        ("Alpaca", "### Instruction:\nq\n\n### Input:", [("user", "q")]),
        ("Korean Alpaca", "### 질문: q\n\n### 맥락: p\n\n### 답변: a",
         [("user", "q\n\nInput:\np"), ("assistant", "a")]),
        ("ChatML", "<|im_start|>system\ns<|im_end|>\n<|im_start|>tool\n1<|im_end|>\n",
         [("system", "s"), ("tool", "1")]),
        ("Llama 2", "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nq [/INST] a </s><s>[INST] p [/INST]",
         [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "p"), ("assistant", "")]),
        ("Vicuna and glaive", "SYSTEM: s USER: q ASSISTANT: a</s>USER: p FUNCTION RESPONSE: 1",
         [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "p"), ("tool", "1")]),
    ],
)  # fmt: skip
def test_the_turns_of_a_text(name: str, text: str, found: list[tuple[str, str]]) -> None:
    assert turns(name, text) == found


@pytest.mark.parametrize(
    ("name", "text", "value", "why"),
    [
        (
            "ChatML",
            "<|im_start|>user\nq<|im_end|>\nmore",
            "q<|im_end|>\nmore",
            "holds '<|im_end|>' within a turn",
        ),
        ("Alpaca", "### Input:\n1\n\n### Response:\na", None, "expected an instruction before the input"),
        ("Alpaca", "### System:\ns\n\n### Input:\n1", None, "expected an instruction before the input"),
        ("HH-RLHF", "Human: \ud800", None, "half a surrogate pair"),
    ],
)
def test_texts_that_are_no_dialogue(name: str, text: str, value: Any, why: str) -> None:
    with pytest.raises(DataError, match=why.replace("|", "\\|")) as caught:
        turns(name, text)
    assert (caught.value.field, caught.value.value) == ("text", value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Human: q\n\nAssistant: a", ["q", "a"]),
        ("Human: q\n\nAssistant: a\n\nHuman: p\n\nAssistant: b", ["q", "a", "p", "b"]),
        ("Human: q\n\nAssistant: a\n\nHuman: is a mark ", ["q", "a\n\nHuman: is a mark"]),
        ("Human: q\n\nAssistant: a\n\nHuman: p\n\nHuman: o", ["q", "a\n\nHuman: p\n\nHuman: o"]),
        ("Human: q", ["q"]),
    ],
)
def test_a_mark_behind_the_last_answer_is_its_text(text: str, found: list[str]) -> None:
    assert [m.content for m in answered(text, HH, "text")] == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\n\nHuman: q\n\nAssistant:", ["q"]),
        ("\n\nHuman: q\n\nAssistant: a\n\nHuman: p\n\nAssistant: ", ["q", "a", "p"]),
        ("\n\nAssistant:", []),
        ("\n\nHuman: q\n\nAssistant: a", None),
        ("\n\nHuman: q\n\nHuman:", None),
        ("q\n\nHuman: p\n\nAssistant:", None),
        ("q", None),
    ],
)
def test_a_prompt_that_ends_with_the_answers_mark(text: str, found: list[str] | None) -> None:
    messages = asked(text, "prompt")
    assert (None if messages is None else [m.content for m in messages]) == found
