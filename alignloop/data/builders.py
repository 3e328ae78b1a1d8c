"""Records out of the fields of a row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from alignloop.data import values as read
from alignloop.data.forms import Fields, has_prompt, is_answered
from alignloop.errors import DataError
from alignloop.records import (
    Conversation,
    Demonstration,
    Document,
    Label,
    Message,
    Preference,
    Prompt,
    Provenance,
    Ranking,
    Rating,
    Record,
)

ORIGINS = ("human", "ai", "simulated", "derived", "unknown")


def build(kind: str, fields: Fields, file: str, line: int, origin: str) -> Record:
    """The record of a row.

    Raises:
        DataError: a missing, wrong or empty field; it does not name the file yet.
    """
    return _BUILDERS[kind](fields, _provenance(fields, file, line, origin))


def _provenance(fields: Fields, file: str, line: int, origin: str) -> Provenance:
    """The row's own provenance as it is, else its place and its columns that tell the source."""
    if not fields.has("provenance"):
        return Provenance(file, line, origin, dict(fields.details))  # pyright: ignore[reportArgumentType]
    value, column = fields.get("provenance")
    value = read.structured(value, column, dict)
    assert isinstance(value, Mapping)
    own = {"file": "", "line": 0, "origin": "unknown", "details": {}} | dict(value)
    plain = isinstance(own["details"], Mapping) and all(
        isinstance(v, str | int | float | bool) for v in own["details"].values()
    )
    right = isinstance(own["file"], str) and type(own["line"]) is int and own["origin"] in ORIGINS and plain
    if not right or len(own) != 4:
        expected = f"expected file, line, origin ({', '.join(ORIGINS)}) and details with plain values"
        raise DataError(expected, field=column, value=dict(value), reason="bad_provenance")
    return Provenance(own["file"], own["line"], own["origin"], dict(own["details"]))


def prompt_of(fields: Fields) -> Conversation:
    """The prompt of a row: system, prompt or instruction, and input joined into messages.

    Raises:
        DataError: no prompt, an empty one, or one that does not end with the user.
    """
    name = next((n for n in ("prompt", "messages", "instruction", "input") if fields.has(n)), "prompt")
    value, column = fields.get(name)
    if name == "messages" or isinstance(value, list):
        messages = read.conversation(value, column)
        if name == "messages" and messages[-1].role == "assistant":
            messages = messages[:-1]
    else:
        said = read.text(value, column, reason_if_empty="empty_prompt")
        whole = read.is_transcript(said) and said.rstrip().endswith("\n\nAssistant:")
        messages = read.transcript(said, column)[:-1] if whole else (Message("user", said),)
    if name in ("prompt", "instruction") and fields.has("input"):
        extra = read.text(*fields.get("input"))
        last = messages[-1]
        messages = (*messages[:-1], Message(last.role, last.content + read.INPUT_MARK + extra))
    if fields.has("system") and messages[0].role != "system":
        messages = (Message("system", read.text(*fields.get("system"))), *messages)
    return read.check_prompt(messages, column)


def _completion(fields: Fields, name: str, prompt: Conversation) -> tuple[Conversation, str]:
    """Prompt and text of a completion, which may be text, a message, messages or a whole dialogue."""
    value, column = fields.get(name)
    if isinstance(value, Mapping | list):
        messages = read.conversation([value] if isinstance(value, Mapping) else value, column)
    else:
        text = read.completion_text(value, column)
        # beside messages, a dialogue is an answer's own text
        if not (text.startswith("\n\nHuman:") and isinstance(fields.values.get("prompt"), str)):
            return prompt, text
        messages = read.transcript(text, column)
    *context, last = messages
    if last.role != "assistant":
        raise DataError("expected the assistant last", field=column, value=last.role, reason="bad_messages")
    answer = read.completion_text(last.content, column)
    return (_joined(prompt, tuple(context), column) if context else prompt), answer


def _joined(prompt: Conversation, context: Conversation, column: str) -> Conversation:
    """The messages before a completion, which must begin or end with the row's prompt."""
    systems = [m for m in (*context, *prompt) if m.role == "system"]
    turns = tuple(m for m in context if m.role != "system")
    asked = tuple(m for m in prompt if m.role != "system")
    if asked not in (turns[: len(asked)], turns[-len(asked) :]):
        raise DataError("does not continue the prompt", field=column, reason="prompt_mismatch")
    return read.check_prompt((*systems[:1], *turns), column)


def _document(fields: Fields, provenance: Provenance) -> Document:
    value, column = fields.get("text")
    return Document(read.text(value, column, reason_if_empty="empty_text"), provenance)


def _prompt(fields: Fields, provenance: Provenance) -> Prompt:
    implicit = not has_prompt(fields) and fields.has("chosen", "rejected")
    prompt = _common_prompt(fields)[0] if implicit else prompt_of(fields)
    answer, constraints = None, ()
    if fields.has("answer"):
        value, column = fields.get("answer")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        answer = json.dumps(value) if is_number else read.text(value, column)
    if fields.has("constraints"):
        value, column = fields.get("constraints")
        items = read.structured(value, column, list)
        assert isinstance(items, Sequence)
        for k, item in enumerate(items):
            read.structured(item, f"{column}[{k}]", dict)
        constraints = tuple(dict(item) for item in items)
    return Prompt(prompt, answer, constraints, provenance)


def _demonstration(fields: Fields, provenance: Provenance) -> Demonstration:
    if fields.has("completion"):
        prompt, text = _completion(fields, "completion", prompt_of(fields))
        return Demonstration(prompt, text, provenance)
    if fields.has("sft_target"):
        value, column = fields.get("sft_target")
        if value not in ("chosen", "rejected"):
            raise DataError(
                "expected 'chosen' or 'rejected'", field=column, value=value, reason="unknown_label"
            )
        pair = _preference(fields, provenance)
        return Demonstration(pair.prompt, pair.chosen if value == "chosen" else pair.rejected, provenance)
    if fields.has("messages") and is_answered(fields):
        value, column = fields.get("messages")
        text = read.completion_text(read.conversation(value, column)[-1].content, column)
        return Demonstration(prompt_of(fields), text, provenance)
    # a reference answer is imitated only where a demonstration was asked for by name
    name = "answer" if fields.has("answer") else "completion"
    return Demonstration(prompt_of(fields), read.completion_text(*fields.get(name)), provenance)


def _preference(fields: Fields, provenance: Provenance) -> Preference:
    probability = read.number(*fields.get("probability"), 0, 1) if fields.has("probability") else 1.0
    margin = read.number(*fields.get("margin"), 0, 1e6) if fields.has("margin") else 0.0
    if fields.has("response_a") and not fields.has("chosen"):
        better = read.side(*fields.get("preference"))
        first, second = ("response_b", "response_a") if better == "b" else ("response_a", "response_b")
        probability = 0.5 if better == "tie" else probability
    else:
        first, second = "chosen", "rejected"
    if not has_prompt(fields) and first == "chosen":
        prompt, chosen, rejected = _common_prompt(fields)
    else:
        asked = prompt_of(fields)
        prompt, chosen = _completion(fields, first, asked)
        other, rejected = _completion(fields, second, asked)
        if other != prompt:
            raise DataError("answers another prompt", field=fields.columns[second], reason="prompt_mismatch")
    return Preference(prompt, chosen, rejected, probability, margin, provenance)


def _common_prompt(fields: Fields) -> tuple[Conversation, str, str]:
    """Prompt, chosen and rejected out of two whole dialogues or texts that begin alike."""
    (one, one_name), (two, two_name) = fields.get("chosen"), fields.get("rejected")
    if (
        isinstance(one, str)
        and isinstance(two, str)
        and not (read.is_transcript(one) and read.is_transcript(two))
    ):
        return _common_lines(read.text(one, one_name), read.text(two, two_name))
    a = read.transcript(one, one_name) if isinstance(one, str) else read.conversation(one, one_name)
    b = read.transcript(two, two_name) if isinstance(two, str) else read.conversation(two, two_name)
    for messages, name in ((a, one_name), (b, two_name)):
        if messages[-1].role != "assistant":
            raise DataError("expected the assistant last", field=name, reason="bad_messages")
    if a[:-1] != b[:-1]:
        message = "the two dialogues differ before their last answer, so there is no common prompt"
        raise DataError(message, field=two_name, reason="diverging_dialogues")
    prompt = read.check_prompt(a[:-1], one_name)
    chosen, rejected = (read.completion_text(m[-1].content, n) for m, n in ((a, one_name), (b, two_name)))
    return prompt, chosen, rejected


def _common_lines(one: str, two: str) -> tuple[Conversation, str, str]:
    shared = next(
        (k for k, (x, y) in enumerate(zip(one, two, strict=False)) if x != y), min(len(one), len(two))
    )
    cut = one.rfind("\n", 0, shared) + 1
    if not one[:cut].strip():
        message = "no prompt column, and chosen and rejected do not begin with the same lines"
        raise DataError(message, field="prompt", reason="missing_field")
    prompt = (Message("user", one[:cut].strip()),)
    return prompt, read.completion_text(one[cut:], "chosen"), read.completion_text(two[cut:], "rejected")


def _label(fields: Fields, provenance: Provenance) -> Label:
    base = _demonstration(fields, provenance)
    return Label(base.prompt, base.completion, read.truth(*fields.get("label")), provenance)


def _rating(fields: Fields, provenance: Provenance) -> Rating:
    base = _demonstration(fields, provenance)
    value, column = fields.get("scores")
    if isinstance(value, Mapping) or (isinstance(value, str) and value.lstrip().startswith("{")):
        given = read.structured(value, column, dict)
        assert isinstance(given, Mapping)
        scores = {str(name): read.number(v, f"{column}.{name}", 0, 5) for name, v in given.items()}
        if not scores:
            raise DataError("expected at least one score", field=column, value={}, reason="missing_field")
    else:
        scores = {"score": read.number(value, column, 0, 5)}
    return Rating(base.prompt, base.completion, scores, provenance)


def _ranking(fields: Fields, provenance: Provenance) -> Ranking:
    completions = read.texts(*fields.get("responses"))
    ranks = read.ranks(*fields.get("ranking"), len(completions))
    return Ranking(prompt_of(fields), completions, ranks, provenance)


_BUILDERS: Mapping[str, Callable[[Fields, Provenance], Record]] = {
    "document": _document,
    "prompt": _prompt,
    "demonstration": _demonstration,
    "preference": _preference,
    "label": _label,
    "rating": _rating,
    "ranking": _ranking,
}
