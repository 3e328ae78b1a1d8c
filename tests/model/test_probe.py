"""The probe's parts: what is a tie, how long rows are, which windows are made small, what is widened."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignloop.errors import ModelError
from alignloop.model import probe
from alignloop.model.finite import non_finite_weight
from alignloop.model.probe import (
    _common_width,
    _probe,
    _smaller,
    _Ties,
    check_finite,
    difference,
    in_float32,
    long_probe,
    own_logprobs,
    small_windows,
    vocabulary_of,
)
from alignloop.model.rope import LengthKinds
from bench import zoo


def found(*arguments: Any, **named: Any) -> bool:
    with _Ties() as ties:
        torch.topk(*arguments, **named)
    return ties.found


def test_a_tie_is_a_choice_among_equals() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
    assert not found(scores, 1)
    assert found(scores, 2)  # one of the two 2s
    assert not found(scores, 3)  # both
    assert not found(scores, 4)
    assert found(scores.T, 2, 0)
    assert found(scores.T, 2, dim=0)
    assert found(scores, 1, 0)
    assert not found(scores[:, :2], 1, 0)
    assert found(torch.tensor([1.0, 1.0]), 1)
    assert found(input=torch.tensor([1.0, 1.0]), k=1)


def test_a_tie_of_the_smallest_and_of_what_a_mask_left_out() -> None:
    scores = torch.tensor([3.0, 1.0, 1.0, 2.0])
    assert not found(scores, 1)
    assert found(scores, 1, -1, False)
    assert found(scores, 1, largest=False)
    assert not found(scores, 2, -1, False)
    assert not found(scores, 3, -1, False)
    for hidden in (-torch.inf, -1e30, torch.finfo(torch.float32).min):
        masked = torch.tensor([3.0, hidden, hidden])
        assert not found(masked, 2)
        assert not found(-masked, 2, largest=False)
    assert found(torch.tensor([3.0, -9e29, -9e29]), 2)


def test_a_tie_stays_found_and_other_functions_are_none() -> None:
    equal = torch.ones(3)
    with _Ties() as ties:
        equal.sort()
        torch.topk(torch.ones(0, 3), 2)
        torch.topk(torch.ones(3), 0)
        assert not ties.found
        equal.topk(2)
        torch.topk(torch.arange(3.0), 1)
    assert ties.found


def model_with(**fields: Any) -> Any:
    """A model for functions that read its configuration only."""
    text = SimpleNamespace(**{"vocab_size": 50, **fields})
    config = SimpleNamespace(get_text_config=lambda decoder=False: text)
    return SimpleNamespace(config=config, device=torch.device("cpu"), modules=lambda: [])


@pytest.fixture
def no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "head_transform", lambda hf: SimpleNamespace(vocabulary=None))


@pytest.mark.usefixtures("no_head")
@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, 72),
        ({"chunk_size": 100}, 108),
        ({"mamba_chunk_size": 256, "chunk_size": 100}, 264),
        ({"chunk_size": 257}, 72),  # longer than is tried
        ({"chunk_size": 16}, 72),
        ({"attention_block_size": 200}, 208),
        ({"chunk_sizes": 200, "my_chunk_size_s": 200, "mychunk_size": 200, "chunk_size": "200"}, 72),
        ({"chunk_size": True}, 72),
        ({"max_position_embeddings": 30}, 30),
        ({"max_position_embeddings": 1}, 2),
        ({"chunk_size": 100, "max_position_embeddings": 104}, 104),
    ],
    ids=str,
)
def test_the_long_row_is_longer_than_the_chunks(fields: dict[str, Any], tokens: int) -> None:
    batch = long_probe(model_with(**fields))
    assert batch.num_tokens == tokens
    (span,) = batch.segments.spans
    assert (span.prompt_length, span.lengths) == (tokens // 2, (tokens - tokens // 2,))
    assert int(batch.input_ids.min()) >= 3
    assert int(batch.input_ids.max()) < 50


@pytest.mark.parametrize(
    ("size", "with_logits", "expected"),
    [(50, None, 50), (50, 40, 40), (5000, None, 1000), (5000, 1200, 1000)],
)
def test_tokens_of_a_probe_are_those_with_a_logit(
    size: int, with_logits: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "head_transform", lambda hf: SimpleNamespace(vocabulary=with_logits))
    assert vocabulary_of(model_with(vocab_size=size)) == expected


@pytest.mark.parametrize(("high", "low"), [(1000, 3), (4, 3), (3, 2), (2, 1), (1, 0)])
def test_the_probe_has_two_groups_of_tokens_below_the_vocabulary(high: int, low: int) -> None:
    groups = _probe(high)
    assert [len(group.prompt_ids) for group in groups] == [7, 2]
    assert [[len(c.ids) for c in group.completions] for group in groups] == [[5, 4], [3]]
    assert [group.index for group in groups] == [0, 1]
    ids = np.concatenate([x for g in groups for x in (g.prompt_ids, *(c.ids for c in g.completions))])
    assert ids.min() >= low
    assert ids.max() < high
    if high == 1000:
        assert len(set(ids.tolist())) > 15
        assert ids.dtype == np.int32


@pytest.mark.parametrize(
    ("limit", "positions", "longest", "expected"),
    [
        (None, None, 12, 16),
        (None, 14, 12, 14),
        (None, 12, 12, 12),
        (None, 1000, 20, 20),
        (15, None, 12, 15),
        (15, 14, 12, 14),
        (12, None, 12, 12),
        (11, None, 12, None),
        (1000, None, 12, 16),
    ],
)
def test_rows_are_continued_to_one_width_where_frequencies_allow_it(
    limit: int | None,
    positions: int | None,
    longest: int,
    expected: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = None if limit is None else LengthKinds(limit, False, lambda: None)
    monkeypatch.setattr(probe, "length_kinds", lambda hf: kinds)
    assert _common_width(model_with(max_position_embeddings=positions), longest) == expected


@pytest.mark.parametrize(
    ("held", "small"),
    [
        ({"sliding_window": 5}, {"sliding_window": 4}),
        ({"sliding_window": 4}, {}),
        ({"sliding_window": None, "window_size": 9, "window": 8}, {"window_size": 4, "window": 4}),
        ({"sliding_window": True, "attention_chunk_size": "9"}, {}),
        ({"sliding_window": 4096.0}, {}),
        ({"window_sizes": 9, "windowed": 9, "mywindow": 9}, {}),
        (
            {"attention_chunk_size": 9, "index_topk": 9, "local_attention": 9, "token_budget": 9},
            {"attention_chunk_size": 4, "index_topk": 4, "local_attention": 4, "token_budget": 4},
        ),
        ({"log_scaling_n_floor": 9, "floor_scale": 9}, {"log_scaling_n_floor": 4, "floor_scale": 4}),
        # blocks are few and short where a layer selects some of them, else their size limits nothing
        ({"block_size": 9}, {}),
        ({"index_topk_blocks": 9, "index_block_size": 9}, {"index_topk_blocks": 2, "index_block_size": 2}),
        ({"topk_blocks": 2, "block_size": 3}, {"block_size": 2}),
        ({"other": 9}, {}),
    ],
    ids=str,
)
def test_what_limits_how_far_a_layer_sees_is_made_small(held: dict[str, Any], small: dict[str, int]) -> None:
    assert dict(_smaller(held)) == small


def test_windows_are_put_back_after_an_error_too() -> None:
    model: Any = zoo.tiny("gemma2", sliding_window=100)
    with pytest.raises(ZeroDivisionError), small_windows(model):
        _ = 1 / (model.config.sliding_window - 4)
    assert model.config.sliding_window == model.model.layers[0].self_attn.sliding_window == 100


def test_a_layer_is_float32_while_it_runs_and_what_is_outside_all_the_time() -> None:
    model: Any = zoo.tiny("llama", dtype=torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layer = model.model.layers[1]
    seen: list[tuple[torch.dtype, ...]] = []

    def note(*_: object) -> None:
        others = (
            model.model.layers[0].mlp.up_proj.weight,
            model.model.embed_tokens.weight,
            model.lm_head.weight,
        )
        seen.append((layer.mlp.up_proj.weight.dtype, *(weight.dtype for weight in others)))

    layer.mlp.register_forward_hook(note)
    with in_float32(model), torch.no_grad():
        note()
        model(torch.arange(3, 9)[None])
        note()
    outside, inside = torch.float32, torch.bfloat16
    assert seen == [
        (inside, inside, outside, outside),
        (outside, inside, outside, outside),
        (inside, inside, outside, outside),
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    layer.mlp.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), in_float32(model):
        model(torch.arange(3, 9)[None])
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert sum(len(m._forward_hooks) for m in model.modules()) == 2


def test_lists_of_layers_inside_of_layers_are_widened_with_them() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(2, 2, dtype=torch.float16) for _ in range(2)])

        def forward(self, x: Tensor) -> Tensor:
            return sum(part(x) for part in self.parts)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Sum(), Sum()])
            self.register_buffer("scale", torch.tensor(0.1, dtype=torch.float16))
            self.register_buffer("kept", torch.tensor(0.1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x * self.scale

    model: Any = Whole()
    shared = model.layers[1].parts[0].weight = model.layers[0].parts[0].weight
    hooked = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with in_float32(model):
        assert not any(m._forward_pre_hooks for m in hooked)
        assert all(len(layer._forward_pre_hooks) == 1 for layer in model.layers)
        assert model(torch.ones(1, 2)).dtype == torch.float32
        assert (model.scale.dtype, model.kept.dtype, shared.dtype) == (
            torch.float32,
            torch.float64,
            torch.float16,
        )
    assert (model.scale.dtype, shared.dtype) == (torch.float16, torch.float16)


def test_what_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2, device="meta"))
    assert non_finite_weight(model) == ""
    check_finite(model, [torch.tensor([1.0, -torch.inf])])
    with pytest.raises(
        ModelError, match="AL303: Sequential gives log-probs that are NaN with finite weights"
    ):
        check_finite(model, [torch.zeros(2), torch.tensor([0.0, torch.nan])])
    model[1].running_var[1] = torch.inf
    assert non_finite_weight(model) == "1.running_var"
    with torch.no_grad():
        model[0].bias[0] = torch.nan
    assert non_finite_weight(model) == "0.bias"
    with pytest.raises(ModelError, match=r"AL303: weight '0\.bias' holds NaN or infinity; use an undamaged"):
        check_finite(model, [torch.tensor([torch.nan])])


def test_a_difference_is_a_root_mean_square() -> None:
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 5.0], [3.0, 8.0]])
    assert difference(a, b) == pytest.approx(2.5)  # √((9 + 16) / 4)
    assert difference(a.bfloat16(), b) == pytest.approx(2.5)
    assert np.isnan(difference(a, b * torch.nan))
    assert np.isnan(difference(a * torch.inf, a * torch.inf))


def test_what_a_model_says_of_itself_is_what_it_says_of_each_row_alone() -> None:
    model: Any = zoo.tiny("llama")
    own = own_logprobs(model)
    assert own.windowed is None
    assert own.varies is None
    groups = _probe(vocabulary_of(model))
    rows = [(g.prompt_ids, c.ids) for g in groups for c in g.completions]
    tables = []
    for number, (prompt, ids) in enumerate(rows):
        whole = torch.from_numpy(np.concatenate([prompt, ids])).long()
        with torch.no_grad():
            table = model(whole[None]).logits[0].double().log_softmax(-1)
        tables.append(table)
        places = torch.arange(len(prompt) - 1, len(whole) - 1)
        wanted = table[places, whole[len(prompt) :]]
        assert (own.logprobs[number, : len(ids)] - wanted).abs().max() < 1e-4
        assert not own.logprobs[number, len(ids) :].any()
    # half of float32's digits, of the spread over the vocabulary at one place
    spread = float(tables[0].std(-1).square().mean().sqrt())
    assert own.tolerance == pytest.approx(2**-11.5 * spread, rel=1e-3)


def test_small_windows_give_other_numbers_of_the_same_rows() -> None:
    model: Any = zoo.tiny("mistral", sliding_window=100)
    own = own_logprobs(model)
    assert own.windowed is not None
    assert own.varies is None
    assert (own.windowed - own.logprobs).abs().max() > 1e-3
    model.config.sliding_window = 4
    for layer in model.model.layers:
        layer.self_attn.sliding_window = 4
    narrow = own_logprobs(model)
    assert narrow.windowed is None
    assert torch.allclose(narrow.logprobs, own.windowed, atol=1e-5)


@pytest.mark.parametrize("width", [16, None])
def test_a_model_that_looks_ahead_is_refused_by_rows_of_any_width(
    width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows cannot be continued, completions of one prompt are the tokens after it."""
    model: Any = zoo.tiny("llama")
    monkeypatch.setattr(probe, "_common_width", lambda *_: width)
    assert own_logprobs(model).varies is None
    model.model.layers[0].register_forward_hook(lambda _m, _i, out: out + 0.1 * out.mean(1, keepdim=True))
    with pytest.raises(
        ModelError, match="LlamaForCausalLM is not causal: its log-probs of a prompt change by"
    ):
        own_logprobs(model)
