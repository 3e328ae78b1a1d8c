"""Text that grows token by token: where stop strings end it, and what may be handed out before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignloop.model.textstream import TextStream, decode
from alignloop.model.tiny import tiny_model

TOKENIZER = tiny_model()[1]


def grown(text: str, *stop: str) -> tuple[TextStream, list[str]]:
    """The stream after all tokens of a text, and the pieces handed out."""
    stream, pieces = TextStream(TOKENIZER, stop), []
    for token in TOKENIZER(text, add_special_tokens=False)["input_ids"]:
        stream.add(token)
        pieces.append(stream.take())
    return stream, [*pieces, stream.take(final=True)]


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["one"], ""),  # the first character of all
        ("one two three", ["e t", "two"], "on"),  # the earliest, whichever is named first
        ("one two three", ["two", "e t"], "on"),
        ("one two three", ["four"], "one two three"),
        ("나무가 자란다. 끝", ["자란다"], "나무가 "),
    ],
)
def test_the_earliest_stop_string_ends_the_text(text: str, stop: list[str], left: str) -> None:
    stream, pieces = grown(text, *stop)
    assert (stream.text, stream.stopped) == (left, left != text)
    assert "".join(pieces) == left


def test_what_may_become_a_stop_string_waits() -> None:
    _, pieces = grown("abcabd", "abd")
    assert "".join(pieces) == "abc"
    shown = ""
    for piece in pieces[:-1]:
        shown += piece
        assert not shown.endswith(("ab", "a"))


def test_a_character_of_several_tokens_comes_whole() -> None:
    _, pieces = grown("가나다 é 🙂")
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) == "가나다 é 🙂"


ALPHABET = "ab 가🙂"


@given(
    text=st.text(ALPHABET, max_size=14),
    stop=st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3),
    begun=st.integers(0, 5),
)
@settings(deadline=None, max_examples=150)
def test_what_is_shown_is_all_that_cannot_become_a_stop_string(
    text: str, stop: list[str], begun: int
) -> None:
    """Written anew from the text of all tokens so far; some tokens come from a saved state."""
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    stream, whole, ended, shown = TextStream(TOKENIZER, stop), "", False, ""
    if begun and begun <= len(ids):
        stream.replay(ids[:begun])
    for count in range(1, len(ids) + 1):
        so_far = decode(TOKENIZER, ids[:count])
        if not so_far.endswith("\ufffd") and not ended:
            whole = so_far
            places = [place for one in stop if (place := whole.find(one)) >= 0]
            if places:
                whole, ended = whole[: min(places)], True
        if count > begun:
            stream.add(ids[count - 1])
        if count < begun or begun > len(ids):
            continue
        held = [n for one in stop for n in range(1, len(one)) if whole.endswith(one[:n])]
        ready = whole if ended else whole[: len(whole) - max(held, default=0)]
        if count > begun:
            assert stream.take() == ready[len(shown) :]
        shown = max(shown, ready, key=len)
        assert (stream.text, stream.stopped) == (whole, ended)
    if begun <= len(ids):
        assert stream.take(final=True) == whole[len(shown) :]
        assert stream.take(final=True) == ""


def test_bytes_that_are_no_character_appear_at_the_end() -> None:
    ids = TOKENIZER("a🙂", add_special_tokens=False)["input_ids"]
    assert len(ids) > 2
    stream = TextStream(TOKENIZER, [])
    for token in ids[:-1]:
        stream.add(token)
    assert (stream.text, stream.take()) == ("a", "a")
    stream.close()
    assert stream.text.rstrip("\ufffd") == "a"
    assert len(stream.text) > 1
    assert stream.take(final=True) == stream.text[1:]
    stream.close()
    assert stream.take(final=True) == ""
    stopped = TextStream(TOKENIZER, ["b"])
    for token in TOKENIZER("abab", add_special_tokens=False)["input_ids"]:
        stopped.add(token)
    stopped.close()
    assert (stopped.text, stopped.stopped) == ("a", True)
