"""Filters, conversions, counts of words and lengths at their edges, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from alignloop.data import quality
from alignloop.data.check import turns_of, warnings
from alignloop.data.convert import Options, convert, targets
from alignloop.data.diversity import diversity, lengths, verb_object
from alignloop.data.normal import completion_texts, normalise, prompt_key, prompt_text, words
from alignloop.data.overlength import fit, fit_turns
from alignloop.data.quality import first_similar, jaccard, rows_per_band, shingles
from alignloop.errors import DataError
from alignloop.records import (
    Demonstration,
    Document,
    Label,
    Message,
    Preference,
    Prompt,
    Provenance,
    Ranking,
    Rating,
    Record,
    ToolCall,
    with_tools,
)

Q = (Message("user", "q"),)


def at(line: int) -> Provenance:
    return Provenance("r.jsonl", line)


def told(found: quality.Filtered) -> list[tuple[int, str, str]]:
    return [(fault.line, fault.reason, fault.message) for fault in found[1]]


def test_the_earliest_of_equal_records_is_named_wherever_it_comes_from() -> None:
    rows = [Label(Q, "a", True, at(k)) for k in (1, 2, 3)] + [Label(Q, "a", True)]
    assert told(quality.exact_duplicates(rows)) == [
        (2, "duplicate", "the same as r.jsonl:1"),
        (3, "duplicate", "the same as r.jsonl:1"),
        (0, "duplicate", "the same as r.jsonl:1"),
    ]
    swapped = [Preference(Q, "a", "b", provenance=at(1)), Preference(Q, "b", "a", provenance=at(2))]
    assert quality.exact_duplicates(swapped)[0] == swapped
    # another row of the same place and content is its repetition, of another content a row of its own
    again = [Label(Q, "a", True, at(1)), Label(Q, "a", True, at(1)), Label(Q, "b", True, at(1))]
    assert quality.exact_duplicates(again)[0] == again


def test_near_duplicates_name_the_first_kept_one() -> None:
    text = "the quick brown fox jumps over the lazy dog and runs away into the dark green wood"
    rows = [Document(text + end, at(k)) for k, end in enumerate(("", "!", "?"), 1)]
    assert told(quality.near_duplicates(rows)) == [
        (2, "near_duplicate", "nearly the same as r.jsonl:1"),
        (3, "near_duplicate", "nearly the same as r.jsonl:1"),
    ]
    assert len(quality.near_duplicates(rows, 1.0)[0]) == 3
    repeated = [rows[1], rows[0], rows[0], rows[1]]
    kept, dropped = quality.near_duplicates(repeated)
    assert ([r.provenance.line for r in kept], [f.line for f in dropped]) == ([2, 2], [1, 1])
    assert dropped[0].message == "nearly the same as r.jsonl:2"
    for threshold in (0, -0.1, 1.01):
        with pytest.raises(DataError, match="expected a number above 0, at most 1") as caught:
            quality.near_duplicates(rows, threshold)
        assert caught.value.value == threshold
    # only the questions are compared with one another, each with the same system prompt
    tool = with_tools((Message("user", text),), ('{"name": "f"}',))
    assert (
        len(quality.near_duplicates([Prompt(tool, provenance=at(1)), Prompt(tool, provenance=at(2))])[0]) == 1
    )


def test_lengths_that_are_kept() -> None:
    rows: list[Record] = [Label((Message("user", "x" * size),), "a", True, at(size)) for size in range(1, 5)]
    assert [r.provenance.line for r in quality.length_bounds(rows, prompt=(2, 3))[0]] == [2, 3]
    rows = [Label(Q, "x" * size, True, at(size)) for size in range(1, 5)]
    assert [r.provenance.line for r in quality.length_bounds(rows, completion=(2, 3))[0]] == [2, 3]
    assert quality.length_bounds(rows)[0] == rows
    assert told(quality.length_bounds([Label(Q, "", True, at(9))])) == [
        (9, "completion_too_short", "completion of 0 characters, wanted 1 to 1000000000")
    ]
    assert quality.length_bounds([Label((Message("user", ""),), "a", True)])[1] == []


def test_answers_that_are_empty_or_the_same() -> None:
    rows = [
        Preference(Q, "a", " \n", provenance=at(1)),
        Preference(Q, " a", "a\n", provenance=at(2)),
        Prompt(Q),
    ]
    assert told(quality.empty_completions(rows)) == [(1, "empty_completion", "a completion is empty")]
    assert told(quality.equal_pairs(rows)) == [
        (2, "chosen_is_rejected", "chosen and rejected are the same text")
    ]


@pytest.mark.parametrize(
    ("records", "dropped"),
    [
        ([Preference(Q, "a", "b"), Preference(Q, "b", "a")], 2),
        ([Preference(Q, "a", "b"), Preference(Q, "b", "a", 0.2)], 0),  # both say that a is better
        ([Preference(Q, "a", "b"), Preference(Q, "a", "b", 0.2)], 2),
        ([Preference(Q, "a", "b"), Preference(Q, "a", "b", 0.8)], 0),
        ([Preference(Q, "a", "b"), Preference(Q, "b", "a", 0.5)], 0),
        ([Preference(Q, "a", "a"), Preference(Q, "a", "a", 0.2)], 0),
        ([Preference(Q, "a", "b"), Preference((Message("user", "p"),), "b", "a")], 0),
        ([Preference(Q, "a", "b"), Preference((Message("user", " Q "),), "b", "a")], 2),
        ([Label(Q, "a", True), Label(Q, "a", False), Label(Q, "b", False)], 2),
        ([Label(Q, "a", True), Preference(Q, "a", "b")], 0),
        ([Demonstration(Q, "a"), Demonstration(Q, "a")], 0),
    ],
)
def test_rows_that_contradict_each_other(records: list[Record], dropped: int) -> None:
    kept, faults = quality.contradictions(records)
    assert (len(faults), len(kept)) == (dropped, len(records) - dropped)
    assert {fault.reason for fault in faults} <= {"contradiction"}


def test_the_last_question_of_a_dialogue_is_what_is_kept_out() -> None:
    asked = (Message("user", "hello"), Message("assistant", "yes?"), Message("user", "Who are you?"))
    evaluation = [Prompt(asked, provenance=at(4)), Prompt(Q, provenance=at(5)), Prompt(Q, provenance=at(6))]
    rows = [
        Label((Message("user", text),), "a", True, at(k))
        for k, text in enumerate(("hello", "who are YOU?"), 1)
    ]
    found = told(quality.without_evaluation(rows, evaluation))
    assert found == [(2, "in_evaluation", "its prompt is that of r.jsonl:4")]
    assert told(quality.without_evaluation([Label(Q, "a", True)], evaluation)) == [
        (0, "in_evaluation", "its prompt is that of r.jsonl:5")
    ]
    assert quality.without_evaluation([Document("q")], [Document("q")])[1] == []
    eight = "one two three four five six seven eight"
    long = [Prompt((Message("user", eight),), provenance=at(7))]
    assert told(quality.without_evaluation([Document(f"so {eight} nine")], long)) == [
        (0, "in_evaluation", "contains the prompt of r.jsonl:7")
    ]
    assert quality.without_evaluation([Document(eight[4:])], long)[1] == []
    assert len(quality.without_evaluation([Document(eight[4:])], long, size=7)[1]) == 1


@pytest.mark.parametrize(
    ("instruction", "found"),
    [
        ("Can you help me write an essay?", ("write", "essay")),
        ("hello, let's sort the list", ("sort", "list")),
        ("don't do that to him", ("don't", "")),
        ("write 5 poems", ("write", "poems")),
        ("Write\nA poem", ("write", "poem")),
        ("", ("", "")),
        ("요약", ("요약", "")),
        ("abc 요약해", ("abc", "요약해")),
        ("ab 요약해", ("요약", "")),
        ("시를 써줘. 그리고 그림을 그려 주세요.", ("써", "시")),
        ("봄이 왔다. 노래를 불러 주세요", ("불러", "노래")),
        ("주세요", ("주", "")),
        ("물 주세요 주세요", ("물", "")),
        ("을 보세요", ("을", "")),
        ("시를 을 써 주세요", ("써", "시")),
        ("보세요 주세요", ("보", "")),
        ("번역하자", ("번역", "")),
        ("문장을 글을 번역하시오", ("번역", "글")),
        ("오늘은 좋은 날이다. 내일도 좋다.", ("날이", "")),
    ],
)
def test_verbs_and_objects(instruction: str, found: tuple[str, str]) -> None:
    assert verb_object(instruction) == found


def test_only_the_beginning_of_an_instruction_is_looked_at() -> None:
    assert verb_object("please " * 200 + "write a poem") == ("", "")
    assert verb_object("please " * 140 + "write a poem") == ("write", "poem")
    assert verb_object("please " * 142 + "abcdefg") == ("abcdef", "")


def test_counts_of_instructions_and_lengths() -> None:
    def asked(text: str, *before: Message) -> Demonstration:
        return Demonstration((*before, Message("user", text)), "abc")

    rows = [asked(f"{verb} it") for verb in ("write", "name", "draw")] + [asked("write it")]
    found = diversity([*rows, asked(" "), Document("x" * 9)])
    assert (found.instructions, found.verbs, found.verb_objects) == (4, 3, 3)
    assert found.effective_verbs == pytest.approx(math.exp(0.5 * math.log(2) + 0.5 * math.log(4)))
    assert found.top[0] == ("write", "", 2)
    assert diversity(rows, top=1).top == (("write", "", 2),)
    many = diversity([asked(f"{chr(97 + k)}{chr(97 + k)} it") for k in range(12)])
    assert len(many.top) == 10
    first = diversity(
        [asked("name it", Message("user", "\n"), Message("system", "draw it"), Message("user", "cut it"))]
    )
    assert first.top[0][0] == "cut"
    made = lengths([0, 1, 1, 20])
    assert made is not None
    assert (made.count, made.least, made.median, made.mean, made.most) == (4, 0, 1.0, 5.5, 20)
    assert made.p95 == pytest.approx(1 + 0.85 * 19)
    assert list(made.histogram.items()) == [(1, 3), (32, 1)]


def test_traps_of_a_whole_data_set() -> None:
    tie, pair = Preference(Q, "a", "b", 0.5), Preference(Q, "a", "b")
    assert warnings([Label(Q, "a", False)]) == ["all 1 labels are bad: KTO needs both"]
    assert warnings([tie, pair]) == []
    ranked = Ranking(Q, ("a", "b"), (1, 2))
    assert warnings([Ranking(Q, ("a", "b"), (1, 1)), ranked]) == []
    assert warnings([]) == []
    long, short = Preference(Q, "aa", "b"), Preference(Q, "a", "bb")
    for number, told in ((14, 1), (13, 0), (7, 0), (6, 1)):
        found = warnings([long] * number + [short] * (20 - number))
        assert len(found) == told
        if told:
            assert found[0].startswith(f"chosen is longer than rejected in {5 * number}% of 20 pairs")
    assert warnings([long] * 19) == []
    assert warnings([long] * 19 + [Preference(Q, "aa", "b", 0.4)] * 9) == []
    assert warnings([Label((Message("user", "a</s>"),), "b<eos>", k == 0) for k in range(2)]) == [
        "rows hold a chat template's own marks as text: </s> (2), <eos> (2)"
    ]
    thinking = Demonstration(Q, "a", thinking="t")
    assert turns_of([thinking]) == {"assistant": 1, "trained": 1, "with thoughts": 1}
    assert turns_of([Prompt(Q), Label(Q, "a", True)]) == {}
    called = Demonstration(Q, "", tool_calls=(ToolCall("f"),))
    assert turns_of([called]) == {"assistant": 1, "trained": 1, "with tool calls": 1}


def test_texts_and_keys_of_records() -> None:
    prompt = (Message("system", "s"), *Q, Message("assistant", "a", "t"))
    assert prompt_text(Prompt(prompt)) == "s\n\nq\n\n<think>\nt\n</think>\n\na"
    assert prompt_text(Prompt(prompt), "user", "system") == "s\n\nq"
    assert prompt_text(Document("x")) == ""
    assert completion_texts(Ranking(Q, ("a", "b"), (1, 2))) == ("a", "b")
    assert completion_texts(Demonstration(Q, "a", thinking="t")) == ("<think>\nt\n</think>\n\na",)
    assert completion_texts(Rating(Q, "a", {})) == completion_texts(Label(Q, "a", True)) == ("a",)
    assert prompt_key(Document(" A ")) == "a"
    keys = {
        prompt_key(Prompt(p)) for p in (prompt, prompt[:2], prompt[1:2], with_tools(Q, ('{"name": "f"}',)))
    }
    assert len(keys) == 4
    assert normalise(" Ａ\n b ") == "a b"
    assert words("It's 3.5 日本語 한국어, don't_") == ["it's", "3", "5", "日", "本", "語", "한국어", "don't"]


def test_sets_of_five_signs() -> None:
    assert len(shingles("abcdef")) == 2
    assert jaccard(shingles("abcde"), shingles("vwxyz")) == 0
    assert jaccard(shingles("abcdef"), shingles("abcdeg")) == pytest.approx(1 / 3)
    assert jaccard(shingles("")[:0], shingles("")[:0]) == 1.0
    assert [rows_per_band(t) for t in (0.99, 0.9, 0.5, 0.05)] == [
        16,
        8,
        2,
        1,
    ]  # 0.613^14 is 1.06e-3, 0.570^16 is 1.2e-4
    same = [("abcdefgh",)] * 3
    assert first_similar(same, 0.9) == [None, 0, 0]
    assert first_similar(same, 0.9, groups=["x", "y", "x"]) == [None, None, 0]


def test_conversations_that_are_cut() -> None:
    ids = list(range(10))
    kept = fit_turns([9, 1, 2, 3], ids[4:], 2, 5, "truncate", bos_token_id=9)
    assert (kept.prompt_ids, kept.completions) == ([9, 2, 3], ([4, 5],))
    assert (kept.prompt_truncated, kept.truncated) == (True, (True,))
    whole = fit_turns(ids[:4], ids[4:], 2, 10, "truncate")
    assert (whole.completions, whole.truncated) == ((ids[4:],), (False,))
    assert fit_turns(ids[:4], ids[4:], 2, 6, "truncate").completions == ([4, 5],)
    tiny = fit_turns(ids[:4], ids[4:], 3, 2, "truncate")
    assert (tiny.prompt_ids, tiny.completions) == ([3], ([4],))
    assert fit([], [[1, 2]], 1, "truncate").completions == ([1],)
    assert fit([1], [], 1, "error").completions == ()
    assert fit([9, 9, 2, 3], [[5]], 3, "truncate", bos_token_id=9).prompt_ids == [9, 3]
    with pytest.raises(DataError, match="leaves no room for a completion beside 1 prompt tokens"):
        fit([1], [[2]], 1, "truncate")


def test_what_records_can_be_made_into() -> None:
    made: dict[str, list[Any]] = {
        "demonstration": [Demonstration(Q, "a")],
        "ranking": [Ranking(Q, ("a", "b"), (1, 2))],
        "rating": [Rating(Q, "a", {"s": 1.0})],
        "label": [Label(Q, "a", True)],
        "preference": [Preference(Q, "a", "b")],
        "document": [Document("t")],
        "prompt": [Prompt(Q)],
    }
    assert {kind: targets(records) for kind, records in made.items()} == {
        "demonstration": ["prompt"],
        "ranking": ["preference", "demonstration", "prompt"],
        "rating": ["preference", "label", "demonstration", "prompt"],
        "label": ["preference", "demonstration", "prompt"],
        "preference": ["label", "demonstration", "prompt"],
        "document": [],
        "prompt": ["prompt"],
    }
    talk = (*Q, Message("assistant", "b"), *Q)
    for kind in ("ranking", "rating", "label", "preference"):
        (first, *_), _ = convert(
            [replaced(r, talk) for r in made[kind]], "demonstration", Options(min_score=0)
        )
        assert isinstance(first, Demonstration)
        assert first.trained == (3,)  # what came before is given
    pair = [Preference(Q, "a", "b", 0.51), Preference(Q, "a", "b", 0.5)]
    assert [len(convert([p], "label")[0]) for p in pair] == [2, 0]
    same = [Rating(Q, text, {"s": score}) for text, score in (("a", 2.0), ("b", 2.0), ("c", 3.0))]
    assert [(p.chosen, p.rejected) for p in convert(same, "preference")[0]] == [("c", "a"), ("c", "b")]
    assert len(convert(same, "preference", Options(min_gap=1.01))[1]) == 1
    best = [Ranking(Q, ("a", "b", "c"), (2, 1, 2))]
    (only,), _ = convert(best, "preference", Options(pairs="best_worst"))
    assert isinstance(only, Preference)
    assert (only.chosen, only.provenance.details["rejected_rank"]) == ("b", 2)


def replaced(record: Any, prompt: Any) -> Any:
    return type(record)(**{**{n: getattr(record, n) for n in record.__slots__}, "prompt": prompt})
