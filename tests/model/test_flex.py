"""The GPU's attention: its blocks against every pair of tokens, its numbers against those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from alignloop.data.packing import Group, Segments, collate, completion
from alignloop.model.attention import shared_prefix_attention
from alignloop.model.compiled import compile_layers
from alignloop.model.flex import BLOCK, block_layout, block_mask, packed_flex
from alignloop.model.packed import PackedModel
from tests.helpers_models import random_model

LAYOUTS = {
    "short": [(11, (5, 9, 1)), (1, (12,)), (0, (8, 3))],
    "blocks seen whole": [(300, (200, 40)), (0, (513,)), (128, (128, 128))],
    "many": [(70, (30,) * 7), (5, (260, 260, 1)), (129, (1,))],
}


def row_of(layout: list[tuple[int, tuple[int, ...]]]) -> Segments:
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(3, 97, length).astype(np.int32)

    return collate([Group(ids(p), tuple(completion(ids(n)) for n in ns)) for p, ns in layout]).segments


def visible_pairs(segments: Segments, window: int | None) -> np.ndarray:
    """(N, N), query × key, pair by pair."""
    group, branch, position = (t.numpy() for t in (segments.group, segments.branch, segments.position))
    num = len(group)
    pairs = np.zeros((num, num), dtype=bool)
    for q in range(num):
        for k in range(q + 1):
            near = window is None or position[q] - position[k] < window
            pairs[q, k] = group[q] == group[k] and branch[k] in (0, branch[q]) and near
    return pairs


@pytest.mark.parametrize("window", [None, 6, 150])
@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_are_those_of_the_pairs(name: str, window: int | None) -> None:
    segments = row_of(LAYOUTS[name])
    pairs = visible_pairs(segments, window)
    size = -(-len(pairs) // BLOCK)
    filled = np.zeros((size * BLOCK, size * BLOCK), dtype=bool)
    filled[: len(pairs), : len(pairs)] = pairs
    blocks = filled.reshape(size, BLOCK, size, BLOCK).transpose(0, 2, 1, 3)
    some, whole = block_layout(segments.spans, window)
    seen, all_seen = blocks.any((2, 3)), blocks.all((2, 3))
    assert not (seen & ~some).any()  # nothing that is visible is skipped
    assert not (whole & ~all_seen).any()  # nothing that is hidden goes unmasked
    if window is None:
        assert np.array_equal(some, seen)
        assert np.array_equal(whole, all_seen)
    mask = block_mask(segments, window)
    assert mask.seq_lengths == (len(pairs), len(pairs))
    assert np.array_equal(mask.to_dense()[0, 0].bool().numpy(), some)
    q, k = torch.meshgrid(torch.arange(len(pairs)), torch.arange(len(pairs)), indexing="ij")
    zero = torch.zeros((), dtype=torch.long)
    assert np.array_equal(mask.mask_mod(zero, zero, q, k).numpy(), pairs)


def test_some_blocks_are_seen_whole_and_some_not_at_all() -> None:
    """Else the comparison above would say little."""
    some, whole = block_layout(row_of(LAYOUTS["blocks seen whole"]).spans, None)
    assert whole.sum() >= 5
    assert (~np.tril(some) & np.tril(np.ones_like(some))).sum() >= 20


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (6, None), (None, 2.0)])
def test_numbers_are_the_cpus(window: int | None, softcap: float | None) -> None:
    """Forward only: torch has no backward of flex attention on a CPU."""
    segments = row_of(LAYOUTS["short"])
    num = len(segments.group)
    generator = torch.Generator().manual_seed(0)

    def drawn(heads: int) -> Tensor:
        return torch.randn(1, heads, num, 8, generator=generator, dtype=torch.float64)

    query, key, value = drawn(4), drawn(2), drawn(2)
    found = packed_flex(query, key, value, segments, scaling=0.3, window=window, softcap=softcap)
    expected, _ = shared_prefix_attention(
        torch.nn.Identity(), query, key, value, None,
        segments=segments, scaling=0.3, sliding_window=window, softcap=softcap,
    )  # fmt: skip
    assert torch.allclose(found, expected, atol=1e-6)  # the CPU's soft cap works in float32


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_queries_and_keys_take_the_values_type() -> None:
    """Under autocast the rotary embedding turns them into float32."""
    segments = row_of(LAYOUTS["short"])
    shape = (1, 2, len(segments.group), 8)
    query, key, value = torch.randn(shape), torch.randn(shape), torch.randn(shape).bfloat16()
    out = packed_flex(query, key, value, segments, scaling=None, window=None, softcap=None)
    assert out.dtype == torch.bfloat16


def small_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return random_model(config)


def groups(seed: int, layout: str = "short") -> list[Group]:
    rng = np.random.default_rng(seed)

    def ids(length: int) -> np.ndarray:
        return rng.integers(3, 97, length).astype(np.int32)

    return [Group(ids(p), tuple(completion(ids(n + seed)) for n in ns)) for p, ns in LAYOUTS[layout]]


def test_compiled_layers_give_the_same_numbers() -> None:
    model = small_model()
    batches = [collate(groups(seed)) for seed in range(2)]
    packed = PackedModel(model, shared_prefix=True)
    expected = [packed(batch).logprobs for batch in batches]
    weights = list(model.state_dict())
    torch._dynamo.reset()
    assert len(compile_layers(model, backend="eager")) == 2
    for batch, numbers in zip(batches, expected, strict=True):
        found = packed(batch).logprobs
        assert torch.allclose(found, numbers, atol=1e-6)
    found.sum().backward()
    assert all(p.grad is not None for p in model.model.layers.parameters())
    assert list(model.state_dict()) == weights


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compiled", [False, True])
def test_gpu_gives_the_cpus_logprobs_and_gradients(layout: str, compiled: bool) -> None:
    batch = collate(groups(0, layout))
    found = {}
    for device in ("cpu", "cuda"):
        model = small_model().to(device)  # pyright: ignore[reportArgumentType]
        if compiled and device == "cuda":
            compile_layers(model)
        logprobs = PackedModel(model, shared_prefix=True)(batch).logprobs
        logprobs.sum().backward()
        gradient = model.model.layers[0].self_attn.q_proj.weight.grad
        found[device] = (logprobs.detach().cpu(), gradient.cpu())
    for mine, reference in zip(found["cuda"], found["cpu"], strict=True):
        assert torch.allclose(mine, reference, atol=1e-3 * float(reference.abs().max()))


@pytest.mark.gpu
def test_gpu_trains_in_bfloat16() -> None:
    model = PackedModel(small_model().cuda(), shared_prefix=True)  # pyright: ignore[reportArgumentType]
    batch = collate(groups(0))
    expected = model(batch).logprobs
    with torch.autocast("cuda", torch.bfloat16):
        logprobs = model(batch).logprobs
    logprobs.sum().backward()
    assert logprobs.dtype == torch.float32
    assert torch.allclose(logprobs, expected, atol=0.05)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.hf.parameters())
