"""Replies kept on disk by the content of the question, so that nothing is asked or paid twice.

One small file for each reply, written whole or not at all, with a checksum inside. A file that is damaged
is counted, removed and asked again. Faults (refusals, nonsense) are not kept: they are asked again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from alignloop.feedback.judge.adviser import Account, Adviser, Ask, OnReply, Reply
from alignloop.foreign import loads, read_text
from alignloop.io import write_whole
from alignloop.progress import Progress
from alignloop.records import plain_rows
from alignloop.runs.hashing import digest


class Cached:
    """An adviser in front of which stands a cache.

    Attributes:
        inner: who is asked what the cache does not know.
        folder: where the replies lie; shared by all advisers, runs and processes.
    """

    def __init__(self, inner: Adviser, folder: Path) -> None:
        self.inner, self.folder = inner, folder
        self.name, self.identity = inner.name, inner.identity

    @property
    def account(self) -> Account:
        """That of the adviser behind, with `num_cached` and `num_damaged` counted here."""
        return self.inner.account

    def ask(self, asks: Sequence[Ask], *, on_reply: OnReply | None = None) -> list[Reply]:
        """Known replies from disk, the others from the adviser; errors as the adviser's."""
        keys = [ask_key(self.identity, ask) for ask in asks]
        replies: dict[int, Reply] = {}
        for number, key in enumerate(keys):
            known = self._read(key)
            if known is not None:
                replies[number] = known
                self.account.num_cached += 1
                if on_reply is not None:
                    on_reply(number, known)
        if not asks:
            return []
        missing = [number for number in range(len(asks)) if number not in replies]

        def keep(place: int, reply: Reply) -> None:
            number = missing[place]
            replies[number] = reply
            if not reply.fault:
                self._write(keys[number], reply)
            progress.update(progress.step + 1)
            if on_reply is not None:
                on_reply(number, reply)

        if missing:
            with Progress(len(asks), description=self.name, start=len(replies), unit="question") as progress:
                self.inner.ask([asks[number] for number in missing], on_reply=keep)
        return [replies[number] for number in range(len(asks))]

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.json"

    def _read(self, key: str) -> Reply | None:
        path = self._path(key)
        try:
            content = loads(read_text(path))
            body = content["reply"]
            if content["sha256"] != digest([key, body]):
                raise ValueError("checksum")
            return Reply(**body | {"probabilities": tuple(body["probabilities"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self.account.num_damaged += 1
            path.unlink(missing_ok=True)
            return None

    def _write(self, key: str, reply: Reply) -> None:
        body = asdict(reply) | {"probabilities": list(reply.probabilities)}
        content = {"reply": body, "sha256": digest([key, body])}
        write_whole(self._path(key), [json.dumps(content, ensure_ascii=False) + "\n"])


def ask_key(identity: str, ask: Ask) -> str:
    """SHA-256 of who is asked what."""
    sampling = [ask.max_tokens, ask.temperature, ask.seed, ask.top_p, ask.stop]
    return digest([identity, plain_rows(ask.messages), ask.choices, *sampling])
