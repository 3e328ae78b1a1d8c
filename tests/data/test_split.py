import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignloop.data.split import split
from alignloop.errors import DataError
from alignloop.records import Demonstration, Document, Message


def demonstration(question: str, answer: str = "a") -> Demonstration:
    return Demonstration((Message("user", question),), answer)


HALVES = {"train": 0.5, "test": 0.5}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.text(max_size=3), st.text(min_size=1, max_size=2))), st.integers(0, 5))
def test_no_prompt_in_two_parts_and_nothing_lost(pairs, seed):
    records = [demonstration(*pair) for pair in pairs]
    parts = split(records, HALVES, seed)
    assert sorted(map(repr, parts["train"] + parts["test"])) == sorted(map(repr, records))
    assert not {r.prompt for r in parts["train"]} & {r.prompt for r in parts["test"]}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=4)), st.lists(st.text(max_size=4)))
def test_added_rows_move_no_other(old, new):
    before = split([demonstration(q) for q in old], HALVES)
    after = split([demonstration(q) for q in new + old], HALVES)
    for name in HALVES:
        assert {repr(r) for r in before[name]} <= {repr(r) for r in after[name]}


def test_parts_have_about_their_fraction_and_depend_on_the_seed():
    records = [demonstration(f"question {k}") for k in range(2000)]
    parts = split(records, {"train": 0.8, "valid": 0.1, "test": 0.1, "none": 0.0})
    sizes = {name: len(part) for name, part in parts.items()}
    # standard deviations: 18 and 13
    assert abs(sizes["train"] - 1600) < 80
    assert abs(sizes["valid"] - 200) < 60
    assert sizes["none"] == 0
    assert split(records, HALVES, 0)["test"] != split(records, HALVES, 1)["test"]
    assert split(records, HALVES, 0) == split(records, HALVES, 0)


def test_a_place_is_fixed_for_all_time():
    # printf '0\035user\037hello' | sha256sum begins with 956e7bc6c6e88afc, which is 0.583717 of 2^64
    for fraction, part in ((0.58371, "b"), (0.58372, "a")):
        parts = split([demonstration(" Hello ")], {"a": fraction, "b": 1 - fraction})
        assert len(parts[part]) == 1


def test_same_prompt_in_another_spelling_stays_together():
    spellings = ["What is  Café?", "what is cafe\u0301?", "WHAT IS CAFÉ?\n"]
    for seed in range(20):
        parts = split([demonstration(s, str(k)) for k, s in enumerate(spellings)], HALVES, seed)
        assert sorted(map(len, parts.values())) == [0, 3]


def test_by_record_divides_answers_to_one_prompt():
    parts = split([demonstration("q", str(k)) for k in range(50)], HALVES, by="record")
    assert min(map(len, parts.values())) > 10


def test_documents_go_by_their_text():
    parts = split([Document(f"text {k}") for k in range(100)], HALVES)
    assert min(map(len, parts.values())) > 25


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_fractions_must_sum_to_one(fractions):
    with pytest.raises(DataError, match="sum to 1"):
        split([demonstration("q")], fractions)


def test_the_place_of_a_record_is_fixed_too():
    """Of the row as JSON in the order of its names, in UTF-8 without escapes."""
    digest = hashlib.sha256('3\x1d{"text": "비\\n"}'.encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for fraction, part in ((place - 1e-6, "b"), (place + 1e-6, "a")):
        parts = split([Document("비\n")], {"a": fraction, "b": 1 - fraction}, seed=3, by="record")
        assert len(parts[part]) == 1


def test_fractions_of_nothing_and_of_all():
    records = [demonstration(str(k)) for k in range(20)]
    parts = split(records, {"none": 0.0, "all": 1.0, "rest": 0.0})
    assert [len(part) for part in parts.values()] == [0, 20, 0]
    for fractions in ({"a": 0.5, "b": 0.5 + 2e-9}, {"a": -0.1, "b": 1.1}):
        with pytest.raises(DataError, match="from 0 up"):
            split(records, fractions)
    assert len(split(records, {"a": 0.5, "b": 0.5 + 5e-10})) == 2
    with pytest.raises(DataError, match="expected prompt or record"):
        split(records, HALVES, by="row")  # pyright: ignore[reportArgumentType]
