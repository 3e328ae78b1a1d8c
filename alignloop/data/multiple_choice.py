"""Multiple-choice questions in their published forms: a question, its choices, and which are right.

Each form is one entry of `FORMS`; the first that fits a row is its form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from alignloop.data import values as read
from alignloop.data.paths import at
from alignloop.errors import DataError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(r"\(?([A-Z])[).]?")

Row = Mapping[str, Any]
Choices = Callable[[Row], tuple[str, ...]]
Right = Callable[[Row, tuple[str, ...]], tuple[bool, ...]]


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question with its choices.

    Attributes:
        question: its text, with what has to be read before it.
        choices: texts, in their order.
        right: whether each is right; at least one is.
        told: whether the question's own text names the choices already, so that `choices` are their marks.
    """

    question: str
    choices: tuple[str, ...]
    right: tuple[bool, ...]
    told: bool = False


@dataclass(frozen=True, slots=True)
class ChoiceForm:
    """One published form.

    Attributes:
        name: of the data set.
        needs: paths at which a row of this form has something.
        question: paths of the texts that make the question, joined by blank lines; absent ones are left out.
        choices: how the choices are read.
        right: how it is read which of them are right.
        told: whether the question's text names the choices.
        lacks: columns that a row of this form does not have.
        text: what the text at the first of `needs` holds.
    """

    name: str
    needs: tuple[str, ...]
    question: tuple[str, ...]
    choices: Choices
    right: Right
    told: bool = False
    lacks: tuple[str, ...] = ()
    text: re.Pattern[str] | None = None

    def fits(self, row: Row) -> bool:
        """Whether a row has this form."""
        if any(at(row, path) is None for path in self.needs) or any(name in row for name in self.lacks):
            return False
        return self.text is None or self.text.search(str(at(row, self.needs[0]))) is not None

    def read(self, row: Row) -> ChoiceQuestion:
        """The question of a row.

        Raises:
            DataError: a missing, wrong or empty field; it does not name the file.
        """
        parts = [read.text(v, path).strip() for path in self.question if (v := at(row, path)) is not None]
        choices = self.choices(row)
        if not any(parts):
            raise DataError("expected text, found none", field=self.question[-1], reason="empty_prompt")
        if not 2 <= len(choices) <= len(LETTERS):
            raise DataError(
                f"expected 2 to {len(LETTERS)} choices", field="choices", value=choices, reason="choices"
            )
        return ChoiceQuestion("\n\n".join(filter(None, parts)), choices, self.right(row, choices), self.told)


def listed(path: str) -> Choices:
    """Choices in a list of texts or numbers."""

    def choices(row: Row) -> tuple[str, ...]:
        value = at(row, path)
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = _list_in_text(value)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str | int | float) for v in value):
            raise DataError(
                "expected a list of texts", field=path.partition(".")[0], value=value, reason="wrong_type"
            )
        return tuple(str(item).strip() for item in value)

    return choices


def _list_in_text(text: str) -> object:
    """A list in a text, as JSON or as Python writes it; the text itself if it is none."""
    import ast

    try:
        return read.listed(text, "choices")
    except DataError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text


def columns(*paths: str) -> Choices:
    """Choices in columns of their own; trailing ones may be absent."""

    def choices(row: Row) -> tuple[str, ...]:
        found = [at(row, path) for path in paths]
        while found and found[-1] in (None, ""):
            found.pop()
        for path, value in zip(paths, found, strict=False):
            if not isinstance(value, str | int | float) or str(value).strip() == "":
                raise DataError("expected text", field=path, value=value, reason="wrong_type")
        return tuple(str(value).strip() for value in found)

    return choices


def fixed(*texts: str) -> Choices:
    """The same choices in each row."""
    return lambda row: texts


def marks_in(path: str) -> Choices:
    """Choices that the question's text names by (A), (B), …, in their order."""
    return lambda row: tuple(dict.fromkeys(re.findall(r"\([A-Z]\)", str(at(row, path)))))


def one(path: str, first: int = 0, *, marks_first: bool = False) -> Right:
    """The one right choice: its place counted from `first`, its letter, or its text.

    A text that is a choice and also a number or letter is the choice, with `marks_first` the number or
    letter.
    """

    def right(row: Row, choices: tuple[str, ...]) -> tuple[bool, ...]:
        value = at(row, path)
        said = str(value).strip()
        if isinstance(value, int | float) and not isinstance(value, bool):
            index = int(value) - first if value in range(first, first + len(choices)) else -1
        else:
            by_text = choices.index(said) if said in choices else -1
            by_mark = _place(said, first, len(choices)) if isinstance(value, str) else -1
            order = (by_mark, by_text) if marks_first else (by_text, by_mark)
            index = next((place for place in order if place >= 0), -1)
        if index < 0:
            raise DataError(
                f"expected an index from {first}, a letter, or one of {len(choices)} choices",
                field=path,
                value=value,
                reason="unknown_answer",
            )
        return tuple(k == index for k in range(len(choices)))

    return right


def _place(said: str, first: int, count: int) -> int:
    """The place that a number, counted from `first`, or a letter names; -1 for none of `count` places."""
    letter = _LETTER.fullmatch(said.upper())
    place = LETTERS.index(letter[1]) if letter else int(said) - first if said.isdecimal() else -1
    return place if 0 <= place < count else -1


def by_label(path: str, labels: str) -> Right:
    """The choice with the label that the answer names."""

    def right(row: Row, choices: tuple[str, ...]) -> tuple[bool, ...]:
        names = listed(labels)(row)
        value = str(at(row, path)).strip()
        if len(names) != len(choices) or value not in names:
            raise DataError(
                f"expected one of {', '.join(names)}", field=path, value=value, reason="unknown_answer"
            )
        return tuple(name == value for name in names)

    return right


def flags(path: str) -> Right:
    """1 for each right choice and 0 for each wrong one."""

    def right(row: Row, choices: tuple[str, ...]) -> tuple[bool, ...]:
        value = at(row, path)
        items = value.tolist() if hasattr(value, "tolist") else value
        said = [bool(item) for item in items] if isinstance(items, list | tuple) else []
        if len(said) != len(choices) or not any(said):
            raise DataError(
                "expected a 1 or 0 for each choice, and one right choice",
                field=path,
                value=value,
                reason="unknown_answer",
            )
        return tuple(said)

    return right


def truth(path: str) -> Right:
    """Choices `yes` and `no`, of which a true or false answer names one."""

    def right(row: Row, choices: tuple[str, ...]) -> tuple[bool, ...]:
        yes = read.truth(at(row, path), path)
        return (yes, not yes)

    return right


_MARKED = re.compile(r"\(A\).*\(B\)", re.DOTALL)

SINGLE = ChoiceForm(
    "TruthfulQA, one true answer",
    ("question", "mc1_targets.choices", "mc1_targets.labels"),
    ("question",),
    listed("mc1_targets.choices"),
    flags("mc1_targets.labels"),
)
TRUTHFUL = ChoiceForm(
    "TruthfulQA, all true answers",
    ("question", "mc2_targets.choices", "mc2_targets.labels"),
    ("question",),
    listed("mc2_targets.choices"),
    flags("mc2_targets.labels"),
)

FORMS: tuple[ChoiceForm, ...] = (
    ChoiceForm(
        "ARC, CommonsenseQA",
        ("question", "choices.text", "choices.label", "answerKey"),
        ("question",),
        listed("choices.text"),
        by_label("answerKey", "choices.label"),
    ),
    ChoiceForm(
        "OpenBookQA",
        ("question_stem", "choices.text", "choices.label", "answerKey"),
        ("question_stem",),
        listed("choices.text"),
        by_label("answerKey", "choices.label"),
    ),
    ChoiceForm("CLIcK", ("paragraph", "question", "choices", "answer"), ("paragraph", "question"),
               listed("choices"), one("answer")),
    ChoiceForm("RACE", ("article", "question", "options", "answer"), ("article", "question"),
               listed("options"), one("answer")),
    *(
        ChoiceForm("MMLU, MMLU-Pro", (asked, choices, answer), (asked,), listed(choices), one(answer))
        for asked in ("question", "prompt")
        for choices in ("choices", "options")
        for answer in ("answer", "label", "target")
    ),
    ChoiceForm("KMMLU, MMLU in columns", ("question", "A", "B", "answer"), ("question",),
               columns("A", "B", "C", "D", "E"), one("answer", 1, marks_first=True)),
    ChoiceForm("CMMLU", ("Question", "A", "B", "Answer"), ("Question",), columns("A", "B", "C", "D", "E"),
               one("Answer", 1, marks_first=True)),
    ChoiceForm("HellaSwag", ("ctx", "endings", "label"), ("activity_label", "ctx"), listed("endings"),
               one("label", marks_first=True)),
    ChoiceForm("KoBEST HellaSwag", ("context", "ending_1", "ending_2", "label"), ("context",),
               columns("ending_1", "ending_2", "ending_3", "ending_4"),
               one("label", marks_first=True)),
    ChoiceForm("KoBEST COPA", ("premise", "question", "alternative_1", "alternative_2", "label"),
               ("premise", "question"), columns("alternative_1", "alternative_2"),
               one("label", marks_first=True)),
    ChoiceForm("COPA", ("premise", "question", "choice1", "choice2", "label"), ("premise", "question"),
               columns("choice1", "choice2"), one("label", marks_first=True)),
    ChoiceForm("BoolQ", ("passage", "question", "answer"), ("passage", "question"), fixed("yes", "no"),
               truth("answer")),
    ChoiceForm("BoolQ of SuperGLUE", ("passage", "question", "label"), ("passage", "question"),
               fixed("yes", "no"), truth("label")),
    ChoiceForm("KoBEST BoolQ", ("paragraph", "question", "label"), ("paragraph", "question"),
               fixed("예", "아니요"), truth("label")),
    ChoiceForm("WinoGrande", ("sentence", "option1", "option2", "answer"), ("sentence",),
               columns("option1", "option2"), one("answer", 1, marks_first=True)),
    ChoiceForm("PIQA", ("goal", "sol1", "sol2", "label"), ("goal",), columns("sol1", "sol2"),
               one("label", marks_first=True)),
    ChoiceForm("HAE-RAE Bench", ("query", "answer"), ("query",), marks_in("query"), one("answer"),
               told=True, text=_MARKED),
    ChoiceForm("HAE-RAE Bench with options", ("query", "options", "answer"), ("query",), listed("options"),
               one("answer")),
)  # fmt: skip
"""The first form that fits a row is its form."""


def form_of(row: Row) -> ChoiceForm | None:
    """The form of a row's multiple-choice question, None if it is none."""
    return next((form for form in FORMS if form.fits(row)), None)


def choice_of(row: Row) -> ChoiceQuestion:
    """The multiple-choice question of a row.

    Raises:
        DataError: a row of no form that is known, or a wrong field in it.
    """
    form = form_of(row)
    if form is None and SINGLE.fits(row):
        message = "the right answer always comes first in these rows; read them as a set of kind truthfulness"
        raise DataError(message, field="mc1_targets", reason="truthfulness")
    if form is None:
        found = ", ".join(map(str, row)) or "no columns"
        raise DataError(
            f"expected a question with choices and answer, or a published form of these; the row has {found}",
            field="choices",
            reason="missing_field",
        )
    return form.read(row)
