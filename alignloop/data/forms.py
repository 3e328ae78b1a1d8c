"""Which columns make which record: names, and guessing the kind of a row.

| columns | record |
|---|---|
| text | Document |
| prompt, or instruction with optional input; optional system, history, tools, answer, constraints | Prompt |
| a prompt and completion (response, output); messages that end with the assistant | Demonstration |
| chosen and rejected, as text, messages or whole dialogues with a common beginning | Preference |
| response_a, response_b and preference (A, B or tie) | Preference |
| a prompt, completion and label | Label |
| a prompt, completion and score (0–5, or an object of attributes) | Rating |
| a prompt, responses and ranking (`ranking[k]` is the rank of `responses[k]`, 1 the best) | Ranking |
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from alignloop.data import messages, transcripts
from alignloop.data import values as read
from alignloop.data.paths import at
from alignloop.errors import DataError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "본문", "문서"),
    "messages": ("messages", "conversations", "대화"),
    "system": ("system", "system_prompt", "시스템"),
    "tools": ("tools", "functions"),
    "history": ("history",),
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
    *("id", "prompt_id", "source", "subset", "model", "model_a", "model_b", "annotator", "judge", "seed"),
    "guideline",
)
"""Columns kept as provenance details when they hold a plain value."""

SCORES = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
"""Columns with scores of the two answers of a pair, the chosen one's first."""

_ASKED = (
    *("prompt", "instruction", "input", "instances", "messages", "system", "history", "tools"),
    "provenance",
)
_ANSWERED = (*_ASKED, "completion", "answer")
_READ: Mapping[str, tuple[str, ...]] = {
    "document": ("text", "provenance"),
    "prompt": (*_ASKED, "answer", "constraints", "chosen", "rejected"),
    "demonstration": (*_ANSWERED, "label", "sft_target", "chosen", "rejected"),
    "preference": (
        *(*_ASKED, "chosen", "rejected", "response_a", "response_b", "preference"),
        *("probability", "margin"),
    ),
    "label": (*_ANSWERED, "label"),
    "rating": (*_ANSWERED, "scores"),
    "ranking": (*_ASKED, "responses", "ranking"),
}
"""Fields that records of each kind are made of."""

_FIELD_OF = {alias: field for field, aliases in ALIASES.items() for alias in aliases}
_OPTIONAL = frozenset(
    ("text", "system", "input", "answer", "constraints", "probability", "margin", "sft_target")
) | {"tools", "history"}


@dataclass(frozen=True, slots=True)
class Fields:
    """The known fields of one row, absent and null being the same.

    Attributes:
        values: by field name.
        columns: the column each field was found in.
        row: all column names of the row.
        details: plain values that tell where the row comes from.
        empty: columns that hold nothing.
        mapped: fields that the reader was told the columns of.
        score_range: lowest and highest score, None where nothing was said.
        first_vote: the number that votes for the first of two answers.
    """

    values: Mapping[str, object]
    columns: Mapping[str, str]
    row: tuple[str, ...]
    details: Mapping[str, str | int | float | bool]
    empty: frozenset[str] = frozenset()
    mapped: frozenset[str] = frozenset()
    score_range: tuple[float, float] | None = None
    first_vote: int = 0

    @property
    def unused(self) -> tuple[str, ...]:
        """Columns of the row that hold something and that nothing is read from."""
        taken = {*self.columns.values(), *self.details, *self.empty}
        return tuple(name for name in self.row if name not in taken)

    def unread(self, kind: str) -> tuple[str, ...]:
        """Columns of the row that hold something and that say nothing in a record of this kind."""
        idle = {column for field, column in self.columns.items() if field not in _READ[kind]}
        if kind == "demonstration" and read.verdict(self.values.get("label")) is None:
            idle.add(self.columns.get("label", ""))
        rest = set(self.unused)
        return tuple(name for name in self.row if name in rest or (name in idle and name not in self.empty))

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
            raise DataError(
                f"is missing (also accepted: {others}); the row has {', '.join(self.row) or 'no columns'}",
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
        field = _FIELD_OF.get(plain(name))
        if field is None:
            close = difflib.get_close_matches(plain(name), _FIELD_OF, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"accepted are {', '.join(ALIASES)}"
            raise DataError(f"columns: unknown field '{name}'; {hint}", reason="unknown_field")
        mapping[field] = column
    return mapping


def plain(name: str) -> str:
    """A column name as names are compared: composed, without case and outer white space."""
    # macOS writes Korean file contents decomposed; composed and decomposed names are the same column
    return unicodedata.normalize("NFC", name).strip().casefold()


def fields_of(
    row: Mapping[str, object], mapping: Mapping[str, str], whole: Mapping[str, object] | None = None
) -> Fields:
    """The fields of a row: mapped columns first, the others by their names.

    Args:
        row: columns and values.
        mapping: {field: column}; a column may be a path into objects, or `one - other` for a difference.
        whole: the row as it stands in the file, where a published form took columns out of it.

    Returns:
        The fields that are there.

    Raises:
        DataError: a mapped column that the row does not have, or several Self-Instruct instances.
    """
    found: dict[str, object] = {}
    columns: dict[str, str] = {}
    whole = {**(whole or {}), **row}
    for field, column in mapping.items():
        subtract = _DIFFERENCE in column and column not in whole
        value = _difference(whole, column) if subtract else at(whole, column)
        if value is None and column not in whole:
            message = f"columns maps it to '{column}', which this row lacks; it has {', '.join(whole)}"
            raise DataError(message, field=field, reason="missing_field")
        found[field], columns[field] = value, column
    rest = {plain(str(name)): str(name) for name in row if name not in mapping.values()}
    for alias, field in _FIELD_OF.items():
        if alias in rest and field not in columns and row[rest[alias]] is not None:
            if row[rest[alias]] == "" and field in _OPTIONAL:
                continue
            found[field], columns[field] = row[rest[alias]], rest[alias]
    own = {name: row[name] for name in DETAILS if isinstance(row.get(name), str | int | float | bool)}
    details = {name: value for name, value in own.items() if value == value}  # without NaN
    if "instances" in found and "instruction" in found:
        _add_instance(found, columns)
    present = {field: value for field, value in found.items() if value is not None}
    empty = frozenset(str(name) for name, value in row.items() if _is_empty(value))
    return Fields(present, columns, tuple(map(str, row)), details, empty, frozenset(mapping))  # pyright: ignore[reportArgumentType]


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | list | dict | tuple) and len(value) == 0)


_DIFFERENCE = " - "


def _difference(row: Mapping[str, object], column: str) -> object:
    """The difference of two columns with numbers; None where one is not there."""
    names = [name.strip() for name in column.split(_DIFFERENCE, 1)]
    one, two = (at(row, name) for name in names)
    if one is None or two is None:
        return None
    return read.number(one, names[0], -1e9, 1e9) - read.number(two, names[1], -1e9, 1e9)


def _add_instance(found: dict[str, object], columns: dict[str, str]) -> None:
    """Self-Instruct rows keep input and output in a list with one object."""
    items = read.listed(found.pop("instances"), "instances")
    if len(items) != 1 or not isinstance(items[0], Mapping):
        raise DataError("expected one object", field="instances", value=items, reason="several_instances")
    for name, field in (("input", "input"), ("output", "completion")):
        if items[0].get(name):
            found[field], columns[field] = items[0][name], f"instances[0].{name}"


def against_scores(row: Mapping[str, object]) -> bool:
    """Whether a pair's own scores say that the rejected answer is the better one."""
    for better, worse in SCORES:
        one, two = row.get(better), row.get(worse)
        if isinstance(one, int | float) and isinstance(two, int | float) and one < two:
            return True
    return False


def prompt_is_guessed(fields: Fields) -> bool:
    """Whether a pair's prompt is nothing but the lines that its two texts have in common."""
    if has_prompt(fields) or not fields.has("chosen", "rejected"):
        return False
    return all(
        isinstance(fields.values[name], str) and transcripts.marks_of(fields.values[name]) is None
        for name in ("chosen", "rejected")
    )


def guess_kind(fields: Fields) -> str:
    """The kind of record a row is.

    Raises:
        DataError: the columns fit no kind, or two labelled kinds (`ambiguous`).
    """
    answered = fields.has("completion") or (not fields.has("chosen") and is_answered(fields))
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
    if has_prompt(fields):
        return "prompt"
    if fields.has("text"):
        return "document"
    found = ", ".join(fields.row) or "none"
    raise DataError(
        f"the columns ({found}) fit no known form; name yours with columns", reason="unknown_form"
    )


def _check_orphans(fields: Fields) -> None:
    """A label without what it labels is a mistake, not a row of another kind."""
    pairs = (("chosen", "rejected"), ("rejected", "chosen"), ("response_a", "response_b"))
    pairs += (("response_b", "response_a"), ("response_a", "preference"), ("preference", "response_a"))
    pairs += (("responses", "ranking"), ("ranking", "responses"))
    if has_prompt(fields):
        pairs += (("label", "completion"), ("scores", "completion"))
    for one, other in pairs:
        if fields.has(one) and not fields.has(other):
            message = f"is missing beside '{fields.columns[one]}'; the row has {', '.join(fields.row)}"
            raise DataError(message, field=other, reason="missing_field")


def has_prompt(fields: Fields) -> bool:
    """Whether a column holds the prompt."""
    return any(fields.has(name) for name in ("prompt", "messages", "instruction", "input"))


def is_answered(fields: Fields) -> bool:
    """Whether the row's messages end with the assistant."""
    if not fields.has("messages"):
        return False
    return messages.conversation(*fields.get("messages"))[-1].role == "assistant"
