import pytest

from alignloop.data import quality
from alignloop.data.sources import repeat
from alignloop.errors import DataError
from alignloop.records import Demonstration, Document, Label, Message, Preference, Prompt, Provenance, Ranking


def user(text):
    return (Message("user", text),)


def at(line):
    return Provenance("r.jsonl", line)


def pair(chosen, rejected, line, prompt="q", probability=1.0):
    return Preference(user(prompt), chosen, rejected, probability, provenance=at(line))


def told(faults):
    return [(str(fault), fault.reason) for fault in faults]


def test_exact_duplicates_include_the_label():
    rows = [
        Label(user("q"), "a", True, at(1)),
        Label(user("q"), "a", False, at(2)),
        Label(user("q"), "a", True, at(3)),
    ]
    kept, dropped = quality.exact_duplicates(rows)
    assert kept == rows[:2]
    assert told(dropped) == [("r.jsonl:3: the same as r.jsonl:1", "duplicate")]
    made = [Label(user("q"), "a", True)] * 2  # in Python, which has no lines
    assert told(quality.exact_duplicates(made)[1]) == [("the same as an earlier row", "duplicate")]


def test_rows_repeated_by_a_weight_are_no_duplicates():
    rows = list(repeat([Demonstration(user("q"), "a", at(1)), Demonstration(user("q"), "a", at(2))], 2))
    for found in (quality.exact_duplicates(rows), quality.near_duplicates(rows)):
        assert found[0] == rows[:2]
        assert [fault.line for fault in found[1]] == [2, 2]
    unknown = [Demonstration(user("q"), "a")] * 2
    assert len(quality.exact_duplicates(unknown)[0]) == 1
    assert len(quality.near_duplicates(unknown)[0]) == 1


def test_near_duplicates():
    text = "The quick brown fox jumps over the lazy dog and runs away into the dark green wood."
    rows = [
        Demonstration(user(text), text, at(1)),
        Demonstration(user(text.upper()), text + "!", at(2)),
        Demonstration(user(text), "Something else", at(3)),
    ]
    kept, dropped = quality.near_duplicates(rows, 0.9)
    assert kept == [rows[0], rows[2]]
    assert told(dropped) == [("r.jsonl:2: nearly the same as r.jsonl:1", "near_duplicate")]
    swapped = [pair(text, "No, never.", 1), pair("No, never.", text, 2)]
    assert quality.near_duplicates(swapped)[0] == swapped
    with pytest.raises(DataError, match="field 'threshold'"):
        quality.near_duplicates(rows, 0)


def test_a_long_system_prompt_makes_no_duplicates():
    system = Message("system", "You are a careful assistant who answers in short and clear words. " * 9)
    rows = [Prompt((system, *user(q))) for q in ("Why is the sky blue?", "Name two cheap red fruits.")]
    assert quality.near_duplicates(rows)[0] == rows
    other = [Prompt((Message("system", s), *user("Why is the sky blue?"))) for s in ("영어로", "한국어로")]
    assert quality.near_duplicates(other)[0] == other


def test_korean_near_duplicates():
    text = "비가 오는 날에는 우산을 챙기고 미끄러운 길을 조심해서 걸어야 합니다. 신발도 중요합니다."
    rows = [
        Document(text, at(1)),
        Document(text.replace("중요합니다", "중요해요"), at(2)),
        Document("다른 글", at(3)),
    ]
    kept, dropped = quality.near_duplicates(rows)
    assert [record.provenance.line for record in kept] == [1, 3]
    assert dropped[0].line == 2


def test_length_bounds():
    rows = [
        pair("a", "abc", 1),
        pair("abcd", "abc", 2),
        pair("ab", "abc", 3, "long prompt"),
        Prompt(user("x")),
    ]
    kept, dropped = quality.length_bounds(rows, prompt=(1, 5), completion=(2, 3))
    assert kept == [rows[3]]
    assert told(dropped) == [
        ("r.jsonl:1: completion of 1 characters, wanted 2 to 3", "completion_too_short"),
        ("r.jsonl:2: completion of 4 characters, wanted 2 to 3", "completion_too_long"),
        ("r.jsonl:3: prompt of 11 characters, wanted 1 to 5", "prompt_too_long"),
    ]


def test_empty_completions_and_equal_pairs():
    rows = [
        pair("a", " \n", 1),
        pair("a", "a\n", 2),
        pair("a", "b", 3),
        Ranking(user("q"), ("a", "a"), (1, 2)),
    ]
    assert quality.empty_completions(rows)[0] == rows[1:]
    kept, dropped = quality.equal_pairs(rows)
    assert kept == [rows[0], rows[2], rows[3]]
    assert told(dropped) == [("r.jsonl:2: chosen and rejected are the same text", "chosen_is_rejected")]


def test_contradictions_go_on_both_sides():
    rows = [
        pair("a", "b", 1),
        pair("b", "a", 2, " Q "),
        pair("a", "b", 3, "other"),
        pair("b", "a", 4, probability=0.5),
        pair("a", "c", 5),
        pair("c", "a", 6, probability=0.2),  # says the same as the row before
    ]
    kept, dropped = quality.contradictions(rows)
    assert [record.provenance.line for record in kept] == [3, 4, 5, 6]
    assert [fault.line for fault in dropped] == [1, 2]
    labels = [Label(user("q"), "a", True), Label(user("q"), "a", False), Label(user("q"), "b", True)]
    assert quality.contradictions(labels)[0] == [labels[2]]


SEVEN = "Write a short poem about the sea in winter, please."
THANKS = (Message("user", "Hi"), Message("assistant", "Hi"), Message("user", "thank you."))
SEA = "겨울 바다에 대한 짧은 시를 한 편 아주 천천히 써 주세요"
EVALUATION = [
    Prompt(user(SEVEN), provenance=at(7)),
    Prompt(user("Thank you."), provenance=at(8)),
    Prompt(user(SEA), provenance=at(9)),
]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Demonstration(user(SEVEN.upper() + "\n"), "x"), "its prompt is that of r.jsonl:7"),
        (Demonstration(THANKS, "x"), "its prompt is that of r.jsonl:8"),
        (Document(f"Task: {SEVEN} Answer: grey."), "contains the prompt of r.jsonl:7"),
        (Demonstration(user("q"), f"시작: {SEA}."), "contains the prompt of r.jsonl:9"),
        (Demonstration(user("Write a short poem about the sea"), "x"), None),
        (Demonstration(user("q"), "Thank you. Bye."), None),
        (Document("겨울 바다"), None),
    ],
)
def test_evaluation_prompts_are_kept_out(record, message):
    kept, dropped = quality.without_evaluation([record], EVALUATION)
    if message is None:
        assert (kept, dropped) == ([record], [])
    else:
        assert (kept, [fault.message for fault in dropped]) == ([], [message])


def test_containment_threshold_counts_the_evaluation_prompts_ngrams():
    # ten words have three 8-grams; the first nine words hold two of them
    part = [Document("write a short poem about the sea in winter")]
    assert quality.without_evaluation(part, EVALUATION, threshold=2 / 3)[0] == []
    assert quality.without_evaluation(part, EVALUATION, threshold=0.67)[0] == part


@pytest.mark.parametrize(
    ("words", "threshold", "kept"), [(9, 0.5, False), (8, 0.5, True), (8, 1 / 3, False), (9, 0.67, True)]
)
def test_a_share_of_an_evaluation_prompt_is_enough(words, threshold, kept):
    """SEVEN has ten words, so three runs of eight; of its first nine words two are there."""
    record = Document(" ".join(SEVEN.split()[:words]) + " or so")
    found, _ = quality.without_evaluation([record], EVALUATION, threshold=threshold)
    assert (found == [record]) == kept
    if threshold == 0.5:
        assert quality.without_evaluation([record], EVALUATION)[0] == found
