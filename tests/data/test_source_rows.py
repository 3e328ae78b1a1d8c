"""Rows of files and records of a source at their edges: lines, lists, headers, hashes and what is noted."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from alignloop.data import hints, source_files, sources
from alignloop.data.columns import read_records, record_to_row, write_records
from alignloop.data.source_records import ReadOptions, SourceRecords, no_usable_row, read_source
from alignloop.errors import DataError
from alignloop.records import Demonstration, Label, Message, Preference, Prompt, Provenance

Q = (Message("user", "q"),)
ONE = {"prompt": "q", "response": "a"}
PAIR = {"prompt": "q", "chosen": "x", "rejected": "y"}


def put(path: Path, *rows: Any) -> str:
    text = (
        rows[0]
        if len(rows) == 1 and isinstance(rows[0], str)
        else "".join(json.dumps(r) + "\n" for r in rows)
    )
    path.write_text(text, encoding="utf-8")
    return str(path)


def read(path: str) -> tuple[list[tuple[Any, int]], list[tuple[int, str]]]:
    faults: list[DataError] = []
    found = [(row.values, row.line) for row in sources.read_rows(path, on_fault=faults.append)]
    return found, [(f.line, f.reason) for f in faults]


def fault(run: Any, *args: Any, **more: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        run(*args, **more)
    return caught.value


A, B = {"a": 1}, {"a": 2}


@pytest.mark.parametrize(
    ("name", "text", "rows", "faults"),
    [
        ("r.jsonl", "", [], []),
        ("r.jsonl", '\n{"a": 1}', [(A, 2)], []),
        ("r.jsonl", '{"a": 1}\n{\n"a": 2\n}\n[1]\n{"a": 1}', [(A, 1), (B, 2), (A, 6)], [(5, "not_object")]),
        ("r.jsonl", '[\n{"a": 1},\n{"a": 2}, 3]\n', [(A, 1), (B, 1)], [(1, "not_object")]),
        ("r.jsonl", '{"a": NaN}\n{"a": 1}', [(A, 2)], [(1, "not_finite")]),
        ("r.json", "", [], []),
        ("r.json", " \n ", [], []),
        ("r.json", '{"a": 1}', [(A, 1)], []),
        ("r.json", '[{"a": 1}, 5, {"a": 2}]', [(A, 1), (B, 3)], [(2, "not_object")]),
        ("r.json", "[]", [], []),
        ("r.json", '{"data": [], "rows": [{"a": 1}], "items": [{"a": 2}]}', [(A, 1)], []),
        ("r.json", '{"data": ["x"], "train": [{"a": 2}]}', [(B, 1)], []),
        ("r.json", '{"data": ["x", {"a": 1}]}', [(A, 2)], [(1, "not_object")]),
        ("r.json", '{"a": 1}\n\n{"a": 2}\n', [(A, 1), (B, 3)], []),
        ("r.csv", "", [], []),
        ("r.csv", "a\n", [], []),
        ("r.csv", "a\n1\n", [({"a": "1"}, 1)], []),
        ("r.csv", "a,b\n\n,\n1,\n", [({"a": "1", "b": ""}, 1)], []),
        ("r.csv", "a,b\n1\n2,3\n", [({"a": "2", "b": "3"}, 2)], [(1, "wrong_cells")]),
        ("r.tsv", "a\tb\n1,2\t3\n", [({"a": "1,2", "b": "3"}, 1)], []),
        # without a header only where both of the first two rows are questions
        (
            "r.csv",
            "q,w,x,y,z,A\n",
            [({"question": "q", "A": "w", "B": "x", "C": "y", "D": "z", "answer": "A"}, 1)],
            [],
        ),
        (
            "r.csv",
            "q,w,x,y,z,A\np,1,2,3,4,5\n",
            [({"q": "p", "w": "1", "x": "2", "y": "3", "z": "4", "A": "5"}, 1)],
            [],
        ),
    ],
)
def test_rows_of_small_files(
    tmp_path: Path, name: str, text: str, rows: list[Any], faults: list[Any]
) -> None:
    assert read(put(tmp_path / name, text)) == (rows, faults)


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("r.jsonl", '{"a": 1}\nbroken\n', 2, "broken_json"),
        ("r.jsonl", '{"a": 1}\n{"a": }\n{"a": 2}\n', 2, "broken_json"),
        ("r.jsonl", '{"a":\n1}\n{"b":\n', 1, "broken_json"),
        ("r.jsonl", '"text\nmore"\n', 1, "broken_json"),
        ("r.json", '[{"a": 1},\n{"a": }]', 2, "broken_json"),
        ("r.json", '[1]\n[2]', 2, "broken_json"),
        ("r.json", '[{"a": Infinity}]', 0, "not_finite"),
        ("r.json", "[" * 200 + "]" * 200, 0, "broken_json"),
        ("r.json", '"text"', 0, "not_object"),
        ("r.csv", "a,a\n1,2\n", 1, "invalid"),
        ("r.csv", "a, \n1,2\n", 1, "invalid"),
        ("r.csv", 'a,b\n1,2\n3,"4\n', 3, "broken_csv"),
    ],
)  # fmt: skip
def test_where_a_file_is_damaged(tmp_path: Path, name: str, text: str, line: int, reason: str) -> None:
    found = fault(read, put(tmp_path / name, text))
    assert (found.line, found.reason) == (line, reason)


def test_kinds_of_files_by_their_names() -> None:
    names = {
        "a.CSV.gz": ".csv",
        "a.b.jsonl.ZST": ".jsonl",
        "a.tsv": ".tsv",
        "a.gz": "",
        "a": "",
        "x.json.bz2": ".bz2",
    }
    assert {name: source_files.kind_of(name) for name in names} == names


def test_lines_up_to_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(raw: bytes, most: int = 5) -> list[tuple[int, str]]:
        (tmp_path / "x").write_bytes(raw)
        with source_files.open_text(tmp_path / "x") as handle:
            return list(source_files.decoded(handle, "x", most=most))

    assert decoded(b"1234\n12345\xe2"[:-1]) == [(1, "1234\n"), (2, "12345")]
    assert decoded(b"\xef\xbb\xbfab\n\xef\xbb\xbf", 9) == [(1, "ab\n"), (2, "\ufeff")]
    found = fault(decoded, b"1\n" + b"2" * (3 * source_files.MIB + 1), 3 * source_files.MIB)
    assert (found.line, found.reason, found.file) == (2, "too_large", "x")
    assert found.message.startswith("a line of more than 3 MiB")
    assert (found := fault(decoded, b"a\n\xff\xfe", 9)).line == 2
    assert "at byte 1 (it looks like another encoding)" in found.message
    assert "at byte 1 (it looks like UTF-16)" in fault(decoded, b"\xfe\xff\x00a", 9).message
    assert "at byte 3 (it looks like another encoding)" in fault(decoded, b"ab\xff", 9).message
    monkeypatch.setattr(source_files, "MAX_WHOLE", 4)
    for text, fits in ((b"1234", True), (b"12345", False)):
        (tmp_path / "x").write_bytes(text)
        with source_files.open_text(tmp_path / "x") as handle:
            if fits:
                assert source_files.whole(handle, "x") == "1234"
            else:
                assert fault(source_files.whole, handle, "x").reason == "too_large"


def test_a_small_packed_file_may_unpack_to_many_times_its_size(tmp_path: Path) -> None:
    text = b" " * 1_000_000 + b'\n{"a": 1}\n'
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(text))
    assert read(str(tmp_path / "r.jsonl.gz")) == ([(A, 2)], [])


def test_a_whole_file_may_be_one_long_line() -> None:
    """Longer than a line of a file that is read line by line may be."""
    text = b"[" + b" " * source_files.MAX_LINE + b"]"
    assert len(source_files.whole(io.BytesIO(text), "x")) == len(text)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for name, why in (("none.jsonl", "No such file"), (".", "Is a directory")):
        with (
            pytest.raises(DataError, match=f"cannot be read .{why}"),
            source_files.open_text(tmp_path / name),
        ):
            pass


def hub(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, Any]) -> SourceRecords:
    made = (sources.SourceRow(row, "o/n", k) for k, row in enumerate(rows, 1))
    monkeypatch.setattr(sources, "_hub", lambda source: made)
    return read_source(sources.Source("o/n", split="train"), ReadOptions((), {}, "unknown", True))


def test_rows_of_the_hub_are_hashed_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**ONE, "at": datetime.date(2026, 1, 31)}, {**ONE, "text": "물"}, {**ONE, "odd": "\ud800"}]
    texts = ['{"prompt": "q", "response": "a", "at": "2026-01-31"}']
    texts += [
        '{"prompt": "q", "response": "a", "text": "물"}',
        '{"prompt": "q", "response": "a", "odd": "?"}',
    ]
    found = hub(monkeypatch, *rows)
    assert found.sha256 == hashlib.sha256("".join(texts).encode()).hexdigest()
    assert (found.rows, len(found.records), found.kind) == (3, 3, "demonstration")


def test_the_first_hundred_rows_decide_the_kind(tmp_path: Path) -> None:
    label = {**ONE, "label": 1}
    data = read_records(put(tmp_path / "r.jsonl", *[ONE] * 51, *[label] * 49, *[label] * 20))
    assert (data.kind, len(data.records), len(data.dropped)) == ("demonstration", 51, 69)
    assert data.reasons == {"other_kind": 69}
    data = read_records(put(tmp_path / "r.jsonl", *[ONE] * 50, *[label] * 50))
    assert data.kind == "demonstration"  # of equally many the first
    data = read_records(put(tmp_path / "r.jsonl", *[ONE] * 49, *[label] * 51))
    assert data.kind == "label"
    # a kind that was asked for is not guessed, and of several that most rows are is taken
    assert (
        read_records(put(tmp_path / "r.jsonl", ONE, label, label), ["label", "demonstration"]).kind == "label"
    )
    assert read_records(put(tmp_path / "r.jsonl", ONE, ONE, label), ["label", "prompt"]).kind == "label"
    assert (
        read_records(put(tmp_path / "r.jsonl", ONE, ONE, label), ["label", "demonstration"]).kind
        == "demonstration"
    )


def test_columns_are_looked_into_once_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    plain = hints.proposals

    def proposals(row: Any, kind: str, columns: Any, names: Any) -> dict[str, str]:
        asked.append([*names])
        return plain(row, kind, columns, names)

    monkeypatch.setattr(hints, "proposals", proposals)
    rows = [{**PAIR, "strength": 1}, PAIR, {**PAIR, "strength": 2, "note": 3}, {**PAIR, "note": 4}]
    data = read_records(put(tmp_path / "r.jsonl", *rows))
    assert asked == [["strength"], ["note"]]
    assert (data.unused, data.proposals) == (
        {"strength": 2, "note": 2},
        {"strength": "--column margin=strength"},
    )
    # of a row that gave no record nothing is told
    data = read_records(put(tmp_path / "r.jsonl", PAIR, {**PAIR, "chosen": "", "note": 1}))
    assert (len(data.dropped), data.unused) == (1, {})


def test_pairs_that_are_against_their_scores_or_have_no_prompt(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    against = {**PAIR, "chosen_score": 1, "rejected_score": 2}
    data = read_records(put(file, against, {**against, "chosen_score": 2}, {**against, "chosen": ""}))
    assert data.against_scores == [f"{file}:1"]
    lines_alone = {"chosen": "q\nx", "rejected": "q\ny"}
    data = read_records(put(file, lines_alone, PAIR, lines_alone))
    assert data.guessed_prompts == [f"{file}:1", f"{file}:3"]
    assert data.notes == [
        "2 rows have no prompt: the lines that chosen and rejected begin with are taken for it, "
        f"the first: {file}:1"
    ]
    data = read_records(put(file, against, against))
    assert data.notes[-1] == (
        f"2 rows prefer the answer with the lower score, the first: {file}:1; "
        "are chosen and rejected swapped?"
    )
    asked = read_records(put(file, against, lines_alone), "prompt")
    assert (asked.against_scores, asked.guessed_prompts) == ([], [])


def test_votes_that_count_from_one_or_from_both(tmp_path: Path) -> None:
    vote = {"prompt": "q", "response_a": "x", "response_b": "y"}
    data = read_records(put(tmp_path / "r.jsonl", *({**vote, "preference": v} for v in (1, 2, 1.5, "A"))))
    assert [(r.chosen, r.probability) for r in data.records] == [("x", 1), ("y", 1), ("x", 0.5), ("x", 1)]
    found = fault(read_records, put(tmp_path / "r.jsonl", *({**vote, "preference": v} for v in (1, 0, 2))))
    assert (found.line, found.field, found.value, found.reason) == (2, "preference", 0, "two_counts")
    assert found.message == "the votes of this file count from 0 and from 1; write A, B or tie"
    data = read_records(put(tmp_path / "r.jsonl", *({**vote, "preference": v} for v in (0, 1, 3))))
    assert (len(data.records), data.reasons) == (2, {"unknown_label": 1})


def test_ratings_beyond_their_range_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(
        tmp_path / "r.jsonl",
        {**ONE, "score": 3},
        {**ONE, "score": 8},
        {**ONE, "score": -1},
        {**ONE, "score": "x"},
    )
    found = fault(read_records, "r.jsonl")
    assert (found.line, found.field, found.value, found.reason) == (2, "score", 8, "score_range")
    assert found.message == (
        "scores are read as 0 to 5, and 2 rows are beyond; tell the range, in a recipe "
        "{path: …, score_range: [-1, 10]}; try: alignloop data check r.jsonl --score-range -1:10"
    )
    told = read_records({"path": "r.jsonl", "score_range": [-2, 8]})
    assert [r.scores["score"] for r in told.records] == [2.5, 5.0, 0.5]
    put(tmp_path / "r.jsonl", {**ONE, "score": 3}, {**ONE, "score": 1e999})
    assert read_records("r.jsonl").reasons == {"not_finite": 1}
    put(tmp_path / "r.jsonl", {**PAIR, "margin": 3}, {**PAIR, "margin": 1e7})
    assert read_records("r.jsonl").reasons == {"out_of_range": 1}


def test_what_is_said_of_a_source_without_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reading = ReadOptions(("label",), {}, "unknown", False)
    source = sources.Source("r.jsonl")
    empty = no_usable_row(source, SourceRecords("label", ""), reading)
    assert (str(empty), empty.reason) == ("r.jsonl: no usable row: the file has none", "no_usable_row")
    put(tmp_path / "r.jsonl", {**ONE, "response": ""}, {"prompt": "q"}, {**ONE, "response": ""})
    found = fault(read_records, "r.jsonl", "demonstration")
    assert found.message == (
        "no usable row of 3 (2 empty_completion, 1 missing_field); the first: r.jsonl:1: field 'response': "
        "value '': expected text, found none"
    )
    put(tmp_path / "r.jsonl", PAIR, PAIR)
    assert "; the rows look like preference records; try: alignloop data convert r.jsonl --to label" in str(
        fault(read_records, "r.jsonl", "label")
    )
    # the command would not read the second row, which fits two kinds, so it would find no pair
    put(tmp_path / "r.jsonl", {**ONE, "label": 1}, {**ONE, "response": "b", "label": 0, "score": 1})
    found = fault(read_records, "r.jsonl", "preference")
    assert found.message.endswith("; the rows look like label records")


def test_what_a_written_row_holds(tmp_path: Path) -> None:
    nowhere = {"file": "", "line": 0, "origin": "unknown", "details": {}}
    asked = {"prompt": [{"role": "user", "content": "q"}]}
    for record, row in (
        (Prompt(Q), asked),
        (Prompt(Q, "", ({"kind": "title"},)), {**asked, "answer": "", "constraints": [{"kind": "title"}]}),
        (Preference(Q, "x", "y"), {**asked, "chosen": "x", "rejected": "y"}),
        (
            Preference(Q, "x", "y", 0.0, 2.0),
            {**asked, "chosen": "x", "rejected": "y", "probability": 0.0, "margin": 2.0},
        ),
        (Demonstration(Q, "a"), {**asked, "completion": "a"}),
    ):
        assert record_to_row(record) == {**row, "provenance": nowhere}
    earlier = (*Q, Message("assistant", "b"), *Q)
    row: Any = record_to_row(Demonstration(earlier, "a", train=False))
    assert [message.get("train") for message in row["messages"]] == [None, None, None, False]
    write_records(tmp_path / "w.jsonl", [Label(Q, "물", True, Provenance("f", 2, "ai", {"k": 1}))])
    assert (tmp_path / "w.jsonl").read_text(encoding="utf-8") == (
        '{"prompt": [{"role": "user", "content": "q"}], "completion": "물", "label": true, "provenance": '
        '{"file": "f", "line": 2, "origin": "ai", "details": {"k": 1}}}\n'
    )


def test_a_data_set_of_several_files(tmp_path: Path) -> None:
    one = put(tmp_path / "a.jsonl", {**PAIR, "note": 1}, {**PAIR, "chosen": ""})
    two = put(tmp_path / "b.jsonl", {**PAIR, "note": 1, "strength": 2})
    data = read_records([one, two, one])
    assert [r.provenance.file for r in data.records] == [one, two, one]
    assert (data.unused, data.proposals) == (
        {"note": 3, "strength": 1},
        {"strength": "--column margin=strength"},
    )
    assert {name: file["rows"] for name, file in data.files.items()} == {one: 4, two: 1}
    assert data.reasons == {"empty_completion": 2}
    assert fault(read_records, [two, one], strict=True).line == 2
    with pytest.raises(DataError, match="expected document, prompt, demonstration") as caught:
        read_records(one, ["preference", "pair"])
    assert (caught.value.field, caught.value.value) == ("kind", "pair")
    # the kind of the first file holds for the others
    assert "no usable row" in str(fault(read_records, [one, put(tmp_path / "c.jsonl", ONE)]))
    (tmp_path / "f").mkdir()
    for name in ("train.jsonl", "test.jsonl", "dev.jsonl"):
        put(tmp_path / "f" / name, PAIR)
    left = read_records([str(tmp_path / "f"), str(tmp_path / "f")]).left_out
    assert left == (str(tmp_path / "f" / "dev.jsonl"), str(tmp_path / "f" / "test.jsonl"))
