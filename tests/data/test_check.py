from alignloop.data.check import check, turns_of, warnings
from alignloop.data.columns import read_records
from alignloop.records import Demonstration, Document, Label, Message, Preference, Ranking, ToolCall

Q = (Message("user", "q"),)


def test_warnings_about_the_whole():
    assert warnings([Label(Q, "a", True)] * 2) == ["all 2 labels are good: KTO needs both"]
    assert warnings([Label(Q, "a", True), Label(Q, "b", False)]) == []
    assert warnings([Ranking(Q, ("a", "b"), (1, 1))]) == [
        "every ranking is one tie: nothing can be learned from it"
    ]
    assert warnings([Preference(Q, "a", "b", 0.5)]) == [
        "every preference is a tie: nothing can be learned from it"
    ]
    longer = [Preference(Q, "aa", "b")] * 16 + [Preference(Q, "a", "bb")] * 4
    assert warnings(longer) == ["chosen is longer than rejected in 80% of 20 pairs: watch length bias"]
    assert warnings(longer[4:16] + longer[16:] * 2) == []
    level = [Preference(Q, "a", "b")] * 9 + [
        Preference(Q, "aa", "b", 0.5)
    ] * 9  # neither says anything of length
    assert warnings(longer + level) == warnings(longer)
    assert warnings(longer[:19] + level) == []
    assert warnings([Document("a<|im_end|>"), Document("\ufffd</s></s>"), Document("c")]) == [
        "rows hold a chat template's own marks as text: <|im_end|> (1), </s> (1)",
        "1 rows hold U+FFFD: characters were lost when the file was made",
    ]


def test_every_filter_is_run_and_nothing_changed(tmp_path):
    file = tmp_path / "r.csv"
    file.write_text(
        "prompt,chosen,rejected\nq,a,b\nq,a,b\nq,b,a\np,same,same\np,x,\n"
        "How do I fold a paper boat?,First fold it,No\nHow do I fold a paper boat,First fold it,No\n",
        encoding="utf-8",
    )
    data = read_records(str(file))
    found = check(data)
    assert (found.kind, found.rows, found.usable, data.reasons) == (
        "preference",
        7,
        6,
        {"empty_completion": 1},
    )
    assert {name: [fault.line for fault in faults] for name, faults in found.findings.items()} == {
        "exact duplicates": [2],
        "near duplicates": [7],
        "chosen is rejected": [4],
        "contradictions": [1, 2, 3],
    }
    assert found.diversity.instructions == 6


def test_turns_of_conversations_are_counted():
    user, call = Message("user", "q"), Message("assistant", "", tool_calls=(ToolCall("f"),))
    plain = Demonstration((user,), "a")
    assert turns_of([plain, plain]) == {}
    excepted = Demonstration((user, Message("assistant", "b", train=False), user), "a")
    assert turns_of([plain, excepted]) == {"assistant": 3, "trained": 2}
    tools = Demonstration((user, call, Message("tool", "1")), "a", thinking="hm")
    assert turns_of([tools, plain]) == {
        "assistant": 3,
        "trained": 3,
        "with thoughts": 1,
        "with tool calls": 1,
        "by tools": 1,
    }
