"""Continuous batching: completions of many prompts advance together, one token per step.

A prompt runs through the model once; its completions share its keys and values. First tokens that it
has in common with a stored prompt (a template's head, a system message) do not run again. A completion
that ends leaves the batch at once and a waiting one takes its room, under a budget of stored tokens.
As long as a completion draws the tokens of another answer that the prompt's pass read, they do not run
again. R running completions, V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Self

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignloop.errors import DataError, ModelError, NonFiniteError, UserError
from alignloop.model.decode import Decode, NewPrompt, Prefill, decoding
from alignloop.model.endings import turn_end
from alignloop.model.kv import Pool, close, common_start
from alignloop.model.positions import steady_positions
from alignloop.model.requests import BatchRow, Event, Finish, Request, RequestGroup, Sampled
from alignloop.model.sampling import Best, sample, uniforms
from alignloop.model.step import CALLS, Step, refused, running
from alignloop.model.textstream import TextStream, decode

TOKEN_BUDGET = 16384
"""Tokens whose keys and values may be stored at once; one token takes 2 · layers · key heads · head size
numbers (45 KiB for SmolLM2-135M in float32)."""
PREFILL_TOKENS = {"cpu": 512, "cuda": 2048}
"""Prompt tokens that go through the model in one packed row, unless one prompt alone is longer; a CPU's
caches do not hold the activations of more, and running completions wait meanwhile."""

MIN_PREFILL = 256
"""Prompt tokens that are worth a pass of their own while many completions run."""


class Scheduler:
    """The generation engine. Use as a context: inside it the model is set up for decoding.

    A model under LoRA runs with its active adapters, unmerged. Texts are as long as the model's positions
    at most; with LongRoPE as long as its frequencies stay the same (see `positions`).

    Arguments:
        model: a transformers causal language model, or a peft model around one.
        tokenizer: for text and stop strings, or None.
        token_budget: tokens stored at once; a completion reserves its max_tokens when it begins.
        text: decode text with every event.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        token_budget: int = TOKEN_BUDGET,
        text: bool = False,
    ) -> None:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        if not isinstance(base, PreTrainedModel):
            raise ModelError(f"generation: {type(base).__name__} is not a transformers model")
        self.model, self.tokenizer, self.token_budget, self.text = base, tokenizer, token_budget, text
        self.groups: dict[int, RequestGroup] = {}
        self.pools: dict[tuple[int, int], Pool] = {}
        self.running: list[BatchRow] = []
        self.reserved = 0
        self.next_number = 0
        self._context = ExitStack()
        config = base.config.get_text_config(decoder=True)
        self._num_layers = config.num_hidden_layers
        self._max_positions = steady_positions(config)
        self._ends = turn_end(base, tokenizer)

    def __enter__(self) -> Self:
        self._context.enter_context(decoding(self.model))
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.close()

    @property
    def idle(self) -> bool:
        """True if every completion of every request has ended."""
        return not self.groups

    def add(self, request: Request) -> int:
        """Take a request; its completions begin when there is room. Returns its number.

        Raises:
            DataError: an empty prompt, or one that fits neither the model nor the token budget.
            UserError: stop strings without a tokenizer.
        """
        length, params = len(request.prompt), request.params
        limit = math.inf if self._max_positions is None else self._max_positions
        if length == 0:
            raise DataError("the prompt has no tokens", reason="empty_prompt")
        if length >= limit:
            raise DataError(
                f"the prompt has {length} tokens and the model {limit} positions; shorten the prompt",
                reason="prompt_too_long",
            )
        max_tokens = int(min(params.max_tokens, limit - length))
        if length + len(request.given) > limit:
            raise DataError(
                f"the prompt has {length} tokens, what is given after it {len(request.given)} and the model "
                f"{limit} positions",
                reason="prompt_too_long",
            )
        if length + max_tokens > self.token_budget:
            raise DataError(
                f"prompt ({length} tokens) and completion ({max_tokens}) exceed the token budget of "
                f"{self.token_budget}; raise the budget or lower max_tokens",
                reason="prompt_too_long",
            )
        if self.tokenizer is None and (params.stop or self.text):
            raise UserError("generation: text and stop strings need a tokenizer")
        number, self.next_number = self.next_number, self.next_number + 1
        eos = frozenset(self._ends.tokens if params.eos is None else params.eos)
        if params.eos is None and self._ends.texts and self.tokenizer is not None:
            stop = tuple(dict.fromkeys([*params.stop, *self._ends.texts]))
            request = replace(request, params=replace(params, stop=stop))
        if request.seeds:
            waiting = deque(range(len(request.seeds)))
            self.groups[number] = RequestGroup(number, request, max_tokens, eos, waiting)
        return number

    def cancel(self, number: int) -> None:
        """Drop what is left of a request; unknown and ended ones are ignored."""
        group = self.groups.get(number)
        if group is None:
            return
        group.waiting.clear()
        for row in list(group.rows):
            self._remove(row)
        if number in self.groups:
            self._release(group)

    @torch.no_grad()
    def step(self) -> list[Event]:
        """Begin what fits into the budget, else advance every running completion by one token.

        Raises:
            NonFiniteError: the model returned NaN or infinite logits.
        """
        starting = self._admit()
        if starting:
            return self._start(starting)
        if not self.running:
            return []
        cells = [row.cell for row in self.running if row.cell is not None]
        tokens = [row.ids[-1] for row in self.running]
        positions = [cell.prefix.length + cell.length for cell in cells]
        logits = self._forward(tokens, positions, Decode(cells, self.model.device))
        for cell in cells:
            cell.length += 1
        return self._advance(list(self.running), logits)

    def _admit(self) -> list[BatchRow]:
        """Rows that begin now, in order of arrival; the prompts they need are run and stored."""
        starting: list[BatchRow] = []
        fresh: list[tuple[RequestGroup, NewPrompt]] = []
        packed = 0
        if self._better_later():
            return starting
        for group in self.groups.values():
            if not group.waiting:
                continue
            if group.prefix is None:
                length = len(group.request.prompt)
                if length + group.max_tokens > self.token_budget - self.reserved:
                    break
                stored = ((g.prefix, g.request.prompt) for g in self.groups.values() if g.prefix is not None)
                source, shared = common_start(group.request.prompt, stored)
                read = max(0, len(group.request.given) - 1)  # nothing is predicted from the last one
                packed += length - shared + read
                if fresh and packed > PREFILL_TOKENS.get(self.model.device.type, 2048):
                    break
                group.prefix = self._pool(group).add(length, read)
                self.reserved += length
                fresh.append((group, NewPrompt(group.prefix, source, shared, read)))
            while group.waiting and self.reserved + group.max_tokens <= self.token_budget:
                starting.append(self.begin(group))
            if group.waiting:
                break
        if fresh:
            self._prefill(fresh)
        return starting

    def _better_later(self) -> bool:
        """Whether more prompts wait than there is room for, and those that fit would make a small pass of
        their own: a few more completions will have ended soon."""
        room, packed, number = self.token_budget - self.reserved, 0, 0
        for group in self.groups.values():
            if not group.waiting:
                continue
            room -= len(group.request.prompt) + group.max_tokens
            if group.prefix is not None or packed >= MIN_PREFILL or number >= len(self.running) // 8:
                return False
            if room < 0:
                return True
            packed += len(group.request.prompt) + len(group.request.given)
            number += 1
        return False

    def _pool(self, group: RequestGroup) -> Pool:
        """The pool for prompts of this length, within a factor of two, and about as many completions; a
        new one has slots for all that wait and fit."""
        key = self._kind(group)
        if key not in self.pools:
            alike = sum(g.prefix is None and self._kind(g) == key for g in self.groups.values())
            room = (self.token_budget - self.reserved) // (len(group.request.prompt) + group.max_tokens)
            self.pools[key] = Pool(*key, slots=min(alike, room))
        return self.pools[key]

    def _kind(self, group: RequestGroup) -> tuple[int, int]:
        rows = min(len(group.request.seeds), self.token_budget // group.max_tokens)
        return max(64, _power_of_two(len(group.request.prompt))), _power_of_two(rows)

    def begin(self, group: RequestGroup) -> BatchRow:
        """Take the next waiting completion of a group and reserve its room."""
        index = group.waiting.popleft()
        params = group.request.params
        streams = self.tokenizer is not None and (self.text or bool(params.stop))
        stream = TextStream(self.tokenizer, params.stop) if streams and self.tokenizer is not None else None
        row = BatchRow(group, index, uniforms(group.request.seeds[index], group.max_tokens), stream)
        group.rows.append(row)
        self.reserved += group.max_tokens
        return row

    def _prefill(self, fresh: Sequence[tuple[RequestGroup, NewPrompt]]) -> None:
        """Run the prompts packed in one row, each with what is given after it; keep the logits of each
        prompt's end for its completions' first tokens, and the log-probs of the given tokens."""
        ids, positions, keep = [], [], []
        for group, prompt in fresh:
            ids += [*group.request.prompt[prompt.shared :], *group.request.given[: prompt.read]]
            positions += range(prompt.shared, prompt.prefix.length + prompt.read)
            keep += range(len(ids) - prompt.read - 1, len(ids))
        prompts = [prompt for _, prompt in fresh]
        logits = self._forward(ids, positions, Prefill(prompts), keep=keep)
        for (group, _), rows in zip(fresh, logits.split([p.read + 1 for p in prompts]), strict=True):
            if group.request.given:
                logprobs = torch.log_softmax(rows.float(), -1)
                tokens = torch.tensor(group.request.given, device=rows.device)[:, None]
                group.given_logprobs = logprobs.gather(1, tokens)[:, 0].tolist()
            # not a view that keeps all rows in memory
            group.logits = (rows if _follows(group) else rows[:1]).float().clone()
        stored = [{number % CALLS for number in prompt.prefix.pool.layers} for prompt in prompts]
        if any(len(layers) != self._num_layers for layers in stored):
            raise refused(f"not every layer of {type(self.model).__name__} keeps keys and values")

    def _start(self, starting: list[BatchRow]) -> list[Event]:
        """First tokens of completions; one that draws what was given goes on along it."""
        logits = [row.group.logits for row in starting]
        events: list[Event] = []
        along = list(zip(starting, logits, strict=True))
        while along:
            places = [len(row.ids) for row, _ in along]
            events += self._advance(
                [row for row, _ in along],
                torch.stack([x[place] for (_, x), place in zip(along, places, strict=True) if x is not None]),
            )
            along = [(row, x) for row, x in along if _drew_given(row)]
            for row, _ in along:
                if row.cell is not None:
                    row.cell.length = len(row.ids)
        for row in starting:
            if not row.group.waiting:
                row.group.logits = None
        return events

    def _forward(
        self, ids: list[int], positions: list[int], step: Step, *, keep: list[int] | None = None
    ) -> Tensor:
        """Logits of the kept places of a packed row, (len(keep) or len(ids), V)."""
        device = self.model.device
        kept = None if keep is None else torch.tensor(keep, device=device)
        with running(step):
            output = self.model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=0 if kept is None else kept,
            )
        logits = output.logits[0]
        # an architecture may ignore what is to be kept
        return logits if kept is None or len(logits) == len(kept) else logits[kept]

    def _advance(self, rows: list[BatchRow], logits: Tensor) -> list[Event]:
        """Draw a token for each row, end those that are through."""
        numbers = [row.uniforms[len(row.ids)] for row in rows]
        tokens, logprobs, best = sample(
            logits,
            torch.tensor(numbers, dtype=torch.float64, device=logits.device),
            [row.group.request.params for row in rows],
            [_seen(row, logits.device) for row in rows],
            num_best=[row.group.request.num_best for row in rows],
        )
        drawn = zip(rows, tokens.tolist(), logprobs.tolist(), best, strict=True)
        events = [self._take(*one) for one in drawn]
        self.running.sort(key=_pool_key)
        return events

    def _take(self, row: BatchRow, token: int, logprob: float, best: Best) -> Event:
        """Note a row's new token; end the row if it was its last."""
        group = row.group
        if math.isnan(logprob):
            raise NonFiniteError(
                f"generation: the model's logits are not finite at token {len(row.ids)} of completion "
                f"{row.index} of request {group.number}"
            )
        row.ids.append(token)
        row.logprobs.append(logprob)
        if row.stream is not None and token not in group.eos:
            row.stream.add(token)
        finish: Finish | None = None
        if token in group.eos:
            finish = "eos"
        elif row.stream is not None and row.stream.stopped:
            finish = "stop"
        elif len(row.ids) >= group.max_tokens:
            finish = "length"
        if finish is None and row.cell is None and group.prefix is not None:
            row.cell = group.prefix.pool.open(group.prefix)
            self.running.append(row)
        sampled = None if finish is None else self._sampled(row, finish)
        text = "" if row.stream is None or not self.text else row.stream.take(final=finish is not None)
        if finish is not None:
            self._remove(row)
        return Event(group.number, row.index, token, logprob, finish, text, sampled, best)

    def _sampled(self, row: BatchRow, finish: Finish) -> Sampled:
        text = ""
        if row.stream is not None:
            row.stream.close()
            text = row.stream.text
        elif self.tokenizer is not None:
            text = decode(self.tokenizer, row.ids[:-1] if finish == "eos" else row.ids)
        return Sampled(row.ids, row.logprobs, text, finish, row.group.given_logprobs)

    def _remove(self, row: BatchRow) -> None:
        """Take a row out of the batch and give its room back."""
        group = row.group
        group.rows.remove(row)
        self.reserved -= group.max_tokens
        if row.cell is not None:
            close(row.cell)
            self.running.remove(row)
        if not group.rows and not group.waiting:
            self._release(group)

    def _release(self, group: RequestGroup) -> None:
        """Forget a group that has ended, with its prompt; an empty pool goes too."""
        del self.groups[group.number]
        if group.prefix is not None:
            self.reserved -= group.prefix.length
            pool = group.prefix.pool
            pool.drop(group.prefix)
            if not pool.prefixes:
                del self.pools[pool.key]


def _follows(group: RequestGroup) -> bool:
    """Whether a completion may go on along the tokens given: the prompt's pass kept their keys for it."""
    alone = group.prefix is not None and group.prefix.pool.lone and len(group.request.seeds) == 1
    return alone and len(group.request.given) > 1


def _drew_given(row: BatchRow) -> bool:
    """Whether a completion goes on whose newest token is the given one, with logits after it."""
    given, length = row.group.request.given, len(row.ids)
    going = row in row.group.rows and _follows(row.group)
    return going and length < len(given) and row.ids[-1] == given[length - 1]


def _pool_key(row: BatchRow) -> tuple[int, int]:
    return row.cell.prefix.pool.key if row.cell is not None else (0, 0)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _seen(row: BatchRow, device: torch.device) -> Tensor | None:
    """Distinct tokens of prompt and completion if the row has a repetition penalty."""
    if row.group.request.params.repetition_penalty == 1:
        return None
    return torch.tensor(sorted({*row.group.request.prompt, *row.ids}), device=device)
