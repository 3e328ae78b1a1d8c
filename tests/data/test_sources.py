import gzip
import json
import sys
import types
from pathlib import Path

import pytest

from alignloop.data.sources import Source, expand, read_rows, read_source, repeat
from alignloop.errors import DataError


def put(path: Path, data: bytes | str) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def values(spec, **kwargs):
    return [row.values for row in read_rows(spec, **kwargs)]


ROWS = [{"a": 1, "b": "가"}, {"a": 2, "b": "ü"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.jsonl", LINES, ROWS),
        ("r.json", json.dumps(ROWS, indent=1), ROWS),
        ("data.json", json.dumps({"version": 1, "data": ROWS}), ROWS),
        ("one.json", json.dumps({"messages": [{"role": "user"}]}), [{"messages": [{"role": "user"}]}]),
        ("lines.json", LINES, ROWS),
        (
            "r.csv",
            'a,b\r\n1,가\r\n2,"x, ""y""\nz"\r\n',
            [{"a": "1", "b": "가"}, {"a": "2", "b": 'x, "y"\nz'}],
        ),
    ],
)
def test_every_text_format_also_packed(tmp_path, suffix, name, content, expected):
    raw = content.encode()
    file = put(tmp_path / (name + suffix), gzip.compress(raw) if suffix else raw)
    assert values(file) == expected


def test_parquet_rows_count_from_one(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    file = str(tmp_path / "r.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    assert [(row.values, row.line) for row in read_rows(file)] == [(ROWS[0], 1), (ROWS[1], 2)]
    put(tmp_path / "bad.parquet", b"PAR1 and nothing")
    with pytest.raises(DataError, match="the Parquet file is damaged"):
        values(str(tmp_path / "bad.parquet"))


def test_line_numbers_are_those_of_the_file(tmp_path):
    file = put(tmp_path / "r.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": "x\xe2\x80\xa8y"}\r\n')
    rows = list(read_rows(file))
    assert [(row.values["a"], row.line) for row in rows] == [(1, 1), ("x\u2028y", 4)]


def test_csv_with_byte_order_mark_and_long_field(tmp_path):
    file = put(tmp_path / "r.csv", b"\xef\xbb\xbfa,b\n1," + b"x" * 200_000 + b"\n\n,\n2,y\n")
    assert [(row.values["a"], row.line) for row in read_rows(file)] == [("1", 1), ("2", 2)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "r.jsonl",
            '{"a": 1}\n' * 6 + '{"a": \n',
            "r.jsonl:7: broken JSON (Expecting value at column 7); repair or delete it",
        ),
        (
            "r.json",
            '[{"a": 1},\n {"a" 2}]',
            "r.json:2: broken JSON (Expecting ':' delimiter at column 7); repair or delete it",
        ),
        (
            "r.jsonl",
            b'{"a": 1}\n{"a": "\xb0\xa1"}\n',
            "r.jsonl:2: not UTF-8 at byte 8 (it looks like another encoding); save the file as UTF-8",
        ),
        (
            "r.csv",
            "a,b\n1,가\n".encode("utf-16"),
            "r.csv:1: not UTF-8 at byte 1 (it looks like UTF-16); save the file as UTF-8",
        ),
        ("r.json", "3", "r.json: value 3: expected a list of objects"),
        (
            "r.csv",
            "a,a\n1,2\n",
            "r.csv:1: value ['a', 'a']: the header needs a distinct name for each column",
        ),
        (
            "r.csv",
            "a,,b\n1,2,3\n",
            "r.csv:1: value ['a', '', 'b']: the header needs a distinct name for each column",
        ),
        ("r.csv", 'a,b\n1,"x\n', "r.csv:2: broken CSV (unexpected end of data)"),
        ("r.jsonl", "[" * 100_000, "r.jsonl:1: broken JSON"),
    ],
)
def test_damaged_file(tmp_path, name, content, message):
    file = put(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        values(file, on_fault=lambda fault: None)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_packed_file_cut_short(tmp_path):
    whole = gzip.compress(LINES.encode() * 100)
    file = put(tmp_path / "r.jsonl.gz", whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"r\.jsonl\.gz: the \.gz file is damaged or cut short"):
        values(file)
    put(tmp_path / "r.jsonl.gz", LINES)
    with pytest.raises(DataError, match="damaged or cut short"):
        values(file)


def test_odd_rows_are_reported_and_skipped(tmp_path):
    file = put(tmp_path / "r.jsonl", '[1]\n{"a": NaN}\n"x"\n{"a": 1}\n{"a": -Infinity}\n')
    faults = []
    assert values(file, on_fault=faults.append) == [{"a": 1}]
    assert [str(fault).removeprefix(file) for fault in faults] == [
        ":1: value [1]: expected an object {…} with columns",
        ":2: NaN is no JSON number",
        ":3: value 'x': expected an object {…} with columns",
        ":5: -Infinity is no JSON number",
    ]
    with pytest.raises(DataError, match=r"r\.jsonl:1"):
        values(file)
    put(tmp_path / "r.csv", "a,b\n1\n2,3\n4,5,6\n")
    faults.clear()
    assert values(str(tmp_path / "r.csv"), on_fault=faults.append) == [{"a": "2", "b": "3"}]
    file = str(tmp_path / "r.csv")
    assert [str(fault) for fault in faults] == [
        f"{file}:1: 1 cells where the header has 2",
        f"{file}:3: 3 cells where the header has 2",
    ]
    assert {fault.reason for fault in faults} == {"wrong_cells"}


def test_first_rows_only(tmp_path):
    file = put(tmp_path / "r.jsonl", LINES + "broken")
    assert values(f"{file}#2") == ROWS
    assert values({"path": file, "rows": 1}) == ROWS[:1]
    odd = put(tmp_path / "x#1.jsonl", LINES)
    assert values(odd) == ROWS
    with pytest.raises(DataError, match="asks for no rows"):
        values(f"{file}#0")


def test_weights_repeat_rows_evenly(tmp_path):
    a = put(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a": 4}\n')
    b = put(tmp_path / "b.jsonl", '{"b": 1}\n')
    rows = values([{"path": a, "weight": 0.5}, {"path": b, "weight": 2}, b])
    assert rows == [{"a": 2}, {"a": 4}, {"b": 1}, {"b": 1}, {"b": 1}]
    assert list(repeat("abcde", 1.4)) == list("abccdee")  # floor(1.4 i): 1, 2, 4, 5, 7
    assert len(list(repeat(range(1000), 0.1))) == 100


def test_folders_and_runs(tmp_path):
    put(tmp_path / "b.jsonl", '{"b": 1}\n')
    put(tmp_path / "a.csv", "a\n1\n")
    put(tmp_path / "readme.txt", "no data")
    assert values(str(tmp_path)) == [{"a": "1"}, {"b": 1}]
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    put(run / "run.json", "{}")
    with pytest.raises(DataError, match=r"neither data/\*\.jsonl nor samples\.jsonl"):
        values(run)
    put(run / "samples.jsonl", '{"s": 1}\n')
    assert values(run) == [{"s": 1}]
    put(run / "data" / "rows.jsonl", '{"r": 1}\n')
    assert values(run) == [{"r": 1}]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data file in this folder"):
        values(tmp_path / "empty")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": "x.jsonl", "wieght": 2}, "unknown key 'wieght' in a data source; did you mean 'weight'?"),
        ({"weight": 2}, "a data source needs 'path'"),
        ({"path": "x.jsonl", "weight": 0}, "x.jsonl: field 'weight': value 0: expected a number above 0"),
        ({"path": "x.jsonl", "rows": 1.5}, "field 'rows'"),
        ([], "a data set is a path"),
        (3, "a data set is a path"),
    ],
)
def test_wrong_specification(spec, message):
    with pytest.raises(DataError) as caught:
        expand(spec)
    assert message in str(caught.value)


def test_missing_file_suggests_a_neighbour(tmp_path):
    put(tmp_path / "pairs.jsonl", LINES)
    with pytest.raises(DataError, match=r"no such file; did you mean 'pairs\.jsonl'\?"):
        expand(str(tmp_path / "pair.jsonl"))
    with pytest.raises(DataError, match="unknown data format; accepted are"):
        expand(put(tmp_path / "x.pkl", b""))


def test_paths_never_reach_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("mine/train", "runs/sft", "./a/b", "owner/rows.jsonl", "a/b/c", "train", "data/x", "../a"):
        with pytest.raises(DataError, match="no such file"):
            expand(name)
    assert expand("owner/name") == [Source("owner/name", split="train")]
    assert expand("owner/name:test#5") == [Source("owner/name", 5, split="test")]
    assert expand({"path": "owner/name", "split": "dev"}) == [Source("owner/name", split="dev")]


def test_packed_with_zstandard(tmp_path):
    pa = pytest.importorskip("pyarrow")
    file = tmp_path / "r.jsonl.zst"
    with pa.CompressedOutputStream(str(file), "zstd") as out:
        out.write(LINES.encode())
    assert values(str(file)) == ROWS
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"r\.jsonl\.zst: the \.zst file is damaged or cut short"):
        values(str(file))
    with pytest.raises(DataError, match=r"r\.csv\.zst: the \.zst file is damaged"):
        values(put(tmp_path / "r.csv.zst", LINES))


def test_ndjson_and_tabs(tmp_path):
    assert values(put(tmp_path / "r.ndjson", LINES)) == ROWS
    assert values(put(tmp_path / "r.tsv", "a\tb\n1,5\t가\n")) == [{"a": "1,5", "b": "가"}]


def test_objects_over_several_lines(tmp_path):
    text = "\n".join(json.dumps(row, indent=2, ensure_ascii=False) for row in ROWS)
    rows = list(read_rows(put(tmp_path / "r.jsonl", text)))
    assert [(row.values, row.line) for row in rows] == [(ROWS[0], 1), (ROWS[1], 5)]
    assert values(put(tmp_path / "l.jsonl", json.dumps(ROWS, indent=1))) == ROWS
    with pytest.raises(DataError) as caught:
        values(put(tmp_path / "b.jsonl", '{\n "a": 1,\n "b" 2}\n'))
    assert str(caught.value) == (
        f"{tmp_path}/b.jsonl:1: broken JSON (Expecting property name enclosed in double quotes at column 2); "
        "repair or delete it; .jsonl holds one object per line, without line breaks within it"
    )


def test_a_list_of_texts_in_a_json_object_is_one_row(tmp_path):
    row = {"id": "0", "data": ["q", "a"]}
    assert values(put(tmp_path / "r.json", json.dumps(row))) == [row]


def test_csv_without_a_header_is_mmlus(tmp_path):
    rows = values(put(tmp_path / "r.csv", "Why?,w,w,y,z,A\nHow?,w,x,y,z,D\n"))
    assert [(r["question"], r["B"], r["answer"]) for r in rows] == [("Why?", "w", "A"), ("How?", "x", "D")]
    named = "question,answer,A,B,C,D\nWhy?,1,w,x,y,z\n"
    assert values(put(tmp_path / "n.csv", named))[0]["answer"] == "1"


def test_patterns(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        put(tmp_path / name, json.dumps({"file": name}) + "\n")
    (tmp_path / "deep").mkdir()
    put(tmp_path / "deep" / "d.jsonl", '{"file": "d"}\n')
    assert [r["file"] for r in values(f"{tmp_path}/*.jsonl")] == ["a.jsonl", "b.jsonl"]
    assert [r["file"] for r in values(f"{tmp_path}/**/*.jsonl#1")] == ["a.jsonl", "b.jsonl", "d"]
    assert values({"path": f"{tmp_path}/[b]*", "weight": 2}) == [{"file": "b.jsonl"}] * 2
    put(tmp_path / "[1].jsonl", '{"file": "odd"}\n')
    assert values(f"{tmp_path}/[1].jsonl") == [{"file": "odd"}]
    with pytest.raises(DataError, match="the pattern fits no file"):
        values(f"{tmp_path}/*.parquet")
    with pytest.raises(DataError, match="the pattern fits no data file"):
        values(f"{tmp_path}/*.txt")


SHARDS = ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test-00000-of-00001.jsonl")


@pytest.mark.parametrize("inside", ["", "data"])
def test_a_folder_gives_one_split(tmp_path, inside):
    (tmp_path / inside).mkdir(exist_ok=True)
    for name in SHARDS:
        put(tmp_path / inside / name, json.dumps({"shard": name}) + "\n")
    for spec in (str(tmp_path), f"{tmp_path}/{inside}/*.jsonl"):
        assert [r["shard"] for r in values(spec)] == list(SHARDS[:2])
        assert [r["shard"] for r in values({"path": spec, "split": "test"})] == list(SHARDS[2:])
        assert {source.left_out for source in expand(spec)} == {(str(tmp_path / inside / SHARDS[2]),)}
        with pytest.raises(DataError, match="field 'split': value 'dev': expected one of test, train"):
            expand({"path": spec, "split": "dev"})


def test_splits_are_told_by_words_and_folders(tmp_path):
    for name in ("pairs_eval.jsonl", "pairs.jsonl", "latest.jsonl"):
        put(tmp_path / name, json.dumps({"file": name}) + "\n")
    assert [r["file"] for r in values(tmp_path)] == ["latest.jsonl", "pairs.jsonl"]
    whole = tmp_path / "whole"
    for name in ("validation", "test"):
        (whole / name).mkdir(parents=True)
        put(whole / name / "0.jsonl", json.dumps({"split": name}) + "\n")
    assert values({"path": str(whole), "split": "valid"}) == [{"split": "validation"}]
    with pytest.raises(DataError, match="has the splits test, validation; name one with split"):
        values(whole)
    only = tmp_path / "only"
    only.mkdir()
    put(only / "test.jsonl", '{"a": 1}\n')
    assert values(only) == [{"a": 1}]
    configurations = tmp_path / "two"
    (configurations / "en").mkdir(parents=True)
    put(configurations / "en" / "a.jsonl", '{"a": 1}\n')
    with pytest.raises(DataError, match="its folders en hold some: name one"):
        values(configurations)
    assert values({"path": str(configurations), "data_dir": "en"}) == [{"a": 1}]
    with pytest.raises(DataError, match="a file has no splits"):
        expand({"path": str(only / "test.jsonl"), "split": "test"})


@pytest.mark.parametrize("wrong", [3, [1], [2, 1], [1, "x"], [True, 5], "1:10", [float("nan"), 5]])
def test_wrong_ranges_of_ratings(tmp_path, wrong):
    file = put(tmp_path / "r.jsonl", LINES)
    with pytest.raises(DataError, match="expected the lowest and the highest score, such as"):
        expand({"path": file, "score_range": wrong})
    assert expand({"path": file, "score_range": [1, 10]})[0].score_range == (1.0, 10.0)


def test_configurations_of_hub_data_sets(tmp_path, monkeypatch):
    asked = []

    def load_dataset(path, /, **more):
        asked.append((path, more))
        return iter(ROWS)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    spec = {"path": "owner/set", "name": "main", "data_dir": "d", "revision": "abc", "split": "test"}
    assert values(spec) == ROWS
    more = {"split": "test", "streaming": False, "name": "main", "data_dir": "d", "revision": "abc"}
    assert asked == [("owner/set", more)]
    with pytest.raises(DataError, match="field 'revision': value 3: expected the name of a revision"):
        expand({**spec, "revision": 3})
    with pytest.raises(DataError, match="only hub data sets have a configuration to choose"):
        expand({"path": put(tmp_path / "r.jsonl", LINES), "name": "main"})


def test_hub_rows_and_failures(monkeypatch):
    asked = []

    def load_dataset(name, *, split, streaming):
        asked.append((name, split, streaming))
        if name == "owner/absent":
            raise FileNotFoundError("Dataset 'owner/absent' doesn't exist\nmore")
        return iter(ROWS)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    rows = list(read_rows("owner/name:test#1"))
    assert [(row.values, row.file, row.line) for row in rows] == [(ROWS[0], "owner/name", 1)]
    assert asked == [("owner/name", "test", True)]
    with pytest.raises(DataError) as caught:
        values("owner/absent")
    assert str(caught.value) == (
        "owner/absent: no such path, and as a hub data set it cannot be read "
        "(Dataset 'owner/absent' doesn't exist)"
    )
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the extra `data`: pip install 'alignloop\[data\]'"):
        list(read_source(Source("owner/name", split="train")))
