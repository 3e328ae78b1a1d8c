"""Verification: what is wrong is found and said, what is right is let through."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from alignloop.data.packing import Batch, Group, collate, completion
from alignloop.errors import ModelError
from alignloop.model import attention, layouts, probe, verify
from alignloop.model.layouts import Layout
from alignloop.model.packed import PackedModel
from alignloop.model.probe import small_windows
from alignloop.model.verify import Verification
from bench import zoo
from tests.model.test_packed import gradients, relative, separate_logprobs

PACKED = (
    "hyperclovax",
    "qwen2_moe-sliding",
    "phimoe-sliding",
    "qwen3-sliding",
    "mixtral-sliding",
    "cohere2",
    "gemma3n_text",
    "minicpm3",
    "afmoe",
)
PADDED = (
    "falcon_h1",
    "recurrent_gemma",
    "xlstm",
    "doge",
    "doge-sliding",
    "llama4_text",
    "stablelm",
    "nemotron",
)
PADDED += ("inkling_text", "mpt", "bloom")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_verdicts", {})


def long_groups() -> list[Group]:
    """Rows of 27, 29 and 11 tokens: longer than the zoo's windows."""
    rng = np.random.default_rng(1)
    shapes = ((20, (7, 9)), (5, (6,)))

    def item(length: int) -> np.ndarray:
        return rng.integers(3, 100, length).astype(np.int32)

    return [
        Group(item(prompt), tuple(completion(item(n)) for n in lengths), i)
        for i, (prompt, lengths) in enumerate(shapes)
    ]


INDEXED = ("hy_v4", "deepseek_v32", "axk2", "dots3_note_text", "glm_moe_dsa")
EXPERTS = ("qwen2_moe-sliding", "phimoe-sliding", "mixtral-sliding", "afmoe", "llama4_text", "inkling_text")
EXPERTS += INDEXED
"""Their products by expert do not run in float64."""


def against_itself(name: str) -> PackedModel:
    """Log-probs and gradient are those of separate rows of the model itself, in float64 where it runs."""
    model = zoo.tiny(name, dtype=torch.float32 if name in EXPERTS else torch.float64)
    groups = long_groups()
    batch = collate(groups)
    own = separate_logprobs(model, batch, groups)
    own_gradient = gradients(own.square().sum(), model)
    packed = PackedModel(model)
    ours = packed(batch).logprobs
    # parts of some layers are float32 whatever the model is
    assert (ours - own).abs().max() <= 2e-5
    assert relative(gradients(ours.square().sum(), model), own_gradient) <= 2e-5
    return packed


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_beyond_the_window_are_the_model_itself(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert against_itself(name).shared_prefix


@pytest.mark.parametrize("name", PADDED)
def test_padded_rows_are_the_model_itself_and_announced(name: str) -> None:
    with pytest.warns(UserWarning, match="padded rows are used instead, which are slower and give"):
        assert not against_itself(name).shared_prefix


@pytest.mark.parametrize("name", [name for name in INDEXED if name in zoo.names()])  # of this transformers
def test_rows_whose_width_breaks_ties_run_by_themselves(name: str) -> None:
    """With two index heads the scores of many tokens are 0, and which of them are read the width decides."""
    with pytest.warns(UserWarning, match="; each row runs by itself instead, which is slower and gives"):
        assert against_itself(name).layout == "alone"


def test_an_index_whose_scores_do_not_tie_is_padded() -> None:
    with pytest.warns(UserWarning, match="padded rows are used instead"):
        assert PackedModel(zoo.tiny("hy_v4", index_n_heads=32)).layout == "padded"


def of_the_batch(module: Any, inputs: Any, output: Tensor) -> Tensor:
    """As a norm over the batch."""
    return output - 0.5 * output.mean(0, keepdim=True)


def of_the_width(module: Any, inputs: Any, output: Tensor) -> Tensor:
    """As experts that take a share of the tokens."""
    kept = torch.arange(output.shape[1]) < 0.6 * output.shape[1]
    return output * kept[:, None]


def of_all_tokens(module: Any, inputs: Any, output: Tensor) -> Tensor:
    """As experts that take the first tokens of a batch, whatever their rows."""
    kept = torch.arange(output.shape[:-1].numel()).view(output.shape[:-1]) < 14
    return output * kept[..., None]


@pytest.mark.parametrize("depends", [of_the_batch, of_the_width, of_all_tokens])
def test_rows_that_depend_on_their_neighbours_run_by_themselves(depends: Any) -> None:
    model: Any = zoo.tiny("llama", dtype=torch.float64)
    model.model.layers[1].mlp.register_forward_hook(depends)
    groups = long_groups()
    batch = collate(groups)
    own = separate_logprobs(model, batch, groups)
    with pytest.warns(UserWarning, match="other log-probs beside other rows or with tokens after it"):
        packed = PackedModel(model)
    assert packed.layout == "alone"
    assert (packed(batch).logprobs - own).abs().max() <= 1e-6
    verify._verdicts.clear()
    for asked, layout in ((False, "alone"), (None, "alone")):
        with pytest.warns(UserWarning, match="each row runs by itself"):
            assert PackedModel(model, shared_prefix=asked).layout == layout
    with pytest.raises(ModelError, match=r"beside other rows .*; leave out shared_prefix=True"):
        PackedModel(model, shared_prefix=True)


def test_a_layout_that_is_asked_for_is_verified_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="BloomForCausalLM gives other log-probs on packed rows"):
        PackedModel(zoo.tiny("bloom"), shared_prefix=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert PackedModel(zoo.tiny("bloom"), shared_prefix=False).layout == "padded"
        assert PackedModel(zoo.tiny("llama"), shared_prefix=True).layout == "packed"
        assert PackedModel(zoo.tiny("llama"), shared_prefix=False).layout == "padded"
    verify._verdicts.clear()
    right = layouts.padded

    def from_one(batch: Batch) -> tuple[Tensor, ...]:
        ids, mask, positions, places = right(batch)
        return ids, mask, 3 * positions, places

    monkeypatch.setattr(layouts, "padded", from_one)
    with pytest.warns(UserWarning, match="LlamaForCausalLM gives other log-probs on padded rows"):
        assert PackedModel(zoo.tiny("llama"), shared_prefix=False).layout == "alone"


def test_blocks_that_a_layer_selects_are_made_few_and_short() -> None:
    """128 tokens each and 16 of them: rows up to 2048 tokens say nothing of what is left out."""
    model = zoo.tiny("minimax_m3-sparse", index_block_size=128, index_topk_blocks=16)
    with pytest.warns(
        UserWarning, match="MiniMaxM3VLForCausalLM gives other log-probs on packed rows beyond"
    ):
        assert not PackedModel(model).shared_prefix


def test_a_model_that_fails_on_longer_rows_in_its_type_is_refused() -> None:
    """xLSTM runs rows shorter than its chunks in bfloat16, and none that are longer."""
    for chunk in (16, 64):
        model = zoo.tiny("xlstm", dtype=torch.bfloat16, chunk_size=chunk)
        sentence = "xLSTMForCausalLM cannot run rows by themselves in bfloat16, its code fails on them"
        with pytest.raises(ModelError, match=sentence):
            PackedModel(model)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("modernbert-decoder", "ModernBertDecoderForCausalLM changes hidden states"),
        ("doge-experts", "DogeForCausalLM is not causal: its log-probs of a prompt change by"),
        ("cpmant", "CpmAntForCausalLM is not causal"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(name: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        PackedModel(zoo.tiny(name))


@pytest.mark.parametrize("name", ["bloom", "recurrent_gemma", "falcon_h1"])
def test_bfloat16_hides_nothing(name: str) -> None:
    """Packed rows of these are 0.005 to 0.04 nats off, which is less than bfloat16 rounds."""
    model = zoo.tiny(name, dtype=torch.bfloat16)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.warns(UserWarning, match="padded rows"):
        assert not PackedModel(model).shared_prefix
    assert {k: v.dtype for k, v in model.state_dict().items()} == {k: v.dtype for k, v in weights.items()}
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_window_much_longer_than_the_probe_is_made_to_bind(dtype: torch.dtype) -> None:
    """An attention that forgets windows is wrong for rows nobody tries at load; the probe finds it."""
    model = zoo.tiny("mistral", dtype=dtype, sliding_window=4096)
    own: Any = attention.shared_prefix_attention

    def forgetful(*args: Any, sliding_window: int | None = None, **kwargs: Any) -> Any:
        return own(*args[:4], None, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "shared_prefix_attention", forgetful)
        with pytest.warns(UserWarning, match="on packed rows beyond its attention window"):
            assert not PackedModel(model).shared_prefix
    assert model.config.sliding_window == 4096


def test_windows_are_put_back() -> None:
    model = zoo.tiny("gemma2", sliding_window=100)
    with small_windows(model) as changed:
        assert changed
        assert model.config.sliding_window == model.model.layers[0].self_attn.sliding_window == 4
        assert model.model.layers[1].self_attn.sliding_window is None
    assert model.config.sliding_window == model.model.layers[0].self_attn.sliding_window == 100
    with small_windows(zoo.tiny("llama")) as changed:
        assert not changed


@pytest.mark.parametrize("wrong_branch", [0, 1, 2])
def test_a_single_wrong_completion_is_found(wrong_branch: int) -> None:
    """A thousandth of a nat in one completion is more than rounding."""
    model = zoo.tiny("llama")
    own = probe.own_logprobs(model)

    def read(batch: Batch, layout: Layout) -> Tensor:
        wrong = own.logprobs.clone()
        wrong[wrong_branch] += 1e-3 * (layout == "packed")
        return wrong

    with pytest.warns(UserWarning, match=r"on packed rows \(0.000.*padded rows are used instead"):
        assert Verification(model).layout(read) == "padded"


def test_all_layouts_wrong_is_a_refusal() -> None:
    model = zoo.tiny("llama")
    own = probe.own_logprobs(model)
    with pytest.raises(ModelError, match="LlamaForCausalLM gives other log-probs on rows that run by"):
        Verification(model).layout(lambda batch, layout: own.logprobs + 0.01)
    verify._verdicts.clear()
    with pytest.raises(ModelError, match="rows that run by themselves"):
        Verification(model).layout(lambda batch, layout: own.logprobs * float("nan"))
    with pytest.raises(ModelError, match="rows that run by themselves"):
        PackedModel(model)  # refused again without another comparison


def test_the_verdict_is_remembered_by_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    own = probe.own_logprobs
    monkeypatch.setattr(
        verify, "own_logprobs", lambda model: calls.append(type(model).__name__) or own(model)
    )
    for seed in (0, 1):
        with pytest.warns(UserWarning, match="BloomForCausalLM gives other log-probs on packed rows"):
            PackedModel(zoo.tiny("bloom", seed=seed))
    with pytest.warns(UserWarning, match="BloomForCausalLM"):
        PackedModel(zoo.tiny("bloom", n_layer=2))
    assert len(calls) == 2


def test_training_mode_attention_and_rng_are_left_alone() -> None:
    model = zoo.tiny("gemma2").train()
    model.model.layers[1].eval()
    before = model.config._attn_implementation
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    packed = PackedModel(model)
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert not model.model.layers[1].training
    packed.restore_attention()
    assert model.config._attn_implementation == before != attention.SHARED_PREFIX


def test_a_model_without_values_needs_no_verification() -> None:
    with torch.device("meta"):
        model = zoo.tiny("bloom")
    assert PackedModel(model).shared_prefix


def test_sinks_masks_and_missing_layouts_are_not_overlooked() -> None:
    """What the attention function does not know it refuses, it does not ignore it."""
    attend: Any = attention.shared_prefix_attention
    x = torch.randn(1, 2, 5, 4)
    segments = collate([Group(np.array([1, 2], np.int32), (completion([3, 4, 5]),))]).segments
    module = torch.nn.Identity()
    with pytest.raises(NotImplementedError, match="sinks"):
        attend(module, x, x, x, None, segments=segments, s_aux=torch.ones(2))
    with pytest.raises(NotImplementedError, match="masks of their own"):
        attend(module, x, x, x, torch.zeros(1, 1, 5, 5), segments=segments)
    with pytest.raises(NotImplementedError, match="layout"):
        attend(module, x, x, x, None)
    window = attention.Window(2)
    got, _ = attend(module, x, x, x, window, segments=segments)
    expected, _ = attend(module, x, x, x, None, segments=segments, sliding_window=2)
    assert torch.equal(got, expected)


def test_the_real_configuration_classes_are_not_needed() -> None:
    """A subclass under another name and without fields of its own is verified as well."""

    class Renamed(hf.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out: Any = super().forward(*args, **kwargs)
            out.logits = torch.tanh(out.logits / 2) * 2
            return out

    shape: Any = zoo.tiny_config("llama")
    model = Renamed(shape).eval()
    groups = long_groups()
    batch = collate(groups)
    own = separate_logprobs(model, batch, groups)
    packed = PackedModel(model)
    assert packed.transform.softcap == pytest.approx(2)
    assert (packed(batch).logprobs - own).abs().max() <= 1e-5
