import pytest

from alignloop.data.convert import Options, convert
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
)

Q = (Message("user", "q"),)
OTHER = (Message("user", "other"),)
HERE = Provenance("r.jsonl", 3, "human", {"annotator": "kim"})


def pairs(records):
    return [(r.chosen, r.rejected) for r in records]


def test_ranking_to_every_pair_that_is_no_tie():
    ranking = Ranking(Q, ("a", "b", "c", "d"), (2, 4, 1, 2), HERE)
    made, skipped = convert([ranking], "preference")
    # best first: c (1), a (2), d (2), b (4); a and d are a tie
    assert pairs(made) == [("c", "a"), ("c", "d"), ("c", "b"), ("a", "b"), ("d", "b")]
    assert skipped == []
    assert made[0].provenance == Provenance(
        "r.jsonl",
        3,
        "derived",
        {
            "annotator": "kim",
            "conversion": "ranking to preference, all",
            "source_origin": "human",
            "chosen_rank": 1,
            "rejected_rank": 2,
        },
    )
    assert pairs(convert([ranking], "preference", Options(pairs="best_worst"))[0]) == [("c", "b")]


def test_ties_give_no_pair_and_are_reported():
    tie = Ranking(Q, ("a", "b"), (1, 1), HERE)
    made, skipped = convert([tie, Ranking(Q, ("a", "b"), (2, 1))], "preference")
    assert pairs(made) == [("b", "a")]
    assert [str(s) for s in skipped] == ["r.jsonl:3: all responses share a rank"]
    made, skipped = convert([tie, Ranking(Q, ("a", "b"), (2, 1))], "demonstration")
    assert [r.completion for r in made] == ["b"]
    assert skipped[0].message == "2 responses share the first rank"


def rating(text, score, prompt=Q, line=1):
    return Rating(prompt, text, {"score": score}, Provenance("s.csv", line, "ai"))


def test_ratings_of_one_prompt_to_preferences():
    rows = [
        rating("low", 1, line=1),
        rating("alone", 5, OTHER, 2),
        rating("high", 4, line=3),
        rating("mid", 3, line=4),
    ]
    made, skipped = convert(rows, "preference", Options(min_gap=2))
    assert pairs(made) == [("high", "low"), ("mid", "low")]
    assert made[0].provenance.line == 3
    assert made[0].provenance.details == {
        "conversion": "rating to preference",
        "source_origin": "ai",
        "gap": 3,
        "rejected_line": 1,
    }
    assert made[0].margin == 0  # a gap of scores is not in reward units
    assert [str(s) for s in skipped] == ["s.csv:2: the only response to its prompt"]


def test_rating_attributes_and_thresholds():
    two = [Rating(Q, "a", {"safe": 4, "good": 1}), Rating(Q, "b", {"safe": 2, "good": 3})]
    with pytest.raises(DataError, match="name the attribute to use, one of safe, good"):
        convert(two, "preference")
    assert pairs(convert(two, "preference", Options(attribute="safe"))[0]) == [("a", "b")]
    with pytest.raises(DataError, match="from which score up"):
        convert(two, "label", Options(attribute="safe"))
    labels, _ = convert(two, "label", Options(attribute="good", min_score=3))
    assert [r.desirable for r in labels] == [False, True]
    made, skipped = convert(two, "demonstration", Options(attribute="good", min_score=2))
    assert [r.completion for r in made] == ["b"]
    assert skipped[0].message == "score 1 is below 2"


def test_labels():
    rows = [
        Label(Q, "g1", True),
        Label(Q, "b1", False),
        Label(Q, "g2", True),
        Label(OTHER, "b2", False, HERE),
    ]
    made, skipped = convert(rows, "preference")
    assert pairs(made) == [("g1", "b1"), ("g2", "b1")]
    assert [str(s) for s in skipped] == ["r.jsonl:3: only bad responses to its prompt"]
    made, skipped = convert(rows, "demonstration")
    assert [r.completion for r in made] == ["g1", "g2"]
    assert [s.reason for s in skipped] == ["undesirable", "undesirable"]


def test_preferences():
    rows = [Preference(Q, "w", "l", provenance=HERE), Preference(Q, "x", "y", probability=0.5)]
    made, skipped = convert(rows, "label")
    assert [(r.completion, r.desirable) for r in made] == [("w", True), ("l", False)]
    assert made[0].provenance.origin == "derived"
    assert [s.reason for s in skipped] == ["tie"]
    made, skipped = convert(rows, "demonstration")
    assert [(type(r), r.completion) for r in made] == [(Demonstration, "w")]
    assert [s.reason for s in skipped] == ["tie"]


def test_prompts_once():
    made, skipped = convert([Label(Q, "a", True), Label(OTHER, "b", True), Label(Q, "c", False)], "prompt")
    assert [r.prompt for r in made] == [Q, OTHER]
    assert [s.reason for s in skipped] == ["duplicate"]
    kept, _ = convert([Prompt(Q, "answer", provenance=HERE)], "prompt")
    assert kept == [Prompt(Q, "answer", provenance=HERE)]


def test_what_cannot_be_converted():
    with pytest.raises(DataError) as caught:
        convert([Label(Q, "a", True)], "ranking")
    assert str(caught.value) == (
        "field 'to': value 'ranking': a label cannot be made into a ranking; possible: preference, "
        "demonstration, prompt"
    )
    with pytest.raises(DataError, match="a document cannot be made into a prompt; possible: nothing"):
        convert([Document("t")], "prompt")
    with pytest.raises(DataError, match="expected records of one kind, found label, prompt"):
        convert([Label(Q, "a", True), Prompt(Q)], "prompt")
    with pytest.raises(DataError, match="expected records of one kind, found none"):
        convert([], "prompt")
    with pytest.raises(DataError, match="field 'min_gap'"):
        convert([rating("a", 1)], "preference", Options(min_gap=0))
    with pytest.raises(DataError, match="field 'pairs'"):
        convert([rating("a", 1)], "preference", Options(pairs="some"))  # pyright: ignore[reportArgumentType]


KIM = Provenance("r.jsonl", 3, "human", {"annotator": "kim"})
LEE = Provenance("s.jsonl", 8, "ai")


@pytest.mark.parametrize(
    ("records", "to", "options", "details"),
    [
        (
            [Ranking(Q, ("a", "b", "c"), (1, 2, 3), KIM)],
            "preference",
            Options(pairs="best_worst"),
            {"conversion": "ranking to preference, best_worst", "chosen_rank": 1, "rejected_rank": 3},
        ),
        (
            [Ranking(Q, ("a", "b"), (1, 2), KIM)],
            "demonstration",
            None,
            {"conversion": "ranking to demonstration"},
        ),
        (
            [Rating(Q, "a", {"s": 3.0}, KIM), Rating(Q, "b", {"s": 2.0}, LEE)],
            "preference",
            Options(min_gap=1.0),
            {
                "conversion": "rating to preference",
                "gap": 1.0,
                "rejected_line": 8,
                "rejected_file": "s.jsonl",
            },
        ),
        (
            [Rating(Q, "a", {"s": 2.5}, KIM)],
            "label",
            Options(min_score=2.5),
            {"conversion": "rating to label, good from 2.5", "score": 2.5},
        ),
        (
            [Rating(Q, "a", {"s": 2.5}, KIM)],
            "demonstration",
            Options(min_score=2.5),
            {"conversion": "rating to demonstration, from 2.5", "score": 2.5},
        ),
        (
            [Label(Q, "a", True, KIM), Label(Q, "b", False, KIM)],
            "preference",
            None,
            {"conversion": "label to preference", "rejected_line": 3},
        ),
        ([Label(Q, "a", True, KIM)], "demonstration", None, {"conversion": "label to demonstration"}),
        (
            [Preference(Q, "a", "b", probability=0.75, provenance=KIM)],
            "label",
            None,
            {"conversion": "preference to label"},
        ),
        (
            [Preference(Q, "a", "b", probability=0.75, provenance=KIM)],
            "demonstration",
            None,
            {"conversion": "preference to demonstration"},
        ),
        ([Label(Q, "a", True, KIM)], "prompt", None, {"conversion": "label to prompt"}),
    ],
)
def test_each_conversion_says_where_its_records_come_from(records, to, options, details):
    """The edges count: a gap of min_gap, a score of min_score."""
    made, skipped = convert(records, to, options)
    assert skipped == []
    assert made[0].provenance == Provenance(
        "r.jsonl", 3, "derived", {"annotator": "kim", "source_origin": "human", **details}
    )


@pytest.mark.parametrize(
    ("records", "to", "options", "why"),
    [
        (
            [Rating(Q, "a", {"s": 3.0}, KIM), Rating(Q, "b", {"s": 2.1}, LEE)],
            "preference",
            None,
            "no_pair: r.jsonl:3: no score differs by min_gap",
        ),
        (
            [Rating(Q, "a", {"s": 2.4}, LEE)],
            "demonstration",
            Options(min_score=2.5),
            "low_score: s.jsonl:8: score 2.4 is below 2.5",
        ),
        (
            [Ranking(Q, ("a", "b"), (1, 1), LEE)],
            "demonstration",
            None,
            "tie: s.jsonl:8: 2 responses share the first rank",
        ),
        (
            [Label(Q, "a", True, LEE)],
            "preference",
            None,
            "no_pair: s.jsonl:8: only good responses to its prompt",
        ),
        (
            [Label(Q, "a", False, LEE)],
            "demonstration",
            None,
            "undesirable: s.jsonl:8: the response is labelled bad",
        ),
        (
            [Preference(Q, "a", "b", probability=0.5, provenance=LEE)],
            "label",
            None,
            "tie: s.jsonl:8: chosen is preferred with probability 0.5",
        ),
        (
            [Preference(Q, "a", "b", probability=0.25, provenance=LEE)],
            "demonstration",
            None,
            "tie: s.jsonl:8: chosen is preferred with probability 0.25",
        ),
    ],
)
def test_what_makes_nothing_is_told(records, to, options, why):
    made, (skipped,) = convert(records, to, options)
    assert made == []
    assert f"{skipped.reason}: {skipped}" == why


def test_the_one_attribute_need_not_be_named():
    one = [Rating(Q, "a", {"s": 4.0}), Rating(Q, "b", {"s": 1.0})]
    assert pairs(convert(one, "preference")[0]) == [("a", "b")]
    assert pairs(convert(one, "preference", Options(attribute="s"))[0]) == [("a", "b")]
    with pytest.raises(DataError, match="one of s"):
        convert(one, "preference", Options(attribute="t"))
    assert Options() == Options("all", "", 1.0, None)
