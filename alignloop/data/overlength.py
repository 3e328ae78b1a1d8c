"""Fit a prompt and its completions into a maximum length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alignloop.errors import DataError

Policy = Literal["drop", "truncate", "error"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Token ids that fit, and what was cut.

    Attributes:
        prompt_ids: the prompt, maybe without its beginning.
        completions: all completions, maybe without their ends.
        prompt_truncated: whether the prompt was cut.
        truncated: for each completion, whether it was cut (its end of turn is gone then).
    """

    prompt_ids: list[int]
    completions: tuple[list[int], ...]
    prompt_truncated: bool
    truncated: tuple[bool, ...]


def fit(
    prompt_ids: Sequence[int],
    completions_ids: Sequence[Sequence[int]],
    max_length: int,
    policy: Policy,
    *,
    min_prompt: int = 1,
    bos_token_id: int | None = None,
) -> Fitted:
    """Make prompt + completion at most `max_length` tokens long, for every completion.

    With `truncate` the prompt loses tokens from the left (a BOS at its start stays), down to
    `min_prompt`; only if that does not do, completions lose tokens from the right. No completion
    and no prompt is removed as a whole.

    Args:
        prompt_ids: tokens of the prompt, may be empty.
        completions_ids: tokens of each completion.
        max_length: tokens of prompt and one completion together.
        policy: `truncate`; `drop` and `error` both raise, for the caller to count or to stop.
        min_prompt: tokens of the prompt that are kept in any case, at least 1.
        bos_token_id: the beginning-of-sequence token, if the model uses one.

    Returns:
        The token ids that fit, and what was cut.

    Raises:
        DataError: too long and not to be truncated, or no room for a single token of a completion
            (reason `overlength`).
        ValueError: an unknown policy or `min_prompt` below 1.
    """
    if policy not in ("drop", "truncate", "error"):
        raise ValueError(f"overlength policy {policy!r}; use drop, truncate or error")
    if min_prompt < 1:
        raise ValueError(f"min_prompt is {min_prompt}, must be at least 1")
    prompt = list(prompt_ids)
    completions = tuple(list(ids) for ids in completions_ids)
    longest = max((len(ids) for ids in completions), default=0)
    if len(prompt) + longest <= max_length:
        return Fitted(prompt, completions, False, (False,) * len(completions))
    if policy != "truncate":
        raise DataError(
            f"prompt and completion have {len(prompt)} + {longest} tokens, max_length is {max_length}",
            reason="overlength",
        )
    kept = min(len(prompt), max(min_prompt, max_length - longest))
    room = max_length - kept
    if room < 1:
        raise DataError(
            f"max_length {max_length} leaves no room for a completion beside {kept} prompt tokens",
            reason="overlength",
        )
    return Fitted(
        _from_right(prompt, kept, bos_token_id),
        tuple(ids[:room] for ids in completions),
        kept < len(prompt),
        tuple(len(ids) > room for ids in completions),
    )


def fit_turns(
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    first: int,
    max_length: int,
    policy: Policy,
    *,
    bos_token_id: int | None = None,
) -> Fitted:
    """Make a conversation with several trained turns at most `max_length` tokens long.

    With `truncate` it loses its end, so that what is left is a conversation from its beginning. Only if
    prompt and first trained turn are too long together do they lose tokens as in `fit`, and the rest goes.

    Args:
        prompt_ids: tokens before the first trained turn.
        completion_ids: tokens from the first trained turn on.
        first: length of the first trained turn.
        max_length: tokens of both together.
        policy: see `fit`.
        bos_token_id: see `fit`.

    Returns:
        The token ids that fit, and what was cut.

    Raises:
        DataError: see `fit`.
    """
    whole = len(prompt_ids) + len(completion_ids) <= max_length
    if whole or policy != "truncate":
        return fit(prompt_ids, [completion_ids], max_length, policy, bos_token_id=bos_token_id)
    room = max(max_length - len(prompt_ids), first)
    found = fit(prompt_ids, [completion_ids[:room]], max_length, policy, bos_token_id=bos_token_id)
    return Fitted(found.prompt_ids, found.completions, found.prompt_truncated, (True,))


def _from_right(prompt: list[int], kept: int, bos_token_id: int | None) -> list[int]:
    """The last `kept` tokens; a BOS at the start counts as one of them and stays in front."""
    if kept == len(prompt):
        return prompt
    if prompt[0] == bos_token_id:
        rest = prompt[len(prompt) - (kept - 1) :]
        return rest if rest[:1] == [bos_token_id] else [prompt[0], *rest]  # never two in a row
    return prompt[len(prompt) - kept :]
