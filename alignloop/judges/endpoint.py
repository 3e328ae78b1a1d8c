"""Any server with OpenAI's chat-completions interface as adviser.

Requests run side by side in threads. What may pass is tried again with growing pauses (connection lost,
time-out, 408, 409, 425, 429, 5xx; the server's Retry-After, seconds or a date, is honoured). A request that
the server refuses as such (400, 413, 422) is a fault of that question alone; a wrong key or model ends the
work, after what was under way has been answered and handed over.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from alignloop.errors import AlignLoopError, ConfigError, EngineError, UserError
from alignloop.foreign import loads
from alignloop.judges.adviser import Account, Ask, OnReply, Reply
from alignloop.records import message_rows

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_ONE_QUESTION = frozenset({400, 413, 422})
_MAX_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How a server is asked.

    Attributes:
        url: up to and including /v1.
        model: name by which the server knows the model; "" takes the first that it serves.
        api_key: sent as bearer token, "" for none; never written anywhere.
        concurrency: requests under way at once.
        timeout_s: longest wait for one answer.
        retries: further attempts after the first.
        pause_s: before the second attempt; doubled after each.
        top_logprobs: alternatives asked for at each token, which makes the labels soft; 0 asks for none.
        price_input: per million tokens read.
        price_output: per million tokens written.
        budget: the work stops before costs exceed this; 0 is no limit.
    """

    url: str
    model: str = ""
    api_key: str = ""
    concurrency: int = 8
    timeout_s: float = 60.0
    retries: int = 5
    pause_s: float = 0.5
    top_logprobs: int = 0
    price_input: float = 0.0
    price_output: float = 0.0
    budget: float = 0.0


class EndpointAdviser:
    """A server that is asked.

    Attributes:
        name: the model's name on the server, its address if none is given.
        identity: the server's address, the model's name and whether log-probs are read.
        account: tokens and costs as the server reports them.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings, self.account, self._lock = settings, Account(), threading.Lock()
        self._url, self._model = settings.url.rstrip("/"), settings.model
        self.name = settings.model or self._url
        self.identity = f"{self._url}|{settings.model}|{settings.top_logprobs}"
        self._client = httpx.Client(
            headers={"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {},
            timeout=settings.timeout_s,
            limits=httpx.Limits(max_connections=settings.concurrency),
            # The environment's proxies are for other machines.
            trust_env=httpx.URL(self._url).host not in ("localhost", "127.0.0.1", "::1"),
        )

    def ask(self, asks: Sequence[Ask], *, on_reply: OnReply | None = None) -> list[Reply]:
        """One reply for each question.

        Raises:
            EngineError: the server stays unreachable, or the budget is spent.
            UserError: the server does not know the key or the model.
        """
        replies: list[Reply] = [Reply(fault="rejected")] * len(asks)
        if asks and not self._model:
            self._model = self._first_model()
        stop, taken = threading.Event(), set()
        pool = ThreadPoolExecutor(min(self.settings.concurrency, max(1, len(asks))))
        futures = {pool.submit(self._one, ask, stop): number for number, ask in enumerate(asks)}

        def take(future: Future[Reply]) -> None:
            taken.add(future)
            number, reply = futures[future], future.result()
            self._count(reply)
            replies[number] = reply
            if on_reply is not None:
                on_reply(number, reply)

        try:
            for future in as_completed(futures):
                take(future)
                self._check_budget()
        except AlignLoopError:
            # What is under way is paid for: it is waited for and handed over.
            stop.set()
            pool.shutdown(cancel_futures=True)
            for future in set(futures) - taken:
                if not future.cancelled() and future.exception() is None:
                    take(future)
            raise
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        return replies

    def _first_model(self) -> str:
        url = f"{self._url}/models"
        try:
            answer = self._client.get(url)
            answer.raise_for_status()
            return str(loads(answer.content)["data"][0]["id"])
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise EngineError(f"{url} does not say which models are served: {error}") from error

    def _one(self, ask: Ask, stop: threading.Event) -> Reply:
        """One question with its attempts; none further once `stop` is set."""
        body = request_body(ask, self.settings) | {"model": self._model}
        url = f"{self._url}/chat/completions"
        problem, attempt = "", 0
        for attempt in range(self.settings.retries + 1):
            if attempt:
                with self._lock:
                    self.account.num_retries += 1
            wanted_pause = 0.0
            try:
                answer = self._client.post(url, json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            else:
                if answer.status_code == 200:
                    reply = parse_answer(answer.content, ask)
                    if reply is not None:
                        return reply
                    problem = "it answered something that is no chat completion"
                elif answer.status_code in _ONE_QUESTION:
                    return Reply(_message(answer), fault="rejected")
                elif answer.status_code not in _PASSING:
                    raise UserError(
                        f"{url} refuses model '{self._model}': {answer.status_code} "
                        f"{_message(answer)}; check the address, the model's name and the key"
                    )
                else:
                    problem = f"status {answer.status_code} {_message(answer)}".strip()
                    wanted_pause = retry_after(answer.headers.get("retry-after", ""), time.time())
            last = attempt == self.settings.retries
            if last or stop.wait(max(wanted_pause, pause(self.settings.pause_s, attempt, ask))):
                break
        raise EngineError(
            f"{url} gave no answer in {attempt + 1} attempts ({problem}); what was answered "
            "before is kept, the same command goes on from there"
        )

    def _count(self, reply: Reply) -> None:
        account, settings = self.account, self.settings
        account.num_asked += 1
        account.tokens_input += reply.tokens_input
        account.tokens_output += reply.tokens_output
        account.cost += (
            reply.tokens_input * settings.price_input + reply.tokens_output * settings.price_output
        ) / 1e6

    def _check_budget(self) -> None:
        if self.settings.budget and self.account.cost >= self.settings.budget:
            raise EngineError(
                f"'{self.name}' has cost {self.account.cost:.4g}, the budget is {self.settings.budget:g}; "
                "what was answered is kept, raise `budget` to go on"
            )


def read_key(variable: str) -> str:
    """The API key that an environment variable holds, "" for the variable "".

    Raises:
        ConfigError: the variable is not set or empty.
    """
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise ConfigError(f"the environment variable {variable} holds no API key")
    return key


def request_body(ask: Ask, settings: EndpointSettings) -> dict[str, Any]:
    """The JSON body of a question; top_p and stop only where they say something."""
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": message_rows(ask.messages),
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "seed": ask.seed,
    }
    if ask.top_p < 1:
        body["top_p"] = ask.top_p
    if ask.stop:
        body["stop"] = list(ask.stop)
    if settings.top_logprobs and ask.choices:
        body |= {"logprobs": True, "top_logprobs": settings.top_logprobs}
    return body


def parse_answer(content: bytes, ask: Ask) -> Reply | None:
    """The reply in an HTTP body; None if it is no chat completion at all.

    With choices, probabilities come from the label's top log-probs where the server gives them, else
    the label has probability 1. A text without exactly one of the labels is `nonsense`.
    """
    try:
        answer = loads(content)
        choice = answer["choices"][0]
        message, usage = choice["message"], answer.get("usage") or {}
        text = message.get("content")
        counts = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        refused = bool(message.get("refusal")) or choice.get("finish_reason") == "content_filter"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError):
        return None
    if refused:
        return Reply(str(message.get("refusal") or ""), (), "refused", *counts)
    if not isinstance(text, str):
        return None
    if not ask.choices:
        return Reply(text.strip(), (), "" if text.strip() else "nonsense", *counts)
    soft = _soft(choice.get("logprobs"), ask.choices)
    if soft is not None:
        return Reply(text, soft, "", *counts)
    chosen = find_label(text, ask.choices)
    if chosen is None:
        return Reply(text, (), "nonsense", *counts)
    return Reply(text, tuple(float(k == chosen) for k in range(len(ask.choices))), "", *counts)


def find_label(text: str, choices: Sequence[str]) -> int | None:
    """The only one of the labels that stands by itself in a text; None for none or several.

    "A", "**B**.", "Answer: A" and "B가 낫습니다" have one; "4/5" is a 4.
    """
    cleaned = re.sub(r"\s*/\s*\d+", "", text)
    found = {
        number
        for number, label in enumerate(choices)
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(label)}(?![A-Za-z0-9])", cleaned)
    }
    return found.pop() if len(found) == 1 else None


def _soft(logprobs: Any, choices: Sequence[str]) -> tuple[float, ...] | None:
    """Probabilities at the first token that is a label, None where the server gives no alternatives."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    for token in content if isinstance(content, list) else ():
        tops = token.get("top_logprobs") if isinstance(token, dict) else None
        if not isinstance(tops, list) or str(token.get("token", "")).strip() not in choices:
            continue
        mass = [0.0] * len(choices)
        for top in (top for top in tops if isinstance(top, dict)):
            label = str(top.get("token", "")).strip()
            if label in choices and isinstance(top.get("logprob"), int | float):
                mass[list(choices).index(label)] += math.exp(min(0.0, float(top["logprob"])))
        if sum(mass) > 0:
            return tuple(m / sum(mass) for m in mass)
    return None


def pause(first_s: float, attempt: int, ask: Ask) -> float:
    """Seconds before the next attempt: doubling, with a jitter that is the same on every run."""
    text = "".join(message.content for message in ask.messages)
    digest = hashlib.sha256(f"{attempt}|{text}".encode("utf-8", "surrogatepass")).digest()
    return min(_MAX_PAUSE_S, first_s * 2**attempt * (0.75 + digest[0] / 510))


def retry_after(header: str, now: float) -> float:
    """Seconds that a server asks to wait, 0 where it says nothing usable.

    Args:
        header: seconds or an HTTP date (RFC 9110, section 10.2.3).
        now: seconds since the epoch.

    Returns:
        Seconds from now.
    """
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now
        except ValueError:
            return 0.0
    return min(_MAX_PAUSE_S, max(0.0, seconds)) if math.isfinite(seconds) else 0.0


def _message(answer: httpx.Response) -> str:
    """What the server says is wrong, shortened."""
    try:
        return str(loads(answer.content)["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return ""
