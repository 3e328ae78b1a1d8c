"""What a data set's name means, at the edges: keys, splits, folders, patterns and hub ids."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from alignloop.data import sources
from alignloop.data.sources import Source, expand, is_source, read_rows, repeat, score_range
from alignloop.errors import DataError

LINE = '{"a": 1}\n'


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LINE, encoding="utf-8")


def names(spec: Any) -> list[str]:
    return [Path(source.path).name for source in expand(spec)]


def fault(spec: Any) -> tuple[str, Any, str]:
    with pytest.raises(DataError) as caught:
        expand(spec)
    return caught.value.field, caught.value.value, caught.value.message


@pytest.fixture
def file(tmp_path: Path) -> str:
    put(tmp_path / "r.jsonl")
    return str(tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"weight": True}, ("weight", True, "expected a number above 0")),
        ({"weight": "2"}, ("weight", "2", "expected a number above 0")),
        ({"weight": -1}, ("weight", -1, "expected a number above 0")),
        ({"weight": 1e6}, ("weight", 1e6, "expected a number above 0")),
        ({"rows": 0}, ("rows", 0, "expected a whole number from 1 up")),
        ({"rows": True}, ("rows", True, "expected a whole number from 1 up")),
        ({"rows": "3"}, ("rows", "3", "expected a whole number from 1 up")),
        ({"split": ""}, ("split", "", "expected the name of a split")),
        ({"split": 1}, ("split", 1, "expected the name of a split")),
        ({"name": " "}, ("name", " ", "expected the name of a configuration")),
        ({"data_dir": 3}, ("data_dir", 3, "expected the name of a folder")),
        ({"revision": []}, ("revision", [], "expected the name of a revision")),
        ({"split": "test"}, ("split", "test", "a file has no splits; a folder and a hub data set have")),
        ({"name": "main"}, ("name", "main", "only hub data sets have a configuration to choose")),
        ({"revision": "abc"}, ("revision", "abc", "only hub data sets have a revision to choose")),
        (
            {"zzz": 1},
            ("", None, "unknown key 'zzz' in a data source; accepted are path, weight, rows, split, name, "
             "data_dir, revision, score_range"),
        ),
    ],
)  # fmt: skip
def test_wrong_values_of_a_source(file: str, more: dict[str, Any], found: Any) -> None:
    assert fault({"path": file, **more}) == found
    nothing = dict.fromkeys(("weight", "rows", "split", "name", "data_dir", "revision", "score_range"))
    assert expand({"path": file, **nothing}) == [Source(file)]


def test_values_of_a_source_up_to_their_bounds(file: str) -> None:
    (found,) = expand({"path": Path(file), "weight": 999_999, "rows": 1})
    assert (found.path, found.weight, found.rows) == (file, 999_999.0, 1)
    assert expand({"path": file, "weight": 1e-9})[0].weight == 1e-9
    assert [s.weight for s in expand([file, {"path": file, "weight": 2}])] == [1.0, 2.0]
    assert expand({"path": f"{file}#3"})[0].rows == 3
    assert expand({"path": f"{file}#3", "rows": 2})[0].rows == 2
    assert expand((file, Path(file))) == [Source(file)] * 2
    assert fault(())[2].startswith("a data set is a path, a hub id")
    assert fault({"path": 3}) == ("", {"path": 3}, "a data source needs 'path'")


def test_more_rows_than_a_machine_can_count_are_all_of_them(file: str) -> None:
    for spec in ({"path": file, "rows": sys.maxsize + 1}, f"{file}#99999999999999999999"):
        assert [row.values for row in read_rows(spec)] == [{"a": 1}]


@pytest.mark.parametrize("value", [[0, 10**400], [-(10**400), 0], [-1e9, 5], [0, 1e9], [5, 5], [1], 3, None])
def test_no_range_of_scores(value: object) -> None:
    with pytest.raises(DataError, match="expected the lowest and the highest score") as caught:
        score_range(value, "f")
    assert (caught.value.field, caught.value.file, caught.value.value) == ("score_range", "f", value)


def test_a_range_of_scores_is_two_numbers() -> None:
    found = score_range((1, 10))
    assert found == (1.0, 10.0)
    assert all(type(end) is float for end in found)


@pytest.mark.parametrize(
    ("item", "named"),
    [
        *((item, True) for item in ("a.jsonl", Path("a"), {"path": "a"}, {"path": "a", "weight": 2})),
        (dict.fromkeys(sources._KEYS), True),
        *((item, False) for item in ({"path": "a", "text": "t"}, {"weight": 2}, {}, 3, None, ["a"])),
    ],
)
def test_whether_an_item_names_a_source(item: object, named: bool) -> None:
    assert is_source(item) is named


def test_rows_are_repeated_without_rounding() -> None:
    assert list(repeat("abc", 1)) == list("abc")
    assert list(repeat("abcdef", 0.5)) == list("bdf")
    assert list(repeat("ab", 2.5)) == list("aabbb")
    assert len(list(repeat(range(30), 0.1))) == 3  # 0.1 is a little more than a tenth
    assert len(list(repeat(range(3_000), 1 / 3))) == 1_000
    assert list(repeat("ab", 1e-9)) == []


def test_file_names_in_capitals_and_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "A.JSONL")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/A.JSONL") == [Source(str(tmp_path / "A.JSONL"))]
    assert names(tmp_path) == ["A.JSONL"]
    assert names(f"{tmp_path}/*") == ["A.JSONL"]
    assert fault("owner/R.JSONL")[2] == "no such file"


@pytest.mark.parametrize("sign", ["?.jsonl", "[ab].jsonl", "*.jsonl", "**/*.jsonl"])
def test_a_pattern_fits_files_alone(tmp_path: Path, sign: str) -> None:
    put(tmp_path / "b.jsonl", tmp_path / "a.jsonl")
    (tmp_path / "c.jsonl").mkdir()
    assert names(f"{tmp_path}/{sign}") == ["a.jsonl", "b.jsonl"]
    assert [s.rows for s in expand(f"{tmp_path}/{sign}#7")] == [7, 7]


def test_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expand("a-b.c/d_e.f") == [Source("a-b.c/d_e.f", split="train")]
    assert expand("owner/name#2") == [Source("owner/name", 2, split="train")]
    assert expand({"path": "owner/name:test", "split": "dev"}) == [Source("owner/name", split="dev")]
    (found,) = expand({"path": "owner/name", "name": "main", "data_dir": "d", "weight": 2})
    assert found == Source("owner/name", weight=2.0, split="train", name="main", data_dir="d")
    for name in (".a/b", "a/.b", "a/b/c", "runs/x", "data/x", "a/b.csv", "a/b.json.gz"):
        assert fault(name)[2] == "no such file"


def test_the_name_of_a_neighbour_is_told_where_it_is_near(tmp_path: Path) -> None:
    put(tmp_path / "rankings.jsonl")
    assert fault(f"{tmp_path}/ranking.jsonl")[2] == "no such file; did you mean 'rankings.jsonl'?"
    assert fault(f"{tmp_path}/pairs.jsonl")[2] == "no such file"
    assert fault(f"{tmp_path}/none/rankings.jsonl")[2] == "no such file"


def test_the_rows_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    put(tmp_path / "data" / "b.jsonl", tmp_path / "data" / "a.jsonl", tmp_path / "data" / "c.csv")
    put(tmp_path / "samples.jsonl")
    assert names(tmp_path) == ["a.jsonl", "b.jsonl"]
    assert {s.left_out for s in expand(tmp_path)} == {()}
    # in a run a name tells no split
    put(tmp_path / "data" / "test.jsonl")
    assert names(tmp_path) == ["a.jsonl", "b.jsonl", "test.jsonl"]


def test_where_the_files_of_a_folder_lie(tmp_path: Path) -> None:
    put(tmp_path / "validation" / "v.jsonl", tmp_path / "train" / "t.jsonl", tmp_path / "other" / "o.jsonl")
    (found,) = expand(tmp_path)
    assert (Path(found.path).name, found.left_out) == ("t.jsonl", (str(tmp_path / "validation" / "v.jsonl"),))
    assert names({"path": str(tmp_path), "split": "dev"}) == ["v.jsonl"]
    put(tmp_path / "data" / "d.jsonl")
    assert names(tmp_path) == ["d.jsonl"]
    put(tmp_path / "r.jsonl")
    assert names(tmp_path) == ["r.jsonl"]
    assert names({"path": str(tmp_path), "data_dir": "other"}) == ["o.jsonl"]
    assert names({"path": str(tmp_path), "data_dir": "other", "rows": 3}) == ["o.jsonl"]
    assert fault({"path": str(tmp_path), "data_dir": "none"})[2] == "no such folder"
    named = {"path": str(tmp_path), "data_dir": "other", "name": "main"}
    assert fault(named)[2] == "only hub data sets have a configuration to choose"


def test_folders_with_data_are_named_up_to_eight(tmp_path: Path) -> None:
    assert fault(tmp_path)[2].startswith("no data file in this folder; accepted are .jsonl")
    for k in range(9):
        put(tmp_path / f"f{8 - k}" / "r.jsonl")
    (tmp_path / "empty").mkdir()
    assert fault(tmp_path)[2] == (
        f"no data file in this folder; its folders {', '.join(f'f{k}' for k in range(8))} hold some: name one"
    )


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("pairs_dev.jsonl", "validation"),
        ("pairs-EVAL-0.jsonl", "test"),
        ("test.train.jsonl", "test"),
        ("latest.jsonl", "train"),
        ("testing/rows.jsonl", "test"),
        ("Valid/rows.jsonl", "validation"),
        ("test/train.jsonl", "train"),
    ],
)
def test_words_that_tell_a_split(name: str, split: str) -> None:
    assert sources._split_of(Path("x") / name) == split


def test_one_split_of_several(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("dev.jsonl", "rows.jsonl", "test.jsonl")]
    put(*paths)
    (found,) = expand(tmp_path)
    assert (found.path, found.left_out) == (str(paths[1]), (str(paths[0]), str(paths[2])))
    for split, name in (("valid", "dev"), ("training", "rows"), ("eval", "test"), ("train", "rows")):
        assert names({"path": str(tmp_path), "split": split}) == [f"{name}.jsonl"]
    wrong = fault({"path": str(tmp_path), "split": "extra"})
    assert wrong == ("split", "extra", "expected one of test, train, validation")
    paths[1].unlink()
    assert fault(tmp_path) == ("split", None, "has the splits test, validation; name one with split")
    paths[2].unlink()
    assert names(tmp_path) == ["dev.jsonl"]
    assert fault({"path": f"{tmp_path}/*.jsonl", "split": "train"})[2] == "expected one of validation"


def test_an_offline_hub_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        def load_dataset(self, name: str, **more: Any) -> Any:
            raise ValueError if name == "owner/silent" else ValueError("cannot\nbe read")

    monkeypatch.setitem(sys.modules, "datasets", Hub())  # pyright: ignore[reportArgumentType]
    for name, reason in (("owner/silent", "ValueError"), ("owner/name", "cannot")):
        for offline, more in (("1", ", HF_HUB_OFFLINE is set"), ("", "")):
            monkeypatch.setenv("HF_HUB_OFFLINE", offline)
            with pytest.raises(DataError) as caught:
                list(read_rows(name))
            assert caught.value.message.endswith(f"cannot be read ({reason}{more})")
