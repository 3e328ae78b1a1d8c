"""Records out of fields: what a column may hold, what is joined, and which fault names which column."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alignloop.data import forms
from alignloop.data.builders import build
from alignloop.errors import DataError
from alignloop.records import Demonstration, Message, Preference, Prompt, Provenance, Rating, ToolCall

USER = {"role": "user", "content": "q"}
BOT = {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}
TOOL = {"role": "tool", "content": "1"}
Q, A, S = Message("user", "q"), Message("assistant", "a"), Message("system", "s")
HH = "\n\nHuman: q\n\nAssistant: a"


def made(kind: str, row: dict[str, Any], columns: dict[str, str] | None = None) -> Any:
    return build(kind, forms.fields_of(row, columns or {}), "f", 1, "human")


def fault(kind: str, row: dict[str, Any], columns: dict[str, str] | None = None) -> tuple[str, Any, str]:
    with pytest.raises(DataError) as caught:
        made(kind, row, columns)
    return caught.value.field, caught.value.value, caught.value.reason


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, Provenance()),
        ({"file": "x", "line": 3, "origin": "ai"}, Provenance("x", 3, "ai")),
        (
            '{"details": {"a": 1, "b": 2.5, "c": true, "d": "e"}}',
            Provenance("", 0, "unknown", {"a": 1, "b": 2.5, "c": True, "d": "e"}),
        ),
    ],
)
def test_a_row_may_tell_its_own_provenance(given: object, found: Provenance) -> None:
    assert made("document", {"text": "t", "model": "m", "provenance": given}).provenance == found
    assert made("document", {"text": "t", "model": "m"}).provenance == Provenance(
        "f", 1, "human", {"model": "m"}
    )


@pytest.mark.parametrize(
    "wrong",
    [{"file": 3}, {"line": True}, {"line": "1"}, {"line": 1.0}, {"origin": "martian"}, {"more": 1}]
    + [{"details": details} for details in (None, [], {"a": [1]}, {"a": 1, "b": None})],
)
def test_a_wrong_provenance(wrong: dict[str, Any]) -> None:
    assert fault("document", {"text": "t", "provenance": wrong}) == ("provenance", wrong, "bad_provenance")


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"prompt": "q", "completion": HH}, (Q,), "a"),
        ({"prompt": "q", "completion": HH.lstrip()}, (Q,), HH.lstrip()),  # that is the answer's own text
        ({"prompt": [USER], "completion": HH}, (Q,), HH),
        ({"prompt": "q", "completion": BOT}, (Q,), "a"),
        ({"prompt": "q", "completion": [BOT]}, (Q,), "a"),
        ({"prompt": "q", "completion": [USER, BOT]}, (Q,), "a"),
        ({"prompt": "q", "completion": [SYSTEM, USER, BOT]}, (S, Q), "a"),
        ({"prompt": [SYSTEM, USER], "completion": [USER, BOT]}, (S, Q), "a"),
        (
            {"prompt": [SYSTEM, USER], "completion": [{**SYSTEM, "content": "t"}, USER, BOT]},
            (Message("system", "t"), Q),
            "a",
        ),
        # the whole may begin or end with the prompt
        (
            {"prompt": "q", "completion": [{**USER, "content": "p"}, BOT, USER, BOT]},
            (Message("user", "p"), A, Q),
            "a",
        ),
        (
            {"prompt": "q", "completion": [USER, BOT, {**USER, "content": "p"}, BOT]},
            (Q, A, Message("user", "p")),
            "a",
        ),
    ],
)
def test_completions_in_every_form(row: dict[str, Any], prompt: Any, completion: str) -> None:
    found = made("demonstration", row)
    assert (found.prompt, found.completion) == (prompt, completion)


@pytest.mark.parametrize(
    ("completion", "found"),
    [
        ([USER], ("completion", "user", "bad_messages")),
        ([USER, {**BOT, "content": " "}], ("completion", " ", "empty_completion")),
        (" ", ("completion", " ", "empty_completion")),
        ([{**USER, "content": "p"}, BOT], ("completion", None, "prompt_mismatch")),
        ([SYSTEM, BOT], ("completion", None, "prompt_mismatch")),
        (7, ("completion", 7, "wrong_type")),
    ],
)
def test_completions_that_are_none(completion: object, found: tuple[str, Any, str]) -> None:
    assert fault("demonstration", {"prompt": "q", "completion": completion}) == found


def test_a_call_of_a_tool_says_enough_and_may_be_the_last_turn_of_a_context() -> None:
    assert made("demonstration", {"prompt": "q", "completion": CALL}).tool_calls == (ToolCall("f"),)
    twice = made("demonstration", {"prompt": "q", "completion": [CALL, BOT]})
    assert (twice.prompt[-1].tool_calls, twice.completion) == ((ToolCall("f"),), "a")
    spoken = made("demonstration", {"messages": [USER, CALL, BOT]})
    assert (spoken.prompt[-1].tool_calls, spoken.completion) == ((ToolCall("f"),), "a")
    for row in ({"messages": [USER, BOT, BOT]}, {"prompt": "q", "completion": [BOT, BOT]}):
        assert fault("demonstration", row)[2] == "prompt_not_user"
    offered = {"prompt": "q", "tools": [{"name": "f"}], "completion": [CALL, TOOL, BOT]}
    assert len(made("demonstration", offered).prompt[0].tools) == 1
    assert fault("label", {"prompt": "q", "completion": CALL, "label": 1})[::2] == (
        "completion",
        "tool_call_completion",
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("42", "42"),
        (42, "42"),
        (2.0, "2.0"),
        ("{a", "{a"),
        ("{1, 2}", "{1, 2}"),
        ('["a"]', '["a"]'),
        (True, ("answer", True, "wrong_type")),
        (["a"], ("answer", ["a"], "wrong_type")),
        ({"N": "가"}, ("answer", {"N": "가"}, "object_answer")),
        (' {"N": 3}', ("answer", ' {"N": 3}', "object_answer")),
    ],
)
def test_reference_answers(answer: object, text: Any) -> None:
    row = {"prompt": "q", "answer": answer}
    if isinstance(text, str):
        assert made("prompt", row).answer == text
    else:
        assert fault("prompt", row) == text
    if text[-1] == "object_answer":
        told = json.dumps(answer, ensure_ascii=False) if isinstance(answer, dict) else answer
        assert made("prompt", row, {"answer": "answer"}).answer == told
        assert made("prompt", {**row, "provenance": {}}).answer == told


def test_constraints_are_objects() -> None:
    row = {"prompt": "q", "constraints": '[{"kind": "title"}]'}
    assert made("prompt", row).constraints == ({"kind": "title"},)
    wrong = {"prompt": "q", "constraints": [{"kind": "title"}, "short"]}
    assert fault("prompt", wrong) == ("constraints[1]", "short", "wrong_type")
    pair = {"chosen": HH, "rejected": HH[:-1] + "b"}
    assert made("prompt", pair) == Prompt((Q,), provenance=Provenance("f", 1, "human"))
    assert made("prompt", {"prompt": "p", "chosen": "x", "rejected": "y"}).prompt[0].content == "p"
    assert fault("prompt", {"chosen": "x"}) == ("prompt", None, "missing_field")


@pytest.mark.parametrize(("label", "imitated"), [(1, True), ("sunny", True), (0, False), ("bad", False)])
def test_a_bad_answer_is_none_to_imitate(label: object, imitated: bool) -> None:
    row = {"prompt": "q", "completion": "a", "라벨": label}
    if imitated:
        assert made("demonstration", row).completion == "a"
    else:
        assert fault("demonstration", row) == ("라벨", label, "undesirable")


def test_a_completion_beside_whole_messages_is_their_end() -> None:
    assert made("demonstration", {"messages": [USER, BOT], "completion": "a"}).prompt == (Q, A)[:1]
    found = fault("demonstration", {"messages": [USER, BOT], "output": "b"})
    assert found == ("output", None, "prompt_mismatch")
    assert made("demonstration", {"messages": [USER], "completion": "b"}).completion == "b"


@pytest.mark.parametrize("target", ["chosen", "rejected"])
def test_one_answer_of_a_pair_is_imitated_where_it_says_so(target: str) -> None:
    row = {"prompt": [USER, BOT, USER], "chosen": "good", "rejected": "bad"}
    found = made("demonstration", {**row, "sft_target": target})
    assert isinstance(found, Demonstration)
    assert found.completion == {"chosen": "good", "rejected": "bad"}[target]
    assert found.trained == (3,)  # earlier turns are its context
    assert fault("demonstration", {**row, "sft_target": "both"}) == ("sft_target", "both", "unknown_label")


def test_questions_that_nobody_answered_are_left_out() -> None:
    more = {**USER, "content": "p"}
    assert made("demonstration", {"messages": [USER, BOT, more, more]}).prompt == (Q,)
    # without any answer in the messages another column gives it
    assert made("demonstration", {"messages": [USER, more], "answer": "b"}).completion == "b"
    assert fault("demonstration", {"messages": [USER]}) == ("completion", None, "missing_field")
    assert fault("demonstration", {"text": "t", "answer": "b"}) == ("prompt", None, "missing_field")
    assert fault("demonstration", {"text": "t"}) == ("completion", None, "missing_field")
    weighted = [USER, {**BOT, "weight": 0}]
    assert fault("demonstration", {"대화": weighted}) == ("대화", None, "nothing_to_train")
    assert fault("label", {"messages": weighted, "label": 1}) == ("messages", None, "nothing_to_train")


@pytest.mark.parametrize(
    ("more", "pair"),
    [
        ({"preference": "a"}, ("x", "y", 1.0)),
        ({"preference": "b"}, ("y", "x", 1.0)),
        ({"preference": "tie"}, ("x", "y", 0.5)),
        ({"preference": "tie", "probability": 0.9}, ("x", "y", 0.5)),
        ({"preference": "b", "probability": 0.9}, ("y", "x", 0.9)),
        ({"preference": "b", "chosen": "c", "rejected": "r"}, ("c", "r", 1.0)),
    ],
)
def test_votes_for_one_of_two_answers(more: dict[str, Any], pair: tuple[str, str, float]) -> None:
    found = made("preference", {"prompt": "q", "response_a": "x", "response_b": "y", **more})
    assert (found.chosen, found.rejected, found.probability) == pair


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"probability": 1.01}, ("probability", 1.01, "out_of_range")),
        ({"probability": -0.01}, ("probability", -0.01, "out_of_range")),
        ({"margin": -0.5}, ("margin", -0.5, "out_of_range")),
        ({"margin": 1e6 + 1}, ("margin", 1e6 + 1, "out_of_range")),
        ({"거절": [{**USER, "content": "p"}, BOT], "rejected": None, "prompt": None, "messages": [USER]},
         ("거절", None, "prompt_mismatch")),
        ({"rejected": [{**USER, "content": "p"}, USER, BOT]}, ("rejected", None, "prompt_mismatch")),
        ({"rejected": CALL}, ("rejected", '{"name": "f", "arguments": {}}', "tool_call_completion")),
        ({"chosen": CALL}, ("chosen", '{"name": "f", "arguments": {}}', "tool_call_completion")),
    ],
)  # fmt: skip
def test_faults_of_pairs(more: dict[str, Any], found: tuple[str, Any, str]) -> None:
    assert fault("preference", {"prompt": "q", "chosen": "x", "rejected": "y", **more}) == found


def test_margins_and_probabilities_up_to_their_bounds() -> None:
    pair = {"prompt": "q", "chosen": "x", "rejected": "y"}
    for margin in (0, 1e6):
        assert made("preference", {**pair, "margin": margin}).margin == margin
    for probability in (0, 1):
        assert made("preference", {**pair, "probability": probability}).probability == probability
    votes = {"response_a": "x", "response_b": "y", "preference": 0}
    assert fault("preference", votes) == ("prompt", None, "missing_field")


DIALOGUES = [
    # both are dialogues of one form, one of them a list
    (HH, HH[:-1] + "b", ("q", "a", "b")),
    ([USER, BOT], [USER, {**BOT, "content": "b"}], ("q", "a", "b")),
    ([USER, BOT], HH[:-1] + "b", ("q", "a", "b")),
    # a text beside a dialogue answers the same question
    ([USER, BOT], "b", ("q", "a", "b")),
    ("a", [USER, {**BOT, "content": "b"}], ("q", "a", "b")),
    # texts: the lines that they have in common
    ("p\nq\nx", "p\nq\ny", ("p\nq", "x", "y")),
    ("q\nx", "q\nxy", ("q", "x", "xy")),
    ("q\n\nx", "q\n\n\ny", ("q", "x", "\ny")),
    (" q \nx", " q \ny", ("q", "x", "y")),
    # dialogues of two forms are texts
    (f"so\n{HH}", f"so\n{HH[:-1]}b", ("so\n\n\nHuman: q", "Assistant: a", "Assistant: b")),
]


@pytest.mark.parametrize(("chosen", "rejected", "found"), DIALOGUES, ids=range(len(DIALOGUES)))
def test_pairs_without_a_prompt_column(chosen: Any, rejected: Any, found: tuple[str, str, str]) -> None:
    record = made("preference", {"chosen": chosen, "rejected": rejected})
    assert isinstance(record, Preference)
    assert (record.prompt[-1].content, record.chosen, record.rejected) == found


@pytest.mark.parametrize(
    ("chosen", "rejected", "found"),
    [
        ("a\nx", "a", ("prompt", None, "missing_field")),
        ("\nx", "\ny", ("prompt", None, "missing_field")),
        ("x", "y", ("prompt", None, "missing_field")),
        ("q\n", "q\nx", ("chosen", "", "empty_completion")),
        ("q\nx", "q\n", ("rejected", "", "empty_completion")),
        (5, "q\n", ("chosen", 5, "wrong_type")),
        ([USER], [USER, BOT], ("chosen", None, "bad_messages")),
        ([USER, BOT], [USER], ("rejected", None, "bad_messages")),
        ([USER, BOT], [SYSTEM, USER, BOT], ("rejected", None, "diverging_dialogues")),
        ([USER, BOT], [USER, CALL], ("rejected", '{"name": "f", "arguments": {}}', "tool_call_completion")),
        ([USER, {**BOT, "content": ""}], [USER, BOT], ("chosen", "", "empty_completion")),
        ([USER, BOT], " ", ("rejected", " ", "empty_completion")),
        ([BOT], [BOT], ("chosen", None, "empty_prompt")),
    ],
)
def test_pairs_without_anything_in_common(chosen: Any, rejected: Any, found: Any) -> None:
    assert fault("preference", {"chosen": chosen, "rejected": rejected}) == found


def test_tools_of_the_row_belong_to_a_pair_of_dialogues() -> None:
    row = {"chosen": [USER, BOT], "rejected": [USER, {**BOT, "content": "b"}], "tools": [{"name": "f"}]}
    assert len(made("preference", row).prompt[0].tools) == 1


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        (4, {"score": 4.0}),
        ("4.5", {"score": 4.5}),
        ({"a": 0, "b": "5"}, {"a": 0.0, "b": 5.0}),
        (' {"a": 1}', {"a": 1.0}),
        ({}, ("score", {}, "missing_field")),
        ({"a": 6}, ("score.a", 6, "out_of_range")),
        (5.1, ("score", 5.1, "out_of_range")),
        (-0.1, ("score", -0.1, "out_of_range")),
    ],
)
def test_scores_of_an_answer(scores: object, found: Any) -> None:
    row = {"prompt": "q", "completion": "a", "score": scores}
    if isinstance(found, dict):
        record = made("rating", row)
        assert isinstance(record, Rating)
        assert record.scores == found
    else:
        assert fault("rating", row) == found
