"""Answers of a model behind an OpenAI-compatible endpoint (`/v1/chat/completions`)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import httpx

from alignloop.errors import ConfigError, EngineError
from alignloop.model.sampling import SamplingParams
from alignloop.records import Conversation, message_rows

_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A served model.

    Attributes:
        url: base, such as http://127.0.0.1:8000/v1.
        model: name sent with each request; "" asks the server for its first.
        api_key_env: environment variable that holds the key, "" for none. A key is never written.
        concurrency: requests in flight.
        retries: further attempts after a failure that may pass.
        timeout_s: of one request.
    """

    url: str
    model: str = ""
    api_key_env: str = ""
    concurrency: int = 8
    retries: int = 3
    timeout_s: float = 300.0


def is_url(name: str) -> bool:
    """Whether a model's name is the address of an endpoint."""
    return name.startswith(("http://", "https://"))


def answer(
    endpoint: Endpoint,
    prompts: Sequence[Conversation],
    params: SamplingParams,
    seeds: Sequence[int],
    *,
    on_done: Callable[[int, str], None],
    pause_s: float = 1.0,
) -> None:
    """One answer to each prompt; `on_done(index, text)` is called as each comes, in this thread.

    Args:
        endpoint: the served model.
        prompts: conversations.
        params: how tokens are drawn; min_p and repetition_penalty are no part of the protocol.
        seeds: one for each prompt.
        on_done: takes the answers.
        pause_s: before the first retry; doubled each time.

    Raises:
        ConfigError: the key's variable is not set, or a setting the protocol does not have.
        EngineError: a request failed for good; earlier answers have been handed over.
    """
    if params.min_p or params.repetition_penalty != 1.0 or params.top_k:
        raise ConfigError(
            "top_k, min_p and repetition_penalty cannot be asked of an endpoint; leave them out"
        )
    with _client(endpoint) as client, ThreadPoolExecutor(endpoint.concurrency) as pool:
        model = endpoint.model or _first_model(client, endpoint)
        waiting = {
            pool.submit(_ask, client, endpoint, _body(model, prompt, params, seed), pause_s): i
            for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        }
        try:
            for done in as_completed(waiting):
                on_done(waiting[done], done.result())
        except EngineError:
            pool.shutdown(cancel_futures=True)
            raise


def _client(endpoint: Endpoint) -> httpx.Client:
    headers = {}
    if endpoint.api_key_env:
        key = os.environ.get(endpoint.api_key_env)
        if not key:
            raise ConfigError(f"the environment variable {endpoint.api_key_env} holds no API key")
        headers["Authorization"] = f"Bearer {key}"
    return httpx.Client(base_url=endpoint.url.rstrip("/"), headers=headers, timeout=endpoint.timeout_s)


def _body(model: str, prompt: Conversation, params: SamplingParams, seed: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": message_rows(prompt),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_tokens,
        "seed": seed % 2**31,
    }
    return {**body, "stop": list(params.stop)} if params.stop else body


def _first_model(client: httpx.Client, endpoint: Endpoint) -> str:
    try:
        response = client.get("/models")
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise EngineError(f"{endpoint.url}: does not say which models it serves: {error}") from error


def _ask(client: httpx.Client, endpoint: Endpoint, body: dict[str, Any], pause_s: float) -> str:
    for attempt in range(endpoint.retries + 1):
        try:
            response = client.post("/chat/completions", json=body)
            if response.status_code not in _RETRIED or attempt == endpoint.retries:
                response.raise_for_status()
                return str(response.json()["choices"][0]["message"]["content"] or "")
        except httpx.TransportError as error:
            if attempt == endpoint.retries:
                raise EngineError(f"{endpoint.url}: no answer: {error or type(error).__name__}") from error
        except httpx.HTTPStatusError as error:
            said = error.response.text[:200]
            raise EngineError(f"{endpoint.url}: status {error.response.status_code}: {said}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EngineError(f"{endpoint.url}: an answer that is no chat completion") from error
        time.sleep(pause_s * 2**attempt)
    raise AssertionError("the last attempt returns or raises")
