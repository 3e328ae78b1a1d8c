"""Word-level difference of two texts."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

# Han and kana have no spaces between words, so each character is a word; Hangul is spaced.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|\s+|[^\w\s]")
_MAX_WORDS = 1200
_REWRITTEN_BELOW = 0.2


class Part(NamedTuple):
    """A piece of one side; `kind` says whether the other side has it too."""

    kind: Literal["same", "removed", "added"]
    text: str


def word_difference(before: str, after: str) -> tuple[list[Part], list[Part]] | None:
    """Both texts cut into parts that are the same, removed (before) or added (after).

    Joining the parts' texts gives the text back.

    Returns:
        (parts of before, parts of after), or None where a difference says nothing: less than a
        fifth in common (texts sampled independently), or too long to compare in a moment.
    """
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    if max(len(old), len(new)) > _MAX_WORDS:
        return None
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    common = sum(_letters(old[i : i + n]) for i, _, n in matcher.get_matching_blocks())
    if 2 * common < _REWRITTEN_BELOW * (_letters(old) + _letters(new)):
        return None
    left: list[Part] = []
    right: list[Part] = []
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            left.append(Part("same", "".join(old[i:j])))
            right.append(Part("same", "".join(new[k:m])))
            continue
        if i < j:
            left.append(Part("removed", "".join(old[i:j])))
        if k < m:
            right.append(Part("added", "".join(new[k:m])))
    return left, right


def _letters(words: list[str]) -> int:
    """Letters and digits; spaces and punctuation match by chance and say nothing."""
    return sum(len(word) for word in words if word[0].isalnum())
