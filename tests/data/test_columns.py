import hashlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignloop.data.columns import Dataset, read_records, record_to_row, write_records
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


GOOD = {
    "document": {"text": "t"},
    "prompt": {"prompt": "q"},
    "demonstration": {"prompt": "q", "response": "a"},
    "preference": {"prompt": "q", "chosen": "x", "rejected": "y"},
    "label": {"prompt": "q", "response": "a", "label": 1},
    "rating": {"prompt": "q", "response": "a", "score": 1},
    "ranking": {"prompt": "q", "responses": ["a", "b"], "ranking": [1, 2]},
}


def test_other_kind_is_dropped_by_the_majority_of_the_first_rows(tmp_path):
    file = put(tmp_path / "r.jsonl", GOOD["prompt"], GOOD["label"], GOOD["label"])
    data = read_records(file)
    assert (data.kind, len(data.records)) == ("label", 2)
    assert str(data.dropped[0]) == (
        f"{file}:1: this row is a prompt, most of the first rows are a label; name one with kind"
    )


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


@settings(max_examples=60, deadline=None)
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


def test_notes_name_the_files_of_other_splits():
    def noted(*names):
        return Dataset([], [], "label", left_out=names).notes

    assert noted() == []
    assert noted("test.jsonl") == [
        "files of other splits were left out: test.jsonl; split names the one to read"
    ]
    assert noted("a", "b", "c", "d")[0].startswith("files of other splits were left out: a, b, c and more;")
