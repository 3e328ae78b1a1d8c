"""Refusals and boilerplate in answers: what constitutional training is known to add (2212.08073, 4.3)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache

from alignloop.judges.constitution.principles import HERE
from alignloop.judges.prompt_files import read_texts

REFUSAL_WITHIN = 200
"""Characters from the start of an answer in which a refusal is looked for."""
MIN_WORDS = 5
"""Shorter sentences are shared by chance."""


@cache
def phrases(kind: str) -> tuple[str, ...]:
    """Phrases of phrases.yaml, `refusal` or `boilerplate`, in lower case."""
    top = read_texts(HERE / "phrases.yaml").fields(needed=("refusal", "boilerplate"))
    return tuple(node.text().lower() for node in top[kind].list())


def is_refusal(answer: str) -> bool:
    """Whether an answer begins by declining."""
    start = _plain(answer)[:REFUSAL_WITHIN]
    return any(phrase in start for phrase in phrases("refusal"))


def has_boilerplate(answer: str) -> bool:
    """Whether an answer holds a stock phrase."""
    text = _plain(answer)
    return any(phrase in text for phrase in phrases("boilerplate"))


def shares_sentence(answers: Sequence[str], *, others: int = 2) -> list[bool]:
    """Whether an answer has a sentence of 5 words or more that at least `others` other answers have too.

    Finds boilerplate that no list knows. The answers must belong to different prompts.
    """
    found: dict[str, set[int]] = defaultdict(set)
    for number, answer in enumerate(answers):
        for sentence in re.split(r"[.!?。\n]+", _plain(answer)):
            if len(sentence.split()) >= MIN_WORDS:
                found[sentence.strip()].add(number)
    shared = set().union(*(who for who in found.values() if len(who) > others)) if found else set()
    return [number in shared for number in range(len(answers))]


def _plain(text: str) -> str:
    """Lower case, straight quotes, single spaces; line breaks stay."""
    lowered = text.lower().replace("’", "'").replace("“", '"').replace("”", '"')
    return re.sub(r"[ \t]+", " ", lowered).strip()
