"""One field of a row as a value: text, transcripts, numbers, labels, ranks; messages are in `messages`.

Every function raises DataError without file and line; the reader adds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignloop.errors import DataError
from alignloop.foreign import loads
from alignloop.records import Conversation

INPUT_MARK = "\n\nInput:\n"
"""Stands between an instruction and its input in a user message; the alpaca template knows it."""

_GOOD = frozenset(("good", "true", "1", "1.0", "+1", "desirable", "좋아요", "좋음", "👍"))
_BAD = frozenset(("bad", "false", "0", "0.0", "-1", "-1.0", "undesirable", "싫어요", "나쁨", "👎"))
_LABELS = "good/bad, true/false, 1/0 or 좋아요/싫어요"
_FIRST = (
    "a response_a model_a left answer_a answer1 answer_1 response1 response_1 model1 model_1 output_1 "
    "option_a first > a>b a>>b b<a 1>2 왼쪽 가 첫째"
)
_SECOND = (
    "b response_b model_b right answer_b answer2 answer_2 response2 response_2 model2 model_2 output_2 "
    "option_b second < b>a b>>a a<b 2>1 오른쪽 나 둘째"
)
_TIE = "tie equal same = a=b b=a draw both neither bothbad both_bad [[c]] 무승부 동점 비슷 비김"
_SIDES: dict[str, str] = {
    **dict.fromkeys(_FIRST.split(), "a"),
    **dict.fromkeys(_SECOND.split(), "b"),
    **dict.fromkeys([*_TIE.split(), "tie (bothbad)", "tie (both bad)", "both bad", "no preference"], "tie"),
}
"""How tools write which of two answers is better."""


def text(value: object, field: str, *, reason_if_empty: str = "") -> str:
    """A string as it is; with `reason_if_empty`, nothing but white space is a fault of that name."""
    if not isinstance(value, str):
        raise unexpected("text", value, field)
    if reason_if_empty and not value.strip():
        raise DataError("expected text, found none", field=field, value=value, reason=reason_if_empty)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "holds half a surrogate pair, which is no character", field=field, reason="invalid_unicode"
        ) from error
    return value


def completion_text(value: object, field: str) -> str:
    """Text of a completion, which must hold more than white space."""
    return text(value, field, reason_if_empty="empty_completion")


def number(value: object, field: str, low: float, high: float) -> float:
    """A finite number within [low, high]; digits in a string count (CSV), a truth value does not."""
    expected = f"a number from {low:g} to {high:g}"
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise DataError(f"expected {expected}", field=field, value=value, reason="wrong_type") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise unexpected(expected, value, field)
    if not low <= value <= high:  # which NaN is not, either
        raise DataError(f"expected {expected}", field=field, value=value, reason="out_of_range")
    return float(value)


def truth(value: object, field: str) -> bool:
    """True for a good completion, False for a bad one."""
    found = verdict(value)
    if found is None:
        raise DataError(f"expected {_LABELS}", field=field, value=value, reason="unknown_label")
    return found


def verdict(value: object) -> bool | None:
    """True for good, False for bad, None for what says neither, such as the label of a class."""
    key = str(value).strip().casefold() if isinstance(value, bool | int | float | str) else ""
    return True if key in _GOOD else False if key in _BAD else None


def is_true(value: object) -> bool:
    """Whether a flag is set; CSV files have it as text."""
    return value is True or str(value).strip().casefold() in ("true", "1", "1.0")


def side(value: object, field: str, first: int = 0) -> str:
    """`a`, `b` or `tie`; of numbers, `first` is the first answer, the next one the second, ½ more a tie.

    Raises:
        DataError: no vote; reason `counts_from_1` for a 2 where `first` is 0, and `two_counts` for a 0
            where it is 1.
    """
    plain = value.strip().casefold() if isinstance(value, str) else value
    vote = _vote(plain)
    if vote is not None and vote - first in _NUMBERED:
        return _NUMBERED[vote - first]
    found = _SIDES.get(plain) or _SIDES.get(plain.strip("[]")) if isinstance(plain, str) else None
    if found is None:
        raise DataError(
            "expected A, B or tie (or left/right, model_a/model_b, 0/1 with 0 the first, …)",
            field=field,
            value=value,
            reason=_miscounted(vote, first),
        )
    return found


def _miscounted(vote: float | None, first: int) -> str:
    """Why a vote is no side: it counts from 1, it counts from 0 besides, or nothing is known of it."""
    if first == 0 and vote == 2:
        return "counts_from_1"
    return "two_counts" if first == 1 and vote == 0 else "unknown_label"


_NUMBERED = {0: "a", 1: "b", 0.5: "tie"}


def _vote(value: object) -> float | None:
    """A vote that is a number, also as text (CSV); a truth value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def listed(value: object, field: str) -> Sequence[Any]:
    """A list; a string holding its JSON counts too (CSV)."""
    found = _structured(value, field)
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise unexpected("a list […]", found, field)
    return found


def mapped(value: object, field: str) -> Mapping[str, Any]:
    """An object; a string holding its JSON counts too (CSV)."""
    found = _structured(value, field)
    if not isinstance(found, Mapping):
        raise unexpected("an object {…}", found, field)
    return found


def unexpected(expected: str, value: object, field: str, reason: str = "wrong_type") -> DataError:
    """The fault of a value of another type than is expected."""
    return DataError(
        f"expected {expected}, found {type_name(value)}", field=field, value=value, reason=reason
    )


def _structured(value: object, field: str) -> object:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = loads(value)
        except ValueError as error:
            raise DataError(
                f"broken JSON in the field ({error})", field=field, value=value, reason="wrong_type"
            ) from error
    return value


def texts(value: object, field: str) -> tuple[str, ...]:
    """At least two completions."""
    items = listed(value, field)
    found = tuple(completion_text(item, f"{field}[{k}]") for k, item in enumerate(items))
    if len(found) < 2:
        raise DataError(
            "expected at least two responses", field=field, value=list(items), reason="too_few_responses"
        )
    return found


def ranks(value: object, field: str, count: int) -> tuple[int, ...]:
    """`ranks[k]` is the rank of the k-th response, 1 the best; responses of equal worth share a rank.

    [1, 4, 2, 3] says: the first response is the best, the third comes second, the second is last.
    With ties, the usual ways of counting on are accepted: 1 2 2 4, 1 3 3 4 and 1 2 2 3.
    """
    items = listed(value, field)
    meaning = f"expected {count} ranks, one for each response in its place, 1 the best, ties allowed"
    found = tuple(int(r) for r in items if _is_whole(r))
    if len(found) != len(items) or len(found) != count:
        raise DataError(meaning, field=field, value=list(items), reason="not_a_ranking")
    distinct = sorted(set(found))
    first = tuple(1 + sum(other < r for other in found) for r in found)
    last = tuple(sum(other <= r for other in found) for r in found)
    dense = tuple(1 + distinct.index(r) for r in found)
    if found not in (first, last, dense):
        raise DataError(
            f"{meaning}; these are no ranking", field=field, value=list(items), reason="not_a_ranking"
        )
    return found


def _is_whole(value: object) -> bool:
    """Whether a value is a whole number; NaN and infinity (1e400) are none."""
    return type(value) is int or (isinstance(value, float) and value.is_integer())


def check_prompt(messages: Conversation, field: str) -> Conversation:
    """A prompt says something and ends with a user message or a tool's answer.

    Raises:
        DataError: it does not; reasons `empty_prompt`, `prompt_not_user`.
    """
    if not messages or not any(m.content.strip() for m in messages if m.role != "system"):
        raise DataError("expected text, found none", field=field, reason="empty_prompt")
    if messages[-1].role not in ("user", "tool"):
        raise DataError(
            "a prompt must end with a user message or a tool's answer",
            field=field,
            value=messages[-1].role,
            reason="prompt_not_user",
        )
    return messages


def type_name(value: object) -> str:
    """What a value is, for an error's sentence."""
    names = {type(None): "nothing", bool: "true/false", int: "a number", float: "a number", str: "text"}
    return names.get(
        type(value),
        "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "other",
    )
