"""Which columns make which record: names, guessing the kind of a row, building the record.

| columns | record |
|---|---|
| text | Document |
| prompt, or instruction with optional input; optional system, answer, constraints | Prompt |
| a prompt and completion (response, output); messages or conversations that end with the assistant | Demonstration |
| chosen and rejected, as text, messages or whole dialogues with a common beginning | Preference |
| response_a, response_b and preference (A, B or tie) | Preference |
| a prompt, completion and label | Label |
| a prompt, completion and score (0–5, or an object of attributes) | Rating |
| a prompt, responses and ranking (`ranking[k]` is the rank of `responses[k]`, 1 the best) | Ranking |
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from alignloop.data import values as read
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

ALIASES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "본문", "문서"),
    "messages": ("messages", "conversations", "대화"),
    "system": ("system", "system_prompt", "시스템"),
    "prompt": ("prompt", "question", "query", "프롬프트", "질문"),
    "instruction": ("instruction", "지시", "지시문", "명령"),
    "input": ("input", "context", "입력"),
    "completion": ("completion", "response", "output", "응답", "답변", "출력"),
    "chosen": ("chosen", "선택"),
    "rejected": ("rejected", "거절"),
    "response_a": ("response_a", "응답_a", "답변_a"),
    "response_b": ("response_b", "응답_b", "답변_b"),
    "preference": ("preference", "선호"),
    "label": ("label", "라벨", "평가"),
    "responses": ("responses", "completions", "응답들", "답변들"),
    "ranking": ("ranking", "ranks", "순위"),
    "scores": ("scores", "score", "rating", "점수"),
    "answer": ("answer", "ground_truth", "정답"),
    "constraints": ("constraints", "제약"),
    "probability": ("probability",),
    "margin": ("margin",),
    "sft_target": ("sft_target",),
    "instances": ("instances",),
    "provenance": ("provenance",),
}
"""Fields and the column names they are found under, in order; case does not matter."""

DETAILS = (
    "id",
    "prompt_id",
    "source",
    "model",
    "model_a",
    "model_b",
    "annotator",
    "judge",
    "seed",
    "guideline",
)
"""Columns kept as provenance details when they hold a plain value."""

_FIELD_OF = {alias: field for field, aliases in ALIASES.items() for alias in aliases}
_OPTIONAL = frozenset(
    ("text", "system", "input", "answer", "constraints", "probability", "margin", "sft_target")
)
ORIGINS = ("human", "ai", "simulated", "derived", "unknown")


@dataclass(frozen=True, slots=True)
class Fields:
    """The known fields of one row, and the column each was found in. Absent and null are the same."""

    values: Mapping[str, object]
    columns: Mapping[str, str]
    details: Mapping[str, str | int | float | bool]

    def has(self, *names: str) -> bool:
        """Whether all these fields are there."""
        return all(name in self.values for name in names)

    def get(self, name: str) -> tuple[object, str]:
        """Value and column name of a field.

        Raises:
            DataError: the row does not have it.
        """
        if name not in self.values:
            others = ", ".join(ALIASES[name])
            found = ", ".join(self.columns.values()) or "none that is known"
            raise DataError(
                f"is missing (also accepted: {others}); the row has {found}",
                field=name,
                reason="missing_field",
            )
        return self.values[name], self.columns[name]


def check_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """A `columns:` mapping {field: column of the file} with its fields in canonical spelling.

    Raises:
        DataError: a field that no record has.
    """
    mapping = {}
    for name, column in (columns or {}).items():
        field = _FIELD_OF.get(_plain(name))
        if field is None:
            close = difflib.get_close_matches(_plain(name), _FIELD_OF, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"accepted are {', '.join(ALIASES)}"
            raise DataError(f"columns: unknown field '{name}'; {hint}", reason="unknown_field")
        mapping[field] = column
    return mapping


def _plain(name: str) -> str:
    # macOS writes Korean file contents decomposed; composed and decomposed names are the same column
    return unicodedata.normalize("NFC", name).strip().casefold()


def fields_of(row: Mapping[str, object], mapping: Mapping[str, str]) -> Fields:
    """The fields of a row: mapped columns first, the others by their names.

    Raises:
        DataError: a mapped column that the row does not have, or several Self-Instruct instances.
    """
    found: dict[str, object] = {}
    columns: dict[str, str] = {}
    for field, column in mapping.items():
        if column not in row:
            message = f"columns maps it to '{column}', which this row does not have; it has {', '.join(row)}"
            raise DataError(message, field=field, reason="missing_field")
        found[field], columns[field] = row[column], column
    rest = {_plain(str(name)): str(name) for name in row if name not in mapping.values()}
    for alias, field in _FIELD_OF.items():
        if alias in rest and field not in columns and row[rest[alias]] is not None:
            if row[rest[alias]] == "" and field in _OPTIONAL:
                continue
            found[field], columns[field] = row[rest[alias]], rest[alias]
    details = {name: row[name] for name in DETAILS if isinstance(row.get(name), str | int | float | bool)}
    if "instances" in found and "instruction" in found:
        _add_instance(found, columns)
    present = {field: value for field, value in found.items() if value is not None}
    return Fields(present, columns, details)  # pyright: ignore[reportArgumentType]


def _add_instance(found: dict[str, object], columns: dict[str, str]) -> None:
    """Self-Instruct rows keep input and output in a list with one object."""
    items = read.structured(found.pop("instances"), "instances", list)
    assert isinstance(items, Sequence)
    if len(items) != 1 or not isinstance(items[0], Mapping):
        raise DataError("expected one object", field="instances", value=items, reason="several_instances")
    for name, field in (("input", "input"), ("output", "completion")):
        if items[0].get(name):
            found[field], columns[field] = items[0][name], f"instances[0].{name}"


def guess_kind(fields: Fields) -> str:
    """The kind of record a row is.

    Raises:
        DataError: the columns fit no kind, or two labelled kinds (`ambiguous`).
    """
    answered = fields.has("completion") or _is_answered(fields)
    signs = {
        "preference": fields.has("chosen", "rejected")
        or fields.has("response_a", "response_b", "preference"),
        "ranking": fields.has("responses", "ranking"),
        "label": answered and fields.has("label"),
        "rating": answered and fields.has("scores"),
    }
    labelled = [kind for kind, there in signs.items() if there]
    if len(labelled) > 1:
        raise DataError(
            f"{', '.join(fields.columns.values())} fit a {' and a '.join(labelled)}; say which with kind",
            reason="ambiguous",
        )
    if labelled:
        return labelled[0]
    _check_orphans(fields)
    if answered:
        return "demonstration"
    if _has_prompt(fields):
        return "prompt"
    if fields.has("text"):
        return "document"
    found = ", ".join(fields.columns.values()) or "none"
    raise DataError(
        f"no known form; known columns found: {found}; name yours with columns", reason="unknown_form"
    )


def _check_orphans(fields: Fields) -> None:
    """A label without what it labels is a mistake, not a row of another kind."""
    pairs = (("chosen", "rejected"), ("rejected", "chosen"), ("response_a", "response_b"))
    pairs += (("response_b", "response_a"), ("response_a", "preference"), ("preference", "response_a"))
    pairs += (("responses", "ranking"), ("ranking", "responses"))
    if _has_prompt(fields):
        pairs += (("label", "completion"), ("scores", "completion"))
    for one, other in pairs:
        if fields.has(one) and not fields.has(other):
            raise DataError(f"is missing beside '{fields.columns[one]}'", field=other, reason="missing_field")


def _has_prompt(fields: Fields) -> bool:
    return any(fields.has(name) for name in ("prompt", "messages", "instruction", "input"))


def _is_answered(fields: Fields) -> bool:
    if not fields.has("messages"):
        return False
    return read.conversation(*fields.get("messages"))[-1].role == "assistant"


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
    if isinstance(value, str) and name != "messages":
        if read.is_transcript(value) and value.rstrip().endswith("\n\nAssistant:"):
            messages = read.transcript(value, column)[:-1]
        else:
            messages = (Message("user", read.text(value, column, reason_if_empty="empty_prompt")),)
    else:
        messages = read.conversation(value, column)
        if name == "messages" and messages[-1].role == "assistant":
            messages = messages[:-1]
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
    whole = isinstance(value, str) and value.startswith("\n\nHuman:")
    if isinstance(value, str) and not (whole and isinstance(fields.values.get("prompt"), str)):
        return prompt, read.completion_text(value, column)
    if isinstance(value, Mapping):
        value = [value]
    messages = read.transcript(value, column) if isinstance(value, str) else read.conversation(value, column)
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
    implicit = not _has_prompt(fields) and fields.has("chosen", "rejected")
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
    if fields.has("messages") and _is_answered(fields):
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
    if not _has_prompt(fields) and first == "chosen":
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
