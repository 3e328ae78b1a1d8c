"""The lean norms and MLPs against the plain modules of transformers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.compiled import compile_layers
from alignloop.model.lean import GatedSiLU, RMSNorm, use_lean_forms
from alignloop.model.onednn import use_fast_linears
from alignloop.stages.probe import kept_for_backward
from tests.helpers_models import relative_bound

HIDDEN, WIDTH, LAYERS, TOKENS = 32, 80, 3, 7
SIZES = {
    "vocab_size": 97,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
IDS = torch.arange(3, 3 + TOKENS)[None]


def make_model(
    config: PreTrainedConfig | None = None, *, lora: LoraSettings | None = None
) -> PreTrainedModel:
    """A random model in training mode; adapters' B matrices are not 0, so that every gradient is there."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config or hf.LlamaConfig(**SIZES)).train()
    if lora is not None:
        add_adapter(model, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "norm" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def twins(lora: LoraSettings | None = None) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The plain model and a lean copy of it."""
    plain = make_model(lora=lora)
    lean = copy.deepcopy(plain)
    assert len(use_lean_forms(lean)) == 3 * LAYERS + 1
    return plain, lean


def hidden_and_gradients(model: PreTrainedModel) -> list[Tensor]:
    torch.manual_seed(1)  # dropout of the adapters
    hidden = model.get_decoder()(IDS, use_cache=False).last_hidden_state
    parameters = [p for p in model.get_decoder().parameters() if p.requires_grad]
    upstream = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view_as(hidden)
    return [hidden.detach(), *torch.autograd.grad(hidden, parameters, upstream)]


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(got) == len(expected) > 1
    for a, b in zip(got, expected, strict=True):
        assert b.abs().max() > 0
        assert float((a - b).detach().norm() / b.detach().norm()) <= tolerance


def allowed(model: PreTrainedModel) -> float:
    """How far two computations in float32 may lie apart."""
    _, bound = relative_bound(model, hidden_and_gradients, length=TOKENS)
    assert bound < 1e-3  # else a wrong form could pass
    return 2 * bound


def test_both_forms_are_the_formulas_in_float64() -> None:
    x, gate, up = (torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, 5, dtype=torch.float64)
    pairs = [
        (
            RMSNorm.apply(x, weight, 1e-5),
            weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt(),
            [x, weight],
        ),
        (GatedSiLU.apply(gate, up), gate * gate.sigmoid() * up, [gate, up]),
    ]
    for got, expected, inputs in pairs:
        ours, theirs = (torch.autograd.grad(out, inputs, upstream) for out in (got, expected))
        assert_close([got, *ours], [expected, *theirs], 1e-12)


def test_a_bfloat16_norm_rounds_as_the_module_and_its_gradient_is_no_worse() -> None:
    x = torch.randn(6, 64).bfloat16().requires_grad_()
    weight = torch.randn(64).bfloat16().requires_grad_()
    module = hf.models.llama.modeling_llama.LlamaRMSNorm(64)
    module.weight = nn.Parameter(weight.detach())
    out, upstream = RMSNorm.apply(x, weight, module.variance_epsilon), torch.randn(6, 64).bfloat16()
    assert torch.equal(out, module(x))
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    exact = wide[1] * F.rms_norm(wide[0], (64,), eps=module.variance_epsilon)
    expected = torch.autograd.grad(exact, wide, upstream.double())
    got = torch.autograd.grad(out, (x, weight), upstream)
    assert [g.dtype for g in got] == [torch.bfloat16] * 2
    assert_close([g.double() for g in got], list(expected), 2**-8)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("lora", [None, LoraSettings(r=4), LoraSettings(r=4, dropout=0.5)])
def test_a_model_gives_the_same_numbers_and_gradients(lora: LoraSettings | None, fast: bool) -> None:
    plain, lean = twins(lora)
    if fast:
        use_fast_linears(plain)
        use_fast_linears(lean)
    expected, got = hidden_and_gradients(plain), hidden_and_gradients(lean)
    assert torch.equal(got[0], expected[0])
    assert_close(got, expected, allowed(plain))


def test_a_float64_model_gives_the_same_gradients() -> None:
    plain, lean = (model.double() for model in twins())
    assert_close(hidden_and_gradients(lean), hidden_and_gradients(plain), 1e-12)


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4), LoraSettings(r=4, dropout=0.5)])
def test_bytes_kept_for_backward_fall_by_what_is_made_again(lora: LoraSettings | None) -> None:
    kept = []
    for model in twins(lora):
        with kept_for_backward(model) as total:
            hidden = model.get_decoder()(IDS, use_cache=False).last_hidden_state
        kept.append(total[0])
        del hidden
    norms = 0 if lora else 2 * LAYERS + 1  # the normed x is kept for the weight's gradient only
    product = 0 if lora and lora.dropout else 1  # dropout keeps a product of its own
    floats = norms * HIDDEN + LAYERS * (1 + product) * WIDTH
    assert kept[0] - kept[1] == 4 * TOKENS * floats


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)])
def test_gradient_checkpointing_keeps_nothing_of_the_mlp(lora: LoraSettings | None) -> None:
    plain, lean = twins(lora)
    expected = hidden_and_gradients(plain)
    lean.gradient_checkpointing_enable({"use_reentrant": False})
    lean.enable_input_require_grads()
    outputs: list[StorageWeakRef] = []
    for name, module in lean.named_modules():
        if name.endswith(("gate_proj", "up_proj", "down_proj.lora_A.default")):
            module.register_forward_hook(
                lambda module, args, out: outputs.append(StorageWeakRef(out.untyped_storage()))
            )
    hidden = lean.get_decoder()(IDS, use_cache=False).last_hidden_state
    assert len(outputs) == LAYERS * (3 if lora else 2)
    assert all(output.expired() for output in outputs)
    del hidden
    assert_close(hidden_and_gradients(lean), expected, allowed(plain))


def test_without_gradient_the_numbers_are_the_class_s_and_under_compile_its_own_forward_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, lean = twins()
    expected = hidden_and_gradients(plain)

    def refuse(*args: object) -> Tensor:
        raise AssertionError("a lean form was used")

    monkeypatch.setattr(RMSNorm, "apply", refuse)
    monkeypatch.setattr(GatedSiLU, "apply", refuse)
    with torch.no_grad():
        assert torch.equal(lean(IDS).logits, plain(IDS).logits)
    with pytest.raises(AssertionError, match="lean form"):
        lean(IDS)
    lean.get_decoder().norm = plain.get_decoder().norm  # outside of the compiled layers
    assert compile_layers(lean, backend="eager")
    assert_close(hidden_and_gradients(lean)[:-1], expected[:-1], allowed(plain))


def test_variants_are_left_alone() -> None:
    gemma = make_model(hf.GemmaConfig(**SIZES))  # weights counted from 1, GELU
    cohere = make_model(hf.CohereConfig(**SIZES))  # a mean is subtracted; the MLP is the common one
    scaled = make_model()
    module = scaled.get_decoder().layers[0].mlp

    class Scaled(type(module)):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * super().forward(x)

    module.__class__ = Scaled
    names = [[type(m).__name__ for m in use_lean_forms(model)] for model in (gemma, cohere, scaled)]
    assert names[0] == []
    assert names[1] == ["CohereMLP"] * LAYERS
    assert sorted(names[2]) == ["LlamaMLP"] * (LAYERS - 1) + ["LlamaRMSNorm"] * (2 * LAYERS + 1)
    assert use_lean_forms(scaled) == []
    assert scaled.state_dict().keys() == make_model().state_dict().keys()
