"""Text of a completion while it grows: whole characters only, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What a tokenizer shows for bytes that are not a whole character yet."""


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of token ids without special tokens, spaces untouched."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


class TextStream:
    """Decodes token by token.

    Attributes:
        text: what is decoded so far, cut before a stop string.
        stopped: True once a stop string was found.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._ids: list[int] = []
        self._begin = self._end = self._sent = 0
        self.text, self.stopped = "", False

    def add(self, token: int) -> None:
        """Take the next token; a character of several tokens appears with its last one."""
        self._ids.append(token)
        # Decoding from an earlier token on keeps the spaces that tokenizers strip at the beginning.
        known = decode(self._tokenizer, self._ids[self._begin : self._end])
        longer = decode(self._tokenizer, self._ids[self._begin :])
        if len(longer) > len(known) and not longer.endswith(UNFINISHED):
            self._begin, self._end = self._end, len(self._ids)
            self._extend(longer[len(known) :])

    def close(self) -> None:
        """No token follows: what is left undecoded appears as it is."""
        known = decode(self._tokenizer, self._ids[self._begin : self._end])
        longer = decode(self._tokenizer, self._ids[self._begin :])
        self._begin = self._end = len(self._ids)
        self._extend(longer[len(known) :])

    def replay(self, tokens: Sequence[int]) -> None:
        """Take tokens whose text was already handed out."""
        for token in tokens:
            self.add(token)
        self.take()

    def take(self, *, final: bool = False) -> str:
        """The text not taken yet, less an ending that may become a stop string unless `final`."""
        ready = len(self.text)
        if not final and not self.stopped:
            ready -= max((_overlap(self.text, stop) for stop in self._stop), default=0)
        piece = self.text[self._sent : ready]
        self._sent = max(self._sent, ready)
        return piece

    def _extend(self, piece: str) -> None:
        if self.stopped:
            return
        # A stop string that begins in the old text ends in the new piece.
        start = max(0, len(self.text) - max((len(stop) for stop in self._stop), default=0))
        self.text += piece
        found = [place for stop in self._stop if (place := self.text.find(stop, start)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True


def _overlap(text: str, stop: str) -> int:
    """Length of the longest ending of `text` that begins `stop`, shorter than `stop`."""
    lengths = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
