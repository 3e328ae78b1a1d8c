"""`data check` over every published form: what its rows mean, and what of them is named as not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli.data import app, mapping
from alignloop.data.columns import read_records
from alignloop.data.multiple_choice import choice_of
from alignloop.data.sources import read_rows
from alignloop.evaluation.sets import read_multiple_choice, read_truthfulness
from alignloop.records import Conversation, Demonstration, Label, Preference, Prompt, Ranking, Rating, Record
from tests.field.forms import ASKING, PAIRS, QUESTIONS, SCORED, SHOWING, Case

KINDS = {"pairs": PAIRS, "scored": SCORED, "showing": SHOWING, "asking": ASKING}
EVERY = [(group, name) for group, cases in KINDS.items() for name in cases]


def put(folder: Path, case: Case) -> str:
    file = folder / f"rows{case.suffix}"
    rows = case.rows
    if not isinstance(rows, str):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        rows = f"[{', '.join(lines)}]" if case.suffix == ".json" else "\n".join(lines) + "\n"
    file.write_text(rows, encoding="utf-8")
    return str(file)


def texts(prompt: Conversation) -> str:
    return "|".join(message.content for message in prompt)


def said(record: Record) -> tuple:
    """A record as the tuple that `forms` writes it as."""
    match record:
        case Preference():
            pair = (record.chosen, record.rejected, record.probability, record.margin)
            return (texts(record.prompt), *pair)
        case Ranking():
            return (texts(record.prompt), record.completions, record.ranks)
        case Rating():
            return (texts(record.prompt), record.completion, dict(record.scores))
        case Label():
            return (texts(record.prompt), record.completion, record.desirable)
        case Demonstration():
            return (texts(record.prompt), record.text)
        case Prompt():
            return (texts(record.prompt), record.answer)
    raise AssertionError(record)


def check(file: str, *options: str) -> dict:
    result = CliRunner().invoke(app, ["check", file, *options, "--json"])
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_rows_mean_what_their_users_mean(group: str, name: str, tmp_path: Path) -> None:
    case = KINDS[group][name]
    file = put(tmp_path, case)
    columns = mapping([o for o in case.options if "=" in o])
    scores = [float(end) for o in case.options if ":" in o for end in o.split(":")]
    data = read_records({"path": file, "score_range": scores or None}, case.kind, columns)
    assert [said(record) for record in data.records] == case.means
    for column in case.unread:
        assert column in data.unused, data.unused
    kind = ("--kind", case.kind) if case.kind else ()
    report = check(file, *kind, *case.options)
    assert (report["kind"], report["usable"]) == (data.kind, len(case.means))
    assert all(column in " ".join(report["warnings"]) for column in case.unread)


@pytest.mark.parametrize("name", QUESTIONS)
def test_multiple_choice_questions_are_read_unasked(name: str, tmp_path: Path) -> None:
    case = QUESTIONS[name]
    file = put(tmp_path, case)
    found = [choice_of(row.values) for row in read_rows(file)]
    right = [c.choices[c.right.index(True)] for c in found]
    read = [(c.question, "".join(c.choices), r) for c, r in zip(found, right, strict=True)]
    assert read == case.means
    report = check(file)
    assert (report["kind"], report["usable"]) == ("multiple_choice", len(case.means))
    asked = read_multiple_choice(file)
    assert [q.correct for q in asked] == [c.right for c in found]
    assert all(texts(q.prompt).startswith(c.question) for q, c in zip(asked, found, strict=True))


def test_truthfulqa_has_two_readings(tmp_path: Path) -> None:
    row = {
        "question": "q",
        "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["a", "c", "b"], "labels": [1, 1, 0]},
    }
    file = put(tmp_path, Case([row], []))
    ((one, every),) = read_truthfulness(file)
    assert (one.choices, one.correct) == (("a", "b"), (True, False))
    assert (every.choices, every.correct) == (("a", "c", "b"), (True, True, False))
    assert check(file)["kind"] == "truthfulness"
