"""Every row form of the documentation."""

import json

import pytest

from alignloop.data.columns import read_records
from alignloop.errors import DataError
from alignloop.records import (
    Demonstration,
    Document,
    Label,
    Message,
    Preference,
    Prompt,
    Ranking,
    Rating,
)


def user(text):
    return (Message("user", text),)


def put(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read_one(path, row, **kwargs):
    """The record of a one-row file, without its provenance."""
    data = read_records(put(path / "r.jsonl", row), **kwargs)
    assert data.dropped == []
    (record,) = data.records
    assert record.provenance.file == str(path / "r.jsonl")
    assert record.provenance.line == 1
    return type(record)(**{n: getattr(record, n) for n in record.__slots__ if n != "provenance"})


TURNS = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Tea?"))
TURNS_ROWS = [{"role": m.role, "content": m.content} for m in TURNS]
CHATS = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tea?\n\nAssistant: Yes, please.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tea?\n\nAssistant: No.\n\nNever.",
}
FORMS = [
    ({"prompt": "q", "response": "a"}, Demonstration(user("q"), "a")),
    ({"question": "q", "output": " a\n"}, Demonstration(user("q"), " a\n")),
    ({"프롬프트": "물", "응답": "H2O입니다"}, Demonstration(user("물"), "H2O입니다")),
    ({"질문": "물?", "답변": "네"}, Demonstration(user("물?"), "네")),
    ({"instruction": "Add", "input": "", "output": "3"}, Demonstration(user("Add"), "3")),
    (
        {"instruction": "Add", "input": "1 2", "output": "3"},
        Demonstration(user("Add\n\nInput:\n1 2"), "3"),
    ),
    ({"지시": "더해", "입력": "1 2", "출력": "3"}, Demonstration(user("더해\n\nInput:\n1 2"), "3")),
    (
        {"instruction": "Add", "instances": [{"input": "1 2", "output": "3"}]},
        Demonstration(user("Add\n\nInput:\n1 2"), "3"),
    ),
    (
        {"system": "Be brief", "prompt": "q", "completion": "a"},
        Demonstration((Message("system", "Be brief"), *user("q")), "a"),
    ),
    ({"messages": [*TURNS_ROWS, {"role": "assistant", "content": "Yes"}]}, Demonstration(TURNS, "Yes")),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": "a"},
            ]
        },
        Demonstration(user("q"), "a"),
    ),
    (
        {
            "conversations": [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "a"},
            ]
        },
        Demonstration((Message("system", "S"), *user("q")), "a"),
    ),
    ({"text": "raw\ntext"}, Document("raw\ntext")),
    (
        {"prompt": "q", "response_A": "x", "response_B": "y", "preference": "A"},
        Preference(user("q"), "x", "y"),
    ),
    (
        {"prompt": "q", "response_a": "x", "response_b": "y", "preference": "b"},
        Preference(user("q"), "y", "x"),
    ),
    (
        {"프롬프트": "q", "응답_A": "x", "응답_B": "y", "선호": "무승부"},
        Preference(user("q"), "x", "y", probability=0.5),
    ),
    ({"prompt": "q", "chosen": "x", "rejected": "y"}, Preference(user("q"), "x", "y")),
    (
        {
            "prompt": "q",
            "chosen": "x",
            "rejected": "y",
            "chosen_length": 1,
            "rejected_length": 1,
            "sft_target": "chosen",
        },
        Preference(user("q"), "x", "y"),
    ),
    (
        {"prompt": "q", "chosen": "x", "rejected": "y", "probability": 0.8, "margin": 2},
        Preference(user("q"), "x", "y", probability=0.8, margin=2.0),
    ),
    (
        {
            "prompt": "Tea?",
            "chosen": [*TURNS_ROWS, {"role": "assistant", "content": "Y"}],
            "rejected": [*TURNS_ROWS, {"role": "assistant", "content": "N"}],
            "messages": [],
        },
        Preference(TURNS, "Y", "N"),
    ),
    (
        {
            "prompt": TURNS_ROWS,
            "chosen": [{"role": "assistant", "content": "Y"}],
            "rejected": {"role": "assistant", "content": "N"},
        },
        Preference(TURNS, "Y", "N"),
    ),
    (
        {
            "chosen": [*TURNS_ROWS, {"role": "assistant", "content": "Y"}],
            "rejected": [*TURNS_ROWS, {"role": "assistant", "content": "N"}],
        },
        Preference(TURNS, "Y", "N"),
    ),
    (CHATS, Preference(TURNS, "Yes, please.", "No.\n\nNever.")),
    ({"prompt": "Tea?"} | CHATS, Preference(TURNS, "Yes, please.", "No.\n\nNever.")),
    (
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hey", "rejected": " What"},
        Preference(user("Hi"), " Hey", " What"),
    ),
    (
        {"chosen": "Question: 1+1?\nAnswer: 2", "rejected": "Question: 1+1?\nAnswer: 3"},
        Preference(user("Question: 1+1?"), "Answer: 2", "Answer: 3"),
    ),
    ({"prompt": "q", "response": "a", "label": "good"}, Label(user("q"), "a", True)),
    ({"prompt": "q", "response": "a", "label": "bad"}, Label(user("q"), "a", False)),
    ({"prompt": "q", "response": "a", "label": True}, Label(user("q"), "a", True)),
    ({"prompt": "q", "response": "a", "label": False}, Label(user("q"), "a", False)),
    ({"prompt": "q", "response": "a", "label": 1}, Label(user("q"), "a", True)),
    ({"prompt": "q", "response": "a", "label": 0}, Label(user("q"), "a", False)),
    ({"질문": "q", "응답": "a", "평가": "좋아요"}, Label(user("q"), "a", True)),
    ({"prompt": "q", "response": "a", "label": "싫어요"}, Label(user("q"), "a", False)),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label": "1"},
        Label(user("q"), "a", True),
    ),
    (
        {"prompt": "q", "responses": ["a", "b", "c", "d"], "ranking": [1, 4, 2, 3]},
        Ranking(user("q"), ("a", "b", "c", "d"), (1, 4, 2, 3)),
    ),
    (
        {"prompt": "q", "responses": ["a", "b", "c", "d"], "ranking": [2, 1, 2, 4]},
        Ranking(user("q"), ("a", "b", "c", "d"), (2, 1, 2, 4)),
    ),
    (
        {"prompt": "q", "responses": ["a", "b", "c"], "순위": [2.0, 1.0, 2.0]},
        Ranking(user("q"), ("a", "b", "c"), (2, 1, 2)),
    ),
    ({"prompt": "q", "response": "a", "score": 4}, Rating(user("q"), "a", {"score": 4.0})),
    (
        {"prompt": "q", "response": "a", "score": {"helpful": 5, "safe": 0.5}},
        Rating(user("q"), "a", {"helpful": 5.0, "safe": 0.5}),
    ),
    ({"prompt": "q"}, Prompt(user("q"))),
    ({"question": "1+1?", "answer": "#### 2"}, Prompt(user("1+1?"), "#### 2")),
    ({"질문": "1+1?", "정답": 2}, Prompt(user("1+1?"), "2")),
    (
        {"prompt": "q", "constraints": [{"kind": "max_words", "arguments": {"n": 5}}]},
        Prompt(user("q"), constraints=({"kind": "max_words", "arguments": {"n": 5}},)),
    ),
    ({"messages": TURNS_ROWS}, Prompt(TURNS)),
]


@pytest.mark.parametrize(("row", "expected"), FORMS, ids=range(len(FORMS)))
def test_row_form(tmp_path, row, expected):
    assert read_one(tmp_path, row) == expected


def test_korean_column_names_decomposed_as_on_a_mac(tmp_path):
    import unicodedata

    row = {unicodedata.normalize("NFD", name): value for name, value in {"질문": "q", "답변": "a"}.items()}
    assert read_one(tmp_path, row) == Demonstration(user("q"), "a")


def test_csv_cells_that_hold_lists(tmp_path):
    file = tmp_path / "r.csv"
    file.write_text(
        'prompt,responses,ranking,answer\nq,"[""a"", ""b""]","[2, 1]",\n'
        '[1] is what?,"[""a"",""b""]","[1,1]",\n',
        encoding="utf-8",
    )
    records = read_records(str(file)).records
    assert [(r.prompt, r.completions, r.ranks) for r in records if isinstance(r, Ranking)] == [
        (user("q"), ("a", "b"), (2, 1)),
        (user("[1] is what?"), ("a", "b"), (1, 1)),
    ]


def test_a_named_kind_settles_what_is_ambiguous(tmp_path):
    row = {"prompt": "q", "response": "a", "label": 1, "score": 3}
    assert read_one(tmp_path, row, kind="label") == Label(user("q"), "a", True)
    assert read_one(tmp_path, row, kind="rating") == Rating(user("q"), "a", {"score": 3.0})
    assert read_one(tmp_path, row, kind="demonstration") == Demonstration(user("q"), "a")
    assert read_one(tmp_path, row, kind="prompt") == Prompt(user("q"))
    assert read_one(tmp_path, {"question": "q", "answer": "a"}, kind="demonstration") == Demonstration(
        user("q"), "a"
    )
    assert read_one(tmp_path, CHATS, kind="prompt") == Prompt(TURNS)


def test_a_pair_is_a_demonstration_only_where_it_says_so(tmp_path):
    pair = {"prompt": "q", "chosen": "x", "rejected": "y"}
    asked = read_one(tmp_path, pair | {"sft_target": "chosen"}, kind="demonstration")
    assert asked == Demonstration(user("q"), "x")
    with pytest.raises(DataError) as caught:
        read_records(put(tmp_path / "r.jsonl", pair), kind="demonstration")
    assert "no usable row of 1 (1 missing_field)" in str(caught.value)
    assert str(caught.value).endswith(
        f"; the rows look like preference records; try: alignloop data convert {tmp_path}/r.jsonl "
        "--to demonstration -o r_demonstration.jsonl"
    )


def test_columns_mapping(tmp_path):
    row = {"q": "frage", "answer": "gut", "prompt": "wrong"}
    mapped = read_one(tmp_path, row, columns={"prompt": "q", "response": "answer"})
    assert mapped == Demonstration(user("frage"), "gut")
    with pytest.raises(DataError, match=r"columns: unknown field 'promt'; did you mean 'prompt'\?"):
        read_one(tmp_path, row, columns={"promt": "q"})
    with pytest.raises(DataError, match="columns maps it to 'x', which this row lacks; it has q, a"):
        read_one(tmp_path, row, columns={"prompt": "x"})


def test_a_question_alone_is_answered_by_another_column(tmp_path):
    file = tmp_path / "rows.jsonl"
    question = [{"role": "user", "content": "q"}]
    file.write_text(json.dumps({"messages": question, "answer": "a"}) + "\n", encoding="utf-8")
    (record,) = read_records(str(file), "demonstration").records
    assert (record.prompt, record.completion) == ((Message("user", "q"),), "a")
    file.write_text(json.dumps({"messages": question}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="field 'completion': is missing"):
        read_records(str(file), "demonstration")
