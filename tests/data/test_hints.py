"""What is proposed for columns that were not read, and the commands that lead on, by hand."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from alignloop.data import hints
from alignloop.data.source_files import SourceRow
from alignloop.data.sources import Source
from alignloop.records import Label, Message, Preference, Ranking, Rating

Q = (Message("user", "q"),)
FILE = Source("rows.jsonl")
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


def row(**values: Any) -> SourceRow:
    return SourceRow(values, "rows.jsonl", 1)


def test_columns_are_named_up_to_twenty() -> None:
    names = {f"c{k}": 1 for k in range(20)}
    options = {"c1": "--column chosen=c1"}
    assert hints.described(names, {}) == ", ".join(names)
    assert hints.described({**names, "d": 1, "e": 2}, options) == (
        "c0, c1 (--column chosen=c1), " + ", ".join(f"c{k}" for k in range(2, 20)) + " and 2 more"
    )
    assert hints.described({**names, "d": 1}, {}).endswith("c19 and 1 more")


@pytest.mark.parametrize(
    ("values", "kind", "columns", "names", "found"),
    [
        # a column that changes the record, one that may be meant by no field, and one that is mapped already
        ({**PAIR, "strength": 2}, "preference", {}, ["strength"], {"strength": "margin=strength"}),
        ({**PAIR, "STRENGTH ": 2}, "preference", {}, ["STRENGTH "], {"STRENGTH ": "'margin=STRENGTH '"}),
        ({**PAIR, "note": 2}, "preference", {}, ["note"], {}),
        ({**PAIR, "strength": 2, "m": 1}, "preference", {"margin": "m"}, ["strength"], {}),
        # of one that is there, nothing is told unless it was asked for
        ({**PAIR, "strength": 2}, "preference", {}, [], {}),
        # a value that nothing can be read from
        ({**PAIR, "strength": "much"}, "preference", {}, ["strength"], {}),
        # the same value as the one that is read: the record depends on it all the same
        ({**PAIR, "strength": 0}, "preference", {}, ["strength"], {"strength": "margin=strength"}),
        # a field that says nothing in a record of this kind
        ({"prompt": "q", "completion": "a", "strength": 2}, "demonstration", {}, ["strength"], {}),
        # columns with the scores of both answers
        (
            {**PAIR, "chosen_score": 7, "rejected_score": 2},
            "preference",
            {},
            ["chosen_score", "rejected_score"],
            {"chosen_score": "'margin=chosen_score - rejected_score'"},
        ),
        ({**PAIR, "chosen_score": 7, "rejected_score": 2}, "preference", {}, ["chosen_score"], {}),
        ({**PAIR, "chosen_score": 7, "rejected_score": 2}, "preference", {}, ["rejected_score"], {}),
        # of a prompt, an answer would be read into nothing, and a label makes another kind of a demonstration
        ({"prompt": "q", "liked": 1}, "prompt", {}, ["liked"], {}),
        (
            {"prompt": "q", "completion": "a", "liked": 1},
            "demonstration",
            {},
            ["liked"],
            {"liked": "label=liked"},
        ),
    ],
)
def test_options_that_read_a_column(
    values: dict[str, Any], kind: str, columns: dict[str, str], names: list[str], found: dict[str, str]
) -> None:
    expected = {name: f"--column {words}" for name, words in found.items()}
    assert hints.proposals(row(**values), kind, columns, names) == expected


@pytest.mark.parametrize(
    ("source", "words", "command"),
    [
        (FILE, "check", "alignloop data check rows.jsonl"),
        (Source("my rows.jsonl", 5), "check", "alignloop data check 'my rows.jsonl#5'"),
        (FILE, "check --kind label", "alignloop data check rows.jsonl --kind label"),
        (
            Source("r.jsonl", score_range=(1.0, 10.0)),
            "convert --to label",
            "alignloop data convert r.jsonl --score-range 1:10 --to label",
        ),
        (
            Source("r.jsonl", score_range=(-0.5, 2)),
            "check",
            "alignloop data check r.jsonl --score-range -0.5:2",
        ),
        (Source("owner/name", split="train"), "check", ""),
    ],
)
def test_a_command_as_it_is_typed(source: Source, words: str, command: str) -> None:
    assert hints.command(source, words) == command


@pytest.mark.parametrize(
    ("values", "kinds", "words"),
    [
        (
            {"ask": "q", "good": "a", "bad": "b"},
            ["preference"],
            "--column prompt=ask --column chosen=good --column rejected=bad --kind preference",
        ),
        # of two kinds the first that comes out, without a kind that the rows show themselves
        (
            {"ask": "q", "reply": "a", "liked": 1},
            ["preference", "label"],
            "--column prompt=ask --column completion=reply --column label=liked",
        ),
        ({"ask": "q", "reply": "a"}, [], "--column prompt=ask --column completion=reply"),
        ({"ask": "q"}, ["prompt"], "--column prompt=ask --kind prompt"),
        ({"질문": "q", "대답": "a"}, ["demonstration"], "--column completion=대답 --kind demonstration"),
        ({"prompt": "q", "good": "a"}, ["preference"], None),
        ({"prompt": "q", "completion": "a"}, ["label"], None),
        ({"ask": "q", "reply": ""}, ["demonstration"], None),
        ({"ask": "q"}, ["document"], None),
    ],
)
def test_columns_of_other_names(values: dict[str, Any], kinds: list[str], words: str | None) -> None:
    command = "" if words is None else f"alignloop data check rows.jsonl {words}"
    assert hints.mapped(FILE, row(**values), kinds).replace("'", "") == command


def test_an_object_is_the_answer_where_that_is_said() -> None:
    asked = row(prompt="q", ground_truth={"N": 3})
    start = "alignloop data check rows.jsonl --column answer=ground_truth"
    assert hints.told_answer(FILE, asked, "ground_truth", ["prompt"]) == f"{start} --kind prompt"
    assert hints.told_answer(FILE, asked, "ground_truth", []) == start
    assert hints.told_answer(FILE, asked, "ground_truth", ["prompt", "label"]) == start
    inner = row(prompt="q", reward_model={"ground_truth": {"N": 3}})
    assert hints.told_answer(FILE, inner, "answer", []).endswith(" --column answer=answer")
    assert hints.told_answer(FILE, row(prompt="", ground_truth={"N": 3}), "ground_truth", []) == ""


RATED = [Rating(Q, "a", {"help": 4.0, "my style": 1.0}), Rating(Q, "b", {"help": 1.0, "my style": 4.0})]
ONE = [Rating(Q, "a", {"s": 4.0}), Rating(Q, "b", {"s": 1.0})]


@pytest.mark.parametrize(
    ("records", "wanted", "words"),
    [
        (RATED, ["preference"], "--to preference --attribute help -o rows_preference.jsonl"),
        (RATED, ["label"], "--to label --attribute help --min-score 3 -o rows_label.jsonl"),
        (ONE, ["preference"], "--to preference -o rows_preference.jsonl"),
        (ONE, ["label"], "--to label --min-score 3 -o rows_label.jsonl"),
        (ONE, ["demonstration"], "--to demonstration --min-score 3 -o rows_demonstration.jsonl"),
        (ONE, ["ranking", "label"], "--to label --min-score 3 -o rows_label.jsonl"),
        (
            [Label(Q, "a", True)],
            ["preference", "demonstration"],
            "--to demonstration -o rows_demonstration.jsonl",
        ),
        ([Preference(Q, "a", "b")], ["label"], "--to label -o rows_label.jsonl"),
        ([Ranking(Q, ("a", "b"), (1, 1))], ["preference"], None),  # a tie gives no pair
        ([Label(Q, "a", True)], ["ranking"], None),
        ([], ["label"], None),
        (ONE, [], None),
    ],
)
def test_the_first_conversion_that_gives_a_record(
    records: list[Any], wanted: list[str], words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = "" if words is None else f"alignloop data convert rows.jsonl {words}"
    assert hints.converted(FILE, records, wanted) == command


def test_an_attribute_of_two_words_is_quoted_and_a_file_that_is_there_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    swapped = [Rating(Q, r.completion, dict(reversed(r.scores.items()))) for r in RATED]
    found = hints.converted(Source("data/my rows.csv.gz"), swapped, ["preference"])
    words = shlex.split(found)
    assert words[words.index("--attribute") + 1] == "my style"
    assert words[-1] == "my rows_preference.jsonl"
    for name in ("rows_label.jsonl", "rows_label2.jsonl"):
        assert hints.converted(FILE, ONE, ["label"]).endswith(f" -o {name}")
        (tmp_path / name).touch()
    assert hints.converted(FILE, ONE, ["label"]).endswith(" -o rows_label3.jsonl")


@pytest.mark.parametrize(
    ("value", "finite"),
    [
        *((value, True) for value in (0, -3.5, "7", " 1e3 ")),
        *((value, False) for value in (True, "x", None, [1], "nan", float("inf"), "1e999", 10**400)),
    ],
)
def test_finite_numbers(value: object, finite: bool) -> None:
    assert hints.is_finite(value) is finite


@pytest.mark.parametrize(
    ("beyond", "scores", "found"),
    [
        ([7], [1], (1, 7)),
        ([8], [3], (1, 10)),
        ([10], [1.5], (1, 10)),
        ([11], [1], (0, 20)),
        (["20"], [0], (0, 20)),
        ([21], [], (0, 100)),
        ([100.5], [2], (0, 1000)),
        ([1500], [2], (0, 1500)),
        ([6], [0], (0, 7)),
        ([-3.5], [2], (-3.5, 7)),
        ([-1, 9], [], (-1, 10)),
    ],
)
def test_the_usual_range_that_holds_all_scores(
    beyond: list[Any], scores: list[float], found: tuple[float, float]
) -> None:
    records = [Rating(Q, "a", {"s": score}) for score in scores]
    assert hints.likely_range(beyond, [*records, Label(Q, "a", True)]) == found
