"""Engine events to OpenAI's answers: whole, or as chunks of a stream. Both are built from the same pieces."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignloop.data.chat import ChatTemplate
from alignloop.data.template_probe import TemplateTraits
from alignloop.model.scheduler import Event, Finish
from alignloop.model.textstream import UNFINISHED
from alignloop.serve.served import Policy


@dataclass(frozen=True, slots=True)
class Token:
    """A token as text with its log-prob, and the most probable ones in its place."""

    text: str
    logprob: float
    best: tuple[tuple[str, float], ...] = ()


@dataclass(slots=True)
class CompletionChoice:
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


FINISH: Mapping[Finish, str] = {"eos": "stop", "stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event added to choice `index`; `token` is None at an end token."""

    index: int
    text: str
    token: Token | None
    finish: str | None
    thinking: str = ""


class CompletionAnswer:
    """One request's answer.

    Arguments:
        policy: the model that answers.
        num_choices: completions.
        prompt_tokens: of all prompts together.
        template: of a chat, which has its own form; None for raw completions.
        logprobs: whether the tokens' log-probs are given.
    """

    def __init__(
        self,
        policy: Policy,
        num_choices: int,
        prompt_tokens: int,
        *,
        template: ChatTemplate | None,
        logprobs: bool,
    ) -> None:
        chat = template is not None
        self.policy, self.chat, self.logprobs, self.prompt_tokens = policy, chat, logprobs, prompt_tokens
        self.choices = [
            CompletionChoice(None if template is None else template.found) for _ in range(num_choices)
        ]
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": policy.name,
        }

    @property
    def done(self) -> bool:
        """Whether every completion has ended."""
        return all(choice.finish is not None for choice in self.choices)

    def add(self, index: int, event: Event) -> Chunk:
        """Take an event of choice `index`."""
        choice, final = self.choices[index], event.finish is not None
        choice.num_tokens += 1
        choice.finish = FINISH[event.finish] if event.finish is not None else None
        token = None
        if event.finish != "eos":
            best = tuple((self._text(place), logprob) for place, logprob in event.best)
            token = Token(self._text(event.token), event.logprob, best)
            choice.tokens.append(token)
        thinking, text = choice.take(event.text, final=final)
        return Chunk(index, text, token, choice.finish, thinking)

    def _text(self, token: int) -> str:
        return str(self.policy.loaded.tokenizer.decode([token]))

    @property
    def usage(self) -> dict[str, int]:
        """Tokens, end tokens included."""
        made = sum(choice.num_tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
        }

    def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        choices = []
        for index, choice in enumerate(self.choices):
            body: dict[str, Any] = {"index": index, "finish_reason": choice.finish}
            body["logprobs"] = self._logprobs(choice.tokens)
            if self.chat:
                body["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
                if choice.thinking:
                    body["message"]["reasoning_content"] = choice.thinking
            else:
                body["text"] = choice.text
            choices.append(body)
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": self.usage}

    def opening(self) -> list[dict[str, Any]]:
        """Chunks a stream begins with: the role of each choice of a chat."""
        if not self.chat:
            return []
        delta = {"role": "assistant", "content": ""}
        return [
            self._chunk([{"index": i, "delta": delta, "finish_reason": None, "logprobs": None}])
            for i in range(len(self.choices))
        ]

    def chunks(self, new: Chunk) -> list[dict[str, Any]]:
        """What a stream sends for a new piece: its thoughts, its text, then its end."""
        found = []
        tokens = [] if new.token is None else [new.token]
        if new.thinking:
            found.append(self._piece(new, new.thinking, tokens, None, "reasoning_content"))
            tokens = []
        if new.text or (self.logprobs and tokens):
            found.append(self._piece(new, new.text, tokens, None))
        if new.finish is not None:
            found.append(self._piece(new, "", [], new.finish))
        return found

    def closing(self) -> dict[str, Any]:
        """The chunk with the usage."""
        return {**self._chunk([]), "usage": self.usage}

    def _piece(
        self,
        new: Chunk,
        text: str,
        tokens: Sequence[Token],
        finish: str | None,
        field: str = "content",
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"index": new.index, "finish_reason": finish}
        body["logprobs"] = self._logprobs(tokens) if tokens else None
        if self.chat:
            body["delta"] = {field: text} if finish is None else {}
        else:
            body["text"] = text
        return self._chunk([body])

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        if self.chat:
            content = [
                {**_entry(one.text, one.logprob), "top_logprobs": [_entry(*best) for best in one.best]}
                for one in tokens
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [one.text for one in tokens],
            "token_logprobs": [one.logprob for one in tokens],
            "top_logprobs": [_by_text(one) for one in tokens] if any(one.best for one in tokens) else None,
        }


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": _bytes(token)}


def _by_text(token: Token) -> dict[str, float]:
    """The most probable tokens and the drawn one; of several with the same text the most probable."""
    found: dict[str, float] = {}
    for text, logprob in (*token.best, (token.text, token.logprob)):
        found.setdefault(text, logprob)
    return found


def _bytes(token: str) -> list[int] | None:
    """Bytes of a token; None for a part of a character, whose own bytes the decoder does not tell."""
    return None if UNFINISHED in token else list(token.encode("utf-8"))
