"""Every row form of the project's documentation, bad rows with their exact messages, round trips."""

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignloop.data.columns import read_records, record_to_row, write_records
from alignloop.errors import DataError
from alignloop.records import (
    Demonstration,
    Document,
    Label,
    Message,
    Preference,
    Prompt,
    Provenance,
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


BAD = [
    (
        {"prompt": "", "response": "a"},
        "demonstration",
        "field 'prompt': value '': expected text, found none",
        "empty_prompt",
    ),
    (
        {"prompt": "q", "response": " \n"},
        "demonstration",
        "field 'response': value ' \\n': expected text, found none",
        "empty_completion",
    ),
    (
        {"prompt": "q", "response": 5},
        "demonstration",
        "field 'response': value 5: expected text, found a number",
        "wrong_type",
    ),
    (
        {"prompt": 5, "response": "a"},
        "demonstration",
        "field 'prompt': value 5: expected text, found a number",
        "wrong_type",
    ),
    (
        {"prompt": "q", "response": "a\ud800"},
        "demonstration",
        "field 'response': holds half a surrogate pair, which is no character",
        "invalid_unicode",
    ),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]},
        "demonstration",
        "field 'messages': value '': expected text, found none",
        "empty_completion",
    ),
    (
        {"messages": [{"role": "tool", "content": "q"}]},
        "demonstration",
        "field 'messages[0].role': value 'tool': expected the role system, user (human) or assistant (gpt)",
        "unknown_role",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "demonstration",
        "field 'messages[0].content': value {'type': 'image'}: only text parts can be read",
        "not_text",
    ),
    (
        {"messages": []},
        "demonstration",
        "field 'messages': value []: expected at least one message",
        "empty_prompt",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "system", "content": "s"},
                {"role": "assistant", "content": "a"},
            ]
        },
        "demonstration",
        "field 'messages[1]': a system message must come first",
        "bad_messages",
    ),
    (
        {"messages": [{"role": "assistant", "content": "a"}]},
        "demonstration",
        "field 'messages': expected text, found none",
        "empty_prompt",
    ),
    (
        {"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        "prompt",
        "field 'prompt': value 'assistant': a prompt must end with a user message",
        "prompt_not_user",
    ),
    (
        {"prompt": "q", "response": "a", "label": "maybe"},
        "label",
        "field 'label': value 'maybe': expected good/bad, true/false, 1/0 or 좋아요/싫어요",
        "unknown_label",
    ),
    (
        {"prompt": "q", "response": "a", "label": 2},
        "label",
        "field 'label': value 2: expected good/bad, true/false, 1/0 or 좋아요/싫어요",
        "unknown_label",
    ),
    (
        {"prompt": "q", "response_A": "x", "response_B": "y", "preference": "C"},
        "preference",
        "field 'preference': value 'C': expected 'A', 'B' or 'tie'",
        "unknown_label",
    ),
    (
        {"prompt": "q", "response_A": "x", "response_B": "y", "preference": 1},
        "preference",
        "field 'preference': value 1: expected 'A', 'B' or 'tie'",
        "unknown_label",
    ),
    (
        {"prompt": "q", "chosen": "x", "rejected": "y", "probability": 1.5},
        "preference",
        "field 'probability': value 1.5: expected a number from 0 to 1",
        "out_of_range",
    ),
    (
        {"prompt": "q", "chosen": "x"},
        "preference",
        "field 'rejected': is missing beside 'chosen'; the row has prompt, chosen",
        "missing_field",
    ),
    (
        {"prompt": "q", "response_a": "x", "response_b": "y"},
        "preference",
        "field 'preference': is missing beside 'response_a'; the row has prompt, response_a, response_b",
        "missing_field",
    ),
    (
        {"chosen": "x\n1", "rejected": "y\n1"},
        "preference",
        "field 'prompt': no prompt column, and chosen and rejected do not begin with the same lines",
        "missing_field",
    ),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"},
        "preference",
        "field 'rejected': the two dialogues differ before their last answer, so there is no common prompt",
        "diverging_dialogues",
    ),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: b"},
        "preference",
        "field 'chosen': value '': expected text, found none",
        "empty_completion",
    ),
    (
        {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"},
        "preference",
        "field 'chosen': expected the assistant last",
        "bad_messages",
    ),
    (
        {
            "prompt": "other",
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "rejected": "b",
        },
        "preference",
        "field 'chosen': does not continue the prompt",
        "prompt_mismatch",
    ),
    (
        {"prompt": "Tea?", "chosen": CHATS["chosen"], "rejected": "\n\nHuman: Tea?\n\nAssistant: No"},
        "preference",
        "field 'rejected': answers another prompt",
        "prompt_mismatch",
    ),
    (
        {"prompt": "q", "responses": ["a", "b", "c"], "ranking": [1, 2]},
        "ranking",
        "field 'ranking': value [1, 2]: expected 3 ranks, one for each response in its place, 1 the best, "
        "ties allowed",
        "not_a_ranking",
    ),
    (
        {"prompt": "q", "responses": ["a", "b", "c"], "ranking": [0, 1, 2]},
        "ranking",
        "field 'ranking': value [0, 1, 2]: expected 3 ranks, one for each response in its place, 1 the best, "
        "ties allowed; these are no ranking",
        "not_a_ranking",
    ),
    (
        {"prompt": "q", "responses": ["a", "b"], "ranking": ["a", 1]},
        "ranking",
        "field 'ranking': value ['a', 1]: expected 2 ranks, one for each response in its place, 1 the best, "
        "ties allowed",
        "not_a_ranking",
    ),
    (
        {"prompt": "q", "responses": ["a"], "ranking": [1]},
        "ranking",
        "field 'responses': value ['a']: expected at least two responses",
        "too_few_responses",
    ),
    (
        {"prompt": "q", "responses": ["a", ""], "ranking": [1, 2]},
        "ranking",
        "field 'responses[1]': value '': expected text, found none",
        "empty_completion",
    ),
    (
        {"prompt": "q", "responses": "a b", "ranking": [1, 2]},
        "ranking",
        "field 'responses': value 'a b': expected a list […], found text",
        "wrong_type",
    ),
    (
        {"prompt": "q", "response": "a", "score": 6},
        "rating",
        "field 'score': value 6: expected a number from 0 to 5",
        "out_of_range",
    ),
    (
        {"prompt": "q", "response": "a", "score": "high"},
        "rating",
        "field 'score': value 'high': expected a number from 0 to 5",
        "wrong_type",
    ),
    (
        {"prompt": "q", "response": "a", "score": {"safe": True}},
        "rating",
        "field 'score.safe': value True: expected a number from 0 to 5, found true/false",
        "wrong_type",
    ),
    (
        {"prompt": "q", "response": "a", "score": 1e999},
        "rating",
        "field 'score': value inf: expected a number from 0 to 5",
        "out_of_range",
    ),
    (
        {"prompt": "q", "label": "good"},
        "label",
        "field 'completion': is missing beside 'label'; the row has prompt, label",
        "missing_field",
    ),
    (
        {"prompt": "q", "constraints": "short"},
        "prompt",
        "field 'constraints': value 'short': expected a list […], found text",
        "wrong_type",
    ),
    (
        {"foo": 1, "bar": 2},
        "document",
        "the columns (foo, bar) fit no known form; name yours with columns",
        "unknown_form",
    ),
    ({"text": " "}, "document", "field 'text': value ' ': expected text, found none", "empty_text"),
    (
        {"prompt": "q", "response": "a", "label": 1, "score": 3},
        "label",
        "prompt, response, label, score fit a label and a rating; say which with kind",
        "ambiguous",
    ),
    (
        {"instruction": "q", "instances": [{"output": "a"}, {"output": "b"}]},
        "demonstration",
        "field 'instances': value [{'output': 'a'}, {'output': 'b'}]: expected one object",
        "several_instances",
    ),
    (
        {"text": "t", "provenance": {"origin": "martian"}},
        "document",
        "field 'provenance': value {'origin': 'martian'}: expected file, line, origin (human, ai, simulated, "
        "derived, unknown) and details with plain values",
        "bad_provenance",
    ),
]
GOOD = {
    "document": {"text": "t"},
    "prompt": {"prompt": "q"},
    "demonstration": {"prompt": "q", "response": "a"},
    "preference": {"prompt": "q", "chosen": "x", "rejected": "y"},
    "label": {"prompt": "q", "response": "a", "label": 1},
    "rating": {"prompt": "q", "response": "a", "score": 1},
    "ranking": {"prompt": "q", "responses": ["a", "b"], "ranking": [1, 2]},
}


@pytest.mark.parametrize(("row", "kind", "message", "reason"), BAD, ids=range(len(BAD)))
def test_bad_row_is_dropped_with_its_reason(tmp_path, row, kind, message, reason):
    file = tmp_path / "r.jsonl"
    file.write_text(
        "\n".join(json.dumps(r) for r in (GOOD[kind], GOOD[kind], row)).replace("Infinity", "1e999"),
        encoding="utf-8",
    )
    data = read_records(str(file))
    assert (data.kind, len(data.records), data.reasons) == (kind, 2, {reason: 1})
    assert str(data.dropped[0]) == f"{file}:3: {message}"
    with pytest.raises(DataError) as caught:
        read_records(str(file), strict=True)
    assert str(caught.value) == f"{file}:3: {message}"


def test_other_kind_is_dropped_by_the_majority_of_the_first_rows(tmp_path):
    file = put(tmp_path / "r.jsonl", GOOD["prompt"], GOOD["label"], GOOD["label"])
    data = read_records(file)
    assert (data.kind, len(data.records)) == ("label", 2)
    assert str(data.dropped[0]) == (
        f"{file}:1: this row is a prompt, most of the first rows are a label; name one with kind"
    )


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
    with pytest.raises(DataError, match=r"no usable row of 1 \(1 missing_field\)"):
        read_records(put(tmp_path / "r.jsonl", pair), kind="demonstration")


def test_columns_mapping(tmp_path):
    row = {"q": "frage", "answer": "gut", "prompt": "wrong"}
    mapped = read_one(tmp_path, row, columns={"prompt": "q", "response": "answer"})
    assert mapped == Demonstration(user("frage"), "gut")
    with pytest.raises(DataError, match=r"columns: unknown field 'promt'; did you mean 'prompt'\?"):
        read_one(tmp_path, row, columns={"promt": "q"})
    with pytest.raises(DataError, match="columns maps it to 'x', which this row does not have; it has q, a"):
        read_one(tmp_path, row, columns={"prompt": "x"})


def test_no_usable_row_is_an_error(tmp_path):
    file = put(tmp_path / "r.jsonl", {"prompt": "", "response": "a"}, {"prompt": "", "response": "b"})
    with pytest.raises(DataError) as caught:
        read_records(file)
    assert str(caught.value) == (
        f"{file}: no usable row of 2 (2 empty_prompt); the first: "
        f"{file}:1: field 'prompt': value '': expected text, found none"
    )
    with pytest.raises(DataError, match="no usable row: the file has none"):
        read_records(put(tmp_path / "empty.jsonl"))
    good = put(tmp_path / "good.jsonl", GOOD["label"])
    with pytest.raises(DataError, match=r"no usable row of 2"):
        read_records([good, file])
    with pytest.raises(DataError, match="the weights leave no row"):
        read_records({"path": good, "weight": 0.5})


def test_faults_come_in_the_order_of_lines(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text('{"text": "a"}\n{"text": 1}\n[]\n{"text": ""}\n{"text": "b"}\n', encoding="utf-8")
    data = read_records(str(file))
    assert [(f.line, f.reason) for f in data.dropped] == [
        (2, "wrong_type"),
        (3, "not_object"),
        (4, "unknown_form"),
    ]
    with pytest.raises(DataError, match=r"r\.jsonl:2"):
        read_records(str(file), strict=True)


def test_files_are_named_with_hash_and_rows(tmp_path):
    a = put(tmp_path / "a.jsonl", GOOD["label"], {"prompt": ""}, GOOD["label"])
    b = put(tmp_path / "b.jsonl", GOOD["label"])
    data = read_records([{"path": a, "weight": 2}, b])
    assert [r.provenance.line for r in data.records] == [1, 1, 3, 3, 1]
    assert data.files == {
        a: {"sha256": hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest(), "rows": 3},
        b: {"sha256": hashlib.sha256((tmp_path / "b.jsonl").read_bytes()).hexdigest(), "rows": 1},
    }


def test_provenance_of_new_and_of_written_rows(tmp_path):
    data = read_records(
        put(tmp_path / "r.jsonl", {"text": "t", "model": "m", "seed": 3, "id": None, "source": {"a": 1}}),
        origin="ai",
    )
    assert data.records[0].provenance == Provenance(
        str(tmp_path / "r.jsonl"), 1, "ai", {"model": "m", "seed": 3}
    )
    write_records(tmp_path / "w.jsonl", data.records)
    again = read_records(str(tmp_path / "w.jsonl"), origin="human")
    assert again.records == data.records
    with pytest.raises(DataError, match="field 'origin'"):
        read_records(str(tmp_path / "w.jsonl"), origin="me")
    with pytest.raises(DataError, match="field 'kind'"):
        read_records(str(tmp_path / "w.jsonl"), kind="pair")


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
prompts = st.builds(
    lambda system, turns, last: (*system, *turns, Message("user", last)),
    st.lists(st.builds(Message, st.just("system"), text), max_size=1).map(tuple),
    st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), text), max_size=3).map(tuple),
    text | st.sampled_from(["\n\nHuman: a\n\nAssistant:", "[1]", "a\u2028"]),
)
completion = text | st.sampled_from(["\n\nHuman: a\n\nAssistant: b", '{"a": 1}', "\r\n.\x85"])
details = st.dictionaries(text, text | st.integers(-9, 9) | st.floats(-9, 9) | st.booleans(), max_size=2)
places = st.builds(Provenance, text, st.integers(0, 9), st.sampled_from(["human", "derived"]), details)
records = st.one_of(
    st.builds(Document, text, places),
    st.builds(
        Prompt,
        prompts,
        st.none() | text,
        st.lists(st.dictionaries(text, st.integers(), min_size=1), max_size=2).map(tuple),
        places,
    ),
    st.builds(Demonstration, prompts, completion, places),
    st.builds(Preference, prompts, completion, completion, st.floats(0, 1), st.floats(0, 9), places),
    st.builds(Label, prompts, completion, st.booleans(), places),
    st.builds(Rating, prompts, completion, st.dictionaries(text, st.floats(0, 5), min_size=1), places),
    st.permutations([1, 2, 2, 4]).flatmap(
        lambda r: st.builds(Ranking, prompts, st.tuples(*[completion] * 4), st.just(tuple(r)), places)
    ),
)


@given(record=records, suffix=st.sampled_from([".jsonl", ".jsonl.gz"]))
def test_round_trip_is_exact(tmp_path_factory, record, suffix):
    file = tmp_path_factory.getbasetemp() / f"round{suffix}"
    write_records(file, [record, record])
    data = read_records(str(file))
    assert data.records == [record, record]
    assert json.loads(json.dumps(record_to_row(record))) == record_to_row(record)


def test_writing_is_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "r.jsonl"
    good = Demonstration(user("q"), "한글")
    write_records(file, [good])
    before = file.read_bytes()
    assert "한글".encode() in before
    with pytest.raises(DataError, match="cannot be written"):
        write_records(file, [good, Preference(user("q"), "a", "b", margin=math.nan)])
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == ["r.jsonl"]
    with pytest.raises(DataError, match=r"written as \.jsonl or \.jsonl\.gz"):
        write_records(tmp_path / "r.csv", [good])
    write_records(tmp_path / "a.jsonl.gz", [good])
    write_records(tmp_path / "b.jsonl.gz", [good])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
