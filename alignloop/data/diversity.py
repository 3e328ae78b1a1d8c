"""How varied the instructions and lengths of a data set are.

Heuristics, without a parser. English: polite openings ("please", "can you") are skipped, the next
word counts as the verb, the first word after it that is no article, pronoun or preposition as the
object. Korean puts the verb last: of the first sentence that is a request, the last word
without its polite ending ("요약해 주세요", "요약하라" → "요약"); the object is the last word before it
with the particle 을 or 를, without the particle. Single entries may be wrong; counts compare data sets.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignloop.data.normal import completion_texts, normalise
from alignloop.records import Document, Record

_OPENING = re.compile(
    "please|kindly|can|could|would|will|you|i|i'd|want|need|like|to|help|me|let's|lets|now|hi|hello|hey|and|so|just"
)
_NO_OBJECT = re.compile(
    "a|an|the|this|that|these|those|some|any|all|each|every|my|your|his|her|its|our|their|me|you|him|it|us|"
    "them|i|of|to|in|on|for|with|about|from|at|by|into|and|or|is|are|was|were|be|do|does|did|can|if|as|"
    "following|given|which"
)
_HANGUL = re.compile(r"[가-힣]")
_LATIN = re.compile(r"[a-z]")
_SENTENCE = re.compile(r"[.!?。\n]+")
_HELPER = re.compile(
    r"(주세요|주십시오|주시기|바랍니다|줘요?|줄래요?|주실래요|주시겠어요|볼래요?|보세요|봐요?|달라)$"
)
_REQUEST = re.compile(r"(세요|십시오|시오|해라|하라|자|까요?|나요|가요|줘)$")
_ENDING = re.compile(r"(세요|십시오|시오|해요|어요|아요|니까|나요|까요|가요|라|자|오|다|요|줘)$")
_HA = re.compile(r"(?<=.)(하|해|한|합|할|했)$")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in characters; `histogram` counts by upper bound, bounds are powers of two."""

    count: int
    least: int
    median: float
    mean: float
    p95: float
    most: int
    histogram: dict[int, int]


@dataclass(frozen=True, slots=True)
class Diversity:
    """What instructions ask for.

    Attributes:
        instructions: records with an instruction (the first user message).
        verbs: distinct verbs.
        verb_objects: distinct pairs of verb and object.
        effective_verbs: e to the entropy of the verbs: so many equally frequent ones.
        top: the most frequent (verb, object, count), object empty if none was found.
        prompts: lengths of prompts.
        completions: lengths of completions.
    """

    instructions: int
    verbs: int
    verb_objects: int
    effective_verbs: float
    top: tuple[tuple[str, str, int], ...]
    prompts: Lengths | None
    completions: Lengths | None


def diversity(records: Sequence[Record], *, top: int = 10) -> Diversity:
    """Count verbs, objects and lengths over records."""
    asked = [text for record in records if (text := _first_user(record))]
    pairs = Counter(verb_object(text) for text in asked)
    verbs: Counter[str] = Counter()
    for (verb, _), count in pairs.items():
        verbs[verb] += count
    entropy = -sum(n / len(asked) * math.log(n / len(asked)) for n in verbs.values())
    prompts = [sum(len(m.content) for m in r.prompt) for r in records if not isinstance(r, Document)]
    return Diversity(
        instructions=len(asked),
        verbs=len(verbs),
        verb_objects=len(pairs),
        effective_verbs=math.exp(entropy) if asked else 0.0,
        top=tuple((verb, thing, count) for (verb, thing), count in pairs.most_common(top)),
        prompts=lengths(prompts),
        completions=lengths([len(text) for record in records for text in completion_texts(record)]),
    )


def lengths(values: Sequence[int]) -> Lengths | None:
    """Summary of lengths; None if there are none."""
    if not values:
        return None
    array = np.asarray(values)
    bounds = Counter(1 << max(0, int(value) - 1).bit_length() for value in values)
    return Lengths(
        count=len(values),
        least=int(array.min()),
        median=float(np.median(array)),
        mean=float(array.mean()),
        p95=float(np.percentile(array, 95)),
        most=int(array.max()),
        histogram=dict(sorted(bounds.items())),
    )


def verb_object(instruction: str) -> tuple[str, str]:
    """The verb and the object of an instruction as far as simple rules find them, else empty."""
    text = normalise(instruction[:1000].replace("\n", ". "))
    if len(_HANGUL.findall(text)) > len(_LATIN.findall(text)):
        return _korean(text)
    found = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text)
    start = next((k for k, word in enumerate(found) if not _OPENING.fullmatch(word)), None)
    if start is None:
        return "", ""
    return found[start], next((word for word in found[start + 1 :] if not _NO_OBJECT.fullmatch(word)), "")


def _korean(text: str) -> tuple[str, str]:
    sentences = [words for part in _SENTENCE.split(text) if (words := re.findall(r"\w+", part))]
    if not sentences:
        return "", ""
    requests = (s for s in sentences if _HELPER.search(s[-1]) or _REQUEST.search(s[-1]))
    words = next(requests, sentences[0])
    end = len(words) - 1
    while end > 0 and _HELPER.fullmatch(words[end]):
        end -= 1
    verb = words[end]
    for ending in (_HELPER, _ENDING, _HA):
        shorter = ending.sub("", verb)
        verb = shorter or verb
    objects = (word[:-1] for word in reversed(words[:end]) if len(word) > 1 and word[-1] in "을를")
    return verb, next(objects, "")


def _first_user(record: Record) -> str:
    if isinstance(record, Document):
        return ""
    return next((m.content for m in record.prompt if m.role == "user" and m.content.strip()), "")
