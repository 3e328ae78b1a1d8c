"""Chat templates against transformers: is what is trained what transformers renders?

    python bench/templates.py FILE.jinja … [--verbose]

For every template and conversation the prompt must be that of `apply_chat_template` with the generation
prompt, and prompt + completion + tail the whole conversation. Conversations: plain, with a system message,
several turns, thoughts in the text (`<think>`), thoughts in a field (`reasoning_content`), a text that was
sampled after a prompt that begins thoughts, tools. Outcomes:

equal     as transformers renders it
ended     equal but for the end of turn, which the template does not write
parted    the rendering does not begin with the template's own prompt, so no completion can be equal
dropped   the rendering leaves out thoughts that the row has
refused   with a sentence
WRONG     anything else; exit code 1

`parted` and `dropped` are what lint's AL405 must find, in no other case. The completion is then what
docs/templates.md says (looked at here: prompt as transformers', one end of turn, the answer, and its thoughts
unless the prompt has closed thoughts).
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jinja2
from transformers import PreTrainedTokenizerBase

from alignloop.data.chat import ChatTemplate, load_template
from alignloop.data.template import DATE
from alignloop.data.template_choice import today
from alignloop.errors import AlignLoopError
from alignloop.model.tiny import tiny_model
from alignloop.records import Message

Row = dict[str, Any]
THOUGHT = "<think>\nHm.\n</think>\n\n"
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}, "id": "abcdef123"}
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string", "description": "Where."}}},
    },
}


def user(text: str) -> Row:
    """A question."""
    return {"role": "user", "content": text}


def said(text: str, **more: Any) -> Row:
    """An answer."""
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be kind."}
CONVERSATIONS: dict[str, list[Row]] = {
    "plain": [user("Hi?"), said("Yes.")],
    "system": [SYSTEM, user("Hi?"), said("Yes.")],
    "turns": [SYSTEM, user("Hi?"), said("Yes."), user("Why?"), said("So.")],
    "thought": [user("Hi?"), said(f"{THOUGHT}Yes.")],
    "thoughts": [user("Hi?"), said(f"{THOUGHT}Yes."), user("Why?"), said(f"{THOUGHT}So.")],
    "field": [user("Hi?"), said("Yes.", reasoning_content="Hm.")],
    "sampled": [user("Hi?"), said("Hm.\n</think>\n\nYes.")],
    "spaces": [user(" Hi? "), said(" Yes. \n")],
    "users": [user("Hi?"), user("You there?"), said("Yes.")],
    "greeting": [said("Hello!"), user("Hi?"), said("Yes.")],
    "tools": [
        user("Hi?"),
        said("", tool_calls=[CALL]),
        {"role": "tool", "name": "look", "content": "blue", "tool_call_id": "abcdef123"},
        said("Yes."),
    ],
}
SETTINGS: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": True}, {"enable_thinking": False})


def theirs(
    tokenizer: PreTrainedTokenizerBase, source: str, rows: Sequence[Row], **settings: Any
) -> str | None:
    """Transformers' rendering; None if it refuses."""
    try:
        return str(
            tokenizer.apply_chat_template(
                copy.deepcopy(list(rows)), chat_template=source, tokenize=False, **settings
            )
        )
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError):
        return None


def as_messages(rows: Sequence[Row]) -> list[Message]:
    """The rows as messages; calls of tools are left to the rows."""
    return [Message(row["role"], row["content"], row.get("reasoning_content", "")) for row in rows]


def compared(template: ChatTemplate, tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[str, str]:
    """(outcome, details) of one conversation."""
    rows, found = CONVERSATIONS[name], template.found
    kwargs: dict[str, Any] = {key: value for key, value in template.kwargs.items() if key != DATE}
    tools = [TOOL] if name == "tools" else None
    begun = found.opening if name == "sampled" else ""  # what the model went on with
    last = {**rows[-1], "content": begun + rows[-1]["content"]}
    given = theirs(tokenizer, template.source, rows[:-1], tools=tools, add_generation_prompt=True, **kwargs)
    whole = theirs(tokenizer, template.source, [*rows[:-1], last], tools=tools, **kwargs)
    messages = as_messages(rows)
    try:
        if tools:
            prompt = template.render_rows(rows[:-1], True, tools)
            mine = template.render_rows(rows, False, tools)
            return ("equal", "") if (prompt, mine) == (given, whole) else ("WRONG", f"{mine!r}\n{whole!r}")
        prompt = template.render_prompt(messages[:-1])
        completion = template.render_completion(messages[-1], messages[:-1])
    except AlignLoopError as error:
        return "refused", str(error)
    told = template.departs(messages[-1], messages[:-1])
    if given is None or whole is None:
        return "refused", "by transformers alone; system text goes into the first question"
    if prompt != given:
        return "WRONG", f"prompt {prompt!r}\n{given!r}"
    if prompt + completion + template.tail == whole:
        return ("WRONG", "AL405 says that it departs") if told else ("equal", "")
    if not found.ends and prompt + completion == whole.removesuffix(found.gap) + template.end:
        return ("WRONG", "AL405 says that it departs") if told else ("ended", "")
    return _defined(template, name, prompt, completion, whole)


def _defined(template: ChatTemplate, name: str, prompt: str, completion: str, whole: str) -> tuple[str, str]:
    """Whether a completion that is not the rendering's is what was announced."""
    found, messages = template.found, as_messages(CONVERSATIONS[name])
    details = f"{(prompt + completion)[-100:]!r}\n{whole[-100:]!r}"
    answer = CONVERSATIONS[name][-1]["content"].split("</think>")[-1].strip()
    has_thought = name in ("thought", "thoughts", "field", "sampled")
    kept = whole.startswith(prompt) and (not has_thought or "Hm." in whole[len(prompt) :])
    good = not kept and completion.count(template.end) == 1 and completion.endswith(template.end)
    good = good and answer in completion and ("Hm." in completion) == (has_thought and not found.closes)
    turn = prompt[prompt.rindex(CONVERSATIONS[name][-2]["content"].strip()) :] + completion
    opening, closing = found.thought if found.thought[0] else ("<think>", "</think>")
    balanced = turn.count(opening) == turn.count(closing) <= 1
    if not good or not balanced or not template.departs(messages[-1], messages[:-1]):
        return "WRONG", details
    return ("dropped" if whole.startswith(prompt) else "parted"), details


def main() -> int:
    """Compare, and print a line for each template."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE.jinja")
    parser.add_argument("--verbose", action="store_true", help="show what is not equal")
    options = parser.parse_args()
    _, tokenizer = tiny_model(seed=0)[:2]
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    total: Counter[str] = Counter()
    loaded = refused = 0
    for file in options.files:
        for settings in SETTINGS:
            try:
                template = load_template(file, tokenizer, settings)
            except AlignLoopError as error:
                if not settings:
                    refused += 1
                    print(f"{Path(file).name:40} not loaded: {error}")
                continue
            loaded += not settings
            names = [name for name in CONVERSATIONS if name != "sampled" or template.found.opening]
            outcomes = {name: compared(template, tokenizer, name) for name in names}
            counts = Counter(outcome for outcome, _ in outcomes.values())
            total.update(counts)
            shown = " ".join(f"{key}={value}" for key, value in settings.items())
            print(
                f"{Path(file).name:40} {shown:22} " + ", ".join(f"{v} {k}" for k, v in sorted(counts.items()))
            )
            for name, (outcome, details) in outcomes.items():
                if outcome == "WRONG" or (options.verbose and outcome != "equal"):
                    print(f"    {name}: {outcome}\n        " + details.replace("\n", "\n        "))
    print(f"{loaded} loaded, {refused} refused; conversations: {dict(total)}; date {today()}")
    return int(total["WRONG"] > 0)


if __name__ == "__main__":
    sys.exit(main())
