"""Items from data sets and sample runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignloop.errors import DataError, UserError
from alignloop.labels.importing import fit, read_items
from alignloop.labels.project import ItemAnswer, NewItem
from alignloop.records import Message

PROMPT = (Message("user", "질문"),)


def write(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(item: NewItem) -> list[str]:
    return [answer.text for answer in item.answers]


def test_a_sample_run_keeps_its_model_and_line(tmp_path):
    row = {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "질문"}],
        "responses": ["하나", "둘", "셋"],
        "provenance": {
            "file": "x",
            "line": 1,
            "origin": "unknown",
            "details": {"model": "smol", "sampling_seed": 1},
        },
    }
    write(tmp_path / "run" / "data" / "rows.jsonl", row)
    (item,) = read_items(tmp_path / "run", task="ranking").items
    assert item.prompt == (Message("system", "s"), Message("user", "질문"))
    assert texts(item) == ["하나", "둘", "셋"]
    assert {answer.model for answer in item.answers} == {"smol"}
    assert item.provenance.file.endswith("rows.jsonl")
    assert item.provenance.line == 1
    assert item.provenance.details == {"model": "smol", "sampling_seed": 1}


def test_single_samples_are_gathered_by_prompt(tmp_path):
    rows = [
        {"step": 1, "prompt": "q", "completion": "a", "model": "m1"},
        {"step": 1, "prompt": "other", "completion": "x", "model": "m1"},
        {"step": 2, "prompt": "q", "completion": "b", "model": "m2"},
    ]
    found = read_items(write(tmp_path / "samples.jsonl", *rows), task="pair")
    (item,) = found.items
    assert [(a.text, a.model) for a in item.answers] == [("a", "m1"), ("b", "m2")]
    assert found.left_out == {"fewer than 2 different answers": 1}


def test_answers_with_their_own_models(tmp_path):
    row = {"prompt": "q", "answers": [{"text": "a", "model": "m1", "temperature": 0.5}, "b"]}
    (item,) = read_items(write(tmp_path / "d.jsonl", row), task="pair").items
    assert item.answers == (ItemAnswer("a", "m1", {"temperature": 0.5}), ItemAnswer("b", ""))


def test_preferences_are_shown_blind_or_kept_as_checks(tmp_path):
    path = write(tmp_path / "d.jsonl", {"prompt": "q", "chosen": "good", "rejected": "bad"})
    (item,) = read_items(path, task="pair").items
    assert (texts(item), item.gold) == (["good", "bad"], None)
    (item,) = read_items(path, task="pair", gold=True).items
    assert item.gold == {"preference": 1, "both_bad": False}


def test_rankings_labels_demonstrations_and_prompts(tmp_path):
    ranked = write(tmp_path / "r.jsonl", {"prompt": "q", "responses": ["a", "b", "c"], "ranking": [1, 1, 3]})
    (item,) = read_items(ranked, task="ranking", gold=True).items
    assert item.gold == {"ranks": [1, 1, 2]}
    labels = [{"prompt": "q", "response": text, "label": text == "a"} for text in "ab"]
    (item,) = read_items(write(tmp_path / "l.jsonl", *labels), task="thumbs").items
    assert texts(item) == ["a", "b"]
    shown = write(tmp_path / "s.jsonl", {"instruction": "설명해줘", "input": "", "output": "네"})
    (item,) = read_items(shown, task="edit").items
    assert texts(item) == ["네"]
    (item,) = read_items(write(tmp_path / "p.jsonl", {"prompt": "only"}), task="edit").items
    assert item.answers == ()


def test_four_answers_in_a_pair_project():
    item = NewItem(PROMPT, tuple(ItemAnswer(text) for text in "abcd"))
    assert [texts(i) for i in fit([item], task="pair", pairs="all").items] == [
        list(p) for p in ("ab", "ac", "ad", "bc", "bd", "cd")
    ]
    (one,) = fit([item], task="pair", pairs="one").items
    assert len(one.answers) == 2
    assert fit([item], task="pair", pairs="one").items == [one]


def test_more_than_five_answers_are_split_and_equal_ones_shown_once():
    item = NewItem(PROMPT, tuple(ItemAnswer(text) for text in "abcdefa"))
    found = fit([item], task="ranking")
    assert [texts(i) for i in found.items] == [list("abcde")]
    assert found.left_out["equal answer"] == 1
    assert found.left_out["too few left over"] == 1


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "", "answers": ["a", "b"]}, "prompt"),
        ({"prompt": [{"role": "user"}], "answers": ["a", "b"]}, "prompt[0].content"),
        ({"prompt": "q", "answers": ["a", 3]}, "answers"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, field):
    good = {"prompt": "q", "answers": ["a", "b"]}
    with pytest.raises(DataError) as caught:
        read_items(write(tmp_path / "d.jsonl", good, row), task="pair")
    assert (caught.value.line, caught.value.field) == (2, field)


def test_unusable_rows_are_counted(tmp_path):
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": ""}]
    found = read_items(write(tmp_path / "d.jsonl", *rows), task="pair")
    assert len(found.items) == 1
    assert sum(found.left_out.values()) == 1


def test_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match=r"data/rows\.jsonl"):
        read_items(tmp_path, task="pair")
    with pytest.raises(DataError):
        read_items(tmp_path / "none.jsonl", task="pair")


@pytest.mark.parametrize(
    ("row", "prompt", "answers"),
    [
        ({"question": "q", "responses": ["a", "b"]}, "q", "ab"),
        ({"instruction": "i", "input": "x", "answers": ["a", "b"]}, "i\n\nInput:\nx", "ab"),
        ({"prompt": "q", "completions": ["a", {"role": "assistant", "content": "b"}]}, "q", "ab"),
        ({"질문": "q", "응답들": ["a", "b"]}, "q", "ab"),
        ({"messages": [{"role": "user", "content": "q"}], "answers": ["a", "b"]}, "q", "ab"),
        (
            {
                "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
            },
            "q",
            "ab",
        ),
        ({"prompt": "q", "response_a": "a", "response_b": "b", "preference": "A"}, "q", "ab"),
    ],
)
def test_every_form_of_pair(tmp_path, row, prompt, answers):
    (item,) = read_items(write(tmp_path / "d.jsonl", row), task="pair").items
    assert (item.prompt[-1].content, texts(item)) == (prompt, list(answers))


def test_a_system_text_is_part_of_the_prompt(tmp_path):
    row = {"system": "s", "prompt": "q", "responses": ["a", "b"]}
    (item,) = read_items(write(tmp_path / "d.jsonl", row), task="pair").items
    assert item.prompt == (Message("system", "s"), Message("user", "q"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a", "model": "m"},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "completion": [{"role": "assistant", "content": "a"}],
            "model": "m",
        },
        {"instruction": "q", "output": "a", "model": "m"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "model": "m"},
    ],
)
def test_every_form_of_single_answer(tmp_path, row):
    (item,) = read_items(write(tmp_path / "d.jsonl", row), task="edit").items
    assert (item.prompt, item.answers) == ((Message("user", "q"),), (ItemAnswer("a", "m"),))


def test_csv_json_and_gzip(tmp_path):
    import gzip

    table = tmp_path / "d.csv"
    table.write_text('prompt,responses\nq,"[""a"", ""b""]"\n', encoding="utf-8")
    document = tmp_path / "d.json"
    document.write_text('[{"prompt": "q", "responses": ["a", "b"]}]', encoding="utf-8")
    packed = tmp_path / "d.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"prompt": "q", "responses": ["a", "b"]}\n'))
    for path in (table, document, packed):
        (item,) = read_items(path, task="pair").items
        assert texts(item) == ["a", "b"]


def test_columns_of_other_names(tmp_path):
    path = write(tmp_path / "d.jsonl", {"ask": "q", "said": ["a", "b"]})
    (item,) = read_items(path, task="pair", columns={"prompt": "ask", "responses": "said"}).items
    assert (item.prompt[0].content, texts(item)) == ("q", ["a", "b"])
    with pytest.raises(DataError, match="unknown field 'promt'"):
        read_items(path, task="pair", columns={"promt": "ask"})


RANKED = {"prompt": "q", "responses": ["a", "b", "c", "a"], "ranking": [1, 2, 2, 1]}


@pytest.mark.parametrize(
    ("row", "task", "expected"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "ranking", {"ranks": [1, 2]}),
        (
            {"prompt": "q", "response_a": "a", "response_b": "b", "preference": "B"},
            "pair",
            {"preference": 1, "both_bad": False},  # what was preferred stands first
        ),
        ({**RANKED, "responses": list("abcd")}, "ranking", {"ranks": [1, 2, 2, 1]}),
        (RANKED, "ranking", {"ranks": [1, 2, 2]}),  # an equal answer is shown once
        (
            {"prompt": "q", "responses": ["a", "b"], "ranking": [2, 1]},
            "pair",
            {"preference": -1, "both_bad": False},
        ),
        ({"prompt": "q", "completion": "a", "label": False}, "thumbs", {"thumbs": [False]}),
        (
            {"prompt": "q", "completion": "a", "scores": {"h": 4.0, "x": 2}},
            "scores",
            {"scores": {"h": [4], "x": [2]}},
        ),
    ],
)
def test_checks_say_what_the_task_can_say(tmp_path, row, task, expected):
    (item,) = read_items(write(tmp_path / "d.jsonl", row), task=task, gold=True).items
    assert item.gold == expected


def test_what_cannot_be_a_check_is_left_out_and_counted(tmp_path):
    rows = [{"prompt": "q", "completion": f"{s}", "scores": {"h": s}} for s in (1.5, 2.0)]
    found = read_items(write(tmp_path / "d.jsonl", *rows), task="scores", gold=True)
    assert (found.items, found.left_out) == ([], {"without a judgement that this task could check": 1})
    labels = [{"prompt": "q", "completion": "a", "label": good} for good in (True, False)]
    assert read_items(write(tmp_path / "l.jsonl", *labels), task="thumbs", gold=True).items == []
    tie = {"prompt": "q", "response_a": "a", "response_b": "b", "preference": "tie"}
    assert read_items(write(tmp_path / "t.jsonl", tie), task="pair", gold=True).items == []


def test_thoughts_are_shown_and_answers_that_call_tools_are_left_out(tmp_path):
    asked = {"role": "user", "content": "Tide?"}
    thought = {"role": "assistant", "content": "High.", "reasoning_content": "Hm."}
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "tide", "arguments": {}}]}
    file = write(tmp_path / "c.jsonl", {"messages": [asked, thought]}, {"messages": [asked, call]})
    found = read_items(file, task="thumbs")
    assert [texts(item) for item in found.items] == [["<think>\nHm.\n</think>\n\nHigh."]]
    assert found.left_out == {"answer that calls a tool": 1}
    row = {"messages": [asked, call, {"role": "tool", "content": "1.2"}, thought]}
    (item,) = read_items(write(tmp_path / "t.jsonl", row), task="thumbs").items
    assert [m.role for m in item.prompt] == ["user", "assistant", "tool"]
    assert item.prompt[1].tool_calls[0].name == "tide"
