"""What the generation engine takes and gives: requests, events, completions, and those on their way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from alignloop.model.kv import Cell, Prefix
from alignloop.model.sampling import Best, SamplingParams
from alignloop.model.textstream import TextStream

Finish = Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """A finished completion.

    Attributes:
        ids: its tokens, the end token included.
        logprobs: of each token in nats under the distribution it was drawn from (temperature, truncation
            and penalty included; at temperature 1 for greedy decoding).
        text: without special tokens, cut before a stop string; "" without a tokenizer.
        finish: `eos` an end token came, `stop` a stop string, `length` max_tokens or the model's limit.
        given: log-probs of the request's `given` tokens, nats.
    """

    ids: list[int]
    logprobs: list[float]
    text: str
    finish: Finish
    given: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt of token ids and one seed for each completion wanted.

    With each token come the `num_best` most probable ones. Of the tokens `given`, another answer to the
    same prompt, the log-probs are wanted: the model's own, at temperature 1 and with nothing excluded.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    seeds: tuple[int, ...]
    num_best: int = 0
    given: tuple[int, ...] = ()


class Event(NamedTuple):
    """One new token of completion `index` of request `request`.

    `text` is what can be shown since the last event (with `Scheduler(text=True)`), `finish` and
    `sampled` are None until the completion's last token. `best` are the most probable tokens with
    their log-probs under the distribution the token was drawn from, as many as the request wants.
    """

    request: int
    index: int
    token: int
    logprob: float
    finish: Finish | None
    text: str
    sampled: Sampled | None
    best: Best = ()


@dataclass(eq=False, slots=True)
class RequestGroup:
    """A request on its way: `waiting` completions have not begun, `rows` run."""

    number: int
    request: Request
    max_tokens: int
    eos: frozenset[int]
    waiting: deque[int]
    rows: list[BatchRow] = field(default_factory=list)
    prefix: Prefix | None = None
    logits: Tensor | None = None
    given_logprobs: list[float] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class BatchRow:
    """A running completion; all its tokens but the newest are stored in `cell`."""

    group: RequestGroup
    index: int
    uniforms: np.ndarray
    stream: TextStream | None
    cell: Cell | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
