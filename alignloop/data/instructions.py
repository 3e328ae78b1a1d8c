"""The quickstart's task: everyday requests with an instruction that a program can check.

Topics and wordings are text in `instructions.yaml`. The `eval` split has its own topics *and* its own
wordings of every constraint, so that what it measures is obedience, not memory.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np

from alignloop.errors import DataError
from alignloop.foreign import load_yaml
from alignloop.records import Document, Message, Prompt, Provenance

Split = Literal["train", "eval"]

QUICKSTART_KINDS: tuple[str, ...] = (
    "max_words",
    "min_words",
    "num_sentences",
    "numbered_list",
    "include_words",
    "forbid_words",
    "start_with",
    "no_commas",
    "exclamation",
    "title",
    "bold",
    "ends_with_question",
)
"""Kinds that SmolLM2-135M-Instruct obeys in 5 % to 60 % of its answers before training (train wordings,
temperature 0.7, 64 tokens; measured by bench/instruction_pass_rates.py)."""

_CONFLICTS = (
    {"lowercase", "uppercase", "start_with", "postscript"},
    {"max_words", "min_words"},
    {"numbered_list", "bullet_list", "num_sentences", "num_paragraphs", "json_object"},
    {"quoted", "start_with", "end_with", "json_object", "title"},
    {"end_with", "ends_with_question", "postscript", "json_object"},
    {"no_commas", "json_object"},
    {"language", "start_with", "end_with", "include_words", "forbid_words", "uppercase"},
)


@cache
def _task() -> Mapping[str, Any]:
    text = files("alignloop.data").joinpath("instructions.yaml").read_text(encoding="utf-8")
    return load_yaml(text)


def instruction_kinds(language: str = "english") -> tuple[str, ...]:
    """The constraint kinds that have wordings in a language."""
    return tuple(kind for kind, entry in _task()["kinds"].items() if language in entry)


def instruction_prompts(
    split: Split,
    n: int,
    seed: int,
    kinds: Sequence[str] | None = None,
    *,
    constraints_per_prompt: int = 1,
    languages: Sequence[str] = ("english",),
) -> list[Prompt]:
    """`n` different prompts of the task, the same ones for the same arguments.

    Kinds take turns, and so do topics, so both are evenly represented whatever `n` is.

    Args:
        split: "train" or "eval"; they share neither topics nor wordings.
        n: number of prompts.
        seed: chooses order, wordings and arguments.
        kinds: constraint kinds to use, `QUICKSTART_KINDS` by default.
        constraints_per_prompt: 1 or 2 instructions per prompt.
        languages: of the prompts, "english" or "korean" (which has fewer kinds); they take turns.

    Returns:
        Prompts with `constraints` set and, in their provenance, split, kind, topic and language.

    Raises:
        DataError: an unknown split, kind or language, or fewer than `n` different prompts exist.
    """
    kinds = QUICKSTART_KINDS if kinds is None else tuple(kinds)
    _check(split, kinds, languages, constraints_per_prompt)
    rng = np.random.default_rng([seed, int(split == "eval")])
    topics = {name: _Turns(_task()["topics"][name][split], rng) for name in languages}
    turns = {
        name: _Turns([kind for kind in kinds if kind in instruction_kinds(name)], rng) for name in languages
    }
    found: dict[str, Prompt] = {}
    misses = 0
    while len(found) < n:
        language = languages[len(found) % len(languages)]
        chosen = [turns[language].next()]
        if constraints_per_prompt == 2:
            partners = [k for k in turns[language].items if _compatible(k, chosen[0])]
            chosen += [partners[rng.integers(len(partners))]] if partners else []
        prompt = _prompt(topics[language].next(), chosen, split, language, rng)
        misses = misses + 1 if prompt.prompt[0].content in found else 0
        found[prompt.prompt[0].content] = prompt
        if misses > 200:
            raise DataError(f"only about {len(found)} different prompts exist, {n} were asked for", value=n)
    return list(found.values())


class _Turns:
    """Deals items in shuffled rounds, so that each is used equally often."""

    def __init__(self, items: Sequence[str], rng: np.random.Generator) -> None:
        self.items, self._rng, self._left = list(items), rng, []

    def next(self) -> str:
        if not self._left:
            self._left = [self.items[i] for i in self._rng.permutation(len(self.items))]
        return self._left.pop()


def _prompt(
    topic: str, kinds: Sequence[str], split: Split, language: str, rng: np.random.Generator
) -> Prompt:
    constraints, instructions = [], []
    for kind in kinds:
        entry = _task()["kinds"][kind]
        arguments = entry["arguments"][rng.integers(len(entry["arguments"]))]
        wordings = entry[language][split]
        instructions.append(_fill(wordings[rng.integers(len(wordings))], arguments))
        constraints.append({"kind": kind, **copy.deepcopy(arguments)})
    parts = [topic, *instructions]
    if rng.random() < 0.25:
        parts = [*instructions, topic]
    details = {"task": "instructions", "split": split, "kind": "+".join(kinds), "topic": topic}
    return Prompt(
        prompt=(Message("user", " ".join(parts)),),
        constraints=tuple(constraints),
        provenance=Provenance(details={**details, "language": language}),
    )


def _fill(wording: str, arguments: Mapping[str, Any]) -> str:
    """The wording with its arguments; "(s)" becomes "s" unless the count is 1."""
    shown = {
        name: ", ".join(value)
        if isinstance(value, list)
        else str(value).capitalize()
        if name == "language"
        else value
        for name, value in arguments.items()
    }
    return wording.replace("(s)", "" if arguments.get("count") == 1 else "s").format(**shown)


def _compatible(first: str, second: str) -> bool:
    return first != second and not any({first, second} <= group for group in _CONFLICTS)


def _check(split: str, kinds: Sequence[str], languages: Sequence[str], constraints_per_prompt: int) -> None:
    if split not in ("train", "eval"):
        raise DataError("accepted are train, eval", field="split", value=split)
    if constraints_per_prompt not in (1, 2):
        raise DataError("accepted are 1, 2", field="constraints_per_prompt", value=constraints_per_prompt)
    for kind in kinds:
        if kind not in _task()["kinds"]:
            raise DataError(f"accepted are {', '.join(_task()['kinds'])}", field="kinds", value=kind)
    for language in languages:
        if language not in _task()["topics"]:
            raise DataError(f"accepted are {', '.join(_task()['topics'])}", field="languages", value=language)
        if not set(kinds) & set(instruction_kinds(language)):
            raise DataError(f"no kind has {language} wordings", field="kinds", value=list(kinds))


@cache
def _texts() -> Mapping[str, list[str]]:
    text = files("alignloop.data").joinpath("texts.yaml").read_text(encoding="utf-8")
    return load_yaml(text)


def documents(split: Split) -> list[Document]:
    """Short plain texts, English and a few Korean ones: `train` and `eval` have none in common."""
    return [Document(text, Provenance(details={"task": "texts", "split": split})) for text in _texts()[split]]
