"""Rows that are refused: the sentence names what would be lost, and every command in it works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli.data import app
from alignloop.data.columns import read_records
from alignloop.errors import DataError
from tests.field.forms import ASK, BAD, GOOD, TREE, USER, YES, 나쁨, 물음, 좋음

RATED = [{"prompt": ASK, "response": GOOD, "score": 5}, {"prompt": ASK, "response": BAD, "score": 1}]
HELP = {"helpfulness": 4, "correctness": 3, "coherence": 2, "complexity": 1, "verbosity": 0}
NECTAR = {"prompt": f"\n\nHuman: {ASK}\n\nAssistant: ", "num_responses": 2,
          "answers": [{"answer": BAD, "rank": 2.0}, {"answer": GOOD, "rank": 1.0}]}  # fmt: skip
ONE = {"prompt": ASK, "response": GOOD}
PAIR = {"prompt": ASK, "chosen": GOOD, "rejected": BAD}
VOTE = {"prompt": ASK, "response_a": GOOD, "response_b": BAD}

LEAD_ON = {
    "a ranking for DPO": ([NECTAR], "preference"),
    "a ranking for SFT": ([NECTAR], "demonstration"),
    "ratings for DPO": (RATED, "preference"),
    "ratings for KTO": (RATED, "label"),
    "ratings of several attributes for DPO": (
        [{**ONE, **HELP}, {"prompt": ASK, "response": BAD, **HELP, "helpfulness": 0}],
        "preference",
    ),
    "labels for DPO": ([{**ONE, "label": 1}, {**ONE, "response": BAD, "label": 0}], "preference"),
    "pairs for KTO": ([PAIR], "label"),
    "pairs for SFT": ([PAIR], "demonstration"),
    "a preference for one of several kinds": ([NECTAR], ("preference", "label")),
    "UltraFeedback for SFT": (
        [{"instruction": ASK, "models": ["m"], "completions": [{"response": GOOD, "overall_score": 9}]}],
        "demonstration",
    ),
    "HelpSteer for SFT": ([{**ONE, **HELP}], "demonstration"),
    "other names": ([{"ask": ASK, "good": GOOD, "bad": BAD}], None),
    "other names, for DPO": ([{"ask": ASK, "good": GOOD, "bad": BAD}], "preference"),
    "other names in Korean": ([{"질문": 물음, "좋은답변": 좋음, "나쁜답변": 나쁨}], "preference"),
    "other names of votes": (
        [{"prompt": ASK, "answer_a": GOOD, "answer_b": BAD, "winner": "left"}],
        "preference",
    ),
    "other names, for SFT": ([{"request": ASK, "reply": GOOD}], "demonstration"),
    "other names of answers": ([{"prompt": ASK, "good": GOOD, "bad": BAD}], "preference"),
    "scores beyond 5": ([{**ONE, "score": 8}, {**ONE, "score": 3}], None),
    "scores beyond 5, in one row": ([{**ONE, "score": 4}, {**ONE, "score": 6}], "rating"),
    "scores below 0": ([{**ONE, "score": -3.5}, {**ONE, "score": 2}], "rating"),
    "an object as the reference": ([{"prompt": ASK, "ground_truth": {"N": 3}}], "prompt"),
    "an object as verl's reference": (
        [{"prompt": [USER], "reward_model": {"style": "rule", "ground_truth": '{"inputs": [1]}'}}],
        "prompt",
    ),
    "MMLU for SFT": ([{"question": ASK, "choices": ["a", "b"], "answer": 0}], "demonstration"),
    "KMMLU for GRPO": ([{"question": 물음, "A": "가", "B": "나", "answer": 1}], "prompt"),
}  # fmt: skip

NO_WAY = {
    "one answer for each question, for DPO": ([ONE], "preference", "missing_field"),
    "only good labels, for DPO": ([{**ONE, "label": 1}], "preference", "the rows look like label records"),
    "turns of another form": (
        [{"text": f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>critic\nhm<|im_end|>\n"}],
        "demonstration",
        "within a turn",
    ),
    "step labels": (
        [{"prompt": ASK, "completions": ["a", "b"], "labels": [True, False]}],
        "label",
        "process rewards",
    ),
    "only unsafe answers, for SFT": ([{**ONE, "is_safe": False}], "demonstration", "to imitate"),
    "only bad labels, for SFT": ([{**ONE, "label": 0}], "demonstration", "none to imitate"),
    "a deleted message": ([TREE[5]], None, "deleted"),
    "votes from 0 and from 1": (
        [{**VOTE, "preference": vote} for vote in (0, 1, 2)],
        None,
        "count from 0 and from 1",
    ),
    "images": ([{"messages": [USER, YES], "images": ["a.png"]}], None, "images are not supported"),
}  # fmt: skip


def refused(folder: Path, rows: list[dict], kind: object) -> str:
    file = folder / "my rows.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_records(str(file), kind)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", LEAD_ON)
def test_the_command_of_a_refusal_works_on_that_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence = refused(tmp_path, *LEAD_ON[name])
    (command,) = re.findall(r"try: (alignloop data .*)$", sentence)
    _, _, *words = shlex.split(command)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (command, result.exception)
    if words[0] == "convert":
        written = words[words.index("-o") + 1]
        kinds = LEAD_ON[name][1]
        assert read_records(written, kinds).records
        assert "try: " in refused(tmp_path, *LEAD_ON[name])  # another name, as this one is taken
    else:
        assert " usable of " in result.stdout


@pytest.mark.parametrize("name", NO_WAY)
def test_without_a_way_on_none_is_named(name, tmp_path):
    rows, kind, why = NO_WAY[name]
    sentence = refused(tmp_path, rows, kind)
    assert why in sentence
    assert "try: " not in sentence


def test_options_of_unread_columns_work(tmp_path):
    rows = [
        {**PAIR, "chosen_score": 7, "rejected_score": 2, "order": ["a", "b"], "title": "t", "empty": ""},
        {**PAIR, "strength": 2, "title": "t"},
    ]
    file = tmp_path / "r.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    data = read_records(str(file))
    assert set(data.unused) == {"chosen_score", "rejected_score", "order", "title", "strength"}
    assert set(data.proposals) == {"chosen_score", "strength", "title"}
    for option in data.proposals.values():
        result = CliRunner().invoke(app, ["check", str(file), *shlex.split(option)])
        assert result.exit_code == 0, (option, result.exception)
    (first, _) = read_records(str(file), columns={"margin": "chosen_score - rejected_score"}).records[0], None
    assert first.margin == 5


def test_lines_in_common_are_no_prompt_without_a_word(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"chosen": "So.\nYes.", "rejected": "So.\nNo."}), encoding="utf-8")
    data = read_records(str(file))
    assert data.notes == [
        f"1 rows have no prompt: the lines that chosen and rejected begin with are taken for it, the first: "
        f"{file}:1"
    ]


def test_deleted_messages_and_their_answers_are_counted(tmp_path):
    file = tmp_path / "r.jsonl"
    rows = [*TREE, {**TREE[1], "message_id": "z", "parent_id": "gone"}]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    data = read_records(str(file), "demonstration")
    assert len(data.records) == 1
    assert [(fault.line, fault.reason) for fault in data.dropped] == [
        (6, "deleted"),
        (7, "deleted"),
        (8, "no_parent"),
    ]


def test_a_bad_answer_of_a_row_leaves_the_others(tmp_path):
    file = tmp_path / "r.jsonl"
    row = {"prompt": ASK, "responses": [GOOD, "", BAD], "scores": [5, 3, 1]}
    file.write_text(json.dumps(row), encoding="utf-8")
    data = read_records(str(file))
    assert [record.completion for record in data.records] == [GOOD, BAD]
    assert data.reasons == {"empty_completion": 1}


def test_what_a_record_of_this_kind_does_not_say_is_named(tmp_path):
    file = tmp_path / "r.jsonl"
    rows = [{**ONE, "score": 4, "label": "weather", "reference": "x"}, {**ONE, "score": 1, "label": "sun"}]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    shown = read_records(str(file), "demonstration")
    assert (len(shown.records), shown.unused) == (2, {"score": 2, "label": 2, "reference": 1})
    asked = read_records(str(file), "prompt")
    assert set(asked.unused) == {"response", "score", "label", "reference"}


def test_a_bad_answer_is_none_to_imitate(tmp_path):
    file = tmp_path / "r.jsonl"
    rows = [{**ONE, "label": True}, {"prompt": ASK, "response": BAD, "label": False}]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    data = read_records(str(file), "demonstration")
    assert [record.completion for record in data.records] == [GOOD]
    assert (data.reasons, data.unused) == ({"undesirable": 1}, {})
