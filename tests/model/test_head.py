"""What happens between decoder and logits is found out from the model, by class names of no kind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from alignloop.errors import ModelError
from alignloop.model.head import decoder_of, head_transform
from alignloop.model.logprobs import LogitTransform
from bench import zoo

KNOWN = {
    "llama": LogitTransform(),
    "granite": LogitTransform(2.0),  # divides by 0.5
    "hyperclovax": LogitTransform(0.5),  # multiplies by 0.5, a field of the same name
    "falcon_h1": LogitTransform(1.5),
    "cohere": LogitTransform(1.5),
    "minicpm3": LogitTransform(8.0),  # divides the hidden states, by hidden_size 32 / dim_model_base 256
    "gemma2": LogitTransform(1.0, 1.0),
    "recurrent_gemma": LogitTransform(1.0, 1.0),
    "xlstm": LogitTransform(1.0, 1.0),
    "inkling_text": LogitTransform(vocabulary=zoo.VOCABULARY - 8),
    "mamba": LogitTransform(),
    "llama4_text": LogitTransform(),  # get_decoder gives the whole model
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KNOWN)
def test_scale_cap_and_columns_are_found(name: str, dtype: torch.dtype) -> None:
    found, expected = head_transform(zoo.tiny(name, dtype=dtype)), KNOWN[name]
    assert found.scale == pytest.approx(expected.scale, rel=1e-6)
    assert found.softcap == (None if expected.softcap is None else pytest.approx(expected.softcap, rel=1e-6))
    assert (found.vocabulary, found.temperature) == (expected.vocabulary, 1.0)


def test_scale_inside_of_the_cap() -> None:
    """30 · tanh(0.25 z / 30): the order matters, and it is `LogitTransform.apply`'s."""
    model = zoo.tiny("gemma2", final_logit_softcapping=30.0)
    model.lm_head.register_forward_pre_hook(lambda _m, inputs: (inputs[0] * 0.25,))
    found = head_transform(model)
    z = torch.tensor([-100.0, -1.0, 0.5, 40.0])
    assert torch.allclose(found.apply(z.clone()), 30 * torch.tanh(z * 0.25 / 30))


def test_the_model_is_left_as_it_was() -> None:
    model = zoo.tiny("gemma2").train()
    model.model.layers[0].eval()
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    head_transform(model)
    assert model.training
    assert not model.model.layers[0].training
    assert model.model.layers[1].training
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_without_values_nothing_is_found_out_and_nothing_fails() -> None:
    with torch.device("meta"):
        model = zoo.tiny("gemma2")
    assert head_transform(model) == LogitTransform()


def test_a_head_that_is_more_than_a_product_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="ModernBertDecoderForCausalLM changes hidden states between"):
        head_transform(zoo.tiny("modernbert-decoder"))


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        (lambda z: z + torch.arange(z.shape[-1]), "does something else to its logits"),
        (lambda z: z.clamp(-20, 20), "does something else to its logits"),
        (lambda z: z.flip(-1), "does something else to its logits"),
        (lambda z: -z, "does something else to its logits"),
        (lambda z: z * nn.Parameter(torch.tensor(2.0)), "trained weights between"),
    ],
)
def test_logits_changed_in_another_way_are_refused(after, sentence: str) -> None:
    model = zoo.tiny("llama")
    own = model.forward

    def forward(*args, **kwargs):
        return SimpleNamespace(logits=after(own(*args, **kwargs).logits))

    model.forward = forward
    with pytest.raises(ModelError, match=sentence):
        head_transform(model)


def test_a_head_that_does_more_itself_is_refused() -> None:
    model = zoo.tiny("llama")
    model.lm_head.register_forward_hook(lambda _m, _i, out: out * 0.25)
    with pytest.raises(ModelError, match="more than a product with its weights"):
        head_transform(model)


def test_the_decoder_is_the_part_below_the_head() -> None:
    for name in ("llama", "llama4_text", "modernbert-decoder", "opt", "gpt2"):
        model = zoo.tiny(name)
        decoder = decoder_of(model)
        assert decoder is not model
        assert decoder(torch.arange(3, 9)[None]).last_hidden_state.shape == (1, 6, 32)
