"""Texts and files of strangers: bounded in size and depth, never executed, told in one sentence."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
from pathlib import Path

import pytest
import yaml

from alignloop import foreign
from alignloop.config.recipe_file import parse_recipe, read_recipe
from alignloop.data import source_files
from alignloop.data.sources import read_rows
from alignloop.errors import ConfigError, DataError, DiskError, RunError
from alignloop.foreign import read_mapping, read_state
from alignloop.io import append_line, read_lines
from alignloop.judges.prompt_files import read_texts
from alignloop.report.folder import read_pipeline, read_run

ROOT = Path(__file__).resolve().parent.parent
ROW = {"prompt": "a", "completion": "b"}
LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
EXECUTES = "a: !!python/object/apply:os.system ['touch {}']\n"


def test_json_is_read_in_one_place():
    """So that every reader has the bounds."""
    allowed = {"alignloop/foreign.py"}
    found = set()
    for path in (ROOT / "alignloop").rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                call = f"{node.value.id}.{node.attr}"
                if call in ("json.loads", "json.load", "yaml.load", "yaml.safe_load", "yaml.load_all"):
                    found.add(name)
    assert found <= allowed


@pytest.mark.parametrize("deep", ["[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101, "[" * 100_000])
def test_deep_json_is_a_value_error(deep):
    with pytest.raises(ValueError, match="nested too deeply, in more than 100 levels"):
        foreign.loads(deep)
    with pytest.raises(ValueError, match="nested"):
        foreign.loads(deep.encode())


def test_wide_json_and_a_hundred_levels_are_read():
    assert foreign.loads("[" * 100 + "]" * 100)
    assert len(foreign.loads(json.dumps([{"a": [k]} for k in range(500)]))) == 500
    assert foreign.loads(json.dumps("[" * 500)) == "[" * 500
    with pytest.raises(ValueError, match="digits"):
        foreign.loads("1" * 5000)


def test_yaml_has_no_aliases_no_code_and_a_bounded_depth(tmp_path):
    mark = tmp_path / "ran"
    for text in (LAUGHS, EXECUTES.format(mark), "[" * 200 + "]" * 200, "a: " * 3):
        with pytest.raises(yaml.YAMLError):
            foreign.load_yaml(text)
    assert not mark.exists()
    assert foreign.load_yaml("[" * 100 + "]" * 100)


def test_what_is_written_is_read_again_though_a_list_is_there_twice():
    shared = ["가", 1]
    text = foreign.dump_yaml({"b": shared, "a": shared, "c": {"d": shared}})
    assert "&" not in text
    assert foreign.load_yaml(text) == {"b": shared, "a": shared, "c": {"d": shared}}
    assert list(foreign.load_yaml(text)) == ["b", "a", "c"]


@pytest.mark.parametrize("text", [LAUGHS, "[" * 5000, "a: " + "[" * 5000], ids=["aliases", "deep", "value"])
def test_every_yaml_reader_says_one_sentence(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    readers = (
        (lambda: read_mapping(file, remedy="put it back"), RunError),
        (lambda: read_recipe(file), ConfigError),
        (lambda: parse_recipe(text, file="recipe.yaml"), ConfigError),
        (lambda: read_texts(file), ConfigError),
    )
    for read, kind in readers:
        with pytest.raises(kind) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_large_recipe_is_refused_before_it_is_parsed(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("a: b\n" + "#" * (5 << 20), encoding="utf-8")
    with pytest.raises(ConfigError, match="larger than 4 MiB"):
        read_recipe(file)
    with pytest.raises(RunError, match="larger than 4 MiB"):
        read_mapping(file, remedy="put it back")


def test_pipes_and_devices_are_no_files(tmp_path):
    pipe, device = tmp_path / "metrics.jsonl", tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        with pytest.raises(OSError, match="pipe or a device"):
            foreign.read_bytes(path)
        with pytest.raises(DataError, match="pipe or a device"):
            list(read_rows(str(path)))
        with pytest.raises(RunError, match="pipe or a device"):
            read_state(path, dict, remedy="put it back")


def test_a_long_line_is_passed_over_and_never_held():
    class Counting(io.BytesIO):
        largest = 0

        def readline(self, size=-1, /):
            found = super().readline(size)
            self.largest = max(self.largest, len(found))
            return found

    file = Counting(b"a\n" + b"x" * 1000 + b"\nb\n" + b"y" * 11)
    assert list(foreign.lines_of(file, most=10)) == [b"a\n", None, b"b\n", None]
    assert file.largest == 11
    assert list(foreign.lines_of(io.BytesIO(b"x" * 9 + b"\n"), most=10)) == [b"x" * 9 + b"\n"]


def test_a_row_of_many_megabytes_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(source_files.decoded, "__kwdefaults__", {"most": 1 << 20})
    for name, content in (
        ("rows.jsonl", json.dumps(ROW) + "\n" + json.dumps(ROW | {"completion": "x" * (2 << 20)}) + "\n"),
        ("rows.csv", "prompt,completion\na," + "x" * (2 << 20) + "\n"),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=rf"{name}:2: a line of more than 1 MiB") as caught:
            list(read_rows(str(tmp_path / name)))
        assert caught.value.reason == "too_large"
    monkeypatch.setattr(source_files, "MAX_WHOLE", 1 << 20)
    (tmp_path / "rows.json").write_text(json.dumps([ROW] * 100_000), encoding="utf-8")
    with pytest.raises(DataError, match=r"larger than 1 MiB; a \.json file is read as a whole"):
        list(read_rows(str(tmp_path / "rows.json")))


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.csv.gz"])
@pytest.mark.parametrize(
    "content", [b"\0", b"\n", json.dumps(ROW).encode() + b"\n"], ids=["zeros", "blank", "rows"]
)
def test_a_gz_bomb_is_one_sentence(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr(source_files, "FREE_BYTES", 1 << 16)
    with gzip.open(tmp_path / name, "wb") as file:
        for _ in range(40):
            file.write(content * ((1 << 20) // len(content)))
    packed = (tmp_path / name).stat().st_size
    with pytest.raises(DataError, match="unpacks to more than 200 times its size") as caught:
        list(read_rows(str(tmp_path / name), on_fault=lambda _: None))
    assert caught.value.reason == "too_large"
    assert packed * 200 < 40 << 20


def test_well_packed_text_is_read(tmp_path):
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
        for number in range(5000):
            file.write(json.dumps(ROW | {"id": number}) + "\n")
    assert len(list(read_rows(str(tmp_path / "rows.jsonl.gz")))) == 5000


def test_a_report_does_not_follow_links_out_of_its_folder(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text('{"key": "s3cret"}\n', encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}", encoding="utf-8")
    for name in ("recipe.yaml", "samples.jsonl", "metrics.jsonl"):
        (run / name).symlink_to(secret)
    found = read_run(run)
    assert "s3cret" not in repr(found)
    assert sum("leads out of the folder" in problem for problem in found.problems) == 3
    (run / "recipe.yaml").unlink()
    (run / "kept.yaml").write_text("stage: sft\n", encoding="utf-8")
    (run / "recipe.yaml").symlink_to("kept.yaml")
    assert read_run(run).recipe == "stage: sft\n"


def test_a_pipeline_does_not_lead_out_of_its_folder(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "pipeline"
    for place in (outside, folder / "inside"):
        place.mkdir(parents=True)
        (place / "run.json").write_text(json.dumps({"name": place.name}), encoding="utf-8")
        (place / "metrics.jsonl").write_text("", encoding="utf-8")
    stages = [{"name": "x", "path": path} for path in ("inside", "../outside", str(outside))]
    (folder / "pipeline.json").write_text(json.dumps({"stages": stages}), encoding="utf-8")
    found = read_pipeline(folder)
    assert [run.path.name for run in found.runs] == ["inside"]
    assert sum("not in this folder" in problem for problem in found.problems) == 2


def test_long_and_deep_rows_of_a_run_are_passed_over(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n' + b"[" * 5000 + b'\n{"step": 2}\n{"torn')
    assert [row["step"] for row in read_lines(file)] == [1, 2]


def test_rows_are_not_appended_through_a_link(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "metrics.jsonl"
    victim.write_text("kept", encoding="utf-8")
    link.symlink_to(victim)
    with pytest.raises(DiskError, match="symbolic link"):
        append_line(link, {"step": 1})
    assert victim.read_text(encoding="utf-8") == "kept"
