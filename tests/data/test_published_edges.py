"""Published forms: which form a row has, what stays beside it, and what of it is named as not read."""

from __future__ import annotations

from typing import Any

import pytest

from alignloop.data import message_trees, published
from alignloop.data import published_rows as rows
from alignloop.data.paths import Watched, WatchedList, taken, unseen
from alignloop.data.source_files import SourceRow
from alignloop.errors import DataError


def fault(run: Any, *args: Any) -> tuple[str, Any, str]:
    with pytest.raises(DataError) as caught:
        run(*args)
    return caught.value.field, caught.value.value, caught.value.reason


def form(**row: Any) -> str | None:
    found = published.form_of(row)
    return None if found is None else found.name


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"conversations": ["q", "a"]}, "LIMA"),
        ({"conversations": []}, None),
        ({"conversations": ["q", {"a": 1}]}, None),
        ({"conversations": "q"}, None),
        ({"conversations": ["q"], "messages": []}, None),
        ({"data": ["q", "a"]}, "UltraChat"),
        ({"data": [{"role": "user"}]}, "messages under `data`"),
        ({"data": "text"}, None),
        ({"data": ["q"], "prompt": "p"}, None),
        ({"chat": "USER: q ASSISTANT: a"}, "glaive"),
        ({"chat": "q"}, "chat"),
        ({"text": "### Human: q### Assistant: a"}, "dialogue in one text"),
        ({"text": "q"}, None),
        ({"text": "### Human: q### Assistant: a", "prompt": "q"}, None),
        ({"message_tree_id": "t", "prompt": {"replies": []}}, "OpenAssistant trees"),
        ({"message_tree_id": "t", "prompt": {"text": "q"}}, None),
        ({"message_tree_id": "t", "prompt": "replies"}, None),
        ({"fields": {}, "responses": {}}, "Argilla records"),
        ({"fields": [], "responses": {}}, None),
        ({"fields": {}, "responses": []}, None),
        ({"prompt": "q", "chosen": ["a"], "rejected": ["b"]}, "RewardBench 2"),
        ({"prompt": "q", "chosen": ["a"], "rejected": "b"}, None),
        ({"prompt": "q", "responses": ["a"], "scores": [1]}, "scored responses"),
        ({"prompt": "q", "responses": ["a"], "scores": [1], "ranking": [1]}, None),
        ({"problem": "q", "solution": None}, None),
        ({"preference.responses": [], "instruction": "q", "response1": "a", "response2": "b"}, "Argilla"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "MMLU, MMLU-Pro"),
    ],
)
def test_which_form_a_row_has(row: dict[str, Any], name: str | None) -> None:
    assert form(**row) == name


def test_a_row_of_a_form_keeps_its_other_columns_and_one_of_none_all() -> None:
    row = {"conversation": [{"role": "user", "content": "q"}], "turn": 1, "id": "7", "model": None}
    read = published.read_row(row, "")
    assert (read.rows, read.unread) == ([{"messages": row["conversation"], "id": "7", "model": None}], ())
    plain = {"prompt": "q", "extra": None}
    assert published.read_row(plain, "").rows == [plain]
    # what the form gives goes before a column of that name
    swift = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (one,) = published.read_row({**swift, "rejected_response": "b", "prompt": "other"}, "").rows
    assert one["prompt"] == swift["messages"][:1]
    (shown,) = published.read_row(
        {**swift, "rejected_response": "b", "prompt": "other"}, "demonstration"
    ).rows
    assert shown == {**swift, "prompt": "other"}


def test_keys_within_a_form_that_are_not_read_are_named() -> None:
    answers = [
        {"response": "a", "overall_score": 1, "critique": "c", "more": {"x": 1, "y": 2}},
        {"response": "b", "overall_score": 2, "empty": "", "critique": "d"},
    ]
    row = {"instruction": "q", "models": ["m"], "completions": answers, "correct": ["x"]}
    read = published.read_row(row, "rating")
    assert read.unread == ("completions[].critique", "completions[].more")
    # `models` is of the form and nothing in it is looked at: it is told by no name
    assert [set(one) for one in read.rows] == [{"correct", "prompt", "response", "scores"}] * 2


def test_each_question_once_for_prompts() -> None:
    row = {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2], "id": 5}
    assert len(published.read_row(row, "rating").rows) == 2
    (one,) = published.read_row(row, "prompt").rows
    assert (one["prompt"], one["response"], one["id"]) == ("q", "a", 5)
    tree = {"role": "user", "text": "q", "replies": [{"role": "assistant", "text": "a", "replies": [
        {"role": "user", "text": "p"}]}]}  # fmt: skip
    asked = published.read_row({"message_tree_id": "t", "prompt": tree}, "prompt").rows
    assert [len(one["prompt"]) for one in asked] == [1, 3]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "models": [], "completions": 5},
        {"info": {}, "summaries": [{"text": "a"}], "choice": 0},
        {"prompt": "q", "responses": ["a"], "scores": ["high"]},
    ],
)
def test_other_values_in_the_columns_of_a_form_are_a_fault(row: dict[str, Any]) -> None:
    kind = "ranking" if "scores" in row else ""
    with pytest.raises(DataError, match=r"has the columns of .*, but something else in them") as caught:
        published.read_row(row, kind)
    assert caught.value.reason == "wrong_type"


def test_views_of_pairs_and_scores() -> None:
    pair = rows.pair("p", "a.x", "b", rows.chosen_by("c", {"left": "a", 1: "b"}))
    row = {"p": "q", "a": {"x": "1"}, "b": "2"}
    expected = {"prompt": "q", "response_a": "1", "response_b": "2"}
    assert pair({**row, "c": " LEFT "}) == [{**expected, "preference": "a"}]
    assert pair({**row, "c": 1}) == [{**expected, "preference": "b"}]
    assert fault(pair, {**row, "c": "up"}) == ("c", "up", "unknown_label")
    strength = rows.by_strength("p", "a.x", "b", "s")
    for value, side, margin in ((-2, "a", 2), ("1.5", "b", 1.5), (0, "tie", 0)):
        assert strength({**row, "s": value}) == [{**expected, "preference": side, "margin": margin}]
    assert fault(strength, {**row, "s": "much"}) == ("s", "much", "wrong_type")
    axes = {"info": {"post": "q"}, "summary": {"text": "a", "axes": {"a": 7, "b": None, "c": 1, "d": 4}}}
    assert rows.rated_summary(axes) == [
        {"prompt": "q", "response": "a", "scores": {"a": 5.0, "c": 0.0, "d": 2.5}}
    ]
    article = {"info": {"post": "", "article": "w"}, "summary": {"text": "a"}}
    assert rows.rated_summary(article) == [{"prompt": "w", "response": "a", "scores": {}}]


def test_views_of_many_answers() -> None:
    stack = {
        "question": "q",
        "answers": [{"text": t, "pm_score": s} for t, s in zip("abc", (3, 9, 3), strict=True)],
    }
    assert rows.stack_exchange(stack) == [{"prompt": "q", "responses": ["a", "b", "c"], "ranking": [2, 1, 2]}]
    nectar = {
        "prompt": "q",
        "answers": [{"answer": t, "rank": r} for t, r in zip("abc", (2, 1, 2), strict=True)],
    }
    assert rows.nectar(nectar) == [{"prompt": "q", "responses": ["a", "b", "c"], "ranking": [2, 1, 2]}]
    many = {"prompt": "q", "chosen": ["a", "b"], "rejected": ["x", "y"]}
    assert [(r["chosen"], r["rejected"]) for r in rows.every_pair(many)] == [
        ("a", "x"),
        ("a", "y"),
        ("b", "x"),
        ("b", "y"),
    ]
    assert rows.right_and_wrong(many) == [
        {"prompt": "q", "responses": ["a", "b", "x", "y"], "ranking": [1, 1, 3, 3]}
    ]
    ranked = {"prompt": "q", "responses": '["a", "b"]', "scores": [1, "2.5"]}
    assert rows.ranked_responses(ranked) == [{"prompt": "q", "responses": ["a", "b"], "ranking": [2, 1]}]
    assert rows.turns({"data": ["q", "a", "p"]})[0]["messages"][2] == {"role": "user", "content": "p"}


@pytest.mark.parametrize(
    ("votes", "status", "side"),
    [
        (["response1"], None, "a"),
        (["response1", "response2"], None, "tie"),
        (["response2", "response1", "response2"], None, "b"),
        (["response1", "response2", "response2"], ["submitted", "discarded", "draft"], "a"),
        (["response1", "response2", "response2"], ["submitted"], "b"),
        ([None, "response1"], [], "a"),
        (["tie", "response1", "tie"], None, "tie"),
        ([None], None, None),
        (["response1"], ["discarded"], None),
    ],
)
def test_most_people_decide(votes: list[Any], status: Any, side: str | None) -> None:
    row = {"instruction": "q", "response1": "x", "response2": "y", "preference.responses": votes}
    row["preference.responses.status"] = status
    if side is None:
        assert fault(rows.argilla, row)[::2] == ("preference.responses", "unlabelled")
    else:
        assert rows.argilla(row)[0]["preference"] == side


def test_records_and_conversations_that_people_judged() -> None:
    row = {"fields": {"prompt": "q", "response1": "x", "response2": "y"}, "responses": {}}
    assert fault(rows.argilla_records, row) == ("responses.preference", [], "unlabelled")
    row["responses"] = {"preference": [{"value": "response2"}]}  # without a status it counts
    assert rows.argilla_records(row)[0]["preference"] == "b"
    for won, one, two, chance in (
        ("model_a", "x", "y", 1.0),
        ("model_b", "y", "x", 1.0),
        ("tie", "x", "y", 0.5),
    ):
        row = {"winner": won, "conversation_a": "x", "conversation_b": "y"}
        assert rows.arena_conversations(row) == [{"chosen": one, "rejected": two, "probability": chance}]


def test_what_of_an_object_was_looked_at() -> None:
    seen: set[str] = set()
    value = {
        "a": 1,
        "b": {"c": 2, "d": 3},
        "e": [{"f": 4, "g": 5}, {"f": 6}],
        "h": {"i": 7},
        "j": "",
        "k": [1],
    }
    row = Watched(value, "", seen)
    assert (row["a"], row["b"]["c"], row.get("z", 9), row.get("z")) == (1, 2, 9, None)
    assert [item["f"] for item in row["e"]] == [4, 6]
    assert isinstance(row["e"], WatchedList)
    assert isinstance(row["e"][0], Watched)
    assert row["e"][:1] == [{"f": 4, "g": 5}]
    assert row["e"][:1][0]["f"] == 4
    assert seen == {"a", "b.c", "e[].f"}
    assert unseen(value["b"], "b", seen) == (["b.d"], True)
    assert unseen(value["e"], "e", seen) == (["e[].g"], True)
    assert unseen(value["h"], "h", seen) == (["h"], False)
    assert unseen(value["k"], "k", seen) == (["k"], False)
    for nothing in ("", None, {}, [], {"x": None}, [{"x": ""}]):
        assert unseen(nothing, "n", seen) == ([], False)
    assert unseen(5, "a", seen) == ([], True)
    assert list(taken([row["b"], {"x": row["e"]}, (row["h"],), 5, "b"])) == ["b", "e", "h"]
    assert dict(row.items())["a"] == row.values()[0] == 1
    assert seen >= {"j", "a"}
    # replies to replies have one path
    tree: dict[str, Any] = {"replies": [{"text": "x", "replies": [{"text": "y", "rank": 1}]}]}
    found: set[str] = set()
    top = Watched(tree, "", found)
    assert top["replies"][0]["replies"][0]["text"] == "y"
    assert found == {"replies[].text"}
    assert unseen(tree, "", found) == (["replies[].rank"], True)


def node(name: str, parent: str | None, role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"message_id": name, "parent_id": parent, "text": name, "role": role, **more}


def joined(*values: dict[str, Any]) -> tuple[list[dict[str, Any]], list[tuple[int, str, str]]]:
    faults: list[DataError] = []
    found = message_trees.joined((SourceRow(v, "f", k) for k, v in enumerate(values, 1)), faults.append)
    return [row.values for row in found], [(f.line, f.reason, f.message) for f in faults]


def test_messages_are_joined_to_trees() -> None:
    rank = node("b", "q", rank=1, lang="en")
    found, faults = joined(
        node("a", "q", rank=0), node("q", "", "prompter", lang="ko", rank=None), rank, node("r", None, "user")
    )
    replies = [
        {"text": "a", "role": "assistant", "rank": 0, "replies": []},
        {"text": "b", "role": "assistant", "rank": 1, "replies": []},
    ]
    assert found == [
        {
            "lang": "ko",
            "message_tree_id": "q",
            "prompt": {"text": "q", "role": "prompter", "replies": replies},
        },
        {"message_tree_id": "r", "prompt": {"text": "r", "role": "user", "replies": []}},
    ]
    assert faults == []
    assert joined() == ([], [])
    plain = {"prompt": "q"}
    assert joined(plain, node("q", None)) == ([plain, node("q", None)], [])
    for more in ({"messages": []}, {"replies": []}):
        whole = node("q", None, **more)
        assert joined(whole) == ([whole], [])


def test_messages_that_are_in_no_tree_are_told() -> None:
    found, faults = joined(
        node("q", None, "prompter"),
        node("x", "q", deleted="True"),
        node("y", "x", "prompter"),
        node("z", "y"),
        node("n", "none"),
        node("c", "d"),
        node("d", "c"),
        node("s", "s"),
        node("e", "c"),
        {"prompt": "p"},
        node("a", "q", deleted=0),
    )
    assert [len(row["prompt"]["replies"]) for row in found] == [1]
    assert [fault[:2] for fault in faults] == [
        *((2, "deleted"), (3, "deleted"), (4, "deleted"), (5, "no_parent"), (6, "no_parent")),
        *((7, "no_parent"), (8, "no_parent"), (9, "no_parent"), (10, "other_kind")),
    ]
    assert faults[0][2] == "the message was deleted"
    assert faults[1][2] == faults[2][2] == "answers a deleted message"
    assert faults[3][2] == "answers the message none, which is not in the file"


def tree(role: str, text: str, *replies: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "text": text, "replies": list(replies), **more}


def test_the_conversation_along_the_best_replies() -> None:
    second = tree("assistant", "b", rank=1)
    best = tree("assistant", "a", tree("prompter", "p"), rank="0")
    last = tree("assistant", "c")  # without a rank it comes last
    deleted = tree("assistant", "d", rank=-1, deleted=True)
    row = {"prompt": tree("prompter", "q", last, second, best, deleted)}
    (found,) = message_trees.conversation(row)
    assert found["messages"] == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert [(p["chosen"], p["rejected"]) for p in message_trees.pairs(row)] == [("a", "b")]
    assert fault(message_trees.conversation, {"prompt": tree("prompter", "q")}) == (
        "replies",
        None,
        "unanswered",
    )
    assert fault(message_trees.conversation, {"prompt": tree("narrator", "q")}) == (
        "role",
        "narrator",
        "unknown_role",
    )
    assert fault(message_trees.conversation, {"prompt": tree("system", "q")})[2] == "unknown_role"
    wrong = {
        "prompt": tree("prompter", "q", tree("assistant", "a", rank=-1), tree("assistant", "b", rank=2e6))
    }
    assert fault(message_trees.conversation, wrong)[2] == "out_of_range"


def test_ranked_answers_of_each_question() -> None:
    def answers(*ranks: Any) -> list[dict[str, Any]]:
        return [tree("assistant", f"a{k}", rank=rank) for k, rank in enumerate(ranks)]

    root = tree("prompter", "q", *answers(2, 0, 0, None))
    (found,) = message_trees.comparisons({"prompt": root})
    assert (found["responses"], found["ranking"]) == (["a0", "a1", "a2"], [3, 1, 1])
    assert len(message_trees.pairs({"prompt": root})) == 2
    assert fault(message_trees.comparisons, {"prompt": tree("prompter", "q", *answers(0, None))}) == (
        "rank",
        None,
        "unranked",
    )
    deep = tree("prompter", "q", tree("assistant", "a", tree("prompter", "p", *answers(1, 0))))
    (found,) = message_trees.comparisons({"prompt": deep})
    assert [m["content"] for m in found["prompt"]] == ["q", "a", "p"]
    assert [len(one["prompt"]) for one in message_trees.questions({"prompt": deep})] == [1, 3]
    assert found["ranking"] == [2, 1]
