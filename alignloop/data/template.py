"""Chat templates: from messages to the text a model reads, the same in training and in use.

    rendering of a whole conversation = render_prompt(messages) + render_completion(answer, messages) + tail

`render_prompt` is what a model is given: the rendering with the generation prompt. A completion is what
the model then writes, up to the end of its turn, exactly once: what the rendering of the whole
conversation adds to the prompt. What a template puts after the end (the line break of ChatML) is neither
generated nor trained, and is the `tail`. docs/templates.md tells what is trained where a template's
rendering does not begin with its own prompt, as it happens with thoughts.

A template without a system role (it raises, or drops the message) gets the system text in front of
the first user message, two line breaks between. Rendered text holds all special tokens it needs;
`alignloop.data.tokenize.Encoder` makes tokens of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from alignloop.data import template_render
from alignloop.data.template_choice import today
from alignloop.data.template_probe import Row, TemplateTraits, examine
from alignloop.data.template_turn import Departure, completion, departure, opened
from alignloop.errors import DataError, ModelError
from alignloop.foreign import loads
from alignloop.io import write_whole
from alignloop.records import Message, message_rows, tools_of

FILE = "alignloop_template.json"
"""Written beside `chat_template.jinja` in a model folder."""
DATE = "strftime_now"
"""Function of templates that tells the date; as an argument of a template, the date it tells."""
_RESERVED = frozenset(("messages", "add_generation_prompt", "tools", "documents", "raise_exception"))
_ASK = (Message("user", "w3Vk"),)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A chat template with what was found out about it.

    Attributes:
        name: `tokenizer`, `chatml`, `alpaca`, `plain` or a file's name.
        source: jinja text; it sees `messages`, `tools`, `add_generation_prompt`, the tokens and `kwargs`.
        found: what rendering probes showed.
        tokens: special tokens the text uses, as (name, string) pairs such as ('eos_token', '</s>').
        kwargs: further arguments such as `enable_thinking`; `strftime_now` is the date the template tells.
    """

    name: str
    source: str
    found: TemplateTraits
    tokens: tuple[tuple[str, str], ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def lead(self) -> str:
        """What stands between the prompt and the text of a plain answer, often nothing."""
        return self.found.lead

    @property
    def end(self) -> str:
        """The end of an assistant's turn, such as '<|im_end|>'."""
        return self.found.end

    @property
    def tail(self) -> str:
        """What a whole rendering has after the end, often a line break or nothing."""
        return self.found.tail

    @property
    def trims(self) -> bool:
        """Whether the template strips white space around the assistant's text."""
        return self.found.trims

    @property
    def merges_system(self) -> bool:
        """Whether system text goes into the first user message."""
        return self.found.merges_system

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides on the rendering; equal templates under two names are equal."""
        parts = [self.source, self.tokens, sorted(self.kwargs.items()), asdict(self.found)]
        return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The rendering of a conversation as the template gives it.

        Args:
            messages: the conversation.
            add_generation_prompt: whether the assistant's next turn is begun.
            tools: descriptions of tools, as OpenAI's API has them; those of the messages if none are given.

        Returns:
            The text.

        Raises:
            DataError: the template refuses these messages or passes its limits (reason
                `template_refused`).
        """
        tools = tools or tools_of(messages)
        if self.merges_system:
            messages = _merge_system(messages)
        return self.render_rows(template_rows(messages), add_generation_prompt, tools)

    def render_rows(
        self, rows: Sequence[Row], add_generation_prompt: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """The rendering of messages in the form in which a template sees them; see `render`."""
        return _render(self.name, self.source, self.tokens, self.kwargs, rows, add_generation_prompt, tools)

    def render_prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Text up to where the assistant begins to write.

        Raises:
            DataError: no message, or messages that the template refuses.
        """
        if not messages:
            raise DataError("a prompt needs at least one message", field="prompt", reason="empty_prompt")
        return self.render(messages, add_generation_prompt=True, tools=tools)

    def render_completion(
        self,
        turn: str | Message,
        prompt: Sequence[Message] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        given: str | None = None,
    ) -> str:
        """What the model is to write after `render_prompt(prompt)`, up to the end of its turn.

        Args:
            turn: the assistant's text, or its message with thoughts and tool calls.
            prompt: the messages before it; a plain question if None.
            tools: descriptions of tools.
            given: `render_prompt(prompt)`, where it is known already.

        Returns:
            Text that begins where the prompt ends; see docs/templates.md.

        Raises:
            DataError: the template refuses the conversation.
        """
        message = Message("assistant", turn) if isinstance(turn, str) else turn
        before: Sequence[Message] = prompt or _ASK
        given = self.render_prompt(before, tools) if given is None else given

        def whole(candidate: Message) -> str:
            return self.render((*before, candidate), tools=tools)

        return completion(self.found, message, given, whole)

    def departs(
        self, turn: str | Message, prompt: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Departure:
        """Whether prompt and completion are the rendering of the whole conversation; empty if they are.

        Args:
            turn: the assistant's text or message.
            prompt: the messages before it.
            tools: descriptions of tools.

        Returns:
            Why no completion can make it so (`prompt`), or what is written otherwise (`thoughts`).

        Raises:
            DataError: the template refuses the conversation.
        """
        given = self.render_prompt(prompt, tools)
        message = Message("assistant", turn) if isinstance(turn, str) else turn
        written = self.render_completion(message, prompt, tools, given=given)
        return departure(
            self.found, message, given, written, lambda one: self.render((*prompt, one), tools=tools)
        )

    def whole_text(self, generated: str) -> str:
        """Text that a model wrote after a prompt, with the beginning of its thoughts that the prompt has."""
        return opened(self.found, generated)

    def parse_completion(self, generated: str) -> str:
        """The assistant's text out of what a model wrote: the inverse of `render_completion`.

        Thoughts that the generation prompt began get their beginning back, so that the text is whole.
        """
        body = generated.removesuffix(self.tail).removesuffix(self.end).removeprefix(self.lead)
        body = opened(self.found, body)
        return body.strip() if self.trims else body

    def with_kwargs(self, kwargs: Mapping[str, Any]) -> ChatTemplate:
        """The template with other arguments, beside those it has.

        Raises:
            ModelError: an argument that the template does not use.
        """
        return _with_kwargs(self, json.dumps(kwargs, sort_keys=True)) if kwargs else self

    @property
    def portable(self) -> str:
        """The jinja text for other programs, with the arguments as defaults; a date is not among them."""
        defaults = "".join(
            f"{{%- if {key} is not defined %}}{{%- set {key} = {value!r} %}}{{%- endif %}}"
            for key, value in self.kwargs.items()
            if key != DATE
        )
        return defaults + self.source

    def save(self, folder: Path) -> None:
        """Write the template into a model folder, for AlignLoop and as Hugging Face's jinja file."""
        content = {"name": self.name, "source": self.source, "tokens": dict(self.tokens)}
        content |= {"kwargs": dict(self.kwargs), **asdict(self.found), "fingerprint": self.fingerprint}
        write_whole(folder / "chat_template.jinja", [self.portable])
        write_whole(folder / FILE, [json.dumps(content, ensure_ascii=False, indent=2) + "\n"])


def template_rows(messages: Sequence[Message]) -> list[Row]:
    """Messages as a template sees them; thoughts under both names that templates use."""
    rows: list[Row] = []
    for row in message_rows(messages):
        seen: Row = {key: value for key, value in row.items() if key != "tools"}
        if "reasoning_content" in seen:
            seen["thinking"] = seen["reasoning_content"]
        rows.append(seen)
    return rows


def _merge_system(messages: Sequence[Message]) -> Sequence[Message]:
    if len(messages) < 2 or messages[0].role != "system":
        return messages
    first = messages[1]
    return (replace(first, content=f"{messages[0].content}\n\n{first.content}"), *messages[2:])


def _render(
    name: str,
    source: str,
    tokens: Sequence[tuple[str, str]],
    kwargs: Mapping[str, Any],
    rows: Sequence[Row],
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    more = {key: value for key, value in kwargs.items() if key != DATE}
    values = {"messages": rows, "add_generation_prompt": add_generation_prompt, **dict(tokens), **more}
    values["tools"] = list(tools) or None
    size = sum(len(value) for row in rows for value in row.values() if isinstance(value, str))
    size += len(json.dumps(values["tools"])) if tools else 0
    try:
        return template_render.render(source, size, values, kwargs.get(DATE, ""))
    except template_render.FAULTS as error:
        raise DataError(
            f"chat template '{name}' refuses the messages ({template_render.told(error)})",
            field="prompt",
            value=" ".join(str(row["role"]) for row in rows),
            reason="template_refused",
        ) from error


def checked(name: str, source: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with a date where the template tells one.

    Raises:
        ModelError: an argument that the template does not use, or a date that is none.
    """
    try:
        known = template_render.variables(source)
    except template_render.FAULTS as error:
        raise ModelError(f"chat template '{name}' cannot be read ({template_render.told(error)})") from error
    usable = sorted(known - _RESERVED)
    for key in kwargs:
        if key not in usable:
            near = get_close_matches(key, usable, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; it uses {', '.join(usable) or 'none'}"
            raise ModelError(f"chat_template_kwargs: chat template '{name}' does not use '{key}'{hint}")
    day = kwargs.get(DATE, today())
    try:
        datetime.fromisoformat(str(day))
    except ValueError:
        raise ModelError(
            f"chat_template_kwargs: {DATE} is the date that the template tells, such as 2026-01-31, "
            f"not '{day}'"
        ) from None
    return {**kwargs, **({DATE: str(day)[:10]} if DATE in known else {})}


@lru_cache(maxsize=64)
def _with_kwargs(template: ChatTemplate, kwargs: str) -> ChatTemplate:
    settings = checked(template.name, template.source, {**template.kwargs, **loads(kwargs)})
    end = template.end  # what is no end of the template's own came from the tokenizer
    tokens = {"bos_token": "", "eos_token": end, **dict(template.tokens)}
    found = examined(template.name, template.source, template.tokens, settings, tokens, {end})
    return replace(template, kwargs=settings, found=found)


def examined(
    name: str,
    source: str,
    used: Sequence[tuple[str, str]],
    kwargs: Mapping[str, Any],
    tokens: Mapping[str, str],
    added: Container[str],
) -> TemplateTraits:
    """What probes show of a template.

    Raises:
        ModelError: it cannot render one question and its answer.
    """

    def render(rows: Sequence[Row], add_generation_prompt: bool) -> str:
        return _render(name, source, used, kwargs, rows, add_generation_prompt)

    try:
        return examine(source, render, tokens.get("eos_token", ""), tokens["bos_token"], added)
    except DataError as error:
        if error.reason == "template_incomplete":
            raise ModelError(f"chat template '{name}' does not render each message once") from error
        missing = re.search(r"'(\w+_token)' is undefined", error.message)
        fix = f"; give the tokenizer its {missing[1]}, or use another chat_template" if missing else ""
        raise ModelError(
            f"chat template '{name}' cannot render a question and its answer: {error.message}{fix}"
        ) from error
