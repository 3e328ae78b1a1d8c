"""What a recipe, command or request says of the chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
