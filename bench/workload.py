"""Tokenized workloads that both sides of a comparison train on, and the arithmetic they need.

Lengths are log-normal with σ 0.6, as real chat data are skewed; ids are random, so that no side can
profit from their content. A workload is a list of optimizer steps, each a list of groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignloop.data.packing import Completion, Group

SIGMA = 0.6
PACKED_LENGTH = 512
PACKED_ROWS = 4
_FIRST_ID = 100  # below it: special tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """Numbers of groups, completions of a group, and mean lengths in tokens."""

    groups: int
    completions: int
    prompt: float
    completion: float


PAIRS = Shape(4, 2, 180, 75)
SHAPES = {
    "sft": Shape(8, 1, 70, 130),
    "sft-packed": Shape(0, 1, 70, 130),
    "reward": PAIRS,
    "dpo": PAIRS,
    "dpo-precomputed": PAIRS,
    "ipo": PAIRS,
    "orpo": PAIRS,
    "kto": Shape(8, 2, 180, 75),
    "kto-cached": Shape(8, 2, 180, 75),
    "dpo-lora": PAIRS,
    "ranking": Shape(2, 4, 120, 120),
    "grpo": Shape(2, 8, 180, 64),  # four groups take TRL above 24 GB
}
"""By method. The second completion of KTO's groups is another row's, for its KL term."""

METHODS = tuple(SHAPES)


def make_steps(
    method: str,
    num_steps: int,
    *,
    seed: int = 0,
    scale: float = 1.0,
    vocab_size: int = 40_000,
    shape: Shape | None = None,
) -> list[list[Group]]:
    """The groups of each optimizer step; the same for the same arguments.

    Args:
        method: one of `METHODS`.
        num_steps: optimizer steps.
        seed: of lengths and ids.
        scale: factor of all lengths; below 1 for a quick try.
        vocab_size: ids stay below it.
        shape: instead of the method's own in `SHAPES`.

    Raises:
        ValueError: an unknown method.
    """
    if method not in SHAPES:
        raise ValueError(f"unknown method '{method}'; one of: {', '.join(METHODS)}")
    shape = shape or SHAPES[method]
    draw = _Draw(np.random.default_rng([seed, sum(map(ord, method.split("-")[0]))]), scale, vocab_size)
    steps = []
    for step in range(num_steps):
        if method == "sft-packed":
            groups = _filled_rows(draw, shape)
        else:
            groups = [_group(draw, method, shape) for _ in range(shape.groups)]
        if method.startswith("kto"):
            groups = _with_mismatched(groups)
        start = step * len(groups)
        steps.append([Group(g.prompt_ids, g.completions, start + i, g.values) for i, g in enumerate(groups)])
    return steps


@dataclass(frozen=True, slots=True)
class _Draw:
    """Random lengths and ids."""

    rng: np.random.Generator
    scale: float
    vocab_size: int

    def length(self, mean: float) -> int:
        """Log-normal with the given mean, between 4 tokens and four times the mean."""
        mean *= self.scale
        drawn = self.rng.lognormal(math.log(mean) - SIGMA**2 / 2, SIGMA)
        return int(np.clip(round(drawn), 4, max(4, 4 * mean)))

    def ids(self, length: int) -> np.ndarray:
        return self.rng.integers(_FIRST_ID, self.vocab_size, length).astype(np.int32)

    def completion(self, length: int, **values: np.ndarray) -> Completion:
        return Completion(self.ids(length), np.ones(length, dtype=bool), values)


def _group(draw: _Draw, method: str, shape: Shape) -> Group:
    prompt = draw.ids(draw.length(shape.prompt))
    if method == "grpo":  # rollouts that all ran to the limit, as random samples without an end do
        length = max(4, round(shape.completion * draw.scale))
        advantages = draw.rng.standard_normal(shape.completions)
        advantages = (advantages - advantages.mean()) / advantages.std()
        completions = [draw.completion(length, advantages=np.full(length, a)) for a in advantages]
        return Group(prompt, tuple(completions))
    count = 1 if method.startswith("kto") else shape.completions
    completions = [draw.completion(draw.length(shape.completion)) for _ in range(count)]
    if method == "ranking":
        return Group(prompt, tuple(completions), values={"ranks": np.arange(1.0, count + 1)})
    if method == "orpo":
        return Group(prompt, tuple(completions), values={"prompt_tokens": float(len(prompt) - 1)})
    return Group(prompt, tuple(completions))


def _with_mismatched(groups: Sequence[Group]) -> list[Group]:
    """KTO's groups: the row's own completion, then that of the row before it; every other row is good."""
    result = []
    for i, group in enumerate(groups):
        desirable = i % 2 == 0
        values = {"desirable": np.array([desirable] * 2), "mismatched": np.array([False, True])}
        both = (group.completions[0], groups[i - 1].completions[0])
        result.append(Group(group.prompt_ids, both, values=values))
    return result


def _filled_rows(draw: _Draw, shape: Shape) -> list[Group]:
    """Demonstrations that fill `PACKED_ROWS` rows of `PACKED_LENGTH` tokens exactly, in order."""
    limit = max(32, round(PACKED_LENGTH * draw.scale))
    groups = []
    for _ in range(PACKED_ROWS):
        room = limit
        while room:
            prompt, completion = draw.length(shape.prompt), draw.length(shape.completion)
            if prompt + completion > room - 8:  # the last of the row takes what is left
                prompt = min(prompt, room // 2)
                completion = room - prompt
            groups.append(Group(draw.ids(prompt), (draw.completion(completion),)))
            room -= prompt + completion
    return groups


def packed_rows(groups: Sequence[Group], limit: int = PACKED_LENGTH) -> list[list[Group]]:
    """The rows that `_filled_rows` made: consecutive groups of `limit` tokens together."""
    rows: list[list[Group]] = [[]]
    for group in groups:
        if sum(g.num_tokens for g in rows[-1]) + group.num_tokens > limit:
            rows.append([])
        rows[-1].append(group)
    return rows


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the arithmetic of a decoder needs: parameters of its layers (without embedding and head), …"""

    layer_parameters: int
    vocab_size: int
    hidden_size: int
    num_layers: int
    attention_width: int


def useful_tokens(groups: Sequence[Group]) -> int:
    """Tokens of a step: each prompt once, and the completions."""
    return sum(group.num_tokens for group in groups)


def useful_flops(method: str, groups: Sequence[Group], model: Architecture) -> float:
    """Floating-point operations that a step needs, each prompt computed once and nothing recomputed.

    A forward pass costs 2 for each weight and token, a backward pass 4 (2 where the weights are
    frozen). The head runs over completion tokens only. The attention of a token over n visible keys
    costs 4·n·width a layer, forward; its backward twice that. A reference in the step is one more
    forward pass; KTO's mismatched completions need no backward pass.
    """
    dense = method != "reward" and method != "ranking"
    reference = method in ("dpo", "ipo", "kto", "dpo-lora", "grpo")
    backward = 1.0 if method == "dpo-lora" else 2.0  # times the forward pass of the dense layers
    total = 0.0
    for group in groups:
        lengths = [len(c.ids) for c in group.completions]
        learning = lengths[:1] if method.startswith("kto") else lengths
        prompt = len(group.prompt_ids)
        for counted, weight, passes in ((lengths, 1.0 + reference, 0.0), (learning, 0.0, 1.0)):
            tokens = prompt + sum(counted)
            scored = sum(counted) + (prompt - 1 if method == "orpo" else 0)
            visible = prompt * (prompt + 1) / 2
            visible += sum(n * prompt + n * (n + 1) / 2 for n in counted)
            matrices = (
                2 * model.layer_parameters * tokens
                + 2 * model.vocab_size * model.hidden_size * scored * dense
            )
            attention = 4 * model.num_layers * model.attention_width * visible
            total += matrices * (weight + backward * passes) + attention * (weight + 2 * passes)
    return total
