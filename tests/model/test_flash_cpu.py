"""A CPU's attention in parts, joined by their normalisers, against one softmax over all visible tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alignloop.model import flash_cpu
from alignloop.model.attention import shared_prefix_attention
from tests.model.test_flex import LAYOUTS, row_of, visible_pairs

HEADS, SIZE = 6, 8


def dense(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """Every query against every key, the invisible ones at −∞; float64."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(hidden, -math.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def drawn(num_tokens: int, key_heads: int, dtype: torch.dtype) -> list[Tensor]:
    """Query, key, value as projections make them, as (1, heads, N, D), and the output's weights."""
    torch.manual_seed(0)
    shapes = [(1, num_tokens, heads, SIZE) for heads in (HEADS, key_heads, key_heads, HEADS)]
    *inputs, weights = (torch.randn(shape, dtype=torch.float64).mul_(2.0).to(dtype) for shape in shapes)
    return [*(x.transpose(1, 2).requires_grad_() for x in inputs), weights]


@pytest.mark.parametrize("key_heads", [1, 2, 6])
@pytest.mark.parametrize("name", LAYOUTS)
def test_numbers_and_gradients_are_the_joint_softmaxs(name: str, key_heads: int) -> None:
    segments = row_of(LAYOUTS[name])
    *inputs, weights = drawn(len(segments.group), key_heads, torch.float64)
    hidden = ~torch.from_numpy(visible_pairs(segments, None))
    expected = dense(*inputs, hidden, 0.3)
    expected_grads = torch.autograd.grad((expected * weights).sum(), inputs)
    got = flash_cpu.packed_flash(*inputs, segments.spans, 0.3)
    grads = torch.autograd.grad((got * weights).sum(), inputs)
    for one, other in zip((got, *grads), (expected, *expected_grads), strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max()) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_worse_than_block_by_block(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = row_of(LAYOUTS["many"])
    *exact, weights = drawn(len(segments.group), 2, torch.float64)
    hidden = ~torch.from_numpy(visible_pairs(segments, None))
    rounded = [x.detach().to(dtype).requires_grad_() for x in exact]
    reference = [x.detach().double().requires_grad_() for x in rounded]
    expected = dense(*reference, hidden, SIZE**-0.5)
    wanted = (expected, *torch.autograd.grad((expected * weights).sum(), reference))
    errors = []
    for whole in (True, False):
        if not whole:
            monkeypatch.setattr(flash_cpu, "suits", lambda *_: False)
        out, _ = shared_prefix_attention(torch.nn.Identity(), *rounded, None, segments=segments)
        found = (out, *torch.autograd.grad((out * weights).sum(), rounded))
        errors.append([float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)])
    for joined, blocks in zip(*errors, strict=True):
        assert joined <= 1.5 * blocks + 1e-8, errors


def test_keys_are_kept_once_for_all_completions_and_query_heads() -> None:
    segments = row_of([(40, (20,) * 8)])
    *inputs, weights = drawn(len(segments.group), 2, torch.float32)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out, _ = shared_prefix_attention(torch.nn.Identity(), *inputs, None, segments=segments)
    normalizers = len(segments.group) * HEADS * 4
    assert sum(kept) == sum(x.nbytes for x in inputs) + out.nbytes + normalizers
    (out * weights).sum().backward()


@pytest.mark.parametrize("key", ["dropout", "softcap", "sliding_window"])
def test_what_it_cannot_do_goes_block_by_block(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = row_of(LAYOUTS["short"])
    *inputs, _ = drawn(len(segments.group), 2, torch.float32)
    called: list[int] = []
    monkeypatch.setattr(flash_cpu, "packed_flash", lambda *_: called.append(1) or inputs[0])
    value = {"dropout": 0.1, "softcap": 5.0, "sliding_window": 4}[key]
    shared_prefix_attention(torch.nn.Identity(), *inputs, None, segments=segments, **{key: value})
    assert not called
    shared_prefix_attention(torch.nn.Identity(), *inputs, None, segments=segments, sliding_window=20)
    assert called  # a window that hides nothing


def test_values_of_another_size_than_keys_go_block_by_block() -> None:
    segments = row_of(LAYOUTS["short"])
    query, key, value, _ = drawn(len(segments.group), 2, torch.float64)
    narrow = value[..., :5]
    out, _ = shared_prefix_attention(torch.nn.Identity(), query, key, narrow, None, segments=segments)
    whole = flash_cpu.packed_flash(query, key, value, segments.spans, SIZE**-0.5)
    assert torch.allclose(out, whole[..., :5], rtol=0, atol=1e-12)
