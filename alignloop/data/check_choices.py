"""What a person should know about a file of multiple-choice questions before a model is asked them."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from alignloop.data import multiple_choice
from alignloop.data.multiple_choice import LETTERS
from alignloop.data.paths import Watched, unseen
from alignloop.data.sources import Spec, read_rows
from alignloop.errors import DataError

_HEAD = 20


@dataclass(slots=True)
class Choices:
    """A summary of multiple-choice questions.

    Attributes:
        kind: of the evaluation set that reads them, `multiple_choice` or `truthfulness`.
        rows: read.
        usable: rows that are questions.
        dropped: faults of the others.
        choices: how many questions have how many choices.
        places: how often the right answer has which letter.
        first: the first question with its choices, on one line.
        unused: columns that nothing was read from.
    """

    kind: str
    rows: int = 0
    usable: int = 0
    dropped: list[DataError] = field(default_factory=list)
    choices: dict[int, int] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    first: str = ""
    unused: list[str] = field(default_factory=list)


def is_choices(spec: Spec) -> bool:
    """Whether most of the first rows of a data set are multiple-choice questions.

    Raises:
        DataError: nothing there, or a damaged file.
    """
    rows = [row.values for row in islice(read_rows(spec, on_fault=lambda fault: None), _HEAD)]
    asked = [_form(row) for row in rows]
    return bool(rows) and sum(form is not None for form in asked) * 2 > len(rows)


def _form(row: multiple_choice.Row) -> multiple_choice.ChoiceForm | None:
    form = multiple_choice.form_of(row)
    return multiple_choice.TRUTHFUL if form is None and multiple_choice.TRUTHFUL.fits(row) else form


def check_choices(spec: Spec, *, strict: bool = False) -> Choices:
    """Read every question of a data set.

    Args:
        spec: what to read.
        strict: the first unusable row is an error.

    Returns:
        The summary.

    Raises:
        DataError: nothing there, a damaged file, no usable row, or with `strict` the first unusable one.
    """
    found = Choices("multiple_choice")
    places: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    unused: dict[str, None] = {}
    for row in read_rows(spec, on_fault=found.dropped.append):
        found.rows += 1
        form = _form(row.values)
        try:
            choice = form.read(row.values) if form else multiple_choice.choice_of(row.values)
        except DataError as fault:
            found.dropped.append(fault.at(row.file, row.line))
            continue
        found.kind = "truthfulness" if form is multiple_choice.TRUTHFUL else "multiple_choice"
        found.first = found.first or _line(choice)
        found.usable += 1
        sizes[len(choice.choices)] += 1
        places.update(
            LETTERS[k] for k, right in enumerate(choice.right) if right and found.kind != "truthfulness"
        )
        unused |= dict.fromkeys(_unused(row.values, form) if form else ())
    if found.dropped and (strict or not found.usable):
        raise found.dropped[0]
    if not found.usable:
        raise DataError("no usable row: the file has none", file=str(spec), reason="no_usable_row")
    found.choices, found.places, found.unused = dict(sizes), dict(sorted(places.items())), list(unused)
    return found


def _line(choice: multiple_choice.Choice) -> str:
    shown = "; ".join(
        f"{LETTERS[k]} {text}" + (" (right)" if right else "")
        for k, (text, right) in enumerate(zip(choice.choices, choice.right, strict=True))
    )
    text = " ".join(f"{choice.question}  {shown}".split())
    return text if len(text) <= 300 else text[:299] + "…"


def _unused(row: multiple_choice.Row, form: multiple_choice.ChoiceForm) -> list[str]:
    """Columns and keys that hold something and are not read for the question."""
    seen: set[str] = set()
    forms = (form, multiple_choice.SINGLE) if form is multiple_choice.TRUTHFUL else (form,)
    for one in forms:
        with suppress(DataError):
            one.read(Watched(row, "", seen))
    return [path for name, value in row.items() for path in unseen(value, name, seen)[0]]
