from hypothesis import given, settings
from hypothesis import strategies as st

from alignloop.report.samples import Part, word_difference


def test_words_not_letters_are_compared() -> None:
    assert word_difference("the red cat sat", "the black cat sat") == (
        [Part("same", "the "), Part("removed", "red"), Part("same", " cat sat")],
        [Part("same", "the "), Part("added", "black"), Part("same", " cat sat")],
    )


def test_korean_is_compared_by_spaced_word_and_japanese_by_character() -> None:
    assert word_difference("가을 하늘이 높다", "가을 하늘은 높다") == (
        [Part("same", "가을 "), Part("removed", "하늘이"), Part("same", " 높다")],
        [Part("same", "가을 "), Part("added", "하늘은"), Part("same", " 높다")],
    )
    assert word_difference("秋空高", "秋天高") == (
        [Part("same", "秋"), Part("removed", "空"), Part("same", "高")],
        [Part("same", "秋"), Part("added", "天"), Part("same", "高")],
    )


def test_unrelated_or_very_long_texts_are_not_compared() -> None:
    assert word_difference("one two three four.", "alpha beta gamma delta.") is None
    assert word_difference("word " * 700, "word " * 700) is None
    assert word_difference("", "new") is None


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab 한글秋.\n", max_size=40), st.text(alphabet="ab 한글秋.\n", max_size=40))
def test_the_parts_make_the_texts_again(before: str, after: str) -> None:
    compared = word_difference(before, after)
    if compared is not None:
        assert "".join(part.text for part in compared[0]) == before
        assert "".join(part.text for part in compared[1]) == after
        same = ["".join(p.text for p in side if p.kind == "same") for side in compared]
        assert same[0] == same[1]
