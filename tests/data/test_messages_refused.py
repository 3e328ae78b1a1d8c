"""Messages at their edges: which key, which part and which turn a fault names, and what counts as nothing."""

from __future__ import annotations

from typing import Any

import pytest

from alignloop.data.messages import check_media, conversation, history, tools, unread_keys, without_tools
from alignloop.errors import DataError
from alignloop.records import Message, ToolCall

TOOL = '{"type": "function", "function": {"name": "f"}}'


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def fault(run: Any, *args: Any) -> tuple[str, Any, str]:
    with pytest.raises(DataError) as caught:
        run(*args)
    return caught.value.field, caught.value.value, caught.value.reason


CALLS = [{"name": "f"}]
TEXT = {"type": "text", "text": "a"}
THOUGHT = {"type": "thinking", "thinking": "t"}


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ([], ("m", [], "empty_prompt")),
        ("text", ("m", "text", "wrong_type")),
        (["hi"], ("m[0]", "hi", "bad_messages")),
        ([turn("user", "q"), None], ("m[1]", None, "bad_messages")),
        ([turn("user", "q"), turn("system", "s")], ("m[1]", None, "bad_messages")),
        ([turn("system", "s"), turn("system", "t")], ("m[1]", None, "bad_messages")),
        ([turn("user", "q"), turn("user", "q", tools=[{"name": "f"}])], ("m[1].tools", None, "bad_messages")),
        ([turn("narrator", "q")], ("m[0].role", "narrator", "unknown_role")),
        ([{"content": "q"}], ("m[0].role", None, "unknown_role")),
        ([turn("user", 5)], ("m[0].content", 5, "wrong_type")),
        ([turn("user", {"type": "text"})], ("m[0].content", {"type": "text"}, "wrong_type")),
        ([turn("user", [TEXT, {"type": "image"}])], ("m[0].content", {"type": "image"}, "not_text")),
        ([turn("user", ["a"])], ("m[0].content", "a", "not_text")),
        ([turn("user", [{"type": "text", "text": 5}])], ("m[0].content.text", 5, "wrong_type")),
        ([turn("assistant", [{"type": "thinking"}])], ("m[0].content.thinking", None, "wrong_type")),
        ([turn("assistant", [TEXT, THOUGHT], thinking="u")], ("m[0].content", None, "conflicting_thoughts")),
        ([turn("user", [TEXT, THOUGHT])], ("m[0]", "user", "bad_messages")),
        ([turn("tool", "1", reasoning="t")], ("m[0]", "tool", "bad_messages")),
        ([turn("user", None, tool_calls=CALLS)], ("m[0]", "user", "bad_messages")),
        ([turn("assistant", "a", thinking=3)], ("m[0].thinking", 3, "wrong_type")),
        ([turn("assistant", "a", reasoning="t", thinking="u")], ("m[0]", None, "conflicting_thoughts")),
        ([turn("assistant", "a", refusal="no")], ("m[0].refusal", "no", "unsupported_key")),
        ([turn("assistant", "a", prefix=True)], ("m[0].prefix", True, "unsupported_key")),
        ([turn("user", "q", function_call={"name": "f"})], ("m[0].function_call", None, "bad_messages")),
        ([turn("assistant", "", function_call={"name": "f"}, tool_calls=CALLS)],
         ("m[0].function_call", None, "bad_tool_call")),
        ([turn("assistant", "", function_call="f()")], ("m[0].function_call", "f()", "wrong_type")),
        ([turn("assistant", "", tool_calls="f()")], ("m[0].tool_calls", "f()", "wrong_type")),
        ([turn("assistant", "", tool_calls={"name": "f"})], ("m[0].tool_calls", {"name": "f"}, "wrong_type")),
        ([turn("assistant", "", tool_calls=[*CALLS, "f"])], ("m[0].tool_calls[1]", "f", "bad_tool_call")),
        ([turn("assistant", "", tool_calls=[{"function": "f"}])],
         ("m[0].tool_calls[0]", {"function": "f"}, "bad_tool_call")),
        ([turn("assistant", "", tool_calls=[{"name": 3}])],
         ("m[0].tool_calls[0]", {"name": 3}, "bad_tool_call")),
        ([turn("assistant", "", tool_calls=[{"name": "f", "arguments": float("nan")}])],
         ("m[0].tool_calls[0].arguments", None, "bad_tool_call")),
        ([turn("assistant", "", tool_calls=[{"name": "f", "arguments": {1, 2}}])],
         ("m[0].tool_calls[0].arguments", None, "bad_tool_call")),
        ([turn("assistant", "", tool_calls=[{"name": "f", "id": 3}])],
         ("m[0].tool_calls[0].id", 3, "wrong_type")),
        ([turn("tool_call", "f()")], ("m[0].content", "f()", "wrong_type")),
        ([turn("tool_call", {"arguments": {}})], ("m[0].content[0]", {"arguments": {}}, "bad_tool_call")),
        ([turn("tool", "1", name=3)], ("m[0].name", 3, "wrong_type")),
        ([turn("tool", "1", tool_call_id=3)], ("m[0].tool_call_id", 3, "wrong_type")),
        ([turn("user", "q", tools=["f"])], ("m[0].tools[0]", "f", "bad_tools")),
        ([turn("user", "q", tools=[{"name": float("nan")}])], ("m[0].tools[0]", None, "bad_tool_call")),
        ([turn("assistant", "a", weight=2)], ("m[0].weight", 2, "unsupported_weight")),
        ([turn("assistant", "a", loss="1")], ("m[0].loss", "1", "unsupported_weight")),
        ([turn("assistant", "a", weight=1, train=False)], ("m[0]", None, "conflicting_weights")),
        ([turn("user", "q", weight=1)], ("m[0].weight", 1, "unsupported_weight")),
        ([turn("system", "q", loss=True)], ("m[0].loss", True, "unsupported_weight")),
    ],
)  # fmt: skip
def test_which_part_of_a_message_is_refused(items: Any, found: tuple[str, Any, str]) -> None:
    assert fault(conversation, items, "m") == found


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (turn(" User ", "q"), Message("user", "q")),
        ({"from": "developer", "value": "s"}, Message("system", "s")),
        ({"role": "user", "from": "gpt", "content": "q", "value": "x"}, Message("user", "q")),
        (turn("user", [TEXT, {"type": "text", "text": "b"}]), Message("user", "ab")),
        (turn("user", []), Message("user", "")),
        (turn("assistant", [THOUGHT, TEXT, {"type": "reasoning", "text": "u"}]),
         Message("assistant", "a", "tu")),
        (turn("assistant", [THOUGHT, TEXT], thinking=""), Message("assistant", "a", "t")),
        (turn("assistant", [TEXT], thinking="t"), Message("assistant", "a", "t")),
        (turn("assistant", "a", reasoning=" t ", thinking=" "), Message("assistant", "a", " t ")),
        (turn("user", "q", function_call=None, tool_calls=None), Message("user", "q")),
        (turn("user", "q", function_call={}, tool_calls=[]), Message("user", "q")),
        (turn("user", "q", function_call="", tool_calls=""), Message("user", "q")),
        (turn("assistant", "a", function_call="", tool_calls=[]), Message("assistant", "a")),
        (turn("user", "q", images=[], audio=None, prefix=False, refusal=""), Message("user", "q")),
        (turn("assistant", None, function_call={"name": "f"}),
         Message("assistant", "", tool_calls=(ToolCall("f"),))),
        (turn("assistant", "", tool_calls=[{"name": "f", "parameters": {"b": "가"}}]),
         Message("assistant", "", tool_calls=(ToolCall("f", '{"b": "가"}'),))),
        (turn("assistant", "", tool_calls=[{"name": "f", "arguments": '{"b":1}', "parameters": 3}]),
         Message("assistant", "", tool_calls=(ToolCall("f", '{"b": 1}'),))),
        (turn("assistant", "", tool_calls=[{"name": "f", "arguments": "[1,2]"}]),
         Message("assistant", "", tool_calls=(ToolCall("f", "[1,2]"),))),
        (turn("assistant", "", tool_calls=[{"name": "f", "arguments": None}]),
         Message("assistant", "", tool_calls=(ToolCall("f", "{}"),))),
        (turn("assistant", "", tool_calls=' [{"name": "f"}, {"name": "g"}]'),
         Message("assistant", "", tool_calls=(ToolCall("f"), ToolCall("g")))),
        (turn("tool_calls", [{"name": "f"}], train=False),
         Message("assistant", "", tool_calls=(ToolCall("f"),), train=False)),
        (turn("tool_call", ' {"name": "f"}'), Message("assistant", "", tool_calls=(ToolCall("f"),))),
        (turn("tool", "1", name=None, tool_call_id=""), Message("tool", "1")),
        (turn("user", "q", tools=[]), Message("user", "q")),
        (turn("user", "q", weight=0), Message("user", "q")),
    ],
)  # fmt: skip
def test_messages_in_odd_but_plain_forms(item: dict[str, Any], message: Message) -> None:
    (found,) = conversation([item], "m")
    assert found == message
    assert found.train is message.train


@pytest.mark.parametrize(
    ("value", "found"),
    [
        *((value, ()) for value in (None, "", " \n", [], "[]")),
        ([{"name": "f"}], (TOOL,)),
        ([{"type": "function", "function": {"name": "f"}}], (TOOL,)),
        ([{"function": {"name": "f"}, "name": "g"}], ('{"function": {"name": "f"}, "name": "g"}',)),
        ([{"type": "web", "name": "g"}], ('{"type": "web", "name": "g"}',)),
        ([{"name": 3}], ('{"name": 3}',)),
        ('[{"name": "f"}]', (TOOL,)),
    ],
)
def test_tools_in_their_envelope(value: Any, found: tuple[str, ...]) -> None:
    assert tools(value, "tools") == found


def test_what_is_no_list_of_tools() -> None:
    assert fault(tools, "f()", "tools") == ("tools", "f()", "wrong_type")
    assert fault(tools, [{"name": "f"}, ["g"]], "tools") == ("tools[1]", ["g"], "bad_tools")
    told = without_tools((Message("user", "q", tools=(TOOL,)), Message("user", "p")))
    assert told == (Message("user", "q"), Message("user", "p"))


def test_a_history_of_pairs() -> None:
    for value in (None, "", " ", [], "[]"):
        assert history(value, "h") == ()
    pairs = [("q", "a"), ["p", ""]]
    assert [m.content for m in history(pairs, "h")] == ["q", "a", "p", ""]
    assert fault(history, [["q", 3]], "h") == ("h[0][1]", 3, "wrong_type")
    assert fault(history, [["q", "a"], [None, "a"]], "h") == ("h[1][0]", None, "wrong_type")
    assert fault(history, [["q", "a", "b"]], "h") == ("h[0]", ["q", "a", "b"], "bad_history")
    assert fault(history, "text", "h") == ("h", "text", "wrong_type")


def test_keys_that_hold_something_and_are_not_read() -> None:
    held = {"a": 1, "b": None, "c": "", "d": [], "e": {}, "f": False, "g": (), "h": [0], "name": "n"}
    assert unread_keys([{"from": "human", **held}, turn("user", "q", i="x"), "text", {"j": 1}]) == {
        "a",
        "h",
        "i",
    }
    assert unread_keys(None) == unread_keys({"role": 1}) == set()
    assert unread_keys(({"role": "user", "k": 1},)) == {"k"}


def test_columns_with_pictures_or_sound() -> None:
    row = {" Images ": ["a.png"], "audio": None, "video": "", "refusal": "x", "text": "t"}
    assert fault(check_media, row, row) == (" Images ", ["a.png"], "unsupported_key")
    assert check_media(row, ["audio", "video", "refusal", "text"]) is None
    assert fault(check_media, {"videos": ["v"]}, ["videos"]) == ("videos", ["v"], "unsupported_key")
    assert check_media({"images": [1]}, []) is None  # of the columns that are not read alone
