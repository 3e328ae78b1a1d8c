"""Rewards made of weighted parts: verifiers, reward models, functions of the user, penalties.

B completions, flat in the order of the rollout. Every part is measured and returned by itself, so that
a run shows which part moved. A part that fails is an EngineError that names the completion.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from alignloop.errors import EngineError, UserError
from alignloop.records import Prompt
from alignloop.rl.advantages import MissingEOS, sequence_scores
from alignloop.rl.scores import Scores, unique_names
from alignloop.rl.verifiers import VERIFIERS, check_prompt
from alignloop.user_functions import load_function, name_of, place_of


@dataclass(frozen=True, slots=True)
class Sample:
    """A completion to be scored.

    Attributes:
        prompt: what was asked, with the answer or the constraints a verifier reads.
        completion: its text.
        num_tokens: its length, the end token included.
        finished: False where it was cut at the longest length.
        row: row of the prompt in the data set.
    """

    prompt: Prompt
    completion: str
    num_tokens: int
    finished: bool
    row: int = 0


MODEL = "model"
"""Name of the ensemble's joined part."""

RESERVED = (MODEL, "std")
"""Names that no part may have: `reward_std` is a metric of its own."""

Scorer = Callable[[Sequence[Sample]], Sequence[float]]
"""Scores a batch of completions, one number each."""


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a reward.

    Attributes:
        name: for metrics and messages; parts may share one.
        score: gives one number for each completion.
        weight: factor in the sum.
        timeout_s: bounds a call of a user's function in seconds; None has no limit.
        is_penalty: whether it says nothing about how good an answer is (see `Scores.judged`).
    """

    name: str
    score: Scorer
    weight: float = 1.0
    timeout_s: float | None = None
    is_penalty: bool = False


@dataclass
class RunningMoments:
    """Mean and variance of all rewards so far (Chan et al. 1979, parallel update)."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def update(self, values: np.ndarray) -> None:
        """Take in a batch."""
        count = self.count + len(values)
        shift = float(values.mean()) - self.mean
        self.squares += (
            float(((values - values.mean()) ** 2).sum()) + shift**2 * self.count * len(values) / count
        )
        self.mean += shift * len(values) / count
        self.count = count

    def normalized(self, values: np.ndarray) -> np.ndarray:
        """(x − mean)/(std + 1e-8), std with ddof = 1; only shifted before two values were seen."""
        std = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return (values - self.mean) / (std + 1e-8) if std > 0 else values - self.mean


@dataclass
class Reward:
    """The weighted sum of its parts, then the rule for a missing EOS, clipping and normalisation.

    Attributes:
        components: parts with one number each.
        ensemble: reward models; their members become one part named `model`.
        ensemble_weight: weight of that part.
        combine: mean, min (worst case), or uwo = mean − coefficient · variance (arXiv 2310.02743).
        uwo_coefficient: λ of uwo.
        missing_eos: rule for a completion without EOS.
        clip: bound of |reward|, None for none.
        moments: running normalisation, None for none; the only state.
    """

    components: Sequence[Component] = ()
    ensemble: Sequence[Component] = ()
    ensemble_weight: float = 1.0
    combine: Literal["mean", "min", "uwo"] = "mean"
    uwo_coefficient: float = 0.5
    missing_eos: MissingEOS = field(default_factory=lambda: MissingEOS("keep"))
    clip: float | None = None
    moments: RunningMoments | None = None

    def __call__(self, samples: Sequence[Sample]) -> Scores:
        """Score a rollout; updates the running moments.

        Raises:
            EngineError: a part raised, ran out of time, or returned a wrong count or a number that is
                not finite; the message names part and completion.
        """
        own = [checked_scores(part, samples) for part in self.components]
        names = unique_names([part.name for part in self.components], [*RESERVED, *self._member_names])
        raw = np.zeros(len(samples))
        for part, values in zip(self.components, own, strict=True):
            raw += part.weight * values
        parts = dict(zip(names, own, strict=True))
        weights = {name: part.weight for name, part in zip(names, self.components, strict=True)}
        penalties = [name for name, part in zip(names, self.components, strict=True) if part.is_penalty]
        spread = None
        if self.ensemble:
            members = np.stack([checked_scores(member, samples) for member in self.ensemble])
            parts[MODEL] = combined(members, self.combine, self.uwo_coefficient)
            weights[MODEL] = self.ensemble_weight
            raw += self.ensemble_weight * parts[MODEL]
            if len(members) > 1:
                spread = members.std(axis=0, ddof=1)
                parts |= dict(zip(self._member_names, members, strict=True))
        finished = torch.tensor([sample.finished for sample in samples])
        total = sequence_scores(
            torch.from_numpy(raw.copy()), finished, missing_eos=self.missing_eos, clip=self.clip
        ).numpy()
        if self.moments is not None:
            self.moments.update(total)
            total = self.moments.normalized(total)
        return Scores(total, raw, parts, spread, weights, tuple(penalties))

    @property
    def _member_names(self) -> list[str]:
        return [part.name for part in self.ensemble]

    def state_dict(self) -> dict[str, float]:
        """The running moments, for a checkpoint."""
        m = self.moments
        return {} if m is None else {"count": m.count, "mean": m.mean, "squares": m.squares}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        if self.moments is not None:
            self.moments = RunningMoments(**state)


def combined(members: np.ndarray, how: Literal["mean", "min", "uwo"], coefficient: float) -> np.ndarray:
    """One reward of an ensemble's (M, B) → (B,); the variance of uwo has ddof = 0, as in the paper."""
    if how == "min":
        return members.min(axis=0)
    mean = members.mean(axis=0)
    return mean if how == "mean" else mean - coefficient * members.var(axis=0)


def verifier(name: str, *, weight: float = 1.0) -> Component:
    """A verifier of `rl.verifiers` as a part.

    Raises:
        UserError: no such verifier.
    """
    if name not in VERIFIERS:
        raise UserError(f"unknown verifier '{name}'; accepted are {', '.join(VERIFIERS)}")
    check = VERIFIERS[name]
    return Component(name, lambda samples: [check(s.completion, s.prompt) for s in samples], weight)


def check_prompts(names: Sequence[str], prompts: Sequence[Prompt]) -> None:
    """Fail before the first sample is drawn if a prompt lacks what a verifier reads (see `check_prompt`)."""
    for name in names:
        for prompt in prompts:
            check_prompt(prompt, name)


def penalty(
    name: str, *, weight: float = 1.0, max_tokens: int = 256, buffer: int = 32, ngram: int = 3
) -> Component:
    """A penalty between −1 and 0 as a part.

    length: −tokens / max_tokens. repetition: −share of word n-grams that occurred before. overlong: 0 up
    to max_tokens − buffer, then linear to −1 at max_tokens (DAPO, arXiv 2503.14476, equation 13).

    Raises:
        UserError: no such penalty.
    """
    part = partial(Component, name, weight=weight, is_penalty=True)
    if name == "length":
        return part(lambda samples: [-s.num_tokens / max_tokens for s in samples])
    if name == "repetition":
        return part(lambda samples: [-repetition(s.completion, ngram) for s in samples])
    if name == "overlong":
        free = max_tokens - buffer
        return part(lambda samples: [-min(1.0, max(0.0, (s.num_tokens - free) / buffer)) for s in samples])
    raise UserError(f"unknown penalty '{name}'; accepted are length, repetition, overlong")


def repetition(text: str, ngram: int = 3) -> float:
    """Share of the text's word n-grams that occurred before in it, 0 for a text without any."""
    words = text.split()
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def function(path: str, *, weight: float = 1.0, timeout_s: float = 60.0) -> Component:
    """A user's function as a part.

    It is called with a list of `Sample` and returns one number for each; it may be `async`.

    Args:
        path: `module:function`, `file.py:function`, or the name of an object (`user_functions.give`).
        weight: factor in the sum.
        timeout_s: bounds a call, in seconds.

    Returns:
        The part, named like the function.

    Raises:
        UserError: no such file, module or function.
    """
    found: Any = load_function(path, "reward function")
    return Component(name_of(path), found, weight, timeout_s)


def checked_scores(part: Component, samples: Sequence[Sample]) -> np.ndarray:
    """Scores of one part as float64 (B,).

    Raises:
        EngineError: see `Reward.__call__`.
    """
    result = _call(part, samples)
    if isinstance(result, BaseException):
        if isinstance(result, EngineError):
            raise result
        raise _blame(part, samples, result) from result
    try:
        scores = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EngineError(f"reward '{part.name}' returned {result!r:.80}, not a list of numbers") from error
    if scores.shape != (len(samples),):
        raise EngineError(
            f"reward '{part.name}' returned {scores.size} numbers in shape {scores.shape} for "
            f"{len(samples)} completions; one number for each is expected"
        )
    if not np.isfinite(scores).all():
        at = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise EngineError(f"reward '{part.name}' gave {scores[at]} for {_name(samples[at], at)}")
    return scores


def _call(part: Component, samples: Sequence[Sample]) -> Any:
    """What the part returns or raises; with a time limit in a thread, which is left behind if it hangs."""
    if part.timeout_s is None:
        return _outcome(part.score, samples)
    results = _beside(lambda: _outcome(part.score, samples), part.timeout_s)
    if results:
        return results[0]
    return EngineError(
        f"reward '{part.name}' did not answer within {part.timeout_s:g} s for {len(samples)} completions, "
        f"the first being {_name(samples[0], 0)}; raise timeout_s or make it faster"
    )


def _outcome(score: Callable[..., Any], samples: Sequence[Sample]) -> Any:
    try:
        result = score(samples)
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        return error
    if not inspect.isawaitable(result):
        return result
    # a notebook's thread already runs an event loop
    return _beside(lambda: asyncio.run(_awaited(result)), None)[0]


def _beside(call: Callable[[], Any], timeout_s: float | None) -> list[Any]:
    """What a call in a thread of its own returns or raises, alone in a list; nothing if it takes too long.

    A thread that is left behind is a daemon: the process ends without it.
    """
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - a user's function may even raise SystemExit
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return results


async def _awaited(result: Any) -> Any:
    return await result


def _blame(part: Component, samples: Sequence[Sample], error: BaseException) -> EngineError:
    """The error with the completion that causes it, found by scoring them one by one."""
    for at, sample in enumerate(samples):
        alone = _call(part, [sample])
        if isinstance(alone, BaseException):
            return EngineError(f"reward '{part.name}' failed on {_name(sample, at)}: {_told(alone)}")
    return EngineError(
        f"reward '{part.name}' failed on {len(samples)} completions from {_name(samples[0], 0)} on, "
        f"but on none of them alone: {_told(error)}"
    )


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error} ({place_of(error)})"


def _name(sample: Sample, at: int) -> str:
    shown = sample.completion if len(sample.completion) <= 60 else sample.completion[:57] + "..."
    return f"completion {at} (row {sample.row} of the data set): {shown!r}"
