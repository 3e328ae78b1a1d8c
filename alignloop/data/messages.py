"""Messages of a conversation out of a row: roles, text, thoughts, tool calls, and what is not trained.

Read are `role`/`content` (OpenAI, Hugging Face), ShareGPT's `from`/`value` with its `function_call` and
`observation`, thoughts under three names, `tool_calls` and the older `function_call`, and `weight`,
`loss` or `train` of an assistant's turn. What a message has beyond that and what would change its
meaning is refused by name. Every function raises DataError without file and line; the reader adds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from alignloop.data import values as read
from alignloop.errors import DataError
from alignloop.foreign import loads
from alignloop.records import Conversation, Message, ToolCall, canonical

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "ai"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "call"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
    **dict.fromkeys(("tool_response", "function_response", "ipython"), "tool"),
}
"""Roles by the names they have in files; `call` is an assistant's turn whose text is a tool call."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of an assistant's thoughts."""
WEIGHTS = ("weight", "loss", "train", "training")
"""Keys that say whether a turn is trained: true or 1, false or 0."""
UNREADABLE: Mapping[str, str] = {
    **dict.fromkeys(("images", "image", "image_url"), "images"),
    **dict.fromkeys(("videos", "video"), "videos"),
    **dict.fromkeys(("audio", "audios"), "audio"),
    "refusal": "refusals",
    **dict.fromkeys(("train_detail", "training_detail"), "weights of parts of a turn"),
    "prefix": "answers that begin with a given text",
}
"""Keys of a message that change its meaning and are not supported, with what they hold."""
KNOWN = frozenset(
    ("role", "from", "content", "value", "tool_calls", "function_call", "name", "tool_call_id", "tools")
) | {*THOUGHTS, *WEIGHTS}
"""Keys of a message that are read."""
_MEDIA = ("images", "videos", "audio")
_EMPTY = (None, "", [], {}, (), False)


def conversation(value: object, field: str) -> Conversation:
    """Messages of a list; a system message only comes first.

    Raises:
        DataError: no list of messages, an unknown role, a key that cannot be honoured, or a part that
            is no text.
    """
    items = read.listed(value, field)
    found = tuple(_message(item, f"{field}[{k}]") for k, item in enumerate(items))
    if not found:
        raise DataError("expected at least one message", field=field, value=[], reason="empty_prompt")
    for k, message in enumerate(found):
        if message.role == "system" and k > 0:
            raise DataError("a system message must come first", field=f"{field}[{k}]", reason="bad_messages")
        if message.tools and k > 0:
            raise DataError(
                "tools are read from the first message or from a column of the row",
                field=f"{field}[{k}].tools",
                reason="bad_messages",
            )
    return found


def unread_keys(value: object) -> set[str]:
    """Keys of messages that hold something and are not read, such as `id` or `timestamp`."""
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return {
        str(key)
        for item in items
        if isinstance(item, Mapping) and ("role" in item or "from" in item)
        for key, held in item.items()
        if key not in KNOWN and held not in _EMPTY
    }


def check_media(row: Mapping[str, object], columns: Iterable[str]) -> None:
    """Refuse a row with pictures, sound or films in one of the columns that are not read.

    Raises:
        DataError: reason `unsupported_key`.
    """
    for column in columns:
        what = UNREADABLE.get(column.strip().casefold())
        if what in _MEDIA and row.get(column) not in _EMPTY:
            raise DataError(
                f"{what} are not supported; remove the column where the text alone is right",
                field=column,
                value=row[column],
                reason="unsupported_key",
            )


def _message(item: object, field: str) -> Message:
    if not isinstance(item, Mapping):
        raise read.unexpected("a message with role and content", item, field, "bad_messages")
    named = item.get("role", item.get("from"))
    role = ROLES.get(named.strip().casefold()) if isinstance(named, str) else None
    if role is None:
        raise DataError(
            "expected the role system, user (human), assistant (gpt), tool (observation) or function_call",
            field=f"{field}.role",
            value=named,
            reason="unknown_role",
        )
    _check_keys(item, role, field)
    content = item.get("content", item.get("value"))
    if role == "call":
        calls = _calls(_parsed(content, f"{field}.content"), f"{field}.content")
        return Message("assistant", "", tool_calls=calls, train=_train(item, "assistant", field))
    calls, thinking = _tool_calls(item, field), _thinking(item, field)
    if isinstance(content, Sequence) and not isinstance(content, str):
        thought = "".join(_thought(part, f"{field}.content") for part in content)
        if thought and thinking:
            raise DataError(
                "has thoughts in two places", field=f"{field}.content", reason="conflicting_thoughts"
            )
        thinking = thinking or thought
        content = "".join(_part(part, field) for part in content)
    if content is None and calls:
        content = ""
    if role != "assistant" and (calls or thinking):
        what = "tool calls" if calls else "thoughts"
        raise DataError(
            f"only an assistant's turn has {what}", field=field, value=named, reason="bad_messages"
        )
    return Message(
        role,
        read.text(content, f"{field}.content"),
        thinking,
        calls,
        _word(item, "name", field),
        _word(item, "tool_call_id", field),
        tools(item.get("tools"), f"{field}.tools"),
        _train(item, role, field),
    )


def _check_keys(item: Mapping[str, object], role: str, field: str) -> None:
    for key, what in UNREADABLE.items():
        if item.get(key) not in _EMPTY:
            raise DataError(
                f"{what} are not supported; remove the key where the text alone is right",
                field=f"{field}.{key}",
                value=item[key],
                reason="unsupported_key",
            )
    if role != "assistant" and item.get("function_call") not in (None, {}, ""):
        raise DataError(
            "only an assistant's turn calls functions", field=f"{field}.function_call", reason="bad_messages"
        )


def _word(item: Mapping[str, object], key: str, field: str) -> str:
    """A name or id; absent, null and empty are the same."""
    value = item.get(key)
    return "" if value is None else read.text(value, f"{field}.{key}")


def _part(part: object, field: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        return read.text(part.get("text"), f"{field}.content.text")
    if isinstance(part, Mapping) and part.get("type") in ("thinking", "reasoning"):
        return ""
    raise DataError("only text parts can be read", field=f"{field}.content", value=part, reason="not_text")


def _thought(part: object, field: str) -> str:
    """The thought of a content part, empty for a part of another type."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in ("thinking", "reasoning"):
        return ""
    assert isinstance(part, Mapping)
    return read.text(part.get(kind, part.get("text")), f"{field}.{kind}")


def _thinking(item: Mapping[str, object], field: str) -> str:
    """The thoughts of a turn; nothing but white space is none."""
    found = {key: read.text(item[key], f"{field}.{key}") for key in THOUGHTS if item.get(key) is not None}
    said = {text for text in found.values() if text.strip()}
    if len(said) > 1:
        raise DataError(
            f"{' and '.join(found)} hold different thoughts", field=field, reason="conflicting_thoughts"
        )
    return said.pop() if said else ""


def _train(item: Mapping[str, object], role: str, field: str) -> bool | None:
    """Whether a turn is to be imitated; None if nothing is said."""
    said: dict[str, bool] = {}
    for key in WEIGHTS:
        value = item.get(key)
        if value is None:
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise DataError(
                "expected 1 (true) or 0 (false): a turn is trained or not, nothing in between",
                field=f"{field}.{key}",
                value=value,
                reason="unsupported_weight",
            )
        said[key] = bool(value)
    if len(set(said.values())) > 1:
        raise DataError(
            f"{' and '.join(said)} contradict each other", field=field, reason="conflicting_weights"
        )
    train = next(iter(said.values()), None)
    if role != "assistant" and train:
        raise DataError(
            "only an assistant's turn can be trained",
            field=f"{field}.{next(iter(said))}",
            value=item[next(iter(said))],
            reason="unsupported_weight",
        )
    return train if role == "assistant" else None


def _tool_calls(item: Mapping[str, object], field: str) -> tuple[ToolCall, ...]:
    """The calls of an assistant's turn, in today's form or the older one of a single function."""
    value, older = item.get("tool_calls"), item.get("function_call")
    found: tuple[ToolCall, ...] = ()
    if value is not None and value != "":
        found = _calls(read.listed(value, f"{field}.tool_calls"), f"{field}.tool_calls")
    if older not in (None, {}, ""):
        if found:
            raise DataError(
                "stands beside tool_calls", field=f"{field}.function_call", reason="bad_tool_call"
            )
        found = _calls(_parsed(older, f"{field}.function_call"), f"{field}.function_call")
    return found


def _parsed(value: object, field: str) -> object:
    """An object or list; a string holds its JSON."""
    is_list = isinstance(value, list | tuple) or (isinstance(value, str) and value.lstrip()[:1] == "[")
    return read.listed(value, field) if is_list else read.mapped(value, field)


def _calls(value: object, field: str) -> tuple[ToolCall, ...]:
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return tuple(_call(item, f"{field}[{k}]") for k, item in enumerate(items))


def _call(item: object, field: str) -> ToolCall:
    function = item.get("function", item) if isinstance(item, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(item, Mapping) or not isinstance(function, Mapping) or not isinstance(name, str):
        raise DataError(
            "expected a call with a name and arguments", field=field, value=item, reason="bad_tool_call"
        )
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        text = _as_object(read.text(arguments, f"{field}.arguments"))
    else:
        text = _json({} if arguments is None else arguments, f"{field}.arguments")
    return ToolCall(read.text(name, f"{field}.name"), text, _word(item, "id", field))


def _as_object(text: str) -> str:
    """Arguments in one spelling where they are a JSON object, else as they are."""
    try:
        found = loads(text)
        return canonical(found) if isinstance(found, dict) else text
    except ValueError:
        return text


def _json(value: object, field: str) -> str:
    """A value as JSON text.

    Raises:
        DataError: it holds something that JSON does not have, or is nested too deep.
    """
    try:
        return read.text(canonical(value), field)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"is no JSON value ({error})", field=field, reason="bad_tool_call") from error


def tools(value: object, field: str) -> tuple[str, ...]:
    """Descriptions of the tools on offer, each as JSON text; null, '' and '[]' are none.

    A description without the envelope `{"type": "function", "function": {…}}` gets it: that is the form
    in which templates expect tools and in which a server's clients send them.

    Raises:
        DataError: no list of objects.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    items = read.listed(value, field)
    for k, item in enumerate(items):
        if not isinstance(item, Mapping):
            expected = "the description of a tool, an object"
            raise read.unexpected(expected, item, f"{field}[{k}]", "bad_tools")
    return tuple(_json(_enveloped(item), f"{field}[{k}]") for k, item in enumerate(items))


def _enveloped(tool: Mapping[str, object]) -> dict[str, object]:
    bare = isinstance(tool.get("name"), str) and "function" not in tool and "type" not in tool
    return {"type": "function", "function": dict(tool)} if bare else dict(tool)


def history(value: object, field: str) -> Conversation:
    """Earlier turns as [question, answer] pairs, the first one first; '' and [] are none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    items = read.listed(value, field)
    found: list[Message] = []
    for k, item in enumerate(items):
        if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
            raise DataError(
                "expected a pair of a question and its answer",
                field=f"{field}[{k}]",
                value=item,
                reason="bad_history",
            )
        found.append(Message("user", read.text(item[0], f"{field}[{k}][0]")))
        found.append(Message("assistant", read.text(item[1], f"{field}[{k}][1]")))
    return tuple(found)


def without_tools(messages: Conversation) -> Conversation:
    """The messages as they are compared with a prompt's text: without the tools on offer."""
    return tuple(replace(m, tools=()) if m.tools else m for m in messages)
