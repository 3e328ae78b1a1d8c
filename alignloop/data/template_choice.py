"""What a recipe or command says of the chat template, and the day that templates tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class TemplateChoice:
    """What a recipe or command says of the template.

    Attributes:
        name: as `load_template` takes it; `tokenizer` is the model's own.
        kwargs: arguments for the template.
        special_tokens: whether marks within messages become special tokens.
    """

    name: str = "tokenizer"
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    special_tokens: bool = False

    @classmethod
    def of(cls, choice: str | TemplateChoice) -> TemplateChoice:
        """A name alone as a choice."""
        return cls(choice) if isinstance(choice, str) else choice


_day: list[str] = []
"""Days of the runs under way, the outermost first."""


@contextmanager
def day_of_run(day: str) -> Iterator[None]:
    """Let templates that tell the date tell this day, in ISO form; an outer run's day goes before."""
    _day.append(day)
    try:
        yield
    finally:
        _day.pop()


def today() -> str:
    """The day of the outermost run under way, else that of the clock (UTC), in ISO form."""
    return _day[0] if _day else datetime.now(UTC).date().isoformat()
