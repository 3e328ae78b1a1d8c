import json

import pytest

from alignloop.errors import DataError
from alignloop.evaluation.sets import (
    read_exact,
    read_multiple_choice,
    read_prompts,
    read_requests,
    read_truthfulness,
)


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        file = tmp_path / "set.jsonl"
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(file)

    return write


def test_multiple_choice_in_mmlus_form(write):
    choices = ["빨강", "파랑", "초록"]
    rows = [{"question": "색?", "choices": choices, "answer": answer} for answer in (1, "B", "b", "파랑")]
    for question in read_multiple_choice(write(*rows)):
        assert question.prompt[0].content == "색?\nA. 빨강\nB. 파랑\nC. 초록\nAnswer:"
        assert question.choices == ("A", "B", "C")
        assert question.correct == (False, True, False)


def test_a_text_that_is_a_choice_is_no_letter_and_digits_in_quotes_are_texts(write):
    rows = [{"question": "q", "choices": ["B", "A"], "answer": "A"}]
    rows += [{"question": "q", "choices": ["3", "2", "1"], "answer": "1"}]
    assert [q.correct.index(True) for q in read_multiple_choice(write(*rows))] == [1, 2]


def test_truthfulness_in_truthfulqas_form(write):
    row = {
        "question": "q",
        "best_answer": "b",
        "correct_answers": ["b", "c"],
        "incorrect_answers": ["x", "y"],
    }
    ((one, every),) = read_truthfulness(write(row))
    assert (one.choices, one.correct) == (("b", "x", "y"), (True, False, False))
    assert (every.choices, every.correct) == (("b", "c", "x", "y"), (True, True, False, False))


def test_requests_know_what_should_be_answered(write):
    rows = [
        {"prompt": "p", "safe": True},
        {"prompt": "q", "label": "unsafe"},
        {"prompt": "r", "type": "harmless"},
    ]
    assert [r.safe for r in read_requests(write(*rows))] == [True, False, True]


def test_exact_answers_keep_the_reference_and_its_place(write):
    (first,) = read_exact(write({"question": "1+1?", "answer": 2}))
    assert (first.answer, first.prompt[0].content, first.provenance.line) == ("2", "1+1?", 1)


def test_prompts_are_distinct_and_in_order(write):
    file = write({"prompt": "b"}, {"prompt": "a"}, {"prompt": "b"})
    assert [p.prompt[0].content for p in read_prompts(file)] == ["b", "a"]


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (read_requests, {"prompt": "p"}, r"set\.jsonl:1: field 'safe': is missing"),
        (read_requests, {"prompt": "p", "safe": "maybe"}, "expected true or false, or safe or unsafe"),
        (read_requests, {"safe": True}, "field 'prompt': is missing"),
        (read_requests, {"prompt": "  ", "safe": True}, "expected text, found none"),
        (read_multiple_choice, {"question": "q", "choices": ["a"], "answer": 0}, "expected 2 to 26 choices"),
        (read_multiple_choice, {"question": "q", "choices": "ab", "answer": 0}, "expected a list of texts"),
        (
            read_multiple_choice,
            {"question": "q", "choices": ["a", "b"], "answer": 2},
            "expected an index from 0",
        ),
        (read_multiple_choice, {"question": "q", "choices": ["a", "b"], "answer": True}, "expected an index"),
        (read_multiple_choice, {"question": "q", "choices": ["a", "b"], "answer": "Z"}, "expected an index"),
        (read_truthfulness, {"question": "q", "correct_answers": ["a"]}, "'incorrect_answers': is missing"),
        (
            read_truthfulness,
            {"question": "q", "correct_answers": [], "incorrect_answers": ["x"]},
            "are needed",
        ),
        (read_exact, {"question": "q"}, "field 'answer': is missing"),
    ],
)
def test_odd_rows_are_named(write, read, row, message):
    with pytest.raises(DataError, match=message):
        read(write(row))
