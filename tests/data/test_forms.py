"""Which columns make which record: what is taken, left, told and refused, field by field."""

from __future__ import annotations

import math
from typing import Any

import pytest

from alignloop.data import forms
from alignloop.data.builders import build
from alignloop.errors import DataError
from alignloop.records import Message, Prompt


def fields(columns: dict[str, str] | None = None, /, **row: Any) -> forms.Fields:
    return forms.fields_of(row, columns or {})


def refused(run: Any) -> tuple[str, str, str]:
    with pytest.raises(DataError) as caught:
        run()
    return caught.value.field, caught.value.reason, caught.value.message


def test_mapped_columns_are_not_taken_by_their_own_names_too() -> None:
    found = fields({"completion": "answer"}, prompt="q", answer="a", extra=1)
    assert (found.values, found.columns) == (
        {"prompt": "q", "completion": "a"},
        {"prompt": "prompt", "completion": "answer"},
    )
    assert (found.row, found.unused, found.mapped) == (
        ("prompt", "answer", "extra"),
        ("extra",),
        {"completion"},
    )
    record = build("prompt", found, "f", 1, "unknown")
    assert isinstance(record, Prompt)
    assert (record.prompt, record.answer) == ((Message("user", "q"),), None)
    # a mapped field goes before a column of its name
    assert fields({"prompt": "q"}, q="mine", prompt="other").values == {"prompt": "mine"}


def test_a_mapped_column_may_hold_nothing_but_must_be_there() -> None:
    found = fields({"prompt": "q"}, q=None)
    assert (found.values, found.columns, found.empty) == ({}, {"prompt": "q"}, {"q"})
    assert refused(lambda: fields({"prompt": "q"}, a=1, b=2)) == (
        "prompt",
        "missing_field",
        "columns maps it to 'q', which this row lacks; it has a, b",
    )
    whole = forms.fields_of({"a": 1}, {"prompt": "q"}, {"q": "w", "a": 2})
    assert whole.values == {"prompt": "w"}
    assert forms.fields_of({"q": "r"}, {"prompt": "q"}, {"q": "w"}).values == {"prompt": "r"}


def test_the_first_of_several_names_that_holds_something_is_taken() -> None:
    assert fields(completion="a", response="b", output="c").columns == {"completion": "completion"}
    assert fields(completion=None, response="b", output="c").columns == {"completion": "response"}
    # an empty answer is a fault of the row and goes before others; an empty system or input is none
    assert fields(completion="", response="b").values == {"completion": ""}
    assert fields(system="", system_prompt="s", input="", context="c").values == {"system": "s", "input": "c"}
    for name in ("text", "system", "input", "answer", "constraints", "probability", "margin", "sft_target"):
        assert fields(**{name: ""}).values == {}
    for name in ("tools", "history"):
        assert fields(**{name: ""}).values == {}
    assert fields(**{"  PROMPT ": "q"}).columns == {"prompt": "  PROMPT "}


def test_details_are_plain_values_of_some_columns() -> None:
    row = {"id": "7", "seed": 3, "model": None, "source": {"a": 1}, "judge": True, "subset": math.nan}
    found = fields(text="t", **row, other="x")
    assert found.details == {"id": "7", "seed": 3, "judge": True}
    assert found.unused == ("source", "subset", "other")
    assert found.empty == {"model"}


@pytest.mark.parametrize("value", [None, "", [], {}, ()])
def test_columns_that_hold_nothing_are_none_of_the_unused(value: object) -> None:
    assert fields(text="t", extra=value).unused == ()


@pytest.mark.parametrize("value", [0, False, " ", [""]])
def test_columns_that_hold_something_are_told(value: object) -> None:
    assert fields(text="t", extra=value).unused == ("extra",)


def test_what_a_record_of_a_kind_does_not_say() -> None:
    found = fields(prompt="q", completion="a", score=3, label="sunny", extra=1, ranking="", margin=2)
    assert found.unread("demonstration") == ("score", "label", "extra", "margin")
    assert found.unread("label") == ("score", "extra", "margin")
    assert found.unread("rating") == ("label", "extra", "margin")
    assert found.unread("prompt") == ("completion", "score", "label", "extra", "margin")
    assert found.unread("preference") == ("completion", "score", "label", "extra")
    assert fields(prompt="q", completion="a", label=1).unread("demonstration") == ()
    assert fields(prompt="q", completion="a").unread("demonstration") == ()


def test_fields_that_are_there_and_that_are_not() -> None:
    found = fields(질문="q", answer=None)
    assert found.has("prompt")
    assert found.has()
    assert not found.has("prompt", "answer")
    assert found.get("prompt") == ("q", "질문")
    assert refused(lambda: found.get("chosen")) == (
        "chosen",
        "missing_field",
        "is missing (also accepted: chosen, 선택); the row has 질문, answer",
    )
    assert refused(lambda: fields().get("history"))[2] == (
        "is missing (also accepted: history); the row has no columns"
    )


def test_fields_of_a_mapping_in_any_spelling() -> None:
    assert forms.check_columns({" Response": "a", "질문": "b", "margin": "c"}) == {
        "completion": "a",
        "prompt": "b",
        "margin": "c",
    }
    assert forms.check_columns(None) == {}
    assert refused(lambda: forms.check_columns({"chozen": "a"}))[1:] == (
        "unknown_field",
        "columns: unknown field 'chozen'; did you mean 'chosen'?",
    )
    assert refused(lambda: forms.check_columns({"zzz": "a"}))[2].startswith(
        "columns: unknown field 'zzz'; accepted are text, messages, system"
    )


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ({"a": 7, "b": 2.5}, 4.5),
        ({"a": "7", "b": " 2 "}, 5.0),
        ({"a": {"x": 7}, "b": 2}, None),
        ({"a": 7, "b": 2, "a - b": 1}, 1),
        ({"a": 1e9, "b": -1e9}, 2e9),
    ],
)
def test_a_field_may_be_the_difference_of_two_columns(row: dict[str, Any], value: object) -> None:
    if value is None:
        assert refused(lambda: fields({"margin": "a - b"}, **row))[:2] == ("a", "wrong_type")
        assert fields({"margin": "a.x - b"}, **row).values["margin"] == 5
    else:
        assert fields({"margin": "a - b"}, **row).values["margin"] == value


@pytest.mark.parametrize("row", [{"a": 7}, {"b": 7}, {"a": 7, "b": None}, {"a": None, "b": 7}])
def test_a_difference_with_one_column_only_is_missing(row: dict[str, Any]) -> None:
    assert refused(lambda: fields({"margin": "a - b"}, **row))[:2] == ("margin", "missing_field")


@pytest.mark.parametrize("row", [{"a": 1.1e9, "b": 0}, {"a": -1.1e9, "b": 0}])
def test_a_difference_of_numbers_beyond_their_bounds(row: dict[str, Any]) -> None:
    assert refused(lambda: fields({"margin": "a - b"}, **row))[:2] == ("a", "out_of_range")
    swapped = {"a": row["b"], "b": row["a"]}
    assert refused(lambda: fields({"margin": "a - b"}, **swapped))[:2] == ("b", "out_of_range")


def test_one_instance_of_self_instruct() -> None:
    found = fields(instruction="Add", instances=[{"input": "1 2", "output": "3"}])
    assert found.values == {"instruction": "Add", "input": "1 2", "completion": "3"}
    assert found.get("input")[1] == "instances[0].input"
    assert found.get("completion")[1] == "instances[0].output"
    without = fields(instruction="Add", instances=[{"input": "", "output": "3"}])
    assert without.values == {"instruction": "Add", "completion": "3"}
    assert fields(instances=[1]).values == {"instances": [1]}  # without an instruction it is another form
    for value in ([], ["x"], [{"output": "1"}, {"output": "2"}]):
        assert refused(lambda value=value: fields(instruction="Add", instances=value))[:2] == (
            "instances",
            "several_instances",
        )


@pytest.mark.parametrize(("better", "worse"), forms.SCORES)
def test_scores_against_a_pair(better: str, worse: str) -> None:
    assert forms.against_scores({better: 1, worse: 2.5})
    for one, two in ((2, 1), (1, 1), ("1", 2), (1, "2"), (None, 2), (1, None)):
        assert not forms.against_scores({better: one, worse: two})
    assert not forms.against_scores({better: 1})
    assert not forms.against_scores({})


HH = "\n\nHuman: q\n\nAssistant: a"


@pytest.mark.parametrize(
    ("row", "guessed"),
    [
        ({"chosen": "q\na", "rejected": "q\nb"}, True),
        ({"chosen": "q\na", "rejected": "q\nb", "prompt": "q"}, False),
        ({"chosen": "q\na"}, False),
        ({"chosen": HH, "rejected": "q\nb"}, False),
        ({"chosen": "q\na", "rejected": HH}, False),
        ({"chosen": [], "rejected": "q\nb"}, False),
        ({"chosen": "q\na", "rejected": []}, False),
    ],
)
def test_prompts_that_are_nothing_but_lines_in_common(row: dict[str, Any], guessed: bool) -> None:
    assert forms.prompt_is_guessed(fields(**row)) is guessed


@pytest.mark.parametrize("name", ["prompt", "messages", "instruction", "input"])
def test_a_prompt_may_stand_in_four_columns(name: str) -> None:
    assert forms.has_prompt(fields(**{name: "q"}))
    assert not forms.has_prompt(fields(completion="a"))


ASKED = [{"role": "user", "content": "q"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": ANSWERED}, "demonstration"),
        ({"messages": ASKED}, "prompt"),
        ({"messages": ANSWERED, "label": 1}, "label"),
        ({"messages": ANSWERED, "score": 1}, "rating"),
        ({"messages": ASKED, "completion": "a"}, "demonstration"),
        ({"messages": ANSWERED, "chosen": "a", "rejected": "b"}, "preference"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "completion": "c"}, "preference"),
        ({"chosen": "a", "rejected": "b"}, "preference"),
        ({"prompt": "q", "response_a": "a", "response_b": "b", "preference": 0}, "preference"),
        ({"prompt": "q", "responses": ["a"], "ranking": [1]}, "ranking"),
        ({"prompt": "q", "label": "x", "text": "t"}, None),
        ({"text": "t", "label": "x"}, "document"),
        ({"text": "t", "score": 1}, "document"),
        ({"prompt": "q", "text": "t"}, "prompt"),
        ({"input": "q"}, "prompt"),
        ({"other": "q"}, None),
    ],
)
def test_kinds_of_rows(row: dict[str, Any], kind: str | None) -> None:
    if kind is None:
        refused(lambda: forms.guess_kind(fields(**row)))
    else:
        assert forms.guess_kind(fields(**row)) == kind


def test_what_fits_two_kinds_and_what_fits_none() -> None:
    both = fields(prompt="q", chosen="a", rejected="b", responses=["a"], ranking=[1])
    assert refused(lambda: forms.guess_kind(both)) == (
        "",
        "ambiguous",
        "prompt, chosen, rejected, responses, ranking fit a preference and a ranking; say which with kind",
    )
    assert refused(lambda: forms.guess_kind(fields())) == (
        "",
        "unknown_form",
        "the columns (none) fit no known form; name yours with columns",
    )
    chosen = fields(messages=ANSWERED, chosen="a", label=1)  # answered by messages only where none is chosen
    assert refused(lambda: forms.guess_kind(chosen))[0] == "rejected"


@pytest.mark.parametrize(
    ("row", "missing", "beside"),
    [
        ({"chosen": "a"}, "rejected", "chosen"),
        ({"rejected": "a"}, "chosen", "rejected"),
        ({"response_a": "a", "preference": 0}, "response_b", "response_a"),
        ({"response_b": "a", "preference": 0}, "response_a", "response_b"),
        ({"response_a": "a", "response_b": "b"}, "preference", "response_a"),
        ({"preference": 0}, "response_a", "preference"),
        ({"responses": ["a"]}, "ranking", "responses"),
        ({"ranking": [1]}, "responses", "ranking"),
        ({"label": 1}, "completion", "label"),
        ({"score": 1}, "completion", "score"),
    ],
)
def test_half_of_a_label_is_a_fault(row: dict[str, Any], missing: str, beside: str) -> None:
    found = refused(lambda: forms.guess_kind(fields(prompt="q", **row)))
    names = ", ".join(["prompt", *row])
    assert found == (missing, "missing_field", f"is missing beside '{beside}'; the row has {names}")
