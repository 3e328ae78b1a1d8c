"""Multiple-choice questions at their edges: which place an answer names, and which column a fault names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignloop.data import multiple_choice as mc
from alignloop.data.check import check_choices, is_choices
from alignloop.errors import DataError


def fault(run: Any, *args: Any) -> tuple[str, Any, str]:
    with pytest.raises(DataError) as caught:
        run(*args)
    return caught.value.field, caught.value.value, caught.value.reason


THREE = ("10", "20", "30")


@pytest.mark.parametrize(
    ("answer", "first", "place"),
    [
        *((k, 0, k) for k in (0, 1, 2)),
        *((k, 1, k - 1) for k in (1, 2, 3)),
        *((2.0, first, 2 - first) for first in (0, 1)),
        *((mark, 0, 1) for mark in ("B", "b", "(B)", "B.", " b) ", "1", "20", " 20 ")),
        *((mark, 1, 1) for mark in ("B", "2", "20")),
        *((wrong, 0, None) for wrong in (3, -1, 0.5, True, None, ["B"], "D", "3", "-1", "", "BB", "1.0")),
        *((wrong, 1, None) for wrong in (0, 4, "0", "4", "D", False)),
    ],
)
def test_the_place_that_an_answer_names(answer: object, first: int, place: int | None) -> None:
    right = mc.one("a.b", first)
    row = {"a": {"b": answer}}
    if place is None:
        assert fault(right, row, THREE) == ("a.b", answer, "unknown_answer")
    else:
        assert right(row, THREE) == tuple(k == place for k in range(3))


@pytest.mark.parametrize(
    ("answer", "choices", "by_text", "by_mark"),
    [("1", ("2", "1"), 1, 0), ("B", ("B", "C"), 0, 1), ("2", ("x", "y"), 1, 1), ("x", ("w", "x"), 1, 1)],
)
def test_a_text_that_is_a_choice_and_a_mark(answer: str, choices: Any, by_text: int, by_mark: int) -> None:
    row = {"a": answer}
    assert mc.one("a", 1)(row, choices).index(True) == by_text
    assert mc.one("a", 1, marks_first=True)(row, choices).index(True) == by_mark


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"A": "x", "B": " y ", "C": "z"}, ("x", "y", "z")),
        ({"A": "x", "B": 2, "C": None}, ("x", "2")),
        ({"A": "x", "B": "", "C": ""}, ("x",)),
        ({"A": "x", "B": 0.5}, ("x", "0.5")),
        ({}, ()),
        ({"A": "x", "B": None, "C": "z"}, ("B", None, "wrong_type")),
        ({"A": "x", "B": "y", "C": " "}, ("C", " ", "wrong_type")),
        ({"A": ["x"], "B": "y"}, ("A", ["x"], "wrong_type")),
    ],
)
def test_choices_in_columns_of_their_own(row: dict[str, Any], found: Any) -> None:
    read = mc.columns("A", "B", "C")
    if found[-1:] == ("wrong_type",):
        assert fault(read, row) == found
    else:
        assert read(row) == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([" x ", 2, 0.5], ("x", "2", "0.5")),
        (("x", "y"), ("x", "y")),
        (np.asarray(["x", "y"]), ("x", "y")),
        (' ["x", "y"]', ("x", "y")),
        ("['x', \"it's\"]", ("x", "it's")),
        ("[1, 2", None),
        ("x, y", None),
        (["x", None], None),
        (["x", ["y"]], None),
        (None, None),
        ({"x": 1}, None),
    ],
)
def test_choices_in_a_list(value: Any, found: tuple[str, ...] | None) -> None:
    row = {"c": {"text": value}}
    if found is None:
        assert fault(mc.listed("c.text"), row)[::2] == ("c", "wrong_type")
    else:
        assert mc.listed("c.text")(row) == found


def test_labels_of_choices() -> None:
    right = mc.by_label("key", "labels")
    row = {"labels": ["A", "B", 3]}
    assert right({**row, "key": " B "}, THREE) == (False, True, False)
    assert right({**row, "key": 3}, THREE) == (False, False, True)
    assert fault(right, {**row, "key": "C"}, THREE) == ("key", "C", "unknown_answer")
    assert fault(right, {**row, "key": "A"}, THREE[:2]) == ("key", "A", "unknown_answer")


@pytest.mark.parametrize("value", [[1, 0, 1], (1.0, 0.0, 1.0), [True, False, True], np.asarray([1, 0, 1])])
def test_flags_of_right_choices(value: Any) -> None:
    assert mc.flags("f")({"f": value}, THREE) == (True, False, True)


@pytest.mark.parametrize("value", [[1, 0], [0, 0, 0], [1, 0, 0, 0], "101", None, 5])
def test_flags_that_name_no_choice(value: Any) -> None:
    assert fault(mc.flags("f"), {"f": value}, THREE) == ("f", value, "unknown_answer")


def test_yes_and_no_and_marks_in_the_question() -> None:
    assert mc.truth("a")({"a": True}, ()) == (True, False)
    assert mc.truth("a")({"a": 0}, ()) == (False, True)
    assert fault(mc.truth("a"), {"a": "?"}, ()) == ("a", "?", "unknown_label")
    assert mc.marks_in("q")({"q": "(B) x (A) y (B) (c) (AB)"}) == ("(B)", "(A)")
    assert mc.fixed("x", "y")({}) == ("x", "y")


ASKED = mc.ChoiceForm("f", ("q", "c"), ("p", "q"), mc.listed("c"), mc.one("a"), lacks=("no",))


def test_a_question_is_joined_of_its_parts() -> None:
    row = {"p": " read ", "q": " why? ", "c": ["x", "y"], "a": 1}
    assert ASKED.read(row) == mc.ChoiceQuestion("read\n\nwhy?", ("x", "y"), (False, True))
    assert ASKED.read({**row, "p": None}).question == "why?"
    assert ASKED.read({**row, "p": " "}).question == "why?"
    assert ASKED.read({**row, "q": ""}).question == "read"
    assert fault(ASKED.read, {**row, "p": "", "q": " "}) == ("q", None, "empty_prompt")
    assert fault(ASKED.read, {**row, "p": 5}) == ("p", 5, "wrong_type")
    many = [str(k) for k in range(27)]
    assert len(ASKED.read({**row, "c": many[:26], "a": "Z"}).choices) == 26
    assert fault(ASKED.read, {**row, "c": many})[::2] == ("choices", "choices")
    assert fault(ASKED.read, {**row, "c": ["x"], "a": 0}) == ("choices", ("x",), "choices")


def test_which_form_fits() -> None:
    assert ASKED.fits({"q": "", "c": []})
    for row in ({"q": "x"}, {"q": "x", "c": None}, {"q": "x", "c": [], "no": None}):
        assert not ASKED.fits(row)
    hae = {"query": "q (A) x\n(B) y", "answer": "(B)"}
    assert mc.choice_of(hae) == mc.ChoiceQuestion(hae["query"], ("(A)", "(B)"), (False, True), told=True)
    listed = {"query": "q", "options": ["x", "y"], "answer": "(B)"}
    assert mc.choice_of(listed) == mc.ChoiceQuestion("q", ("x", "y"), (False, True))
    single = {"question": "q", "mc1_targets": {"choices": ["x", "y"], "labels": [1, 0]}}
    assert fault(mc.choice_of, single) == ("mc1_targets", None, "truthfulness")
    with pytest.raises(DataError, match="the row has a, b") as caught:
        mc.choice_of({"a": 1, "b": 2})
    assert (caught.value.field, caught.value.reason) == ("choices", "missing_field")
    with pytest.raises(DataError, match="the row has no columns"):
        mc.choice_of({})


def put(folder: Path, *rows: Any) -> str:
    file = folder / "r.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


GOOD = {"question": "Why?", "choices": ["x", "y"], "answer": 1}
LIMA = {"prompt": "q", "response": "a"}
TRUE = {"question": "q", "mc2_targets": {"choices": ["x", "y", "z"], "labels": [1, 1, 0]}}


@pytest.mark.parametrize(
    ("rows", "asked"),
    [
        ([GOOD], True),
        ([TRUE], True),
        ([GOOD, LIMA], False),
        ([GOOD, GOOD, LIMA], True),
        ([LIMA] * 9 + [GOOD] * 11, True),
        ([LIMA] * 10 + [GOOD] * 30, False),
        ([], False),
        ([[1], GOOD], True),
    ],
)
def test_most_of_the_first_twenty_rows_decide(tmp_path: Path, rows: list[Any], asked: bool) -> None:
    assert is_choices(put(tmp_path, *rows)) is asked


def test_a_summary_of_questions(tmp_path: Path) -> None:
    more = {"question": "Who?", "choices": ["x", "y", "z"], "answer": "C", "subject": "law", "note": ""}
    file = put(
        tmp_path, GOOD, more, {**GOOD, "answer": 5}, LIMA, [1], {**GOOD, "answer": 0, "hint": {"a": 1}}
    )
    found = check_choices(file)
    assert (found.kind, found.rows, found.usable) == ("multiple_choice", 5, 3)
    assert found.choices == {2: 2, 3: 1}
    assert list(found.places.items()) == [("A", 1), ("B", 1), ("C", 1)]
    assert found.first == "Why? A x; B y (right)"
    assert found.unused == ["subject", "hint"]
    assert [(f.line, f.reason) for f in found.dropped] == [
        (3, "unknown_answer"),
        (4, "missing_field"),
        (5, "not_object"),
    ]
    with pytest.raises(DataError, match=r"r\.jsonl:3"):
        check_choices(file, strict=True)
    with pytest.raises(DataError, match=r"r\.jsonl:1"):
        check_choices(put(tmp_path, LIMA, LIMA))
    with pytest.raises(DataError, match="no usable row: the file has none") as caught:
        check_choices(put(tmp_path))
    assert (caught.value.file, caught.value.reason) == (file, "no_usable_row")


def test_a_summary_of_questions_with_several_true_answers(tmp_path: Path) -> None:
    own = {"mc1_targets": {"choices": ["x", "y"], "labels": [1, 0]}, "category": "law"}
    found = check_choices(put(tmp_path, {**TRUE, **own}))
    assert (found.kind, found.choices, found.places) == ("truthfulness", {3: 1}, {})
    assert found.first == "q A x (right); B y (right); C z"
    assert found.unused == ["category"]


def test_a_long_question_is_shown_in_300_signs(tmp_path: Path) -> None:
    ending = " A x; B y (right)"
    for size, shown in (
        (300, "q" * (300 - len(ending)) + ending),
        (301, ("q" * (301 - len(ending)) + ending)[:299] + "…"),
    ):
        file = put(tmp_path, {**GOOD, "question": "q" * (size - len(ending))})
        assert check_choices(file).first == shown
