"""Small random models of any architecture, and how far rounding may move what they compute."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from alignloop.model.sampling import SamplingParams, completion_seeds, uniforms


def random_model(config: PreTrainedConfig, *, scale: float = 1.0, seed: int = 0) -> Any:
    """A model of this configuration in eval mode.

    Args:
        config: of any decoder that transformers knows.
        scale: of matrices; 3 makes attention and logits far from uniform.
        seed: its weights are drawn from; it becomes the global one.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model


def exact_copy(model: Any) -> Any:
    """A copy in float64; mixtures of experts run their plain form there, the fused one knows no float64."""
    copied = copy.deepcopy(model).double()
    if isinstance(copied, PreTrainedModel) and getattr(copied.config, "num_local_experts", None):
        copied.set_experts_implementation("eager")
    return copied


def relative_error(n: int, dtype: torch.dtype = torch.float32) -> float:
    """Relative error of each term of a sum of n products, in any order, with or without fused multiply-adds.

    min(n, 4·√n)·u with unit roundoff u: n·u is the worst case (Higham, Accuracy and Stability of Numerical
    Algorithms, 2002, section 3.1), 4·√n·u holds with probability above 0.999 (Higham and Mary, 2019,
    theorem 2.4).
    """
    return min(n, 4 * n**0.5) * torch.finfo(dtype).eps / 2


def relative_distance(got: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """Euclidean distance of each tensor from the expected one over that one's length, float64."""
    pairs = zip(got, expected, strict=True)
    return torch.stack([(a.double() - b.double()).norm() / b.double().norm() for a, b in pairs])


def relative_bound(
    model: nn.Module, read: Callable[[Any], Sequence[Tensor]], *, length: int
) -> tuple[list[Tensor], float]:
    """Exact tensors, float64, and a bound of rounding in float32: distance from one over that one's length.

    Args:
        model: any module; it is left as it was.
        read: what a test reads, gradients for instance, none of them zero.
        length: tokens that attention sums over.
    """
    exact = [tensor.detach() for tensor in read(exact_copy(model))]
    return exact, rounding_bound(model, lambda moved: relative_distance(read(moved), exact), length=length)


def rounding_bound(
    model: nn.Module,
    read: Callable[[Any], Tensor],
    *,
    length: int,
    dtype: torch.dtype = torch.float32,
    draws: int = 3,
) -> float:
    """Bound how far rounding moves what a model computes, whatever the processor and the order of sums.

    A computed dot product is the exact one with each factor moved by `relative_error`. So a copy of the
    model in float64 is read with all its weights moved by that much, signs at random, and the bound is the
    largest change. n is the longer of a weight's rows and of the attention's sums.

    Args:
        model: any module; it is left as it was.
        read: what a test reads, from the model or a copy of it; any shape, finite numbers.
        length: tokens that attention sums over.
        dtype: whose unit roundoff is taken.
        draws: sets of random signs.

    Returns:
        The bound in the unit of what is read. Measured errors are a tenth of it.
    """
    unit = torch.finfo(dtype).eps / 2
    generator = torch.Generator().manual_seed(0)
    exact = exact_copy(model)
    worst = 0.0
    expected = read(exact).detach().double()
    for _ in range(draws):
        moved = copy.deepcopy(exact)
        for weight in moved.parameters():
            n = max(length, weight.shape[-1] if weight.dim() else 1)
            signs = torch.randint(0, 2, weight.shape, generator=generator).double() * 2 - 1
            weight.data.mul_(1 + relative_error(n, dtype) * signs)
        worst = max(worst, float((read(moved).detach().double() - expected).abs().max()))
    # and the result itself is rounded
    return worst + unit * float(expected.abs().max())


def assert_same_but_for_ties(
    model: Any,
    prompt: Sequence[int],
    params: SamplingParams,
    one: Sequence[int],
    other: Sequence[int],
    *,
    seed: int = 0,
) -> None:
    """Assert that two completions are equal up to a token that rounding decides.

    Where they first differ both tokens must be what the exact distribution gives within `rounding_bound`:
    the most probable ones at temperature 0, else those on either side of the uniform number that draws.

    Args:
        model: the one that both come from, in float32; a repetition penalty, top-p and min-p are not known.
        prompt: token ids before them.
        params: how both were drawn.
        one: a completion's token ids.
        other: the other's.
        seed: the seed of both.
    """
    place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if place is None:
        assert len(one) == len(other)
        return
    ids = torch.tensor([[*prompt, *one[:place]]])

    def read(some_model: Any) -> Tensor:
        with torch.no_grad():
            return some_model(ids).logits[0, -1].log_softmax(-1)

    exact = read(exact_copy(model))
    bound = 2 * rounding_bound(model, read, length=ids.shape[1])
    low, high = sorted((one[place], other[place]))
    if params.temperature == 0:
        assert exact.max() - exact[[low, high]].min() <= bound, (place, low, high)
        return
    bound /= params.temperature
    scaled = (exact / params.temperature).log_softmax(-1)
    if params.top_k:
        *_, last, next_one = scaled.topk(params.top_k + 1).values
        if last - next_one <= bound:  # which token is kept hangs on rounding too
            return
        scaled = scaled.masked_fill(scaled < last, -torch.inf).log_softmax(-1)
    number = uniforms(seed, place + 1)[place]
    edges = scaled.exp().cumsum(-1)[low:high]
    assert (edges - number).abs().max() <= bound, (place, low, high)


def assert_rows_same_but_for_ties(
    model: Any, prompts: Sequence[Sequence[int]], params: SamplingParams, *results: Sequence[Sequence[Any]]
) -> None:
    """Assert it of every completion of some generations with the seeds that `generate` derives.

    Args:
        model: as for one pair.
        prompts: their token ids.
        params: the same for all.
        results: [prompt][n] completions; those that not all have are not compared.
    """
    n = max(len(row) for result in results for row in result)
    seeds = completion_seeds(params.seed, len(prompts), n)
    for left, right in pairwise(results):
        for prompt, row, a, b in zip(prompts, seeds, left, right, strict=True):
            for seed, one, other in zip(row, a, b, strict=False):
                assert_same_but_for_ties(model, prompt, params, one.ids, other.ids, seed=seed)
