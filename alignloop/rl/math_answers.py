r"""The final answer of a worked solution: find it, read it as an exact number, compare two of them.

One rule for both sides, completion and reference:

1. `final_answer` finds the answer: the last \boxed{…} or \fbox{…} (braces balanced), else what follows the
   last `####`, else the whole text behind the last `</think>`.
2. Equal texts are equal answers.
3. Two plain numbers are compared as exact rationals.
4. Everything else (fractions of roots, tuples, sets, equations, words) is compared by math-verify.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from fractions import Fraction
from typing import Any

from alignloop.errors import DataError

MAX_ANSWER = 400
"""Characters of an answer that are read; a longer one is compared as text only."""

_MAX_POWER = 64
_MAX_BOXES = 8
_INTEGER = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_DECIMAL = rf"(?:(?:{_INTEGER})(?:\.\d+)?|\.\d+)"
_FRACTIONAL = r"(?:\d+\s+)?\d+\s*/\s*0*[1-9]\d*(?![\d.])"
_POWERED = rf"{_DECIMAL}(?:[eE][-+]?\d{{1,2}}(?!\w)|(?:\^|\*\*)\d{{1,2}}(?!\w))?"
_UNSIGNED = rf"(?:{_FRACTIONAL}|{_POWERED})"
_LOOSE = re.compile(rf"(?<![\w.])[-+]?{_UNSIGNED}", re.ASCII)
_UNIT = r"(?:\s*(?:%|°|[^\W\d_]+[²³]?(?:/[^\W\d_]+)?))*"
_WITH_UNIT = re.compile(
    rf"(?:=|[A-Za-z]\s*=)?\s*[$€£¥₩]?\s*([-+]?)\s*[$€£¥₩]?\s*({_UNSIGNED})({_UNIT})\s*\.?", re.ASCII
)
_BOXES = re.compile(r"\\(?:boxed|fbox)\b\s*")
_SPACES = re.compile(r"\\[,;:! ]|~|\\q?quad\b|\\left\b|\\right\b|\\displaystyle\b")
_TEXTS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_WILD = re.compile(
    r"\d{4,}\s*!|[)}\]]\s*!|!\s*!|\^\s*\{?\s*-?\d{4,}|\*\*\s*-?\d{4,}|\^[^+\-*/=,]*\^|\*\*[^+\-*/=,]*\*\*"
)
"""Expressions whose value may take for ever to compute: large factorials, large powers, towers of powers."""


def final_answer(text: str) -> tuple[str, bool]:
    """The answer in a solution, and whether a mark (a box, `####`) says that it is one."""
    text = text.rpartition("</think>")[2]
    boxed = _last_box(text)
    if boxed is not None:
        return boxed.strip(), True
    _, mark, after = text.rpartition("####")
    if mark:
        return (after.strip().splitlines() or [""])[0].strip(), True
    return text.strip(), False


_MATHEMATICS = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$([^$\n]+)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


def _last_mathematics(text: str) -> str | None:
    """The last formula of running text, where no number comes after it."""
    found = None
    for found in _MATHEMATICS.finditer(text[-8 * MAX_ANSWER :]):  # noqa: B007 - the last one is wanted
        pass
    if found is None or re.search(r"\d", found.string[found.end() :]):
        return None
    return next(group for group in found.groups() if group is not None)


def _last_box(text: str) -> str | None:
    """Content of the last box; `\\boxed 7` boxes the next word. None without a box that is closed."""
    for start in reversed([match.end() for match in _BOXES.finditer(text)][-_MAX_BOXES:]):
        if start < len(text) and text[start] != "{":
            word = re.match(r"[^\s$]+", text[start:])
            if word is not None:
                return word[0]
            continue
        depth = 0
        for at in range(start, len(text)):
            escaped = text[at - 1] == "\\"
            depth += ((text[at] == "{") - (text[at] == "}")) * (not escaped)
            if depth == 0:
                return text[start + 1 : at]
    return None


def as_text(answer: str) -> str:
    """An answer in the form in which equal ones are equal texts: NFKC, no LaTeX spacing, no dollars."""
    text = unicodedata.normalize("NFKC", answer).replace("−", "-").replace("⁄", "/")
    text = text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%").replace("$", "")
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b", "°", _SPACES.sub("", text))
    text = _TEXTS.sub(r" \1 ", text)
    return " ".join(text.split()).rstrip(".").strip()


def plain_number(answer: str) -> Fraction | None:
    r"""The exact value of an answer that is one number and nothing else, or None.

    Read are signs, decimals, thousands separators, a/b, mixed numbers (`3 1/7`, `3\frac{1}{2}`), `\frac`,
    small powers (`10^{5}`, `10**3`), `1.5e3`; ignored are a unit behind (`12 km`, `%`, `°`), a currency sign,
    and `x =` in front.
    """
    text = as_text(answer)
    if len(text) > MAX_ANSWER:
        return None
    whole = _WITH_UNIT.fullmatch(_without_fractions(text))
    return _value(whole[1] + whole[2]) if whole is not None else None


def last_number(text: str) -> Fraction | None:
    """The last number in running text, or None. A sign belongs to it only after white space or a bracket."""
    found = None
    for found in _LOOSE.finditer(_without_fractions(as_text(text))):  # noqa: B007 - the last one is wanted
        pass
    return _value(found[0]) if found is not None else None


def first_number(text: str) -> Fraction | None:
    """The first number in a text, or None."""
    found = _LOOSE.search(_without_fractions(as_text(text)))
    return _value(found[0]) if found is not None else None


def _without_fractions(text: str) -> str:
    r"""`-3\frac{1}{2}` as `-3 1/2`, `\frac{-1}{2}` as `-1/2`, `10^{5}` as `10^5`, `(7)` as `7`."""
    text = re.sub(r"\^\s*\{\s*(\d+)\s*\}", r"^\1", text)
    text = _FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]}", text)
    text = re.sub(r"^([-+])\s+", r"\1", text.strip())
    bare = re.fullmatch(r"\(([^()]*)\)", text)
    return bare[1] if bare is not None else text


def _value(number: str) -> Fraction | None:
    """The value of a signed text that `_UNSIGNED` matches; None where it is too long for one."""
    if len(number) > MAX_ANSWER:
        return None
    sign = -1 if number.startswith("-") else 1
    text = number.lstrip("+-").replace(",", "")
    if "/" in text:
        top, _, bottom = text.partition("/")
        *whole, numerator = top.split()
        return sign * (Fraction(int(numerator), int(bottom)) + (int(whole[0]) if whole else 0))
    base, power, exponent = re.fullmatch(r"(.*?)(?:(\^|\*\*)(\d+))?", text).groups()  # pyright: ignore[reportOptionalMemberAccess]
    if power is None:
        return sign * Fraction(base)
    return sign * Fraction(base) ** int(exponent) if int(exponent) <= _MAX_POWER else None


def check_reference(answer: str) -> None:
    """Refuse a reference that no completion could be compared with.

    Raises:
        DataError: it is empty, a JSON object, too long, or broken LaTeX.
    """
    found, _ = final_answer(answer)
    if not found:
        raise DataError("the reference answer is empty", field="answer", value=answer)
    if re.match(r"\s*[\[{]\s*(\"|\{\s*\")", answer):
        raise DataError(
            "the reference answer is a JSON object, which the verifier 'math' does not compare; use "
            "json_schema, constraints or a reward function",
            field="answer",
            value=answer,
        )
    if len(found) > MAX_ANSWER and plain_number(found) is None and last_number(found) is None:
        raise DataError(
            f"the reference answer has {len(found)} characters; mark the answer itself by ####",
            field="answer",
            value=answer,
        )
    if "\\" in found and reference_number(answer) is None and not _parsed(f"${found.strip('$')}$"):
        raise DataError("the reference answer is no expression", field="answer", value=answer)


def same_answer(completion: str, reference: str) -> bool:
    """Whether a completion's final answer is the reference's, by the rules of this module."""
    given, marked = final_answer(completion)
    wanted, _ = final_answer(reference)
    if not given or not wanted:
        return False
    if as_text(given).casefold() == as_text(wanted).casefold():
        return True
    formula = None if marked else _last_mathematics(given)
    if formula is not None:
        given, marked = formula, True
    number = reference_number(reference)
    if number is not None:
        own = plain_number(given)
        if own is None and not marked:
            own = last_number(given)
        elif own is None and "####" in completion:
            own = first_number(given)
        if own is not None:
            return own == number
    return _equal_mathematics(given, marked, wanted)


def reference_number(reference: str) -> Fraction | None:
    """A reference's number: a plain one, the first behind `####`, or the only number of a sentence."""
    wanted, marked = final_answer(reference)
    number = plain_number(wanted)
    if number is not None:
        return number
    if marked and "####" in reference and "\\box" not in reference:
        return first_number(wanted) if "\\" not in wanted else None
    prose = len(re.findall(r"[^\W\d_]{2,}", wanted)) >= 3 and "\\" not in wanted and "$" not in wanted
    return last_number(wanted) if prose else None


def _equal_mathematics(given: str, marked: bool, wanted: str) -> bool:
    """Equality by math-verify. An unmarked completion is searched for its last expression."""
    if len(wanted) > MAX_ANSWER or (marked and len(given) > MAX_ANSWER):
        return False
    searched = given[-4 * MAX_ANSWER :]
    if _WILD.search(searched) or _WILD.search(wanted):
        return False
    from math_verify import verify

    expected = _parsed(f"${wanted.strip('$')}$")
    found = _parsed(f"$\\boxed{{{given.strip('$')}}}$" if marked else searched)
    return bool(verify(expected, found, timeout_seconds=_time_limit()))


def _parsed(text: str) -> list[Any]:
    """What math-verify reads; nothing where it finds texts only."""
    from math_verify import parse

    found = parse(text, parsing_timeout=_time_limit())
    return [] if all(isinstance(one, str) for one in found) else found


def _time_limit() -> Any:
    """Seconds for reading and for comparing; None in other threads, where no signal can be waited for."""
    return 5 if threading.current_thread() is threading.main_thread() else None
