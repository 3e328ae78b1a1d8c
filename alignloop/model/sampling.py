"""Drawing tokens: one uniform number per token, no sorting of the vocabulary unless truncation asks for it.

R rows, V vocabulary. A token is the inverse of its row's cumulative distribution at a uniform number
that depends only on the completion's seed and the token's place in it, so what else is in the batch
changes a draw only through rounding of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignloop.errors import ConfigError

BLOCK = 256
"""Entries summed together when a cumulative distribution is searched."""
NUCLEUS = 1024
"""Largest entries looked at first when top-p is computed; the whole row is sorted if they do not reach p."""


Best = tuple[tuple[int, float], ...]
"""Tokens and their log-probs in nats, the most probable first; tokens of probability 0 are left out."""


class Drawn(NamedTuple):
    """Tokens, int64 (R,), their log-probs in nats, float32 (R,), and R rows of most probable tokens."""

    tokens: Tensor
    logprobs: Tensor
    best: list[Best]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn. Applied in this order: penalty, temperature, top-k, top-p, min-p.

    Attributes:
        temperature: the logits are divided by it; 0 takes the most probable token.
        top_k: keep the k most probable tokens (and those tied with the k-th); 0 keeps all.
        top_p: keep the fewest most probable tokens whose mass reaches p (and ties); 1 keeps all.
        min_p: keep tokens with at least this fraction of the largest probability; 0 keeps all.
        repetition_penalty: logits of tokens in the prompt or the completion are divided by it where
            positive and multiplied where negative (1909.05858, section 4.1); 1 is off.
        max_tokens: length of a completion in tokens, the end token included.
        stop: the completion ends when its text contains one of these; the text is cut before it.
        seed: what the seeds of completions are derived from if they are not given.
        eos: tokens that end a completion; None takes the model's and the tokenizer's, () none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0
    eos: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        findings = [
            (0 <= self.temperature < math.inf, "temperature", "a number from 0", self.temperature),
            (self.top_k >= 0, "top_k", "0 (off) or a positive number", self.top_k),
            (0 < self.top_p <= 1, "top_p", "above 0 and at most 1", self.top_p),
            (0 <= self.min_p <= 1, "min_p", "between 0 and 1", self.min_p),
            (
                0 < self.repetition_penalty < math.inf,
                "repetition_penalty",
                "above 0",
                self.repetition_penalty,
            ),
            (self.max_tokens >= 1, "max_tokens", "at least 1", self.max_tokens),
            (not isinstance(self.stop, str) and all(self.stop), "stop", "non-empty strings", self.stop),
            (self.seed >= 0, "seed", "a number from 0", self.seed),
        ]
        wrong = [
            f"{name}: {value!r} given, {want} needed" for fine, name, want, value in findings if not fine
        ]
        if wrong:
            raise ConfigError(wrong)

    @property
    def truncates(self) -> bool:
        """True if some tokens get probability 0."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def untouched(self) -> bool:
        """True if the log-probs that come with tokens are the model's own, at temperature 1."""
        greedy = self.temperature == 0
        return self.repetition_penalty == 1 and (greedy or (self.temperature == 1 and not self.truncates))


def completion_seeds(seed: int, num_prompts: int, n: int) -> list[list[int]]:
    """Seeds [prompt][n]; each depends on `seed`, the prompt's number and the completion's number only."""
    counters = ([0, prompt, 0, 0] for prompt in range(num_prompts))
    streams = (np.random.Generator(np.random.Philox(key=seed, counter=counter)) for counter in counters)
    return [stream.integers(2**63, size=n).tolist() for stream in streams]


def uniforms(seed: int, count: int) -> np.ndarray:
    """Numbers in [0, 1) that draw a completion's tokens, float64 (count,); a longer series begins alike."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def sample(
    logits: Tensor,
    numbers: Tensor,
    params: Sequence[SamplingParams],
    seen: Sequence[Tensor | None],
    *,
    num_best: Sequence[int],
) -> Drawn:
    """Draw one token per row.

    Args:
        logits: (R, V), any floating type; overwritten if float32.
        numbers: float64 (R,) in [0, 1), on the same device.
        params: R settings.
        seen: for each row the distinct tokens of prompt and completion, int64; None without a penalty.
        num_best: for each row how many of the most probable tokens to report.

    Returns:
        The tokens with log-probs under the distribution drawn from: after penalty, temperature and
        truncation, renormalised. Greedy rows, whose distribution would be a point, report those at
        temperature 1.
    """
    logits = logits.float()
    for row, setting in enumerate(params):
        if setting.repetition_penalty != 1 and (tokens := seen[row]) is not None:
            found = logits[row, tokens]
            factor = setting.repetition_penalty
            logits[row, tokens] = torch.where(found < 0, found * factor, found / factor)
    greedy = [setting.temperature == 0 for setting in params]
    temperatures = [setting.temperature or 1.0 for setting in params]
    if any(t != 1 for t in temperatures):
        logits /= torch.tensor(temperatures, device=logits.device)[:, None]
    cut = [row for row, setting in enumerate(params) if setting.truncates and not greedy[row]]
    if cut:
        rows = torch.tensor(cut, device=logits.device)
        logits[rows] = truncate(logits[rows], [params[row] for row in cut])
    best = logits.argmax(-1) if any(greedy) else None
    tokens, weights, total = _draw(logits, numbers)
    if best is not None:
        tokens = torch.where(torch.tensor(greedy, device=logits.device), best, tokens)
    chosen = weights.gather(1, tokens[:, None]).squeeze(1)
    logprobs = (chosen.double().log() - total.log()).float()
    return Drawn(tokens, logprobs, _most_probable(weights, total, num_best))


def _most_probable(weights: Tensor, total: Tensor, num_best: Sequence[int]) -> list[Best]:
    """The most probable tokens of each row that wants some. (R, V), (R,), R numbers."""
    found: list[Best] = [()] * len(num_best)
    rows = [row for row, number in enumerate(num_best) if number]
    if not rows:
        return found
    values, tokens = weights[rows].topk(min(max(num_best), weights.shape[1]))
    logprobs = (values.double().log() - total[rows, None].log()).float()
    for row, places, numbers in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
        pairs = zip(places[: num_best[row]], numbers, strict=False)
        found[row] = tuple((token, logprob) for token, logprob in pairs if logprob > -math.inf)
    return found


def truncate(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Logits with −∞ for the tokens that top-k, then top-p, then min-p exclude.

    Args:
        logits: float32 (R, V), already divided by the temperature.
        params: R settings.

    Returns:
        float32 (R, V). Tokens tied with the last one kept stay.
    """
    device, vocabulary = logits.device, logits.shape[1]
    ks = torch.tensor([min(p.top_k or vocabulary, vocabulary) for p in params], device=device)
    if any(p.top_k for p in params):
        largest = int(min(max(p.top_k for p in params), vocabulary))
        values = logits.topk(largest).values
        threshold = values.gather(1, (ks.clamp(max=largest) - 1)[:, None])
        logits = logits.masked_fill((logits < threshold) & (ks < vocabulary)[:, None], -math.inf)
    ps = torch.tensor([p.top_p for p in params], device=device)
    if any(p.top_p < 1 for p in params):
        threshold = _nucleus_threshold(logits, ps)
        logits = logits.masked_fill((logits < threshold) & (ps < 1)[:, None], -math.inf)
    if any(p.min_p > 0 for p in params):
        least = torch.tensor([p.min_p for p in params], device=device).log()
        logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + least[:, None], -math.inf)
    return logits


def _nucleus_threshold(logits: Tensor, ps: Tensor) -> Tensor:
    """Smallest logit inside each row's nucleus. (R, V), (R,) → (R, 1)."""
    normalizer = logits.logsumexp(-1, keepdim=True)
    values = logits.topk(min(NUCLEUS, logits.shape[1])).values
    mass = (values - normalizer).exp().cumsum(-1)
    if values.shape[1] < logits.shape[1] and bool((mass[:, -1] < ps).any()):
        values = logits.sort(-1, descending=True).values
        mass = (values - normalizer).exp().cumsum(-1)
    # A token stays while the mass before it is below p, so the most probable one always stays.
    kept = (mass < ps[:, None]).sum(-1, keepdim=True)
    return values.gather(1, kept.clamp(max=values.shape[1] - 1))


def _draw(logits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (R,), unnormalised probabilities (R, V) in the logits' memory, and their sums, float64 (R,)."""
    vocabulary = logits.shape[1]
    weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    whole = vocabulary // BLOCK * BLOCK
    sums = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    if whole < vocabulary:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], 1)
    cumulative = sums.double().cumsum(-1)
    total = cumulative[:, -1]
    block, before = _search(cumulative, numbers * total)
    places = block[:, None] * BLOCK + torch.arange(BLOCK, device=logits.device)
    inside = weights.gather(1, places.clamp(max=vocabulary - 1)).masked_fill(places >= vocabulary, 0)
    inner, _ = _search(inside.double().cumsum(-1), numbers * total - before)
    return block * BLOCK + inner, weights, total


def _search(cumulative: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """First entry whose cumulative sum exceeds the target, and the sum before it.

    The target is kept below the last sum, so an entry of weight 0 is never found. (R, n), (R,) → (R,), (R,).
    """
    last = cumulative[:, -1]
    target = torch.minimum(target, torch.nextafter(last, torch.zeros_like(last)))
    index = (cumulative <= target[:, None]).sum(-1)
    before = cumulative.gather(1, (index - 1).clamp(min=0)[:, None]).squeeze(1)
    return index, torch.where(index > 0, before, torch.zeros_like(before))
