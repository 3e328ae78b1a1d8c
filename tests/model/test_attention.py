"""Attention of packed rows block by block against one softmax over what each token sees."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignloop.model import attention, flash_cpu
from alignloop.model.attention import Window, shared_prefix_attention
from tests.model.test_flex import row_of, visible_pairs

LAYER = torch.nn.Identity()


def expected_of(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scale: float, softcap: float | None
) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores.masked_fill(hidden, -math.inf).softmax(-1) @ value).transpose(1, 2)


GROUPS = st.lists(
    st.tuples(st.integers(0, 6), st.lists(st.integers(1, 6), min_size=1, max_size=3)), min_size=1, max_size=3
)


@given(
    groups=GROUPS,
    window=st.one_of(st.none(), st.integers(1, 13)),
    softcap=st.sampled_from([None, 0.7]),
    scaling=st.sampled_from([None, 0.3]),
    whole=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_each_token_sees_its_own_branch_and_its_prompt(
    groups: list[tuple[int, list[int]]],
    window: int | None,
    softcap: float | None,
    scaling: float | None,
    whole: bool,
) -> None:
    segments = row_of([(prompt, tuple(lengths)) for prompt, lengths in groups])
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, len(segments.group), 4) for heads in (4, 2, 2)]
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    hidden = ~torch.from_numpy(visible_pairs(segments, window))
    expected = expected_of(query, key, value, hidden, scaling or 0.5, softcap)
    with pytest.MonkeyPatch.context() as patch:
        if not whole:
            patch.setattr(flash_cpu, "suits", lambda *_: False)
        arguments: Any = {"segments": segments, "scaling": scaling, "softcap": softcap}
        found, _ = shared_prefix_attention(LAYER, query, key, value, None, sliding_window=window, **arguments)
        again, _ = shared_prefix_attention(LAYER, query, key, value, None, sliding_window=window, **arguments)
        assert torch.equal(found, again)  # with the masks that are kept now
        if window is not None:
            for size, other in ((window, None), (window, window + 3), (window + 3, window)):
                told, _ = shared_prefix_attention(
                    LAYER, query, key, value, Window(size)[:, None], sliding_window=other, **arguments
                )
                assert torch.equal(told, found)
    # a soft cap's weights are rounded to float32
    assert (found - expected).abs().max() <= (1e-5 if softcap else 1e-12)
    assert found.is_contiguous()


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 3])
def test_dropout_leaves_out_weights_and_scales_the_rest(softcap: float | None, window: int | None) -> None:
    """With one key visible the result is 0 or twice the value; on average it is the value."""
    segments = row_of([(0, (1,) * 1)] * 2000)
    num = len(segments.group)
    x = torch.ones(1, 2, num, 4)
    arguments: Any = {"segments": segments, "softcap": softcap, "sliding_window": window}
    out, _ = shared_prefix_attention(LAYER, x, x, x, None, dropout=0.5, **arguments)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert abs(float(out.mean()) - 1) < 0.1  # 4000 draws: 0.016 is one standard deviation
    still, _ = shared_prefix_attention(LAYER, x, x, x, None, dropout=0.0, **arguments)
    assert torch.allclose(still, torch.ones_like(still))


def config(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


def test_what_stands_for_a_mask() -> None:
    assert attention._mask(config=config()) is None
    assert attention._mask(1, 2, config=config(sliding_window=7), local_size=None, dtype=None) is None
    window = attention._mask(config=config(sliding_window=7), local_size=7)
    assert window == Window(7)
    assert window is not None
    assert window[:, :3] == Window(7)
    with pytest.raises(NotImplementedError, match="combines masks"):
        attention._mask(config=config(), use_vmap=True)
    for wrong in (config(), config(sliding_window=8)):
        with pytest.raises(NotImplementedError, match="is cut into chunks"):
            attention._mask(config=wrong, local_size=7)
    with pytest.raises(NotImplementedError, match="may be cut into chunks"):
        attention._mask(config=config(sliding_window=7, attention_chunk_size=7), local_size=7)
    other = config(sliding_window=7, attention_chunk_size=9)
    assert attention._mask(config=other, local_size=7) == Window(7)


def test_what_flash_attention_takes() -> None:
    x, wide = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    assert flash_cpu.suits(x, x, x)
    for three in ((wide, x, x), (x, wide, x), (x, x, wide), (x, x, x[..., :3])):
        assert not flash_cpu.suits(*three)
    meta = x.to("meta")
    assert not flash_cpu.suits(meta, meta, meta)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("window", [None, 3])
def test_bfloat16_on_a_cpu_rounds_once_at_the_end(autocast: bool, window: int | None) -> None:
    torch.manual_seed(0)
    segments = row_of([(5, (4, 3)), (3, (6,))])
    inputs = [torch.randn(1, 2, len(segments.group), 8).bfloat16().requires_grad_() for _ in range(3)]
    weights = torch.randn(1, len(segments.group), 2, 8).bfloat16()

    def attend(tensors: list[Tensor]) -> list[Tensor]:
        out, _ = shared_prefix_attention(
            torch.nn.Identity(), *tensors, None, segments=segments, sliding_window=window
        )
        return [out, *torch.autograd.grad((out * weights).sum(), tensors)]

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = attend(inputs)
    exact = attend([x.detach().float().requires_grad_() for x in inputs])
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, other.bfloat16())
