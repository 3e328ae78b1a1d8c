"""The record family: what a row of data can be, whatever its file looked like.

Everything in post-training is a prompt with K completions. A prompt is a tuple of messages
(empty for raw documents), a completion is text. Records are frozen, compare by value and carry
their provenance, so that every model can be traced back to rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Origin = Literal["human", "ai", "simulated", "derived", "unknown"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: system, user or assistant.
        content: the text.
        thinking: the assistant's thoughts before the text.
    """

    role: str
    content: str
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a record comes from.

    Attributes:
        file: path or hub id of the data set, or the run folder that made it.
        line: 1-based line or row in it, 0 if unknown.
        origin: who made the label: human, ai, simulated, derived (converted) or unknown.
        details: anything else worth keeping: model, annotator, judgement id, seed, guideline.
    """

    file: str = ""
    line: int = 0
    origin: Origin = "unknown"
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


Conversation = tuple[Message, ...]


def message_rows(conversation: Iterable[Message]) -> list[dict[str, str]]:
    """Messages as rows, the form of files, chat templates and APIs.

    `role` and `content` are always there; `reasoning_content` where a message has thoughts.
    """
    return [
        {"role": m.role, "content": m.content} | ({"reasoning_content": m.thinking} if m.thinking else {})
        for m in conversation
    ]


@dataclass(frozen=True, slots=True)
class Document:
    """Raw text for pre-training (step 0)."""

    text: str
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to be answered; `answer` is the reference a verifier compares with.

    `constraints` holds machine-checkable instructions as (kind, arguments) pairs for verifiers.
    """

    prompt: Conversation
    answer: str | None = None
    constraints: tuple[Mapping[str, object], ...] = ()
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with the completion to imitate (SFT)."""

    prompt: Conversation
    completion: str
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Preference:
    """Two completions of one prompt, `chosen` preferred with `probability` (½ is a tie).

    `margin` is the annotator's strength of preference in reward units, 0 if not given.
    """

    prompt: Conversation
    chosen: str
    rejected: str
    probability: float = 1.0
    margin: float = 0.0
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Label:
    """A completion marked good or bad (KTO)."""

    prompt: Conversation
    completion: str
    desirable: bool
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Rating:
    """A completion with scores between 0 and 5 for one or more attributes."""

    prompt: Conversation
    completion: str
    scores: Mapping[str, float]
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True)
class Ranking:
    """K completions with ranks, 1 the best; `ranks[k]` belongs to `completions[k]`; ties share a rank."""

    prompt: Conversation
    completions: tuple[str, ...]
    ranks: tuple[int, ...]
    provenance: Provenance = Provenance()


Record = Document | Prompt | Demonstration | Preference | Label | Rating | Ranking

KINDS: dict[str, type[Record]] = {
    "document": Document,
    "prompt": Prompt,
    "demonstration": Demonstration,
    "preference": Preference,
    "label": Label,
    "rating": Rating,
    "ranking": Ranking,
}
"""Record kinds by the name used in files, recipes and messages."""
