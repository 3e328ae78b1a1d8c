"""Rows of published forms at their edges: ties, what is missing, and what may not be counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alignloop.data import message_trees
from alignloop.data import published_rows as rows
from alignloop.errors import DataError


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b", 1),
        ("a.b.c", None),
        ("list[0]", "x"),
        ("list[1]", "y"),
        ("list[2]", None),
        ("list[-2]", "x"),
        ("list[-3]", None),
        ("rows[1].n", 2),
        ("text.k", 3),
        ("broken.k", None),
        ("dotted.name", 4),
        ("nothing", None),
        ("a", {"b": 1}),
    ],
)
def test_what_lies_at_a_path(path: str, found: Any) -> None:
    row = {
        "a": {"b": 1},
        "list": ["x", "y"],
        "rows": [{"n": 1}, {"n": 2}],
        "text": ' {"k": 3}',
        "broken": '{"k": 3',
        "dotted.name": 4,
        "dotted": {"name": 5},
    }
    assert rows.at(row, path) == found


@pytest.mark.parametrize(("scores", "side"), [((0.5, -0.5), "a"), ((-0.5, 0.5), "b"), ((0, 0), "tie")])
def test_the_higher_score_wins(scores: tuple[float, float], side: str) -> None:
    row = {"question": {"full_text": "q"}, "answer_0": "x", "answer_1": "y"}
    row |= {"score_0": scores[0], "score_1": scores[1]}
    assert rows.webgpt(row)[0]["preference"] == side


def test_each_response_has_its_score() -> None:
    row = {"prompt": "q", "responses": ["a", "b"], "scores": [{"x": 1}, {"x": 2}]}
    assert rows.scored_responses(row) == [
        {"prompt": "q", "response": "a", "scores": {"x": 1}},
        {"prompt": "q", "response": "b", "scores": {"x": 2}},
    ]
    with pytest.raises(DataError, match="1 scores for 2 responses"):
        rows.scored_responses({**row, "scores": [{"x": 1}]})
    for value in ("a, b", 5, '"a"', None):
        with pytest.raises(DataError, match="expected a list") as caught:
            rows.scored_responses({**row, "responses": value})
        assert (caught.value.field, caught.value.value) == ("responses", value)


def test_scores_from_1_to_10_become_0_to_5() -> None:
    answers = [{"response": "x", "overall_score": s, "model": "m"} for s in (1, 5.5, "10")]
    found = rows.ultrafeedback_ratings({"instruction": "q", "completions": answers})
    assert [row["scores"]["overall"] for row in found] == [0.0, 2.5, 5.0]
    assert found[0] == {"prompt": "q", "response": "x", "scores": {"overall": 0.0}, "model": "m"}
    (ranked,) = rows.ultrafeedback_ranking({"instruction": "q", "completions": answers})
    assert ranked == {"prompt": "q", "responses": ["x"] * 3, "ranking": [3, 2, 1]}


def test_annotations_that_count() -> None:
    data = {"prompt": "q", "answer1": "x", "answer2": "y"}

    def annotated(*chosen: Any, cancelled: bool = False) -> dict[str, Any]:
        return {"was_cancelled": cancelled, "result": [{"value": {"selected": side}} for side in chosen]}

    kept = [annotated("left"), annotated("right"), annotated("left", cancelled=True), annotated()]
    kept += [annotated("left", "right"), annotated("middle"), {}]
    found = rows.label_studio({"data": data, "annotations": kept})
    assert [row["preference"] for row in found] == ["a", "b"]
    assert found[0] == {"prompt": "q", "response_a": "x", "response_b": "y", "preference": "a"}
    with pytest.raises(DataError, match="no annotation that counts"):
        rows.label_studio({"data": data, "annotations": kept[2:]})


@pytest.mark.parametrize("won", ["model_a", "model_b", "tie"])
def test_dialogues_that_differ_in_their_last_answer(won: str) -> None:
    sides = {"model_a": "a", "model_b": "b", "tie": "tie"}
    row = {f"winner_{name}": int(name == won) for name in sides}
    row |= {"prompt": json.dumps(["q", "r"])}
    row |= {"response_a": json.dumps(["s", "x"]), "response_b": json.dumps(["s", "y"])}
    assert rows.arena_55k(row) == [
        {
            "prompt": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "s"},
                {"role": "user", "content": "r"},
            ],
            "response_a": "x",
            "response_b": "y",
            "preference": sides[won],
        }
    ]
    with pytest.raises(DataError, match="differ before their last answer"):
        rows.arena_55k({**row, "response_b": json.dumps(["t", "y"])})
    for values in ((0, 0, 0), (1, "1.0", 0)):
        wrong = dict(zip((f"winner_{name}" for name in sides), values, strict=True))
        with pytest.raises(DataError, match="one of the three winner columns"):
            rows.arena_55k({**row, **wrong})


def test_other_forms_by_hand() -> None:
    row: dict[str, Any] = {"messages": ["q", "a"], "rejected_response": "b", "system": "s"}
    assert rows.rejected_response(row) == [{"prompt": ["q"], "chosen": ["a"], "rejected": "b", "system": "s"}]
    summary = {"info": {"post": None, "article": "q"}, "summaries": [{"text": "x"}, {"text": "y"}]}
    assert rows.summaries({**summary, "choice": 0}) == [
        {"prompt": "q", "response_a": "x", "response_b": "y", "preference": "a"}
    ]
    assert rows.summaries({**summary, "choice": 1})[0]["preference"] == "b"
    scores = dict(zip(rows.HELPSTEER, range(5), strict=True))
    assert rows.helpsteer({"prompt": "q", "response": "x", **scores}) == [
        {"prompt": "q", "response": "x", "scores": scores}
    ]
    assert rows.hendrycks({"problem": "q", "solution": "x"}) == [{"prompt": "q", "answer": "x"}]
    labels = [rows.safe_label({"prompt": "q", "response": "x", "is_safe": v})[0]["label"] for v in (1, False)]
    assert labels == [True, False]
    assert rows.fields(a="b.c", d="e")({"b": {"c": 1}}) == [{"a": 1, "d": None}]


@pytest.mark.parametrize("name", ["instruction", "prompt", "question"])
def test_records_of_argilla_take_the_first_prompt_that_is_there(name: str) -> None:
    texts = {"instruction": "", name: "q", "response1": "x", "response_2": "y"}
    said = [{"value": "response1", "status": s} for s in ("submitted", "discarded", "draft")]
    said[1]["value"] = said[2]["value"] = "response2"
    row = {"fields": texts, "responses": {"preference": said}}
    assert rows.argilla_records(row) == [
        {"prompt": "q", "response_a": "x", "response_b": "y", "preference": "a"}
    ]


def test_a_dialogue_in_one_text_with_and_without_a_system_turn() -> None:
    read = rows.dialogue("text")
    text = "Human: q\n\nAssistant: a"
    assert read({"text": text})[0]["system"] is None
    assert read({"text": text, "system": "SYSTEM: be kind"})[0]["system"] == "be kind"


def test_a_question_that_answers_a_question_is_no_answer() -> None:
    answers = [{"role": "assistant", "text": text, "rank": rank} for rank, text in enumerate("xy")]
    asked = {"role": "prompter", "text": "who?", "rank": 2, "replies": []}
    root = {"role": "prompter", "text": "q", "replies": [*answers, asked]}
    (found,) = message_trees.comparisons({"prompt": root})
    assert (found["responses"], found["ranking"]) == (["x", "y"], [1, 2])
    with pytest.raises(DataError, match="no question has two ranked answers"):
        message_trees.comparisons({"prompt": {**root, "replies": [answers[0], asked]}})
