"""The messages of a row before they become a record: prompt, system, history, input and tools joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from alignloop.data import messages as dialogues
from alignloop.data import transcripts
from alignloop.data import values as read
from alignloop.data.forms import Fields
from alignloop.errors import DataError
from alignloop.records import Conversation, Message, as_context, with_tools


def prompt_of(fields: Fields) -> Conversation:
    """The prompt of a row: system, history, prompt or instruction, and input joined into messages.

    Raises:
        DataError: no prompt, an empty one, or one that does not end with the user or a tool's answer.
    """
    name, messages, column = turns_of_row(fields)
    if name == "messages" and messages[-1].role == "assistant":
        messages = offering(messages[:-1], messages)
    return read.check_prompt(messages, column)


def turns_of_row(fields: Fields) -> tuple[str, Conversation, str]:
    """The field that holds the prompt, its messages with all that belongs to them, and its column.

    A whole conversation is preferred to the prompt that stands beside it, except where two answers are
    compared: there `messages` is often one of them.
    """
    compared = fields.has("chosen") or fields.has("response_a")
    order = ("prompt", "messages") if compared else ("messages", "prompt")
    there = [n for n in (*order, "instruction", "input") if fields.has(n) and fields.values[n] != []]
    name = there[0] if there else "prompt"
    value, column = fields.get(name)
    if name == "messages":
        messages = dialogues.conversation(value, column)
        if not compared:
            _check_beside(fields, messages, column)
    elif isinstance(value, list):
        messages = as_context(dialogues.conversation(value, column))
    else:
        said = read.text(value, column, reason_if_empty="empty_prompt")
        asked = transcripts.asked(said, column)
        messages = as_context((Message("user", said),) if asked is None else asked)
    if not messages:
        raise DataError("expected text, found none", field=column, value=value, reason="empty_prompt")
    if name in ("prompt", "instruction") and fields.has("input"):
        extra = read.text(*fields.get("input"))
        last = messages[-1]
        messages = (*messages[:-1], replace(last, content=last.content + read.INPUT_MARK + extra))
    return (
        name,
        offering(_with_system(fields, _with_history(fields, name, messages)), messages, fields),
        column,
    )


def _check_beside(fields: Fields, messages: Conversation, column: str) -> None:
    """Whether a prompt beside whole messages is a part of them.

    Raises:
        DataError: it is not, so that one of the two columns would be lost (reason `prompt_mismatch`).
    """
    name = next((n for n in ("prompt", "instruction") if fields.has(n)), None)
    if name is None:
        return
    value, own = fields.get(name)
    if isinstance(value, list):
        asked = dialogues.without_tools(dialogues.conversation(value, own))
        turns = dialogues.without_tools(messages)
        without = tuple(m for m in turns if m.role != "system")
        same = asked in (turns[: len(asked)], without[: len(asked)])
    else:
        said = read.text(value, own).strip()
        extra = read.text(*fields.get("input")) if fields.has("input") else ""
        users = [m for m in messages if m.role == "user"]
        beside = {m.content.strip() for m in (messages[0], *users[:1], *users[-1:])}
        same = not said or said in beside or bool({said + sign + extra for sign in _JOINTS} & beside)
    if not same:
        raise DataError(
            f"is no part of '{column}', so one of the two columns would be lost; keep one",
            field=own,
            value=value,
            reason="prompt_mismatch",
        )


_JOINTS = (read.INPUT_MARK, "\n\n", "\n", " ", "")
"""What may stand between an instruction and its input in one message."""


def _with_history(fields: Fields, name: str, messages: Conversation) -> Conversation:
    """The messages with the earlier turns of a `history` column, behind a system message."""
    if not fields.has("history"):
        return messages
    value, column = fields.get("history")
    earlier = dialogues.history(value, column)
    if earlier and name == "messages":
        message = f"stands beside '{fields.columns[name]}', which holds the whole conversation; keep one"
        raise DataError(message, field=column, reason="prompt_mismatch")
    system = messages[:1] if messages[0].role == "system" else ()
    return (*system, *earlier, *messages[len(system) :])


def _with_system(fields: Fields, messages: Conversation) -> Conversation:
    """The messages with the text of a `system` column in front, if they do not have it yet."""
    if not fields.has("system"):
        return messages
    value, column = fields.get("system")
    if isinstance(value, list | Mapping):
        found = dialogues.conversation([value] if isinstance(value, Mapping) else value, column)
        if len(found) != 1 or found[0].role != "system":
            raise DataError(
                "expected text or one system message", field=column, value=value, reason="wrong_type"
            )
        said = found[0].content
    else:
        said = read.text(value, column)
    if messages[0].role != "system":
        return (Message("system", said), *messages)
    if said.strip() not in ("", messages[0].content.strip()):
        raise DataError(
            "says something else than the system message of the conversation; keep one",
            field=column,
            value=said,
            reason="system_mismatch",
        )
    return messages


def offering(messages: Conversation, earlier: Conversation, fields: Fields | None = None) -> Conversation:
    """The messages with the tools of a `tools` column, or with those that `earlier` offered, in front."""
    offered = next((m.tools for m in earlier if m.tools), ())
    if fields is not None and fields.has("tools"):
        value, column = fields.get("tools")
        named = dialogues.tools(value, column)
        if offered and named and offered != named:
            raise DataError("are not those of the first message; keep one", field=column, reason="bad_tools")
        offered = offered or named
    return with_tools(dialogues.without_tools(messages), offered)
