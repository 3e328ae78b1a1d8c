"""What an adviser is: a language model that is asked for a text or for one of several choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from alignloop.records import Conversation


@dataclass(frozen=True, slots=True)
class Ask:
    """One question.

    Attributes:
        messages: the conversation to answer; ends with the user.
        choices: labels such as ("A", "B") to choose from; () asks for free text.
        max_tokens: longest free text, or longest text in which an endpoint's label is looked for.
        temperature: of free text; 0 takes the most likely token.
        seed: of free text.
        top_p: of free text.
        stop: strings that end free text.
    """

    messages: Conversation
    choices: tuple[str, ...] = ()
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        text: the free text, or the text in which the label stood ("" from a local model).
        probabilities: of the choices, summing to 1; () for free text.
        fault: why there is no usable answer: `refused`, `nonsense`, `too_long`, `rejected`; "" if there is.
        tokens_input: tokens read.
        tokens_output: tokens written.
    """

    text: str = ""
    probabilities: tuple[float, ...] = ()
    fault: str = ""
    tokens_input: int = 0
    tokens_output: int = 0


@dataclass(slots=True)
class Account:
    """What asking has cost so far; `cost` is in the currency of the prices, 0 where none were given."""

    num_asked: int = 0
    num_cached: int = 0
    num_damaged: int = 0
    num_retries: int = 0
    tokens_input: int = 0
    tokens_output: int = 0
    cost: float = 0.0


OnReply = Callable[[int, Reply], None]
"""Called with the number of the question and its reply as each one arrives, from the asking thread."""


class Adviser(Protocol):
    """A language model that can be asked."""

    @property
    def name(self) -> str:
        """Shown to people and written into records."""
        ...

    @property
    def identity(self) -> str:
        """Changes whenever its answers could; part of the cache's keys."""
        ...

    @property
    def account(self) -> Account:
        """Counted while asking."""
        ...

    def ask(self, asks: Sequence[Ask], *, on_reply: OnReply | None = None) -> list[Reply]:
        """One reply for each question, in order.

        Raises:
            EngineError: the model cannot be reached; replies that came before were handed to `on_reply`.
        """
        ...
