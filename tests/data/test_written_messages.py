"""Messages written back as rows, and keys made of them."""

import pytest

from alignloop.data.columns import read_records, record_to_row, write_records
from alignloop.records import (
    Demonstration,
    Message,
    Preference,
    Prompt,
    Provenance,
    plain_rows,
    with_tools,
    written,
)
from tests.data.test_messages import BOT, CALL, TOOL_TEXT, TURNS, USER, turn

RECORDS = [
    Demonstration((*TURNS[:2], BOT, TURNS[3]), "High."),
    Demonstration((*TURNS[:2], Message("assistant", "Blue.", train=False), TURNS[3]), "High."),
    Demonstration((*TURNS[:2], BOT, TURNS[3]), "High.", train=False),
    Demonstration((USER,), "High.", thinking="Hm."),
    Demonstration(with_tools((USER,), (TOOL_TEXT,)), "", tool_calls=(CALL,)),
    Demonstration(
        with_tools((USER, Message("assistant", "", "Hm.", (CALL,)), Message("tool", "1.2")), (TOOL_TEXT,)),
        "High.",
    ),
    Prompt(with_tools((USER,), (TOOL_TEXT,)), answer="7"),
    Preference((USER, Message("assistant", "", "Hm.", (CALL,)), Message("tool", "1.2")), "a", "b"),
]


@pytest.mark.parametrize("record", RECORDS, ids=range(len(RECORDS)))
def test_written_records_are_read_again_with_all_they_hold(tmp_path, record):
    path = tmp_path / "out.jsonl"
    write_records(path, [record])
    (again,) = read_records(str(path)).records
    assert type(again) is type(record)
    assert all(
        getattr(again, name) == getattr(record, name) for name in record.__slots__ if name != "provenance"
    )
    assert getattr(again, "trained", None) == getattr(record, "trained", None)


def test_a_plain_demonstration_is_written_as_before():
    rows = [turn("user", "Sea?"), turn("assistant", "Blue."), turn("user", "Tide?")]
    prompt = (TURNS[1], Message("assistant", "Blue.", train=False), TURNS[3])
    row = record_to_row(Demonstration(prompt, "High.", Provenance("f", 1)))
    provenance = {"file": "f", "line": 1, "origin": "unknown", "details": {}}
    assert row == {"prompt": rows, "completion": "High.", "provenance": provenance}
    assert list(row["prompt"][1]) == ["role", "content"]


def test_keys_of_prompts_tell_tools_and_calls_apart():
    called = (USER, Message("assistant", "", tool_calls=(CALL,)))
    assert plain_rows((USER,)) == [["user", "Tide?"]]
    assert plain_rows(called) != plain_rows((USER, Message("assistant", "")))
    assert plain_rows(with_tools((USER,), (TOOL_TEXT,))) != plain_rows((USER,))


def test_a_turn_as_one_text():
    assert written(BOT) == "High."
    call = '{"name": "get_tide", "arguments": {"place": "Busan"}}'
    assert (
        written(Message("assistant", "High.", "Hm.", (CALL,))) == f"<think>\nHm.\n</think>\n\nHigh.\n\n{call}"
    )
    assert written(Message("assistant", "", tool_calls=(CALL,))) == call
