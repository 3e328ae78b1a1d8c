"""What an adviser is: a language model that is asked for a text or for one of several choices.

`Cached` keeps replies on disk by the content of the question, so that nothing is asked or paid twice. A line
that is damaged is counted, and its question asked again. Faults (refusals, nonsense) are not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from alignloop.foreign import loads, read_text
from alignloop.progress import Progress
from alignloop.records import Conversation, plain_rows
from alignloop.runs.hashing import digest
from alignloop.runs.value_cache import ValueCache


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


class Cached:
    """An adviser in front of which stands a cache.

    Attributes:
        inner: who is asked what the cache does not know.
        folder: where the replies lie, one file for each adviser; shared by all runs and processes.
    """

    def __init__(self, inner: Adviser, folder: Path) -> None:
        self.inner, self.folder = inner, folder
        self.name, self.identity = inner.name, inner.identity
        self._cache: ValueCache | None = None

    @property
    def account(self) -> Account:
        """That of the adviser behind, with `num_cached` and `num_damaged` counted here."""
        return self.inner.account

    def ask(self, asks: Sequence[Ask], *, on_reply: OnReply | None = None) -> list[Reply]:
        """Known replies from disk, the others from the adviser; errors as the adviser's."""
        if not asks:
            return []
        cache = self._open()
        keys = [ask_key(self.identity, ask) for ask in asks]
        replies: dict[int, Reply] = {}
        for number, key in enumerate(keys):
            known = _as_reply(cache.get(key) or self._kept_before(key))
            if known is not None:
                replies[number] = known
                self.account.num_cached += 1
                if on_reply is not None:
                    on_reply(number, known)
        missing = [number for number in range(len(asks)) if number not in replies]

        def keep(place: int, reply: Reply) -> None:
            number = missing[place]
            replies[number] = reply
            if not reply.fault:
                cache.put(keys[number], asdict(reply))
            progress.update(progress.step + 1)
            if on_reply is not None:
                on_reply(number, reply)

        if missing:
            with Progress(len(asks), description=self.name, start=len(replies), unit="question") as progress:
                self.inner.ask([asks[number] for number in missing], on_reply=keep)
        return [replies[number] for number in range(len(asks))]

    def _open(self) -> ValueCache:
        if self._cache is None:
            self._cache = ValueCache(self.folder / f"{digest(self.identity)[:24]}.jsonl")
            self.account.num_damaged += self._cache.num_damaged
        return self._cache

    def _kept_before(self, key: str) -> Any:
        """A reply in a file of its own, as versions up to 0.2.0 kept them."""
        try:
            content = loads(read_text(self.folder / key[:2] / f"{key[2:]}.json"))
            return content["reply"] if content["sha256"] == digest([key, content["reply"]]) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _as_reply(value: Any) -> Reply | None:
    try:
        return None if value is None else Reply(**value | {"probabilities": tuple(value["probabilities"])})
    except (KeyError, TypeError):
        return None


def ask_key(identity: str, ask: Ask) -> str:
    """SHA-256 of who is asked what."""
    sampling = [ask.max_tokens, ask.temperature, ask.seed, ask.top_p, ask.stop]
    return digest([identity, plain_rows(ask.messages), ask.choices, *sampling])
