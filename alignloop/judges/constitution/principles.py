"""A constitution: principles with their texts in one or more languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignloop.content import number_of
from alignloop.errors import ConfigError
from alignloop.judges.prompt_files import LANGUAGES, language_of, read_texts
from alignloop.records import Conversation, plain_rows

HERE = Path(__file__).parent
_FIELDS = ("critique", "revise", "prefer")


@dataclass(frozen=True, slots=True)
class PrincipleTexts:
    """A principle in one language: asks for a critique, for a revision, and says what to prefer."""

    critique: str
    revise: str
    prefer: str


@dataclass(frozen=True, slots=True)
class Principle:
    """A principle with its texts by language."""

    name: str
    wordings: Mapping[str, PrincipleTexts]


@dataclass(frozen=True, slots=True)
class Constitution:
    """Principles; all of them are written in the same languages."""

    name: str
    principles: tuple[Principle, ...]

    @property
    def languages(self) -> tuple[str, ...]:
        """In which the principles are written."""
        return tuple(self.principles[0].wordings)

    def language(self, prompt: Conversation, wanted: str = "auto") -> str:
        """The language in which a prompt's answer is discussed; `auto` takes the prompt's own.

        Raises:
            ConfigError: the constitution is not written in the language wanted.
        """
        if wanted == "auto":
            return language_of(" ".join(m.content for m in prompt), self.languages)
        if wanted not in self.languages:
            raise ConfigError(f"constitution '{self.name}' has no texts in '{wanted}'")
        return wanted

    def draw(self, prompt: Conversation, count: int, seed: int) -> list[Principle]:
        """`count` principles at random, none twice before each was there once.

        The draw depends on the seed and the prompt alone, not on its place among others.
        """
        text = "\x00".join(":".join(map(str, row)) for row in plain_rows(prompt))
        rng = np.random.default_rng([seed, number_of(text)])
        order: list[int] = []
        while len(order) < count:
            order += rng.permutation(len(self.principles)).tolist()
        return [self.principles[k] for k in order[:count]]


def load_constitution(name: str) -> Constitution:
    """A constitution by its path; `default` is the one that comes with the package.

    Raises:
        ConfigError: no such file, or every fault of its first faulty part, with lines.
    """
    path = HERE / "default.yaml" if name == "default" else Path(name)
    top = read_texts(path).fields(needed=("name", "principles"))
    principles: list[Principle] = []
    findings: list[str] = []
    for node in top["principles"].list():
        try:
            entries = node.fields(needed=("name",), optional=LANGUAGES)
            words = {
                lang: _wording(entries[lang].fields(needed=_FIELDS)) for lang in LANGUAGES if lang in entries
            }
            if not words:
                raise ConfigError(f"{node.where}: texts in at least one of {', '.join(LANGUAGES)} are needed")
            principle = Principle(entries["name"].text(), words)
            if principle.name in [p.name for p in principles]:
                raise ConfigError(
                    f"{entries['name'].where}: a principle named '{principle.name}' exists already"
                )
            if principles and set(words) != set(principles[0].wordings):
                raise ConfigError(
                    f"{node.where}: principle '{principle.name}' is written in {', '.join(words)}, the first "
                    f"one in {', '.join(principles[0].wordings)}; all need the same languages"
                )
            principles.append(principle)
        except ConfigError as error:
            findings += error.findings
    if findings:
        raise ConfigError(findings)
    return Constitution(top["name"].text(), tuple(principles))


def _wording(entries: Mapping) -> PrincipleTexts:
    return PrincipleTexts(**{name: entries[name].text() for name in _FIELDS})


def benign_prompts() -> list[str]:
    """Harmless requests that sound dangerous, in English and Korean."""
    return [n.text() for n in read_texts(HERE / "benign.yaml").fields(needed=("prompts",))["prompts"].list()]
