"""Published forms of data: what a row of each means."""

import json

import pytest

from alignloop.data.columns import read_records
from alignloop.data.paths import at
from alignloop.data.sources import Source, expand
from alignloop.errors import DataError
from alignloop.records import Demonstration, Label, Preference, Prompt, Ranking, Rating

ASK, GOOD, BAD = "Why rain?", "Of clouds.", "No idea."
USER, YES, NO = (
    {"role": r, "content": c} for r, c in (("user", ASK), ("assistant", GOOD), ("assistant", BAD))
)
PREFERENCES = {
    "pku": {"prompt": ASK, "response_0": BAD, "response_1": GOOD, "better_response_id": 1,
            "safer_response_id": 0},
    "shp": {"history": ASK, "human_ref_A": GOOD, "human_ref_B": BAD, "labels": 1, "score_ratio": 5.0},
    "shp_b": {"history": ASK, "human_ref_A": BAD, "human_ref_B": GOOD, "labels": 0, "score_ratio": 5.0},
    "arena_55k": {"prompt": json.dumps([ASK]), "response_a": json.dumps([BAD]),
                  "response_b": json.dumps([GOOD]), "winner_model_a": 0, "winner_model_b": 1,
                  "winner_tie": 0},
    "arena": {"winner": "model_b", "conversation_a": [USER, NO], "conversation_b": [USER, YES], "turn": 1},
    "argilla": {"instruction": ASK, "response1": BAD, "response2": GOOD,
                "preference.responses": ["response2", "response1", "response2"]},
    "label_studio": {"data": {"prompt": ASK, "answer1": GOOD, "answer2": BAD}, "annotations": [
        {"was_cancelled": True, "result": [{"value": {"selected": "right"}}]},
        {"was_cancelled": False, "result": [{"value": {"selected": "left"}}]}]},
    "openai": {"input": {"messages": [USER], "tools": []}, "preferred_output": [YES],
               "non_preferred_output": [NO]},
    "swift": {"messages": [USER, YES], "rejected_response": BAD},
    "summaries": {"info": {"post": ASK}, "summaries": [{"text": BAD}, {"text": GOOD}], "choice": 1},
    "webgpt": {"question": {"full_text": ASK}, "answer_0": GOOD, "answer_1": BAD, "score_0": 0.5,
               "score_1": -0.5},
    "numbers": {"prompt": ASK, "response_a": GOOD, "response_b": BAD, "preference": 0},
    "sides": {"prompt": ASK, "response_a": BAD, "response_b": GOOD, "preference": "right"},
}  # fmt: skip


def read(tmp_path, *rows, kind=None, **more):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return read_records(str(path), kind, **more)


@pytest.mark.parametrize("kind", [None, "preference"])
@pytest.mark.parametrize("name", PREFERENCES)
def test_judged_pairs(name, kind, tmp_path):
    (record,) = read(tmp_path, PREFERENCES[name], kind=kind).records
    assert isinstance(record, Preference)
    assert (record.prompt[-1].content, record.chosen, record.rejected) == (ASK, GOOD, BAD)
    assert (record.probability, record.margin) == (1.0, 0.0)


def test_strength_is_the_margin_and_its_sign_chooses(tmp_path):
    row = {"prompt": ASK, "response_1": GOOD, "response_2": BAD, "preference_strength": -2}
    (first,) = read(tmp_path, row).records
    assert (first.chosen, first.margin) == (GOOD, 2.0)
    (second,) = read(tmp_path, {**row, "preference_strength": 3}).records
    assert (second.chosen, second.margin) == (BAD, 3.0)
    (tie,) = read(tmp_path, {**row, "preference_strength": 0}).records
    assert tie.probability == 0.5


def test_scored_and_ranked_answers(tmp_path):
    answers = [{"response": GOOD, "overall_score": 10.0}, {"response": BAD, "overall_score": 1.0}]
    ultra = {"instruction": ASK, "models": ["m", "n"], "completions": answers}
    ratings = read(tmp_path, ultra).records
    assert all(isinstance(r, Rating) for r in ratings)
    assert [(r.completion, dict(r.scores)) for r in ratings] == [
        (GOOD, {"overall": 5}),
        (BAD, {"overall": 0}),
    ]
    (ranking,) = read(tmp_path, ultra, kind="ranking").records
    assert (ranking.completions, ranking.ranks) == ((GOOD, BAD), (1, 2))
    scored = {"prompt": ASK, "responses": [GOOD, BAD, "So."], "scores": [5, 1, 5]}
    assert [r.scores["score"] for r in read(tmp_path, scored).records] == [5, 1, 5]
    assert read(tmp_path, scored, kind="ranking").records[0].ranks == (1, 3, 1)
    nectar = {"prompt": f"\n\nHuman: {ASK}\n\nAssistant: ", "num_responses": 2,
              "answers": [{"answer": BAD, "rank": 2.0}, {"answer": GOOD, "rank": 1.0}]}  # fmt: skip
    (found,) = read(tmp_path, nectar).records
    assert isinstance(found, Ranking)
    assert (found.prompt[0].content, found.ranks) == (ASK, (2, 1))
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    steer = {"prompt": ASK, "response": GOOD, **dict(zip(names, (4, 3, 2, 1, 0), strict=True))}
    (rated,) = read(tmp_path, steer).records
    assert dict(rated.scores) == dict(zip(names, (4, 3, 2, 1, 0), strict=True))


@pytest.mark.parametrize(
    "row",
    [
        {"conversation": [USER, YES], "turn": 1},
        {"chat": [USER, YES]},
        {"data": [ASK, GOOD], "id": "0"},
        {"conversations": [ASK, GOOD], "source": "lima"},
        {"text": f"### Human: {ASK}### Assistant: {GOOD}"},
    ],
    ids=lambda row: next(iter(row)),
)
def test_dialogues_under_other_names(row, tmp_path):
    (record,) = read(tmp_path, row, kind="demonstration").records
    assert isinstance(record, Demonstration)
    assert (record.prompt[0].content, record.completion) == (ASK, GOOD)


def test_labels_and_what_is_not_to_be_imitated(tmp_path):
    rows = [
        {"prompt": ASK, "response": GOOD, "is_safe": True},
        {"prompt": ASK, "response": BAD, "is_safe": False},
    ]
    assert [r.desirable for r in read(tmp_path, *rows).records if isinstance(r, Label)] == [True, False]
    shown = read(tmp_path, *rows, kind="demonstration")
    assert [r.completion for r in shown.records] == [GOOD]
    assert shown.reasons == {"unsafe": 1}
    tagged = {"instruction": ASK, "output": GOOD, "kto_tag": True}
    assert read(tmp_path, tagged).records[0].desirable is True


def test_references(tmp_path):
    verl = {"prompt": [USER], "reward_model": {"ground_truth": "72", "style": "rule"}}
    assert read(tmp_path, verl, kind="prompt").records[0].answer == "72"
    problem = {"problem": ASK, "solution": "So \\boxed{\\frac{1}{2}}."}
    (prompt,) = read(tmp_path, problem).records
    assert isinstance(prompt, Prompt)
    assert prompt.answer == problem["solution"]
    assert isinstance(read(tmp_path, problem, kind="demonstration").records[0], Demonstration)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"question": ASK, "choices": ["a", "b"], "answer": 0}, "multiple-choice"),
        ({"question": ASK, "A": "1", "B": "2", "C": "3", "D": "4", "answer": 1}, "multiple-choice"),
        ({"prompt": ASK, "completions": ["a", "b"], "labels": [True, False]}, "process rewards"),
        (
            {"prompt": ASK, "response_0": BAD, "response_1": GOOD, "better_response_id": 2},
            "expected one of 0, 1",
        ),
    ],
)
def test_what_would_lose_its_meaning_is_refused(row, why, tmp_path):
    with pytest.raises(DataError, match=why):
        read(tmp_path, row)


def test_columns_that_were_not_read_are_named_with_a_proposal(tmp_path):
    data = read(tmp_path, PREFERENCES["pku"])
    assert data.unused == {"safer_response_id": 1}
    assert data.notes == [
        "columns that were not read: safer_response_id (--column preference=safer_response_id)"
    ]
    other = read(tmp_path, PREFERENCES["pku"], columns={"preference": "safer_response_id"})
    assert other.records[0].chosen == BAD


def test_columns_that_a_form_looks_at_are_not_named(tmp_path):
    for name in ("arena_55k", "webgpt", "swift", "label_studio"):
        assert [c for c in read(tmp_path, PREFERENCES[name]).unused if "[" not in c and "." not in c] == []


def test_scores_against_the_choice_are_told(tmp_path):
    rows = [
        {"prompt": ASK, "chosen": GOOD, "rejected": BAD, "score_chosen": s, "score_rejected": 2}
        for s in (1, 3)
    ]
    (place,) = read(tmp_path, *rows).against_scores
    assert place.endswith("rows.jsonl:1")


def test_a_column_may_lie_in_an_object(tmp_path):
    row = {"q": {"text": [ASK]}, "out": json.dumps({"best": GOOD})}
    (record,) = read(tmp_path, row, columns={"prompt": "q.text[0]", "completion": "out.best"}).records
    assert (record.prompt[0].content, record.completion) == (ASK, GOOD)
    assert at({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert at({"a": [1, 2]}, "a[-1]") == 2
    assert at({"a": [1]}, "a[5]") is None


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (
            "a A response_a model_a left answer1 response1 output_1 first > A>B A>>B [[A>>B]] [[A]] 왼쪽",
            1,
        ),
        (
            "b B response_b model_b right answer2 response2 output_2 option_b second < B>A B>>A [[B]] 오른쪽",
            0,
        ),
    ],
)
def test_votes_in_the_words_of_other_tools(words, first, tmp_path):
    rows = [{"prompt": ASK, "response_a": GOOD, "response_b": BAD, "preference": w} for w in words.split()]
    found = read(tmp_path, *rows).records
    assert [r.chosen for r in found] == [GOOD if first else BAD] * len(rows)
    assert all(r.probability == 1 for r in found)


def test_ties_in_the_words_of_other_tools(tmp_path):
    words = ["tie", "both", "neither", "both_bad", "tie (bothbad)", "[[C]]", "A=B", "[[A=B]]", "무승부", 0.5]
    rows = [{"prompt": ASK, "response_a": GOOD, "response_b": BAD, "preference": w} for w in words]
    assert [r.probability for r in read(tmp_path, *rows).records] == [0.5] * len(words)


def test_a_recipe_tells_all_that_a_source_needs(tmp_path):
    from alignloop.config import RewardConfig

    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": ASK, "response": GOOD, "score": 10}), encoding="utf-8")
    keys = {"path": str(path), "score_range": [1, 10], "weight": 2}
    hub = {"path": "owner/name", "name": "main", "data_dir": "d", "revision": "abc", "split": "test"}
    config = RewardConfig(dataset=[keys, hub], output_dir="out")
    first, second = config.dataset
    assert [dict(r.scores) for r in read_records(first).records] == [{"score": 5.0}] * 2
    assert expand(second) == [Source("owner/name", split="test", name="main", data_dir="d", revision="abc")]
