import pytest

from alignloop.errors import DataError
from alignloop.rl.constraints import CONSTRAINTS, checked, echoes, is_answer, satisfied, sentences, words

CASES = [
    # kind, arguments, obeys, does not
    ("max_words", {"limit": 3}, "one two three", "one two three four"),
    ("min_words", {"limit": 3}, "one - two, three", "one - two"),
    ("num_sentences", {"count": 2}, "Mr. Kim paid 3.5 dollars. Why?", "It rains."),
    ("num_sentences", {"count": 2}, "비가 온다. 우산을 쓴다.", "비가 온다. 우산을 쓴다. 집에 간다."),
    ("num_sentences", {"count": 2}, "It rains. Why not!", "It rains. It was cut off in the"),
    ("num_paragraphs", {"count": 2}, "First.\n \nSecond.\n", "First.\nSecond."),
    ("lowercase", {}, "rain falls. ça va 3 비", "Rain falls."),
    ("lowercase", {}, "é", "비가 온다"),
    ("uppercase", {}, "RAIN FALLS 3!", "RAIN falls"),
    ("uppercase", {}, "ÉTÉ", "123 비"),
    ("capital_words", {"count": 2}, "RAIN falls from **CLOUDS**!", "RAIN is a UK thing, OK? 비비비"),
    ("numbered_list", {"count": 2}, "Sure:\n1. Rain\n2) Snow", "1. Rain\n3. Snow"),
    ("numbered_list", {"count": 2}, " **1.** Rain\n **2.** Snow", "1. Rain\n2. Snow\n3. Hail"),
    ("bullet_list", {"count": 2}, "- a\n• b", "- a\n- b\n- c"),
    ("bullet_list", {"count": 1}, "* point", "**bold** text -5"),
    ("include_words", {"words": ["rain", "snow"]}, "Snow and RAIN!", "Snowy rain"),
    ("include_words", {"words": ["사과"]}, "사과는 달다", "풋사과는 시다"),
    ("include_words", {"words": ["雨"]}, "大雨です", "雪です"),
    ("forbid_words", {"words": ["the"]}, "Their theory", "See The end"),
    ("start_with", {"phrase": "Good question"}, '"**Good  question**, it rains.', "A good question"),
    ("start_with", {"phrase": "In short"}, "in short: no", "In shorts we run"),
    ("end_with", {"phrase": "That is all"}, "Rain. That is ALL!\n", "That is all. Bye"),
    ("quoted", {}, ' "It rains." ', '"It" rains.'),
    ("quoted", {}, "“비가 온다.”", '“It rains."'),
    ("json_object", {"keys": ["a"]}, '```json\n{"a": 1, "b": 2}\n```', '{"b": 2}'),
    ("json_object", {"keys": ["a"]}, '{"a": "비"}', '["a"]'),
    ("no_commas", {}, "1 000 words; none", "a， b"),
    ("no_digits", {}, "three", "٣"),
    ("exclamation", {"count": 2}, "Oh! No！", "Oh!"),
    ("title", {}, "<<How rain forms>>\nIt", "<< >> <How>"),
    ("bold", {"count": 2}, "**a** b **c d**", "**a** ** ** *c*"),
    ("postscript", {}, "Rain falls.\n\nP.S. Take care.\n", "P.S. first\nRain falls."),
    ("postscript", {}, "Rain.\n**P.S.** Take care.", "Rain.\nPsst."),
    ("ends_with_question", {}, 'He asked "Why?"\n', "Why? Because."),
    ("ends_with_question", {}, "왜？", "왜."),
    ("language", {"language": "korean"}, "비는 구름에서 내린다 OK", "Rain comes from 구름"),
    ("language", {"language": "english"}, "The rain falls from the clouds.", "La lluvia cae de las nubes."),
    ("language", {"language": "spanish"}, "La lluvia cae de las nubes y es agua.", "La pluie est de l'eau."),
    ("language", {"language": "french"}, "La pluie tombe et les nuages sont gris.", "The rain is wet."),
    ("language", {"language": "german"}, "Der Regen fällt auf die Erde.", "La lluvia cae."),
    ("language", {"language": "japanese"}, "雨が降る", "大雨"),
    ("language", {"language": "russian"}, "Дождь идёт", "Rain 3"),
]


@pytest.mark.parametrize(("kind", "arguments", "obeys", "fails"), CASES)
def test_each_kind_tells_obedience_from_its_absence(kind, arguments, obeys, fails):
    assert satisfied(obeys, {"kind": kind, **arguments})
    assert not satisfied(fails, {"kind": kind, **arguments})


def test_every_kind_has_a_case():
    assert {case[0] for case in CASES} == set(CONSTRAINTS)


@pytest.mark.parametrize("text", ["", " \n", "\x00", "🙂", "(", "{" * 5000, "a" * 10_000, "\ud800", "¿?"])
@pytest.mark.parametrize(("kind", "arguments"), {c[0]: c[1] for c in CASES}.items())
def test_hostile_text_gives_a_verdict_and_no_error(kind, arguments, text):
    assert satisfied(text, {"kind": kind, **arguments}) in (True, False)


def test_words_are_runs_with_a_letter_or_digit():
    assert words("well-known — it's 3.5!") == ["well-known", "it's", "3.5!"]
    assert words("사과를 먹는다.") == ["사과를", "먹는다."]
    # Han and Kana count one by one; decomposed Hangul is composed first.
    assert words("大雨です") == ["大", "雨", "で", "す"]
    assert words("\u1112\u1161\u11ab") == ["한"]


def test_sentences_survive_abbreviations_decimals_and_lists():
    text = 'Dr. Lee, e.g. at 3.5 p.m. today, left! "Why?" she asked.\n1. Rain\n2. 비가 온다。그래'
    assert sentences(text) == [
        "Dr. Lee, e.g. at 3.5 p.m. today, left!",
        '"Why?"',
        "she asked.",
        "1. Rain",
        "2. 비가 온다。",
        "그래",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rain falls when clouds cool.", True),
        ("비는 구름이 식으면 내린다 그렇지.", True),
        ("", False),
        ("!!! ... ---", False),
        ("Rain falls from clouds.", False),  # 4 distinct words
        ("rain rain rain rain rain falls from the sky", False),  # 5 of 9 words are one word
        ("it falls from the sky " * 3, False),  # 13 runs of three, 5 different
        ("it falls from the sky " * 2, True),  # 8 runs, 5 different
    ],
)
def test_degenerate_text_is_no_answer(text, expected):
    assert is_answer(text) is expected


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"kind": "max_word", "limit": 3}, "accepted are max_words"),
        ({"limit": 3}, "accepted are max_words"),
        ({"kind": "max_words"}, "takes the arguments limit"),
        ({"kind": "max_words", "limit": 3, "x": 1}, "takes the arguments limit"),
        ({"kind": "no_commas", "limit": 3}, "takes no arguments"),
        ({"kind": "max_words", "limit": "3"}, "a number above 0"),
        ({"kind": "max_words", "limit": True}, "a number above 0"),
        ({"kind": "max_words", "limit": 0}, "a number above 0"),
        ({"kind": "num_sentences", "count": 0}, "a number above 0"),
        ({"kind": "include_words", "words": ["rain", " "]}, "a list of words"),
        ({"kind": "include_words", "words": ["rain", 3]}, "a list of words"),
        ({"kind": "json_object", "keys": "a"}, "a list of words"),
        ({"kind": "start_with", "phrase": 7}, "wants text"),
        ({"kind": "include_words", "words": "rain"}, "a list of words"),
        ({"kind": "include_words", "words": []}, "a list of words"),
        ({"kind": "start_with", "phrase": "..."}, "wants text"),
        ({"kind": "language", "language": "klingon"}, "one of english"),
    ],
)
def test_wrong_constraints_are_refused_with_what_is_accepted(constraint, message):
    with pytest.raises(DataError, match=message):
        checked(constraint)


@pytest.mark.parametrize(
    ("kind", "arguments", "obeys", "fails"),
    [
        ("min_words", {"limit": 1}, "one", "-"),
        ("capital_words", {"count": 1}, "the RAIN", "the UK"),
        ("capital_words", {"count": 1}, "the UK's USA", "the U-K 123"),
        ("capital_words", {"count": 2}, "RAIN SNOW HAIL", "RAIN"),
        ("exclamation", {"count": 2}, "a! b! c!", "a! b"),
        ("bold", {"count": 1}, "**a** **b**", "*a*"),
        ("quoted", {}, '"a"', '""'),
        ("postscript", {}, "Rain.\nP.S. x", "P.S. x"),
        ("language", {"language": "korean"}, "비 비 비 비 비 비 비 abc", "123 ?"),
        ("language", {"language": "korean"}, "가나다라마바사 abc", "가나다라마바사 abcd"),
        ("language", {"language": "german"}, "der die", "Regen Erde"),
        ("language", {"language": "german"}, "der die des", "des"),  # French has it as well
        ("json_object", {"keys": ["a", "b"]}, '{"a": 1, "b": 2}', '{"a": 1}'),
        ("include_words", {"words": ["a", "b"]}, "a b", "a"),
        ("forbid_words", {"words": ["a", "b"]}, "c", "b"),
    ],
)
def test_edges_of_each_kind(kind, arguments, obeys, fails):
    """The smallest text that obeys, and one that misses by one."""
    assert satisfied(obeys, {"kind": kind, **arguments})
    assert not satisfied(fails, {"kind": kind, **arguments})


def test_an_echo_is_half_of_the_runs():
    """Runs of three words: of four words two, of five three."""
    assert echoes("a b c x", "a b c")  # 1 of 2
    assert not echoes("a b c x y", "a b c")  # 1 of 3
    assert not echoes("a b", "a b c")  # no run
    assert echoes("a b c x y", "a b c", share=1 / 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b c d e a a a a", False),  # 5 of 9
        ("a b c d e a a a", True),  # 4 of 8
        ("a b c d e", True),
        ("a b c d d", False),
    ],
)
def test_an_answer_is_half_of_other_words(text, expected):
    assert is_answer(text) is expected
