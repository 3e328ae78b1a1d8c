"""Text that grows token by token: where stop strings end it, and what may be handed out before."""

from __future__ import annotations

import pytest

from alignloop.model.textstream import TextStream
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
