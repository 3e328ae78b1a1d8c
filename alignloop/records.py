"""The record family: what a row of data can be, whatever its file looked like.

Everything in post-training is a prompt with K completions. A prompt is a tuple of messages
(empty for raw documents), a completion is text. Records are frozen, compare by value and carry
their provenance, so that every model can be traced back to rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from alignloop.foreign import loads

Origin = Literal["human", "ai", "simulated", "derived", "unknown"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool by the assistant.

    Attributes:
        name: of the tool.
        arguments: a JSON object as text, or the text itself where it is none.
        id: by which the tool's answer names the call, may be empty.
    """

    name: str
    arguments: str = "{}"
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: system, user, assistant or tool.
        content: the text; empty for an assistant that only calls tools.
        thinking: the assistant's thoughts before the text.
        tool_calls: what the assistant asks of tools after the text.
        name: of the speaker; of a tool message the tool's.
        tool_call_id: of a tool message, the call that it answers.
        tools: descriptions of the tools on offer, each a JSON object as text. They belong to the
            conversation and stand on its first message, so that whatever passes a conversation on
            passes its tools on; see `tools_of`.
        train: of an assistant's turn, False if it is not to be imitated (`weight: 0` in files), None
            if nothing was said. No part of the message's value: two prompts that differ in it only
            are equal.
    """

    role: str
    content: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""
    tool_call_id: str = ""
    tools: tuple[str, ...] = ()
    train: bool | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a record comes from.

    Attributes:
        file: path or hub id of the data set, or the run folder that made it.
        line: 1-based line or row in it, 0 if unknown.
        origin: who made the label: human, ai, simulated, derived (converted) or unknown.
        details: anything else worth keeping: model, annotator, judgement id, seed, guideline.
    """

    file: str = ""
    line: int = 0
    origin: Origin = "unknown"
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


Conversation = tuple[Message, ...]


def message_rows(conversation: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as rows, the form of files, chat templates and APIs; only what a message has is a key.

    `role` and `content` are always there; `reasoning_content`, `tool_calls` (with the arguments as an
    object), `name`, `tool_call_id` and `tools` where they are set.
    """
    return [{"role": message.role, "content": message.content} | _extras(message) for message in conversation]


def _extras(message: Message) -> dict[str, Any]:
    """What a message has beside role and content."""
    row: dict[str, Any] = {}
    if message.thinking:
        row["reasoning_content"] = message.thinking
    if message.tool_calls:
        row["tool_calls"] = [
            ({"id": call.id} if call.id else {})
            | {"type": "function", "function": {"name": call.name, "arguments": _loaded(call.arguments)}}
            for call in message.tool_calls
        ]
    row |= {name: value for name in ("name", "tool_call_id") if (value := getattr(message, name))}
    if message.tools:
        row["tools"] = [loads(tool) for tool in message.tools]
    return row


def _loaded(arguments: str) -> object:
    """The arguments of a call as an object, or as the text they are."""
    try:
        found = loads(arguments, constant=_refuse_constant)
    except ValueError:
        return arguments
    return found if isinstance(found, dict) else arguments


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def canonical(value: object) -> str:
    """JSON text of a tool's description or arguments, the same for equal values.

    Raises:
        ValueError: NaN or an infinity, which JSON does not have.
        TypeError: something that JSON does not know.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def conversation_of(rows: Iterable[Mapping[str, Any]]) -> Conversation:
    """The conversation of which `message_rows` made these rows."""
    return tuple(
        Message(
            row["role"],
            row["content"],
            row.get("reasoning_content", ""),
            tuple(_call(call) for call in row.get("tool_calls", ())),
            row.get("name", ""),
            row.get("tool_call_id", ""),
            tuple(canonical(tool) for tool in row.get("tools", ())),
        )
        for row in rows
    )


def _call(row: Mapping[str, Any]) -> ToolCall:
    arguments = row["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else canonical(arguments)
    return ToolCall(row["function"]["name"], text, row.get("id", ""))


def plain_rows(conversation: Iterable[Message]) -> list[list[Any]]:
    """Messages as [role, content] lists, followed by what else they have: the form of keys and seeds."""
    found = ([message, _extras(message)] for message in conversation)
    return [[message.role, message.content, *([extras] if extras else [])] for message, extras in found]


def tools_of(conversation: Iterable[Message]) -> list[dict[str, Any]]:
    """Descriptions of the tools that a conversation offers."""
    offered = next((message.tools for message in conversation if message.tools), ())
    return [loads(tool) for tool in offered]


def with_tools(conversation: Conversation, tools: Sequence[str]) -> Conversation:
    """The conversation with these tools on offer, each a JSON object as text."""
    if not tools or not conversation:
        return conversation
    return (replace(conversation[0], tools=tuple(tools)), *conversation[1:])


def as_context(conversation: Conversation) -> Conversation:
    """A prompt whose assistant turns are given, not imitated, unless they say otherwise."""
    return tuple(
        replace(m, train=False) if m.role == "assistant" and m.train is None else m for m in conversation
    )


@dataclass(frozen=True, slots=True)
class Document:
    """Raw text for pre-training (step 0)."""

    text: str
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to be answered; `answer` is the reference a verifier compares with.

    `constraints` holds machine-checkable instructions as (kind, arguments) pairs for verifiers.
    """

    prompt: Conversation
    answer: str | None = None
    constraints: tuple[Mapping[str, object], ...] = ()
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with the completion to imitate (SFT); earlier turns of the assistant are imitated too.

    Attributes:
        prompt: what precedes the completion; its assistant turns are imitated as well unless their
            `train` is False or the recipe says `train_on: last`.
        completion: text of the last turn, empty where it only calls tools.
        thinking: thoughts of the last turn.
        tool_calls: tools that the last turn calls.
        train: False if the last turn is not to be imitated, as in `Message`.
    """

    prompt: Conversation
    completion: str
    provenance: Provenance = Provenance()
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    train: bool | None = field(default=None, compare=False)

    @property
    def turn(self) -> Message:
        """The completion as a message."""
        return Message("assistant", self.completion, self.thinking, self.tool_calls, train=self.train)

    @property
    def text(self) -> str:
        """All that the last turn says as one text: thoughts, completion, tool calls."""
        return written(self.turn)

    @property
    def trained(self) -> tuple[int, ...]:
        """Places in `(*prompt, turn)` of the assistant turns to imitate.

        A greeting before anybody has asked anything is context, and so is a turn that says nothing.
        """
        last = len(self.prompt)
        asked = next((k for k, m in enumerate(self.prompt) if m.role in ("user", "tool")), last)
        return tuple(
            k
            for k, m in enumerate((*self.prompt, self.turn))
            if m.role == "assistant"
            and m.train is not False
            and (k == last or (k > asked and (m.content.strip() or m.tool_calls)))
        )


@dataclass(frozen=True, slots=True)
class Preference:
    """Two completions of one prompt, `chosen` preferred with `probability` (½ is a tie).

    `margin` is the annotator's strength of preference in reward units, 0 if not given.
    """

    prompt: Conversation
    chosen: str
    rejected: str
    probability: float = 1.0
    margin: float = 0.0
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Label:
    """A completion marked good or bad (KTO)."""

    prompt: Conversation
    completion: str
    desirable: bool
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Rating:
    """A completion with scores between 0 and 5 for one or more attributes."""

    prompt: Conversation
    completion: str
    scores: Mapping[str, float]
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Ranking:
    """K completions with ranks, 1 the best; `ranks[k]` belongs to `completions[k]`; ties share a rank."""

    prompt: Conversation
    completions: tuple[str, ...]
    ranks: tuple[int, ...]
    provenance: Provenance = Provenance()


Conversed = Prompt | Demonstration | Preference | Label | Rating | Ranking
"""A record with a prompt."""
Record = Document | Conversed

KINDS: dict[str, type[Record]] = {
    "document": Document,
    "prompt": Prompt,
    "demonstration": Demonstration,
    "preference": Preference,
    "label": Label,
    "rating": Rating,
    "ranking": Ranking,
}
"""Record kinds by the name used in files, recipes and messages."""


def kind_of(record: Record) -> str:
    """The kind's name, a key of `records.KINDS`."""
    return next(name for name, cls in KINDS.items() if type(record) is cls)


def written(message: Message) -> str:
    """All that a message says as one text: thoughts in `<think>` marks, content, tool calls as JSON."""
    parts = [f"<think>\n{message.thinking}\n</think>"] if message.thinking else []
    parts += [message.content] if message.content or not message.tool_calls else []
    parts += [
        canonical({"name": call.name, "arguments": _loaded(call.arguments)}) for call in message.tool_calls
    ]
    return "\n\n".join(parts)
