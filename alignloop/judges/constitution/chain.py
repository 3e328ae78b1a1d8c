"""Critique and revision in rounds, a principle drawn at random for each (arXiv 2212.08073, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from alignloop.judges.adviser import Adviser, Ask, Reply
from alignloop.judges.constitution.principles import Constitution
from alignloop.records import Conversation, Message, message_rows


@dataclass(frozen=True, slots=True)
class Round:
    """One round; `fault` says why the answer stayed as it was, "" if it was revised."""

    principle: str
    critique: str
    revision: str
    fault: str = ""


@dataclass(slots=True)
class Chain:
    """A prompt's first answer and what became of it."""

    prompt: Conversation
    language: str
    initial: str
    rounds: list[Round] = field(default_factory=list)
    fault: str = ""

    @property
    def last(self) -> str:
        """The last revision; the first answer where there is none."""
        return self.rounds[-1].revision if self.rounds else self.initial

    def row(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "prompt": message_rows(self.prompt),
            "language": self.language,
            "initial": self.initial,
            "fault": self.fault,
            "rounds": [
                {"principle": r.principle, "critique": r.critique, "revision": r.revision, "fault": r.fault}
                for r in self.rounds
            ],
        }


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """How chains are made: rounds, lengths in tokens, sampling, language (auto, en or ko)."""

    rounds: int = 2
    max_answer_tokens: int = 256
    max_critique_tokens: int = 192
    temperature: float = 0.7
    seed: int = 0
    language: str = "auto"


def run_chains(
    writer: Adviser,
    critic: Adviser,
    prompts: Sequence[Conversation],
    constitution: Constitution,
    settings: ChainSettings,
) -> list[Chain]:
    """Answer each prompt, then criticise and revise the answer round by round.

    A critique or revision that is refused or empty leaves the answer as it was; the round says why.

    Args:
        writer: writes the first answers.
        critic: criticises and revises; usually the same model.
        prompts: what is asked.
        constitution: principles to draw from.
        settings: rounds, lengths and sampling.

    Returns:
        One chain for each prompt; one without a first answer has a fault and no rounds.

    Raises:
        EngineError: a model cannot be reached.
    """
    answers = _write(writer, prompts, settings, settings.max_answer_tokens, 0)
    chains = [
        Chain(prompt, constitution.language(prompt, settings.language), answer.text, fault=_fault(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    alive = [chain for chain in chains if not chain.fault]
    drawn = [constitution.draw(chain.prompt, settings.rounds, settings.seed) for chain in alive]
    for number in range(settings.rounds):
        words = [p[number].wordings[c.language] for c, p in zip(alive, drawn, strict=True)]
        shown = [
            (*c.prompt, Message("assistant", c.last), Message("user", w.critique))
            for c, w in zip(alive, words, strict=True)
        ]
        critiques = _write(critic, shown, settings, settings.max_critique_tokens, 2 * number + 1)
        asked = [
            (*s, Message("assistant", critique.text), Message("user", w.revise))
            for s, critique, w in zip(shown, critiques, words, strict=True)
        ]
        revisions = _write(critic, asked, settings, settings.max_answer_tokens, 2 * number + 2)
        for c, p, critique, revision in zip(alive, drawn, critiques, revisions, strict=True):
            fault = _fault(critique) or _fault(revision)
            text = c.last if fault else revision.text
            c.rounds.append(Round(p[number].name, critique.text, text, fault))
    return chains


def _write(
    adviser: Adviser, asked: Sequence[Conversation], settings: ChainSettings, max_tokens: int, step: int
) -> list[Reply]:
    """Free texts; each step of a chain has a seed of its own."""
    seed = (settings.seed * 1009 + step) % 2**31
    return adviser.ask([Ask(m, (), max_tokens, settings.temperature, seed) for m in asked])


def _fault(reply: Reply) -> str:
    return reply.fault or ("" if reply.text.strip() else "empty")
