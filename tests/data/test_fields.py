"""One field as a value: what is read, and where its bounds are."""

import math

import pytest

from alignloop.data import values as read
from alignloop.errors import DataError
from alignloop.records import Message


@pytest.mark.parametrize(
    "ranks",
    [
        [1, 2, 2, 4],  # as in sport
        [1, 3, 3, 4],  # the last of the places
        [1, 2, 2, 3],  # without a gap
        [2, 1, 4, 3],
        [1, 1, 1, 1],
        [4, 4, 4, 4],
        [3.0, 1.0, 2.0, 4.0],
    ],
)
def test_ties_are_counted_on_in_three_ways(ranks):
    found = read.ranks(ranks, "ranking", 4)
    assert found == tuple(ranks)
    assert all(type(rank) is int for rank in found)


@pytest.mark.parametrize(
    "ranks",
    [
        [2, 2, 2, 2],
        [1, 2, 2, 5],
        [1, 1, 2, 4],
        [0, 1, 2, 3],
        [-1, -2, -3, -4],
        [1, 0, 0, -1],
        [4, 3, 3, 2],
        [1, 1, 4, 5],
        [1, 1, 2],
        [1, 2, 3, 4, 5],
    ],
)
def test_what_is_no_ranking(ranks):
    with pytest.raises(DataError, match="expected 4 ranks") as caught:
        read.ranks(ranks, "ranking", 4)
    assert (caught.value.field, caught.value.value, caught.value.reason) == (
        "ranking",
        ranks,
        "not_a_ranking",
    )


@pytest.mark.parametrize("value", [0, 5, 2.5, "0", "5.0", " 3 "])
def test_numbers_up_to_their_bounds(value):
    found = read.number(value, "score", 0, 5)
    assert found == float(value)
    assert type(found) is float


@pytest.mark.parametrize("value", [-0.001, 5.001, "-1", "nan", "inf", math.nan, True, None, "", [], "five"])
def test_numbers_beyond_their_bounds(value):
    with pytest.raises(DataError, match="expected a number from 0 to 5"):
        read.number(value, "score", 0, 5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, True) for value in (" GOOD ", 1, 1.0, "+1", True, "👍", "좋아요")),
        *((value, False) for value in ("Bad", 0, 0.0, -1, False, "👎")),
    ],
)
def test_good_and_bad(value, expected):
    assert read.truth(value, "label") is expected


@pytest.mark.parametrize("value", [None, "", 2, [1], "goodbad"])
def test_neither_good_nor_bad(value):
    with pytest.raises(DataError, match="expected good/bad"):
        read.truth(value, "label")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, "a") for value in ("A", " Left ", 0, 0.0, "0", "a>>b", "왼쪽")),
        *((value, "b") for value in ("model_b", 1, 1.0, "1", "나")),
        *((value, "tie") for value in ("Tie", "tie (both bad)", "=", "no preference", "비슷")),
    ],
)
def test_sides(value, expected):
    assert read.side(value, "preference") == expected


@pytest.mark.parametrize("value", [True, False, None, "", 2, ["a"], {"a": 1}])
def test_no_side(value):
    with pytest.raises(DataError, match="expected A, B or tie"):
        read.side(value, "preference")


def test_lists_and_objects_may_be_written_as_text():
    assert read.listed(' ["a", 1]', "x") == ["a", 1]
    assert read.mapped('{"a": [1]}', "x") == {"a": [1]}
    assert read.listed(("a",), "x") == ("a",)
    for value, kind, message in (
        ("[1", list, "broken JSON in the field"),
        ("text", list, r"expected a list \[…\], found text"),
        ("[1]", dict, r"expected an object \{…\}, found a list"),
        ({"a": 1}, list, r"expected a list \[…\], found an object"),
        (1.5, list, "found a number"),
        (None, dict, "found nothing"),
        (b"", list, "found other"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            (read.listed if kind is list else read.mapped)(value, "x")
        assert caught.value.reason == "wrong_type"


def test_a_prompt_says_something_besides_the_system():
    def said(*roles_and_texts):
        return tuple(Message(role, text) for role, text in roles_and_texts)

    for good in (
        said(("user", "q")),
        said(("system", "s"), ("user", "q")),
        said(("user", "q"), ("assistant", "a"), ("tool", "t")),
        said(("assistant", "a"), ("user", " ")),
    ):
        assert read.check_prompt(good, "prompt") == good
    for bad, reason in (
        ((), "empty_prompt"),
        (said(("system", "s")), "empty_prompt"),
        (said(("system", "s"), ("user", " ")), "empty_prompt"),
        (said(("user", "q"), ("assistant", "a")), "prompt_not_user"),
        (said(("user", "q"), ("system", "s")), "prompt_not_user"),
    ):
        with pytest.raises(DataError) as caught:
            read.check_prompt(bad, "prompt")
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("value", "first", "found"),
    [
        *(
            (value, 0, side)
            for value, side in ((0, "a"), (1, "b"), (0.5, "tie"), ("0.5", "tie"), (" 1 ", "b"))
        ),
        *((value, 1, side) for value, side in ((1, "a"), (2, "b"), (1.5, "tie"), ("2.0", "b"))),
        *((value, 1, side) for value, side in (("A", "a"), ("[[B]]", "b"), ("[c]", "unknown_label"))),
        *((value, 0, "counts_from_1") for value in (2, "2", 2.0)),
        *((value, 1, "two_counts") for value in (0, "0", 0.0)),
        *((value, 0, "unknown_label") for value in (3, -1, 1.5, 0.25, True, False, None, [0], "2x", 10**400)),
        *((value, 1, "unknown_label") for value in (3, -1, 0.5, True, "1e999", "nan")),
    ],
)
def test_votes_are_counted_from_0_or_from_1(value, first, found):
    if found in ("a", "b", "tie"):
        assert read.side(value, "preference", first) == found
        assert first or read.side(value, "preference") == found
        return
    with pytest.raises(DataError, match="expected A, B or tie") as caught:
        read.side(value, "vote", first)
    assert (caught.value.field, caught.value.value, caught.value.reason) == ("vote", value, found)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, True) for value in (True, 1, 1.0, "true", " TRUE ", "1", "1.0")),
        *((value, False) for value in (False, 0, 2, None, "", "yes", "false", [True])),
    ],
)
def test_flags(value, expected):
    assert read.is_true(value) is expected


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((None, "nothing"), (True, "true/false"), (1, "a number"), (1.5, "a number"), ("a", "text")),
        *(([1], "a list"), ({"a": 1}, "an object"), ((1,), "other"), (b"a", "other")),
    ],
)
def test_what_a_value_is_called(value, name):
    assert read.type_name(value) == name


def test_text_is_text_that_can_be_written():
    assert read.text(" \n", "x") == " \n"
    assert read.completion_text("한글 😀", "x") == "한글 😀"
    for value, reason in ((" \n", "empty_completion"), ("a\ud800", "invalid_unicode"), (5, "wrong_type")):
        with pytest.raises(DataError) as caught:
            read.completion_text(value, "x")
        shown = None if reason == "invalid_unicode" else value
        assert (caught.value.field, caught.value.value, caught.value.reason) == ("x", shown, reason)


def test_a_number_is_finite_and_its_bounds_are_told():
    assert read.number("1e3", "x", 0, 1e6) == 1000.0
    for value, reason in ((10**400, "out_of_range"), ("x", "wrong_type"), ("1e999", "out_of_range")):
        with pytest.raises(DataError, match=r"expected a number from -0.5 to 1e\+06") as caught:
            read.number(value, "x", -0.5, 1e6)
        assert (caught.value.field, caught.value.reason) == ("x", reason)


def test_at_least_two_responses():
    assert read.texts(["a", "b"], "r") == ("a", "b")
    assert read.texts('["a", "b", "c"]', "r") == ("a", "b", "c")
    for value, field, reason in (
        (["a"], "r", "too_few_responses"),
        ([], "r", "too_few_responses"),
        (["a", " "], "r[1]", "empty_completion"),
        (["a", "b", 3], "r[2]", "wrong_type"),
    ):
        with pytest.raises(DataError) as caught:
            read.texts(value, "r")
        assert (caught.value.field, caught.value.reason) == (field, reason)
