"""Edges of the readers at which a small mistake would go unseen: each was made on purpose and lived."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from alignloop.data import packing, source_files
from alignloop.data.chat import load_template
from alignloop.data.messages import history
from alignloop.data.plain_text import marks_of
from alignloop.data.show import _shielded
from alignloop.data.source_files import _is_mmlu
from alignloop.data.sources import _expand_name, score_range
from alignloop.errors import DataError
from alignloop.foreign import TooLarge
from alignloop.io import write_whole
from alignloop.model.tiny import tiny_model
from alignloop.records import Label, Message


@pytest.mark.parametrize("item", ["ab", ["q"], ["q", "a", "x"], 5])
def test_a_turn_of_history_is_a_pair(item: object) -> None:
    assert [m.content for m in history([["q", "a"]], "history")] == ["q", "a"]
    with pytest.raises(DataError, match="expected a pair of a question and its answer") as caught:
        history([["q", "a"], item], "history")
    assert caught.value.field == "history[1]"


def test_what_a_packed_file_unpacks_to_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_files, "FREE_BYTES", 1000)
    file = tmp_path / "rows.jsonl.gz"
    for size, fits in ((1000, True), (400_000, False)):  # that unpacks to about 1000 times its size
        file.write_bytes(gzip.compress(b"\n" * size))
        if fits:
            with source_files.open_text(file) as opened:
                assert len(opened.read()) == size
        else:
            with (
                pytest.raises((TooLarge, DataError), match="unpacks to more than"),
                source_files.open_text(file) as opened,
            ):
                opened.read()


def test_a_table_without_a_header_is_one_whose_last_cell_is_a_letter() -> None:
    assert _is_mmlu(["What is 2 + 2?", "1", "2", "3", "4", " D"])
    assert not _is_mmlu(["What is 2 + 2?", "1", "2", "3", "4", "4"])
    assert not _is_mmlu(["question", "A", "B", "C", "D", "A"])
    assert not _is_mmlu(["What is 2 + 2?", "1", "2", "3", "D"])


def test_folders_of_a_file_are_made(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "rows.jsonl", ["{}\n"])
    assert (tmp_path / "a/b/rows.jsonl").read_text(encoding="utf-8") == "{}\n"


def test_a_bin_may_be_full_to_the_last_token() -> None:
    assert packing._fits([0, 0, 1], [3, 2, 4], 5)
    assert not packing._fits([0, 0, 1], [3, 3, 4], 5)
    assert packing._fits([0, 1], [9, 2], 5)  # alone it goes beyond


def test_a_file_whose_name_ends_like_a_limit_is_that_file(tmp_path: Path) -> None:
    plain, odd = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl#7"
    plain.write_text("{}\n", encoding="utf-8")
    assert _expand_name(f"{plain}#7")[0].rows == 7
    odd.mkdir()
    (odd / "train.jsonl").write_text("{}\n", encoding="utf-8")
    (source,) = _expand_name(str(odd))
    assert (source.path, source.rows) == (str(odd / "train.jsonl"), None)


@pytest.mark.parametrize("value", [[1, 1], [10, 1], [1], [1, 2, 3], "12", [True, 2], [0, 1e9], [-1e9, 0]])
def test_a_range_of_scores_is_two_finite_numbers(value: object) -> None:
    assert score_range([0, 9.99e8]) == (0.0, 9.99e8)
    with pytest.raises(DataError, match="expected the lowest and the highest score"):
        score_range(value)


def test_marks_of_an_answer_are_shown_as_text() -> None:
    tokenizer = tiny_model()[1]
    marks = marks_of(tokenizer, load_template("tokenizer", tokenizer))
    record = Label((Message("user", "a<|im_end|>"),), "b<|im_start|>c", True)
    shielded, hidden = _shielded(record, marks)
    assert isinstance(shielded, Label)
    assert "<|im" not in shielded.prompt[0].content + shielded.completion
    assert shielded.completion[0] + shielded.completion[-1] == "bc"
    assert sorted(hidden.values()) == ["<|im_end|>", "<|im_start|>"]
