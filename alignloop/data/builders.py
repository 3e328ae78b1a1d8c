"""Records out of the fields of a row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from alignloop.data import messages as dialogues
from alignloop.data import transcripts
from alignloop.data import values as read
from alignloop.data.forms import Fields, has_prompt
from alignloop.data.prompts import offering, prompt_of, turns_of_row
from alignloop.errors import DataError
from alignloop.foreign import loads
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
    as_context,
    written,
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
    value = read.mapped(value, column)
    own = {"file": "", "line": 0, "origin": "unknown", "details": {}} | dict(value)
    plain = isinstance(own["details"], Mapping) and all(
        isinstance(v, str | int | float | bool) for v in own["details"].values()
    )
    right = isinstance(own["file"], str) and type(own["line"]) is int and own["origin"] in ORIGINS and plain
    if not right or len(own) != 4:
        expected = f"expected file, line, origin ({', '.join(ORIGINS)}) and details with plain values"
        raise DataError(expected, field=column, value=dict(value), reason="bad_provenance")
    return Provenance(own["file"], own["line"], own["origin"], dict(own["details"]))


def _completion(fields: Fields, name: str, prompt: Conversation) -> tuple[Conversation, Message]:
    """Prompt and turn of a completion, which may be text, a message, messages or a whole dialogue."""
    value, column = fields.get(name)
    if isinstance(value, Mapping | list):
        messages = dialogues.conversation([value] if isinstance(value, Mapping) else value, column)
    else:
        text = read.completion_text(value, column)
        # beside messages, a dialogue is an answer's own text
        whole = text[:1].isspace() and transcripts.HH.begin(text)
        if not (whole and isinstance(fields.values.get("prompt"), str)):
            return prompt, Message("assistant", text)
        messages = transcripts.answered(text, transcripts.HH, column)
    *context, last = messages
    answer = _answer(last, column)
    return (_joined(prompt, tuple(context), column) if context else prompt), answer


def _answer(last: Message, column: str) -> Message:
    """The last turn of a dialogue.

    Raises:
        DataError: it is not the assistant's, or says nothing and calls no tool.
    """
    if last.role != "assistant":
        raise DataError("expected the assistant last", field=column, value=last.role, reason="bad_messages")
    if not last.tool_calls:
        read.completion_text(last.content, column)
    return last


def _said(turn: Message, column: str) -> str:
    """The text of an answer that is compared or judged, its thoughts in front as a model writes them.

    Raises:
        DataError: it calls tools, which only demonstrations can hold.
    """
    if turn.tool_calls:
        raise DataError(
            "an answer that calls tools can be imitated (sft), not compared or judged",
            field=column,
            value=written(turn),
            reason="tool_call_completion",
        )
    return written(turn)


def _joined(prompt: Conversation, context: Conversation, column: str) -> Conversation:
    """The messages before a completion, which continue the row's prompt, or begin or end with it."""
    systems = [m for m in (*context, *prompt) if m.role == "system"]
    turns = tuple(m for m in dialogues.without_tools(context) if m.role != "system")
    asked = tuple(m for m in dialogues.without_tools(prompt) if m.role != "system")
    if turns and turns[0].role == "assistant":  # a completion of several turns, such as calls and answers
        turns = (*asked, *turns)
    if asked not in (turns[: len(asked)], turns[-len(asked) :]):
        raise DataError("does not continue the prompt", field=column, reason="prompt_mismatch")
    whole = offering((*systems[:1], *turns), (*prompt, *context))
    return _ended(whole, column)


def _ended(messages: Conversation, column: str) -> Conversation:
    """A prompt that says something and, being continued by the assistant, may end with any turn."""
    if messages and messages[-1].role == "assistant" and messages[-1].tool_calls:
        return messages
    return read.check_prompt(messages, column)


def _document(fields: Fields, provenance: Provenance) -> Document:
    value, column = fields.get("text")
    return Document(read.text(value, column, reason_if_empty="empty_text"), provenance)


def _prompt(fields: Fields, provenance: Provenance) -> Prompt:
    implicit = not has_prompt(fields) and fields.has("chosen", "rejected")
    prompt = _common_prompt(fields)[0] if implicit else prompt_of(fields)
    answer, constraints = None, ()
    if fields.has("answer"):
        value, column = fields.get("answer")
        answer = _reference(value, column, fields)
    if fields.has("constraints"):
        value, column = fields.get("constraints")
        items = enumerate(read.listed(value, column))
        constraints = tuple(dict(read.mapped(item, f"{column}[{k}]")) for k, item in items)
    return Prompt(prompt, answer, constraints, provenance)


def _reference(value: object, column: str, fields: Fields) -> str:
    """A reference answer as text; an object is one only where the reader was told so.

    Raises:
        DataError: an object, such as a constraint or the tests of a program, of which a verifier would
            take some number or word for the answer.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    said, told = value, "answer" in fields.mapped or fields.has("provenance")
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            said = loads(value)
    if isinstance(said, Mapping) and not told:
        raise DataError(
            f"is an object ({', '.join(map(str, said))}), not an answer that a verifier compares",
            field=column,
            value=value,
            reason="object_answer",
        )
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else read.text(value, column)


def _demonstration(fields: Fields, provenance: Provenance) -> Demonstration:
    prompt, turn, column = _demonstrated(fields)
    if fields.has("label") and read.verdict(fields.values["label"]) is False:
        raise DataError(
            "says that the answer is bad, so it is none to imitate; train kto on these rows",
            field=fields.columns["label"],
            value=fields.values["label"],
            reason="undesirable",
        )
    found = Demonstration(prompt, turn.content, provenance, turn.thinking, turn.tool_calls, turn.train)
    if not found.trained:
        raise DataError(
            "no turn of the assistant is to be trained (weight 0, loss or train false)",
            field=column,
            reason="nothing_to_train",
        )
    return found


def _demonstrated(fields: Fields) -> tuple[Conversation, Message, str]:
    """Prompt and turn to imitate of a row, and the column they come from."""
    if fields.has("completion"):
        prompt, turn = _completion(fields, "completion", prompt_of(fields))
        column = fields.columns["completion"]
        name, messages, own = turns_of_row(fields)
        if name == "messages" and messages[-1].role == "assistant" and messages[-1].content != turn.content:
            raise DataError(
                f"is not the answer that '{own}' ends with; keep one", field=column, reason="prompt_mismatch"
            )
        return prompt, turn, column
    if fields.has("sft_target"):
        value, column = fields.get("sft_target")
        if value not in ("chosen", "rejected"):
            raise DataError(
                "expected 'chosen' or 'rejected'", field=column, value=value, reason="unknown_label"
            )
        pair = _preference(fields, Provenance())
        text = pair.chosen if value == "chosen" else pair.rejected
        return as_context(pair.prompt), Message("assistant", text), column
    name, messages, column = turns_of_row(fields) if has_prompt(fields) else ("", (), "")
    while name == "messages" and messages and messages[-1].role != "assistant":
        messages = messages[:-1]  # a question that nobody answered
    if name == "messages" and messages:
        turn = _answer(messages[-1], column)
        prompt = offering(messages[:-1], messages)
        return _ended(prompt, column), replace(turn, tools=()), column
    # a reference answer is imitated only where a demonstration was asked for by name
    name = "answer" if fields.has("answer") else "completion"
    value, column = fields.get(name)
    return prompt_of(fields), Message("assistant", read.completion_text(value, column)), column


def _judged(fields: Fields) -> tuple[Conversation, str]:
    """Prompt and text of an answer that the row says something about."""
    prompt, turn, column = _demonstrated(fields)
    if turn.train is False:
        message = "the answer has weight 0, loss or train false, so that what is said of it does not count"
        raise DataError(message, field=column, reason="nothing_to_train")
    return prompt, _said(turn, column)


def _preference(fields: Fields, provenance: Provenance) -> Preference:
    probability = read.number(*fields.get("probability"), 0, 1) if fields.has("probability") else 1.0
    margin = read.number(*fields.get("margin"), 0, 1e6) if fields.has("margin") else 0.0
    if fields.has("response_a") and not fields.has("chosen"):
        better = read.side(*fields.get("preference"), fields.first_vote)
        first, second = ("response_b", "response_a") if better == "b" else ("response_a", "response_b")
        probability = 0.5 if better == "tie" else probability
    else:
        first, second = "chosen", "rejected"
    if not has_prompt(fields) and first == "chosen":
        prompt, chosen, rejected = _common_prompt(fields)
    else:
        asked = prompt_of(fields)
        prompt, better_turn = _completion(fields, first, asked)
        other, worse_turn = _completion(fields, second, asked)
        if other != prompt:
            raise DataError("answers another prompt", field=fields.columns[second], reason="prompt_mismatch")
        chosen, rejected = (
            _said(better_turn, fields.columns[first]),
            _said(worse_turn, fields.columns[second]),
        )
    return Preference(prompt, chosen, rejected, probability, margin, provenance)


def _common_prompt(fields: Fields) -> tuple[Conversation, str, str]:
    """Prompt, chosen and rejected out of two whole dialogues or texts that begin alike."""
    (one, one_name), (two, two_name) = fields.get("chosen"), fields.get("rejected")
    marks, others = transcripts.marks_of(one), transcripts.marks_of(two)
    if isinstance(one, str) and isinstance(two, str) and (marks is None or marks != others):
        return _common_lines(read.text(one, one_name), read.text(two, two_name))
    a, b = (_dialogue(value, name) for value, name in ((one, one_name), (two, two_name)))
    for answer, whole, name in ((one, b, one_name), (two, a, two_name)):
        if isinstance(answer, str) and transcripts.marks_of(answer) is None:  # beside a whole dialogue
            text = read.completion_text(answer, name)
            own = (*whole[:-1], Message("assistant", text))
            a, b = (own, b) if answer is one else (a, own)
    for messages, name in ((a, one_name), (b, two_name)):
        if messages[-1].role != "assistant":
            raise DataError("expected the assistant last", field=name, reason="bad_messages")
    if a[:-1] != b[:-1]:
        message = "the two dialogues differ before their last answer, so there is no common prompt"
        raise DataError(message, field=two_name, reason="diverging_dialogues")
    prompt = read.check_prompt(offering(a[:-1], a, fields), one_name)
    chosen, rejected = (_said(_answer(m[-1], n), n) for m, n in ((a, one_name), (b, two_name)))
    return prompt, chosen, rejected


def _dialogue(value: object, column: str) -> Conversation:
    if not isinstance(value, str):
        return dialogues.conversation(value, column)
    marks = transcripts.marks_of(value)
    return transcripts.answered(value, marks, column) if marks else (Message("assistant", value),)


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
    prompt, text = _judged(fields)
    return Label(prompt, text, read.truth(*fields.get("label")), provenance)


def _rating(fields: Fields, provenance: Provenance) -> Rating:
    prompt, text = _judged(fields)
    value, column = fields.get("scores")
    if isinstance(value, Mapping) or (isinstance(value, str) and value.lstrip().startswith("{")):
        given = read.mapped(value, column)
        scores = {str(name): _score(v, f"{column}.{name}", fields) for name, v in given.items()}
        if not scores:
            raise DataError("expected at least one score", field=column, value={}, reason="missing_field")
    else:
        scores = {"score": _score(value, column, fields)}
    return Rating(prompt, text, scores, provenance)


def _score(value: object, column: str, fields: Fields) -> float:
    """A score between 0 and 5; of another range, in its place between the ends of that."""
    low, high = fields.score_range or (0.0, 5.0)
    score = read.number(value, column, low, high)
    return score if fields.score_range is None else 5 * (score - low) / (high - low)


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
