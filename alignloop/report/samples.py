"""Which sample completions a report shows, what each is compared with, and which words differ."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from alignloop.report.names import name_of
from alignloop.report.scale import rounded
from alignloop.runs.json_values import Json, mapping, number, text

MAX_TEXT = 4000
"""Characters of one prompt or completion that are shown."""
# Han and kana have no spaces between words, so each character is a word; Hangul is spaced.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|\s+|[^\w\s]")
_MAX_WORDS = 1200
_REWRITTEN_BELOW = 0.2


class PromptTurn(NamedTuple):
    """One message of a prompt."""

    role: str
    content: str


class Part(NamedTuple):
    """A piece of one side; `kind` says whether the other side has it too."""

    kind: Literal["same", "removed", "added"]
    text: str


@dataclass(frozen=True, slots=True)
class ShownSample:
    """One completion, with the one before training where there is one.

    Attributes:
        step: training step, or None.
        prompt: the conversation so far.
        after: parts of the completion; kind is "same" throughout where nothing is compared.
        before: parts of the earlier completion, or () if there is none.
        before_label: where the earlier completion comes from.
        rewritten: the two have too little in common for a word-level difference.
        scores: (name, value) pairs: reward, gold and other numbers of the row; where the row has the
            value before training too, "0 → 1".
        model: who wrote the completion.
        telling: why it comes first, such as "largest gain by gold: 0 → 1"; "" for the others.
        simulated: its label or score comes from a simulated annotator.
    """

    step: float | None
    prompt: tuple[PromptTurn, ...]
    after: tuple[Part, ...]
    before: tuple[Part, ...]
    before_label: str
    rewritten: bool
    scores: tuple[tuple[str, str], ...]
    model: str
    simulated: bool
    telling: str = ""


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a run that are shown, how many there are in all, and how the first were chosen."""

    shown: tuple[ShownSample, ...]
    total: int
    rule: str = ""


def choose_samples(rows: Sequence[Mapping[str, Json]], *, at_most: int, characters: int) -> Samples:
    """The samples to show: the telling ones, then comparisons, then the latest steps, within a size.

    A row without `completion_before` is compared with the same prompt's row of the earliest step. Telling,
    where rows have a score of both sides, are the largest gain, the largest loss and the first unchanged
    one.

    Args:
        rows: rows of samples.jsonl.
        at_most: upper bound on their number.
        characters: upper bound on the characters of all together; one sample is always shown.

    Returns:
        The chosen ones in the order to show them, and the number there are.
    """
    usable = [row for row in rows if "completion" in row]
    earliest = _earliest(usable)
    built = [(row, _earlier(row, earliest)) for row in usable]
    order = sorted(
        range(len(built)),
        key=lambda i: (built[i][1] is None, -(number(built[i][0].get("step")) or 0.0), i),
    )
    telling = _telling(usable)
    order = [*telling, *(i for i in order if i not in telling)]
    shown: list[ShownSample] = []
    left = characters
    for i in order[:at_most]:
        row, earlier = built[i]
        size = sum(
            len(_cut(text(part))) for part in (row.get("prompt"), row["completion"], earlier and earlier[1])
        )
        if shown and size > left:
            continue
        left -= size
        shown.append(replace(_sample(row, earlier), telling=telling.get(i, "")))
    rule = ""
    if telling:
        rule = "First the largest gain, the largest loss and an unchanged one, as far as there are such; then"
        rule += " the others in their order."
    return Samples(tuple(shown), len(usable), rule)


_BY = ("gold", "reward")
"""Scores that say which example is telling, the first that rows have; else any score of both sides."""


def _telling(rows: Sequence[Mapping[str, Json]]) -> dict[int, str]:
    """Rows to show first, each with why: the largest gain, the largest loss, the first unchanged one."""
    name, found = _changes(rows)
    if not found:
        return {}
    label = name_of(name).label.removeprefix("win by ")
    told: dict[int, str] = {}
    for what, place in (
        ("largest gain", max(found, key=lambda i: (found[i][1] - found[i][0], -i))),
        ("largest loss", min(found, key=lambda i: (found[i][1] - found[i][0], i))),
        ("unchanged", min(found, key=lambda i: (abs(found[i][1] - found[i][0]), i))),
    ):
        old, new = found[place]
        is_such = {"largest gain": new > old, "largest loss": new < old, "unchanged": new == old}[what]
        if is_such and place not in told:
            shown = "" if name.startswith(_WIN) else f": {rounded(old)} → {rounded(new)}"
            told[place] = visible(f"{what} by {label}{shown}")
    return told


_WIN = "win_by_"


def _changes(rows: Sequence[Mapping[str, Json]]) -> tuple[str, dict[int, tuple[float, float]]]:
    """The score that rows have of both sides, and (before, after) by row; of a verdict ½ and the score."""
    names = [*_BY, *dict.fromkeys(name for row in rows[:1] for name in row)]
    for name in names:
        both = {i: (number(row.get(f"{name}_before")), number(row.get(name))) for i, row in enumerate(rows)}
        if name.startswith(_WIN):
            both = {i: (0.5, new) for i, (_, new) in both.items()}
        known = {i: (old, new) for i, (old, new) in both.items() if old is not None and new is not None}
        finite = {i: pair for i, pair in known.items() if all(map(math.isfinite, pair))}
        if finite:
            return name, finite
    return "", {}


def _key(row: Mapping[str, Json]) -> str:
    return json.dumps(row.get("prompt"), ensure_ascii=True, sort_keys=True)


def _earliest(rows: Sequence[Mapping[str, Json]]) -> dict[str, Mapping[str, Json]]:
    """The row of the earliest step by prompt, for prompts that were sampled once per step."""
    found: dict[str, Mapping[str, Json]] = {}
    seen: set[tuple[str, float]] = set()
    repeated: set[str] = set()
    for row in rows:
        key, step = _key(row), number(row.get("step")) or 0.0
        if (key, step) in seen:
            repeated.add(key)
        seen.add((key, step))
        if key not in found or step < (number(found[key].get("step")) or 0.0):
            found[key] = row
    return {key: row for key, row in found.items() if key not in repeated}


def _earlier(row: Mapping[str, Json], earliest: Mapping[str, Mapping[str, Json]]) -> tuple[str, str] | None:
    """(label, completion) to compare the row with, or None."""
    if row.get("completion_before") is not None:
        return "before", text(row["completion_before"])
    first = earliest.get(_key(row))
    if first is None or first is row:
        return None
    return f"step {text(first.get('step')) or 0}", text(first["completion"])


def _sample(row: Mapping[str, Json], earlier: tuple[str, str] | None) -> ShownSample:
    completion = visible(_cut(text(row["completion"])))
    before: tuple[Part, ...] = ()
    after: tuple[Part, ...] = (Part("same", completion),)
    rewritten = False
    if earlier is not None:
        old = visible(_cut(earlier[1]))
        before = (Part("same", old),)
        compared = word_difference(old, completion)
        rewritten = compared is None
        if compared is not None:
            before, after = tuple(compared[0]), tuple(compared[1])
    return ShownSample(
        step=number(row.get("step")),
        prompt=_conversation(row.get("prompt")),
        after=after,
        before=before,
        before_label=earlier[0] if earlier else "",
        rewritten=rewritten,
        scores=_scores(row),
        model=visible(text(row.get("model"))),
        simulated=row.get("origin") == "simulated",
    )


def _scores(row: Mapping[str, Json]) -> tuple[tuple[str, str], ...]:
    numbers = {name: value for name in row if name != "step" and (value := number(row[name])) is not None}
    return tuple(
        (visible(name), f"{rounded(numbers[f'{name}_before'])} → {rounded(value)}")
        if f"{name}_before" in numbers
        else (visible(name), rounded(value))
        for name, value in numbers.items()
        if not (name.endswith("_before") and name.removesuffix("_before") in numbers)
    )


def _conversation(prompt: Json) -> tuple[PromptTurn, ...]:
    """The prompt as turns; a plain string is one user turn."""
    turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return tuple(
        PromptTurn(
            visible(text(mapping(turn).get("role", "user"))),
            visible(_cut(_said(mapping(turn)))),
        )
        for turn in turns
    )


def _said(turn: Mapping[str, Json]) -> str:
    """What a turn says: thoughts, text and tool calls, one after the other."""
    calls = turn.get("tool_calls")
    called = [mapping(call).get("function") for call in calls] if isinstance(calls, list) else []
    parts = [text(turn.get("reasoning_content")), text(turn.get("content"))]
    parts += [json.dumps(call, ensure_ascii=False) for call in called if call]
    return "\n\n".join(part for part in parts if part)


def _cut(content: str) -> str:
    if len(content) <= MAX_TEXT:
        return content
    return f"{content[:MAX_TEXT]} … [{len(content) - MAX_TEXT:,} more characters]"


def visible(content: str) -> str:
    """Control and text-direction characters as visible signs, so that no text can hide or reorder itself."""
    if content.isprintable():
        return content
    return "".join(c if c in "\n\t" else _sign(c) for c in content)


def _sign(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    # Zero-width joiners belong to emoji and Indic scripts; the other invisible ones are tricks.
    if unicodedata.category(character) in ("Cc", "Cf") and character not in "\u200c\u200d":
        return f"[U+{code:04X}]"
    return character


# Differences


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
