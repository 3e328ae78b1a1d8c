"""Messages of rows: roles, thoughts, tools, what is not trained, and whole conversations beside prompts."""

import json

import pytest

from alignloop.data.columns import read_records
from alignloop.data.messages import conversation, unread_keys
from alignloop.errors import DataError
from alignloop.records import (
    Label,
    Message,
    Preference,
    Prompt,
    ToolCall,
    conversation_of,
    message_rows,
    tools_of,
)

USER, BOT = Message("user", "Tide?"), Message("assistant", "High.")
TOOL = {"name": "get_tide", "parameters": {"type": "object"}}
ENVELOPE = {"type": "function", "function": TOOL}
TOOL_TEXT = '{"type": "function", "function": {"name": "get_tide", "parameters": {"type": "object"}}}'
CALL = ToolCall("get_tide", '{"place": "Busan"}')


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def read_rows(path, *rows, kind=None):
    file = path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_records(str(file), kind)


def read_one(path, row, kind=None):
    data = read_rows(path, row, kind=kind)
    assert data.dropped == []
    return data.records[0]


def fault(path, row, kind="demonstration"):
    good = {"prompt": "q", "completion": "a", "chosen": "b", "rejected": "c", "label": True}
    keep = {"demonstration": ("prompt", "completion"), "preference": ("prompt", "chosen", "rejected")}
    keep["label"] = ("prompt", "completion", "label")
    data = read_rows(path, {name: good[name] for name in keep[kind]}, row, kind=kind)
    (dropped,) = data.dropped
    assert dropped.line == 2
    return dropped


MESSAGES = [
    (turn("user", "Tide?"), USER),
    ({"from": "human", "value": "Tide?", "loss": None}, USER),
    (turn("assistant", "High.", reasoning_content="Hm."), Message("assistant", "High.", "Hm.")),
    (turn("assistant", "High.", thinking="Hm.", reasoning="Hm."), Message("assistant", "High.", "Hm.")),
    (turn("assistant", "High.", reasoning_content=" \n"), BOT),
    (
        turn("assistant", [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "High."}]),
        Message("assistant", "High.", "Hm."),
    ),
    (
        turn(
            "assistant",
            None,
            tool_calls=[
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "get_tide", "arguments": '{"place":"Busan"}'},
                }
            ],
        ),
        Message("assistant", "", tool_calls=(ToolCall("get_tide", '{"place": "Busan"}', "c1"),)),
    ),
    (
        turn("assistant", "", function_call={"name": "get_tide", "arguments": {"place": "Busan"}}),
        Message("assistant", "", tool_calls=(CALL,)),
    ),
    (
        turn("assistant", "Let me see.", tool_calls=[{"name": "now"}]),
        Message("assistant", "Let me see.", tool_calls=(ToolCall("now"),)),
    ),
    (
        turn("assistant", "", tool_calls=[{"name": "now"}]),
        Message("assistant", "", tool_calls=(ToolCall("now"),)),
    ),
    (
        {"from": "function_call", "value": '{"name": "get_tide", "arguments": {"place": "Busan"}}'},
        Message("assistant", "", tool_calls=(CALL,)),
    ),
    (
        {"from": "function_call", "value": '[{"name": "now"}, {"name": "get_tide", "arguments": "Busan"}]'},
        Message("assistant", "", tool_calls=(ToolCall("now"), ToolCall("get_tide", "Busan"))),
    ),
    ({"from": "observation", "value": "1.2"}, Message("tool", "1.2")),
    (
        turn("tool", "1.2", name="get_tide", tool_call_id="c1"),
        Message("tool", "1.2", name="get_tide", tool_call_id="c1"),
    ),
    (turn("function", "1.2", name="get_tide"), Message("tool", "1.2", name="get_tide")),
]


@pytest.mark.parametrize(("row", "message"), MESSAGES, ids=range(len(MESSAGES)))
def test_a_message_in_every_form(row, message):
    assert conversation([row], "messages") == (message,)


@pytest.mark.parametrize(("row", "message"), MESSAGES, ids=range(len(MESSAGES)))
def test_rows_of_a_message_make_the_same_message(row, message):
    rows = json.loads(json.dumps(message_rows([message])))
    assert conversation(rows, "messages") == conversation_of(rows) == (message,)


@pytest.mark.parametrize(
    ("more", "train"),
    [
        ({}, None),
        ({"weight": None}, None),
        ({"weight": 0}, False),
        ({"weight": 1.0}, True),
        ({"loss": False}, False),
        ({"train": True}, True),
        ({"training": False, "weight": 0}, False),
    ],
)
def test_what_is_said_of_training(more, train):
    (message,) = conversation([turn("assistant", "High.", **more)], "m")
    assert message.train is train
    assert message == BOT


REFUSED = [
    (
        turn("assistant", "a", weight=0.5),
        "field 'm[0].weight': value 0.5: expected 1 (true) or 0 (false)",
        "unsupported_weight",
    ),
    (turn("user", "q", train=True), "only an assistant's turn can be trained", "unsupported_weight"),
    (
        turn("assistant", "a", weight=1, loss=False),
        "weight and loss contradict each other",
        "conflicting_weights",
    ),
    (turn("assistant", "a", reasoning="x", thinking="y"), "different thoughts", "conflicting_thoughts"),
    (turn("user", "q", reasoning_content="x"), "only an assistant's turn has thoughts", "bad_messages"),
    (
        turn("user", "q", tool_calls=[{"name": "f"}]),
        "only an assistant's turn has tool calls",
        "bad_messages",
    ),
    (
        turn("assistant", "a", tool_calls=[{"arguments": {}}]),
        "field 'm[0].tool_calls[0]': value {'arguments': {}}: expected a call with a name",
        "bad_tool_call",
    ),
    ({"from": "function_call", "value": "get_tide()"}, "expected an object", "wrong_type"),
    (
        turn("user", "q", images=["a.png"]),
        "field 'm[0].images': value ['a.png']: images are not",
        "unsupported_key",
    ),
    (
        turn("assistant", "a", train_detail=[{"train": False}]),
        "weights of parts of a turn are not supported",
        "unsupported_key",
    ),
    (turn("narrator", "a"), "expected the role system, user (human)", "unknown_role"),
    (turn("assistant", None), "expected text, found nothing", "wrong_type"),
]


@pytest.mark.parametrize(("row", "message", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_honoured_is_refused_by_name(row, message, reason):
    with pytest.raises(DataError) as caught:
        conversation([row], "m")
    assert message in str(caught.value)
    assert caught.value.reason == reason


def test_keys_that_are_not_read_can_be_named():
    assert unread_keys([turn("user", "q", id="7", lang=None), turn("assistant", "a", weight=0)]) == {"id"}
    assert unread_keys("text") == set()
    assert unread_keys([{"id": 1}]) == set()


def test_a_reader_names_the_keys_that_it_did_not_read(tmp_path):
    rows = [turn("user", "q", id="7"), turn("assistant", "a", weight=1, score=0.5)]
    data = read_rows(tmp_path, {"messages": rows}, {"messages": [*rows[:1], turn("assistant", "a")]})
    assert data.unused == {"messages[].id": 2, "messages[].score": 1}


@pytest.mark.parametrize("more", [{"image": "a.jpg"}, {"images": ["a.jpg"]}, {"audio": {"path": "a.wav"}}])
def test_rows_with_pictures_or_sound_are_refused(tmp_path, more):
    found = fault(tmp_path, {"messages": [turn("user", "What?"), turn("assistant", "A cat.")], **more})
    assert (found.field, found.reason) == (next(iter(more)), "unsupported_key")
    empty = dict.fromkeys(more)
    assert read_one(tmp_path, {"messages": [turn("user", "q"), turn("assistant", "a")], **empty})


CHAT = [turn("system", "Be kind."), turn("user", "Sea?"), turn("assistant", "Blue."), turn("user", "Tide?")]
TURNS = (
    Message("system", "Be kind."),
    Message("user", "Sea?"),
    Message("assistant", "Blue."),
    Message("user", "Tide?"),
)
WHOLE = [*CHAT, turn("assistant", "High.")]


@pytest.mark.parametrize("beside", ["Sea?", "Be kind.", "Tide?", " Sea?\n", [turn("user", "Sea?")], CHAT[:2]])
def test_whole_messages_win_over_the_prompt_beside_them(tmp_path, beside):
    record = read_one(tmp_path, {"prompt": beside, "messages": WHOLE})
    assert (record.prompt, record.completion, record.trained) == (TURNS, "High.", (2, 4))
    asked = read_one(tmp_path, {"prompt": beside, "messages": WHOLE}, "prompt")
    assert asked == Prompt(TURNS, provenance=asked.provenance)
    label = read_one(tmp_path, {"prompt": beside, "messages": WHOLE, "label": True})
    assert label == Label(TURNS, "High.", True, label.provenance)


def test_an_instruction_and_its_input_are_found_in_the_messages(tmp_path):
    row = {
        "instruction": "Add.",
        "input": "1 2",
        "messages": [turn("user", "Add.\n1 2"), turn("assistant", "3")],
    }
    assert read_one(tmp_path, row).prompt == (Message("user", "Add.\n1 2"),)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"prompt": "Wind?"}, "prompt_mismatch"),
        ({"prompt": [turn("user", "Wind?")]}, "prompt_mismatch"),
        ({"instruction": "Wind?"}, "prompt_mismatch"),
        ({"completion": "Low."}, "prompt_mismatch"),
        ({"history": [["a", "b"]]}, "prompt_mismatch"),
        ({"system": "Be rude."}, "system_mismatch"),
    ],
)
def test_columns_that_contradict_the_messages_are_refused(tmp_path, more, reason):
    found = fault(tmp_path, {"messages": WHOLE, **more})
    assert found.reason == reason
    assert found.field == next(iter(more))


def test_in_a_preference_messages_beside_the_prompt_are_one_of_the_answers(tmp_path):
    row = {"prompt": "Tide?", "messages": [turn("user", "Tide?"), turn("assistant", "High.")]}
    row |= {"chosen": row["messages"], "rejected": [turn("user", "Tide?"), turn("assistant", "Low.")]}
    record = read_one(tmp_path, row)
    assert record == Preference((USER,), "High.", "Low.", provenance=record.provenance)


@pytest.mark.parametrize("history", [[["Sea?", "Blue."]], '[["Sea?", "Blue."]]'])
def test_history_stands_before_the_instruction_and_is_trained(tmp_path, history):
    row = {
        "instruction": "Tide?",
        "input": "",
        "output": "High.",
        "system": "Be kind.",
        "history": history,
    }
    record = read_one(tmp_path, row)
    assert (record.prompt, record.trained) == (TURNS, (2, 4))
    rows = [turn("system", "Be kind."), turn("user", "Tide?")]
    asked = read_one(tmp_path, {"prompt": rows, "history": history}, "prompt")
    assert asked.prompt == TURNS


def test_an_empty_history_says_nothing_and_another_contradicts_the_messages(tmp_path):
    row = {"messages": [turn("user", "Sea?"), turn("assistant", "Blue.")]}
    assert read_one(tmp_path, {**row, "history": []}).prompt == read_one(tmp_path, row).prompt
    found = fault(tmp_path, {**row, "history": [["Hi", "Yes?"]]})
    assert (found.field, found.reason) == ("history", "prompt_mismatch")


def test_a_bad_history_is_refused(tmp_path):
    found = fault(tmp_path, {"prompt": "q", "completion": "a", "history": [["only a question"]]})
    assert (found.field, found.reason) == ("history[0]", "bad_history")


@pytest.mark.parametrize("tools", [[TOOL], [ENVELOPE], json.dumps([TOOL])])
def test_tools_of_the_row_belong_to_the_conversation(tmp_path, tools):
    talk = [
        {"from": "human", "value": "Tide?"},
        {"from": "function_call", "value": '{"name": "get_tide", "arguments": {"place": "Busan"}}'},
        {"from": "observation", "value": "1.2"},
        {"from": "gpt", "value": "High."},
    ]
    record = read_one(tmp_path, {"conversations": talk, "tools": tools, "system": "Use tools."})
    assert record.prompt == (
        Message("system", "Use tools.", tools=(TOOL_TEXT,)),
        USER,
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "1.2"),
    )
    assert tools_of(record.prompt) == [ENVELOPE]
    assert record.trained == (2, 4)  # the call is the policy's, the tool's answer is not
    assert tools_of(read_one(tmp_path, {"prompt": "q", "tools": tools}).prompt) == [ENVELOPE]


def test_tools_that_are_no_descriptions_are_refused(tmp_path):
    found = fault(tmp_path, {"prompt": "q", "completion": "a", "tools": ["get_tide"]})
    assert (found.field, found.reason) == ("tools[0]", "bad_tools")
    assert read_one(tmp_path, {"prompt": "q", "completion": "a", "tools": []}).prompt[0].tools == ()


def test_weights_decide_which_turns_are_trained(tmp_path):
    rows = [*CHAT, turn("assistant", "High.", weight=1)]
    rows[2] = turn("assistant", "Blue.", weight=0)
    assert read_one(tmp_path, {"messages": rows}).trained == (4,)
    rows[2], rows[4] = turn("assistant", "Blue."), turn("assistant", "High.", loss=False)
    assert read_one(tmp_path, {"messages": rows}).trained == (2,)


def test_a_row_without_a_trained_turn_is_counted(tmp_path):
    rows = [turn("user", "2+2?"), turn("assistant", "5", weight=0)]
    assert fault(tmp_path, {"messages": rows}).reason == "nothing_to_train"
    assert fault(tmp_path, {"messages": rows, "label": True}, "label").reason == "nothing_to_train"


def test_turns_of_a_prompt_column_are_given_unless_they_say_otherwise(tmp_path):
    row = {"prompt": CHAT, "completion": "High."}
    assert read_one(tmp_path, row).trained == (4,)
    row["prompt"] = [*CHAT[:2], turn("assistant", "Blue.", train=True), CHAT[3]]
    assert read_one(tmp_path, row).trained == (2, 4)


def test_a_greeting_is_context_and_an_open_question_is_left_out(tmp_path):
    rows = [turn("assistant", "Hello!"), turn("user", "Tide?"), turn("assistant", "High.")]
    assert read_one(tmp_path, {"messages": rows}).trained == (2,)
    record = read_one(tmp_path, {"messages": [*rows[1:], turn("user", "Thanks.")]}, "demonstration")
    assert (record.prompt, record.completion) == ((USER,), "High.")


def test_two_user_turns_in_a_row_stay(tmp_path):
    rows = [turn("user", "Tide?"), turn("user", "Please."), turn("assistant", "High.")]
    assert read_one(tmp_path, {"messages": rows}).prompt == (USER, Message("user", "Please."))


def test_a_completion_of_several_turns_continues_the_prompt(tmp_path):
    call = turn("assistant", "", tool_calls=[{"name": "get_tide", "arguments": {"place": "Busan"}}])
    row = {
        "prompt": [turn("user", "Tide?")],
        "completion": [call, turn("tool", "1.2"), turn("assistant", "High.")],
    }
    record = read_one(tmp_path, row)
    assert record.prompt == (USER, Message("assistant", "", tool_calls=(CALL,)), Message("tool", "1.2"))
    assert (record.completion, record.trained) == ("High.", (1, 3))


def test_thoughts_of_compared_answers_are_a_part_of_their_text(tmp_path):
    row = {
        "prompt": "Tide?",
        "chosen": [turn("assistant", "High.", reasoning_content="Hm.")],
        "rejected": [turn("assistant", "Low.")],
    }
    record = read_one(tmp_path, row)
    assert (record.chosen, record.rejected) == ("<think>\nHm.\n</think>\n\nHigh.", "Low.")
    row["chosen"] = [turn("assistant", "", tool_calls=[{"name": "now"}])]
    assert fault(tmp_path, row, "preference").reason == "tool_call_completion"


def test_a_text_beside_a_dialogue_answers_the_same_prompt(tmp_path):
    row = {"chosen": [turn("user", "Tide?"), turn("assistant", "High.")], "rejected": "Low."}
    record = read_one(tmp_path, row)
    assert record == Preference((USER,), "High.", "Low.", provenance=record.provenance)


def test_a_system_column_may_be_one_system_message(tmp_path):
    row = {"system": [turn("system", "Be kind.")], "prompt": "q", "completion": "a"}
    assert read_one(tmp_path, row).prompt == (Message("system", "Be kind."), Message("user", "q"))


@pytest.mark.parametrize(
    "row",
    [
        {"system": "Be kind.", "messages": [turn("assistant", "Hello!")]},
        {"prompt": "\n\nAssistant:", "completion": "a"},
    ],
)
def test_a_row_without_a_question_is_a_fault(tmp_path, row):
    assert fault(tmp_path, row).reason == "empty_prompt"
