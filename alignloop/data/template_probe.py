"""What is found out about a chat template by rendering probes, never by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from alignloop.errors import DataError

Row = dict[str, Any]
"""A message as a template sees it."""
Render = Callable[[Sequence[Row], bool], str]
"""(messages, add_generation_prompt) to text; raises DataError."""

PROBE = "q7Xz"
ASK: Row = {"role": "user", "content": "w3Vk"}
_NEXT: Row = {"role": "user", "content": "v7Zp"}
_THOUGHT = "t5Ym"
_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Marks of thoughts, where a template does not show its own."""
_LAST_MARK = re.compile(r"(<[^<>\s]+>\w*|\[[^\[\]\s]+\])\s*\Z")
_MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_FIRST_MARK = re.compile(r"\A\s*(<[^<>\s]+>|\[[^\[\]\s]+\])")


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a template does.

    Attributes:
        lead: what stands between the prompt and a plain answer, often nothing.
        end: the end of an assistant's turn, such as '<|im_end|>'.
        tail: what a whole rendering has after the end, often a line break or nothing.
        ends: whether the template itself ends a turn; if not, `end` is the tokenizer's EOS, or the mark
            with which the next message begins.
        gap: what a template that does not end a turn puts after it, often nothing.
        trims: whether white space around the assistant's text is stripped.
        merges_system: whether the template has no system role.
        prompts: whether `add_generation_prompt` has an effect.
        thought: marks before and after thoughts, empty if the template knows none.
        opening: the beginning of thoughts that the generation prompt ends with, such as '<think>\\n'.
        closes: whether the generation prompt holds thoughts that are closed already.
        after_thought: what stands between the mark after thoughts and the answer.
        takes_thinking: whether the field `reasoning_content` of the last message is rendered.
        tool_marks: marks that only a turn with tool calls has, such as '<tool_call>'.
    """

    lead: str
    end: str
    tail: str
    ends: bool
    gap: str
    trims: bool
    merges_system: bool
    prompts: bool
    thought: tuple[str, str]
    opening: str
    closes: bool
    after_thought: str
    takes_thinking: bool
    tool_marks: tuple[str, ...]


def examine(
    source: str, render: Render, eos_token: str, bos_token: str, added: Container[str]
) -> TemplateTraits:
    """Render probes and compare.

    Args:
        source: jinja text, in which marks of thoughts are looked for.
        render: the template.
        eos_token: end of a turn where the template has none.
        bos_token: what a rendering may begin with.
        added: texts that are one token each.

    Returns:
        What the renderings show.

    Raises:
        DataError: the template cannot render one question and answer; reason `template_refused`.
    """
    given, plain = render([ASK], True), render([ASK], False)
    whole = render([ASK, _answer(PROBE)], False)
    spaced = render([ASK, _answer(f" {PROBE} ")], False)
    if whole.count(PROBE) != 1 or ASK["content"] not in given:
        raise DataError("it does not render each message once", reason="template_incomplete")
    start = whole.index(PROBE)
    after = whole[start + len(PROBE) :]
    end, tail, ends = _end(render, after, eos_token, bos_token, added, always=given == plain)
    thought, after_thought, takes_thinking = _thought(source, render)
    suffix = given[given.rindex(ASK["content"]) + len(ASK["content"]) :]
    opened, closed = (suffix.rfind(mark) for mark in thought) if thought[0] else (-1, -1)
    lead = whole[len(given) : start] if whole[:start].startswith(given) else ""
    return TemplateTraits(
        lead=lead,
        end=end,
        tail=tail,
        ends=ends,
        gap="" if ends else after,
        trims=f" {PROBE} " not in spaced,
        merges_system=not _renders_system(render),
        prompts=given != plain or not lead.strip(),
        thought=thought,
        opening=suffix[opened:] if opened > closed else "",
        closes=closed > opened >= 0,
        after_thought=after_thought,
        takes_thinking=takes_thinking,
        tool_marks=_tool_marks(render, whole),
    )


def _answer(content: str, **more: str) -> Row:
    return {"role": "assistant", "content": content, **more}


def _attempt(render: Render, rows: Sequence[Row], *, prompt: bool = False) -> str:
    """The rendering of a probe, empty if the template refuses it."""
    try:
        return render(rows, prompt)
    except DataError:
        return ""


def _end(
    render: Render, after: str, eos_token: str, bos_token: str, added: Container[str], *, always: bool
) -> tuple[str, str, bool]:
    """End of a turn, what follows it, and whether the template ends a turn at all."""
    if not after.strip():
        mark = _FIRST_MARK.match(_between(render))
        if mark is not None and mark[1] in added:
            return mark[1], "", False
        return eos_token, "", False
    stop = len(after.rstrip())
    if always:
        # A generation prompt that comes unasked begins with the mark that every message begins with.
        first = _FIRST_MARK.match(render([ASK], False).removeprefix(bos_token))
        place = after.find(first[1], 1) if first is not None else -1
        stop = len(after[:place].rstrip()) if place > 0 else stop
    return after[:stop], after[stop:], True


def _between(render: Render) -> str:
    """What stands between an answer and the text of the next question."""
    whole = _attempt(render, [ASK, _answer(PROBE), _NEXT])
    return whole.partition(PROBE)[2].partition(_NEXT["content"])[0]


def _thought(source: str, render: Render) -> tuple[tuple[str, str], str, bool]:
    """Marks of thoughts, what follows them, and whether thoughts in a field of their own are rendered."""
    fields = {"reasoning_content": _THOUGHT, "thinking": _THOUGHT}
    whole = _attempt(render, [ASK, _answer(PROBE, **fields)])
    before, found, after = whole.partition(_THOUGHT)
    between, _, _ = after.partition(PROBE)
    opening, closing = _LAST_MARK.search(before), _FIRST_MARK.match(between)
    if opening and closing and closing[0].strip() == between.strip():
        return (opening[1], closing[1]), between.partition(closing[1])[2], True
    known = next((pair for pair in _PAIRS if pair[1] in source), ("", ""))
    return known, "\n\n", bool(found)


def _tool_marks(render: Render, plain: str) -> tuple[str, ...]:
    """Marks of a turn that calls a tool which a plain turn does not have, less the one that ends it."""
    call = {"name": "f", "arguments": {"a": "b"}}
    turn = {**_answer(""), "tool_calls": [{"type": "function", "function": call, "id": "c12345678"}]}
    whole = _attempt(render, [ASK, turn])
    marks = [match for match in _MARK.finditer(whole) if match[0] not in plain]
    if marks and not whole[marks[-1].end() :].strip() and not marks[-1][0].startswith(("</", "[/")):
        marks.pop()
    return tuple(dict.fromkeys(match[0] for match in marks))


def _renders_system(render: Render) -> bool:
    return PROBE in _attempt(render, [{"role": "system", "content": PROBE}, ASK], prompt=True)
