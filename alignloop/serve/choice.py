"""One answer while it grows, thoughts apart from text, without what the template puts around it."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignloop.data.template_probe import TemplateTraits


@dataclass(frozen=True, slots=True)
class Token:
    """A token as text with its log-prob, and the most probable ones in its place."""

    text: str
    logprob: float
    best: tuple[tuple[str, float], ...] = ()


@dataclass(slots=True)
class Choice:
    """A completion while it grows.

    Attributes:
        found: what is known of the chat's template; None for a raw completion.
        text: the answer so far.
        thinking: the thoughts so far.
        tokens: the tokens so far, the end token excepted.
        num_tokens: tokens, end token included.
        finish: how the completion ended, None while it grows.
    """

    found: TemplateTraits | None
    text: str = ""
    thinking: str = ""
    tokens: list[Token] = field(default_factory=list)
    num_tokens: int = 0
    finish: str | None = None
    _pending: str = ""
    _part: str = "start"  # start, thoughts, between, text

    def take(self, piece: str, *, final: bool) -> tuple[str, str]:
        """What can be shown now, as (thoughts, text)."""
        self._pending += piece
        thinking = ""
        if self._part == "start" and not self._begin(final):
            return "", ""
        if self._part == "thoughts":
            thinking = self._think(final)
        text = "" if self._part == "thoughts" else self._say(final)
        self.thinking, self.text = self.thinking + thinking, self.text + text
        return thinking, text

    def _begin(self, final: bool) -> bool:
        """Whether it is known with what the completion begins; takes the template's lead off."""
        found = self.found
        if found is None:
            self._part = "text"
            return True
        opening, trimmed = found.thought[0], self._pending.lstrip()
        if opening and not final and opening.startswith(trimmed):
            return False
        if opening and (found.opening or trimmed.startswith(opening)):
            self._part, self._pending = "thoughts", trimmed.removeprefix(opening)
            return True
        if not final and found.lead.startswith(self._pending):
            return False
        self._pending = self._pending.removeprefix(found.lead)
        self._part = "between" if found.trims else "text"
        return True

    def _think(self, final: bool) -> str:
        """Thoughts that can be shown, without white space around all of them."""
        assert self.found is not None
        closing = self.found.thought[1]
        if not self.thinking:
            self._pending = self._pending.lstrip()
        thoughts, mark, rest = self._pending.partition(closing)
        if mark:
            self._part, self._pending = "between", rest
            return thoughts.rstrip()
        if not final:
            lengths = range(min(len(closing) - 1, len(thoughts)), 0, -1)
            begun = next((n for n in lengths if thoughts.endswith(closing[:n])), 0)
            thoughts = thoughts[: len(thoughts) - begun].rstrip()
        self._pending = self._pending[len(thoughts) :] if not final else ""
        return thoughts.rstrip() if final else thoughts

    def _say(self, final: bool) -> str:
        """Text that can be shown."""
        if self._part == "between":
            self._pending = self._pending.lstrip()
            self._part = "text" if self._pending else "between"
        trims = self.found is not None and self.found.trims
        ready = self._pending.rstrip() if trims else self._pending
        self._pending = "" if final else self._pending[len(ready) :]
        return ready
