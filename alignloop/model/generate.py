"""Completions for prompts, all at once (`generate`) or as a stream for a chat (`stream`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.errors import UserError
from alignloop.model import resume
from alignloop.model.own_numbers import check_engine
from alignloop.model.sampling import SamplingParams, completion_seeds
from alignloop.model.scheduler import TOKEN_BUDGET, Event, Request, Sampled, Scheduler

OnDone = Callable[[int, int, Sampled], None]
"""Called with (prompt number, completion number, completion) as each completion ends."""

OnStep = Callable[[int], None]
"""Called after each step with the number of tokens drawn in it, before `OnDone` for what ended with it."""


class UnfinishedState(TypedDict):
    """What JSON can hold of an unfinished generation; `done`: prompt, completion, fields of `Sampled`."""

    generation: dict[str, Any]
    done: list[tuple[int, int, dict[str, Any]]] | list[list[Any]]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A generation between two of its steps: an `UnfinishedState`, and tensors for safetensors."""

    state: dict[str, Any]
    tensors: dict[str, Tensor]


Keep = Callable[[Callable[[], Unfinished]], None]
"""Called after each step with a function that describes the generation so far; it may save that."""


def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    n: int = 1,
    seeds: Sequence[Sequence[int]] | None = None,
    given: Sequence[Sequence[int]] = (),
    token_budget: int = TOKEN_BUDGET,
    on_done: OnDone | None = None,
    on_step: OnStep | None = None,
    begun: Unfinished | None = None,
    keep: Keep | None = None,
) -> list[list[Sampled]]:
    """n completions of each prompt.

    A prompt runs once for all its completions, finished ones leave the batch and waiting ones enter.
    A completion depends on its prompt, the parameters and its seed only, up to rounding. The engine is
    compared with the model itself before a model's first ones.

    Args:
        model: a transformers causal language model, or a peft model around one.
        tokenizer: for text and stop strings, or None.
        prompts: token ids of each prompt.
        params: how tokens are drawn.
        n: completions of each prompt.
        seeds: a seed for each completion, [prompt][n]; derived from `params.seed` if None.
        given: for each prompt token ids of another answer, whose log-probs `Sampled.given` tells; or none.
        token_budget: tokens whose keys and values may be stored at once.
        on_done: called as each completion ends, in the order in which they end.
        on_step: called after each step with the number of tokens drawn, before `on_done`.
        begun: what `keep` saved of the same call, which goes on from there, bit for bit on one machine.
        keep: called after each step, for saving the unfinished generation.

    Returns:
        [prompt][n] completions.

    Raises:
        DataError: a prompt that is empty or too long for the model or the budget.
        ModelError: an architecture the engine cannot run, or whose own numbers it does not give.
        NonFiniteError: the model returned NaN or infinite logits.
        UserError: seeds that do not match prompts and n; stop strings without a tokenizer.
    """
    check_engine(model)
    with Scheduler(model, tokenizer, token_budget=token_budget) as scheduler:
        done = _begin(scheduler, _requests(prompts, params, n, seeds, given), begun)
        while not scheduler.idle:
            events = scheduler.step()
            if on_step is not None:
                on_step(len(events))
            for event in events:
                if event.sampled is None:
                    continue
                done[event.request][event.index] = event.sampled
                if on_done is not None:
                    on_done(event.request, event.index, event.sampled)
            if keep is not None:
                keep(lambda: _describe(scheduler, done))
    return [[completions[index] for index in range(n)] for completions in done]


def _requests(
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    n: int,
    seeds: Sequence[Sequence[int]] | None,
    given: Sequence[Sequence[int]],
) -> list[Request]:
    if seeds is None:
        seeds = completion_seeds(params.seed, len(prompts), n)
    if len(seeds) != len(prompts) or any(len(row) != n for row in seeds):
        raise UserError(f"generation: seeds must be {len(prompts)} rows of {n}, one for each completion")
    if given and len(given) != len(prompts):
        raise UserError(f"generation: {len(given)} answers given for {len(prompts)} prompts")
    return [
        Request(tuple(prompt), params, tuple(row), given=tuple(other))
        for prompt, row, other in zip(prompts, seeds, given or [()] * len(prompts), strict=True)
    ]


def _begin(
    scheduler: Scheduler, requests: Sequence[Request], begun: Unfinished | None
) -> list[dict[int, Sampled]]:
    """Add the requests, or go on with those that were `begun`; returns what has ended, by prompt."""
    done: list[dict[int, Sampled]] = [{} for _ in requests]
    if begun is None:
        for request in requests:
            scheduler.add(request)
        return done
    resume.load_state_dict(scheduler, begun.state["generation"], begun.tensors)
    for number, index, sampled in begun.state["done"]:
        done[number][index] = Sampled(**sampled)
    return done


def _describe(scheduler: Scheduler, done: Sequence[dict[int, Sampled]]) -> Unfinished:
    generation, tensors = resume.state_dict(scheduler)
    ended = [(number, k, asdict(one)) for number, row in enumerate(done) for k, one in row.items()]
    return Unfinished({"generation": generation, "done": ended}, tensors)


def stream(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    params: SamplingParams,
) -> Generator[Event, None, None]:
    """One completion token by token; `Event.text` is what can be shown since the last event.

    The model stays set up for decoding until the iterator is exhausted or closed. Errors as `generate`.
    """
    check_engine(model)
    with Scheduler(
        model, tokenizer, text=True, token_budget=len(prompt_ids) + params.max_tokens
    ) as scheduler:
        scheduler.add(Request(tuple(prompt_ids), params, (params.seed,)))
        while not scheduler.idle:
            yield from scheduler.step()
