"""Judgements to a running label server: sign in by an invitation link, then the page's own calls."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from alignloop.errors import EngineError, UserError
from alignloop.labels.faults import Rejected
from alignloop.labels.submit import Slot

ATTEMPTS = 5
"""How often a request is sent where the server asks to wait, or does not answer."""
TIMEOUT_S = 30.0
_WAIT = (429, 503)


class RemoteDesk:
    """A project of a running server, through an invitation.

    Args:
        link: `http://HOST:PORT/invite/TOKEN`.
        client: sends the requests; one of its own by default.
        pause_s: wait before a request is sent again, where the server names none, in seconds.

    Raises:
        UserError: no such link, or the server refuses it.
        EngineError: the server does not answer.
    """

    def __init__(self, link: str, *, client: httpx.Client | None = None, pause_s: float = 1.0) -> None:
        base, found, token = link.rpartition("/invite/")
        if not found or not token or not re.match(r"https?://", base):
            raise UserError(f"'{link}' is no invitation link; expected http://HOST:PORT/invite/TOKEN")
        self.base, self.pause_s = base, pause_s
        self.client = client or httpx.Client(follow_redirects=True, timeout=TIMEOUT_S)
        page = self._post("/login", data={"token": token})
        csrf = re.search(r'name="csrf" content="([^"]+)"', page.text)
        if page.status_code != 200 or csrf is None:
            raise UserError(f"{base} refuses the invitation; ask the owner for a new link to a project")
        self.client.headers["X-CSRF-Token"] = csrf[1]

    def open(self, prompt: list[dict[str, Any]], answers: Sequence[str]) -> Slot:
        """The task with this content; raises Rejected."""
        body = self._call("open", {"prompt": prompt, "answers": list(answers)})
        task = body["task"]
        texts = [answer["text"] for answer in task["answers"]]
        return Slot(task["id"], task["kind"], texts, task["expected"], task["previous"], body["judged"])

    def judge(self, slot: Slot, answer: Mapping[str, Any], *, key: str, note: str) -> None:
        """Store a judgement, in the order shown; raises Rejected."""
        body = {"assignment": slot.id, "expected": slot.expected, "key": key, "answer": dict(answer)}
        self._call("judge", {**body, "note": note, "next": False})

    def close(self) -> None:
        """End the connection."""
        self.client.close()

    def _call(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        reply = self._post(f"/api/{name}", json=body)
        try:
            answer = reply.json()
        except ValueError as error:
            raise EngineError(f"{self.base} is no label server: its reply is not JSON") from error
        if reply.status_code != 200:
            sentence, reason = str(answer.get("error", reply.text)), str(answer.get("reason", ""))
            raise Rejected(sentence, status=reply.status_code, reason=reason)
        return answer

    def _post(self, path: str, **content: Any) -> httpx.Response:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                reply = self.client.post(self.base + path, **content)
            except httpx.HTTPError as error:
                if attempt == ATTEMPTS:
                    raise EngineError(f"{self.base} does not answer: {error}") from error
                time.sleep(self.pause_s)
                continue
            if reply.status_code not in _WAIT or attempt == ATTEMPTS:
                return reply
            named = reply.headers.get("Retry-After", "")
            time.sleep(min(float(named), 60.0) if named.isdigit() else self.pause_s)
        raise AssertionError("the loop returns")
