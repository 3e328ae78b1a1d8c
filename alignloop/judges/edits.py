"""An editor: rewrites an answer until it obeys its prompt's checkable instructions.

The simulated annotator corrects answers with it, as a person would who writes demonstrations from a model's
drafts. Only kinds with one obvious correction are there; an answer that needs another one is given up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alignloop.data.instructions import documents, instruction_prompts
from alignloop.errors import DataError
from alignloop.records import Demonstration, Prompt
from alignloop.rl.constraints import sentences, words
from alignloop.rl.verifiers import VERIFIERS

DEFAULT_KINDS = ("lowercase", "uppercase", "no_commas", "quoted", "ends_with_question")
"""Kinds of `demonstrations` where none are asked for."""

_ENDS = (".", "!", "?", "…")


def demonstrations(n: int, seed: int, kinds: Sequence[str] = ()) -> list[Demonstration]:
    """Training prompts answered by plain texts, corrected to obey: for the SFT of a model that knows nothing.

    Args:
        n: number of demonstrations.
        seed: chooses prompts and texts.
        kinds: kinds of constraint, `DEFAULT_KINDS` if empty.

    Returns:
        Demonstrations whose answers obey and have nothing else to do with the questions.

    Raises:
        DataError: a kind that is unknown, or that no text can be corrected to obey.
    """
    rng = np.random.default_rng([seed, 2])
    texts = [one.text for one in documents("train") if one.text.isascii()]
    found = []
    for prompt in instruction_prompts("train", n, seed, tuple(kinds) or DEFAULT_KINDS):
        text = edited(texts[rng.integers(len(texts))], prompt)
        if text is None:
            kind = str(prompt.constraints[0]["kind"])
            raise DataError(f"accepted are {', '.join(EDITS)}", field="kinds", value=kind)
        found.append(Demonstration(prompt.prompt, text, prompt.provenance))
    return found


def edited(answer: str, prompt: Prompt) -> str | None:
    """The answer, whole and obedient, changed as little as its instructions need.

    A last sentence that was cut off is dropped where others are left.

    Args:
        answer: a draft.
        prompt: with `constraints`; none leaves the draft as it is.

    Returns:
        The corrected answer; None if no correction is known or it still does not obey.
    """
    text = _without_torn_end(answer.strip())
    for constraint in prompt.constraints:
        arguments = dict(constraint)
        edit = EDITS.get(str(arguments.pop("kind")))
        if edit is not None:
            text = edit(text, arguments)
    return text if text and VERIFIERS["constraints"](text, prompt) >= 1 else None


def _without_torn_end(text: str) -> str:
    if text.endswith(_ENDS):
        return text
    end = max(text.rfind(f"{mark}{space}") for mark in _ENDS for space in (" ", "\n"))
    return text[: end + 1] if end > 0 else text


def _max_words(text: str, given: Mapping[str, Any]) -> str:
    kept = ""
    for sentence in sentences(text):
        longer = f"{kept} {sentence}".strip()
        if len(words(longer)) > given["limit"]:
            break
        kept = longer
    return kept or " ".join(text.split()[: given["limit"]]).rstrip(",;:.") + "."


def _num_sentences(text: str, given: Mapping[str, Any]) -> str:
    return " ".join(sentences(text)[: given["count"]])


def _start_with(text: str, given: Mapping[str, Any]) -> str:
    if text.startswith(given["phrase"]):
        return text
    first, rest = text[:1], text[1:]
    lower = rest[:1].islower()  # not an abbreviation, and not the word I
    return f"{given['phrase']}, {first.lower() if lower else first}{rest}"


def _exclamation(text: str, given: Mapping[str, Any]) -> str:
    missing = given["count"] - text.count("!")
    while missing > 0 and "." in text:
        before, _, after = text.rpartition(".")
        text, missing = f"{before}!{after}", missing - 1
    return text + "!" * max(missing, 0)


def _title(text: str, given: Mapping[str, Any]) -> str:
    if re.search(r"<<.+>>", text):
        return text
    heading = " ".join(re.findall(r"[^\W\d_]{4,}", text)[:3]).title()
    return f"<<{heading}>>\n{text}"


def _bold(text: str, given: Mapping[str, Any]) -> str:
    missing = given["count"] - len(re.findall(r"\*\*[^*]+\*\*", text))
    return re.sub(r"(?<![*\w])(\w{4,})(?![*\w])", r"**\1**", text, count=missing) if missing > 0 else text


def _ends_with_question(text: str, given: Mapping[str, Any]) -> str:
    return text if text.endswith("?") else f"{text} Do you agree?"


EDITS: Mapping[str, Callable[[str, Mapping[str, Any]], str]] = {
    "max_words": _max_words,
    "num_sentences": _num_sentences,
    "start_with": _start_with,
    "exclamation": _exclamation,
    "title": _title,
    "bold": _bold,
    "ends_with_question": _ends_with_question,
    "lowercase": lambda text, given: text.lower(),
    "uppercase": lambda text, given: text.upper(),
    "no_commas": lambda text, given: text.replace(",", ""),
    "quoted": lambda text, given: '"' + text.replace('"', "'") + '"',
}
"""Correction by kind of constraint."""
