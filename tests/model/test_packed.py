"""A packed row against separate, unpadded forwards of the plain transformers model."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from alignloop.data.packing import Batch, Completion, Group, collate, completion
from alignloop.model.packed import PackedModel, ScalarHead
from tests.helpers_models import exact_copy, random_model, relative_bound, relative_distance, rounding_bound

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BASE = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]

# Windows are shorter than the rows and soft caps smaller than the logits, so that both bind.
PACKED: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**BASE),
    "qwen2": lambda: hf.Qwen2Config(**BASE, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": lambda: hf.Qwen3Config(**BASE),
    "mistral": lambda: hf.MistralConfig(**BASE, sliding_window=6),
    "gemma": lambda: hf.GemmaConfig(**BASE),
    "gemma2": lambda: hf.Gemma2Config(
        **BASE,
        sliding_window=6,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **BASE, sliding_window=5, query_pre_attn_scalar=8, layer_types=SLIDING
    ),
    "phi3": lambda: hf.Phi3Config(**BASE),
    "olmo2": lambda: hf.Olmo2Config(**BASE),
    "smollm3": lambda: hf.SmolLM3Config(**BASE),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SIZES),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=97,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=256,
        bos_token_id=1,
        eos_token_id=2,
        attn_pdrop=0,
        embd_pdrop=0,
        resid_pdrop=0,
    ),
    "mixtral": lambda: hf.MixtralConfig(**BASE, num_local_experts=4),
    "granite": lambda: hf.GraniteConfig(**BASE, logits_scaling=3.0),
    "cohere": lambda: hf.CohereConfig(**BASE, logit_scale=0.25),
}
PADDED: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt_oss": lambda: hf.GptOssConfig(**BASE, num_local_experts=4, sliding_window=6),  # attention sinks
    "mamba": lambda: hf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2),  # state space
    "bloom": lambda: hf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),  # its own attention
}


def make_groups() -> list[Group]:
    """K = 3, 1 and 2; prompts of 11, 1 and 0 tokens; one completion of a single token."""
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(3, 97, length).astype(np.int32)

    def item(length: int) -> Completion:
        return completion(ids(length))

    return [
        Group(ids(11), (item(5), item(9), item(1)), 0),
        Group(ids(1), (item(12),), 1),
        Group(ids(0), (item(8), item(3)), 2),
    ]


def separate_logprobs(model: PreTrainedModel, batch: Batch, groups: list[Group]) -> Tensor:
    """Log-probs of every completion from its own unpadded row through the plain model, (B, T)."""
    rows = []
    for group in groups:
        for item in group.completions:
            ids = torch.from_numpy(np.concatenate([group.prompt_ids, item.ids])).long()
            logp = model(ids[None], use_cache=False).logits[0].double().log_softmax(-1)
            prompt = len(group.prompt_ids)
            values = [
                logp[prompt + t - 1, ids[prompt + t]] if prompt + t else logp.new_zeros(())
                for t in range(len(item.ids))
            ]
            rows.append(torch.stack([*values, *[logp.new_zeros(())] * (batch.mask.shape[1] - len(values))]))
    return torch.stack(rows)


def gradients(loss: Tensor, model: PreTrainedModel) -> list[Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def relative(got: list[Tensor], expected: list[Tensor]) -> float:
    difference = sum(float((a - b).double().square().sum()) for a, b in zip(got, expected, strict=True))
    return (difference / sum(float(b.double().square().sum()) for b in expected)) ** 0.5


def compare(model: PreTrainedModel, packed: PackedModel) -> None:
    groups = make_groups()
    batch = collate(groups)
    got = packed(batch).logprobs
    got_gradients = gradients(got.square().sum(), model)
    packed.restore_attention()

    def read(some_model: PreTrainedModel) -> Tensor:
        return separate_logprobs(some_model, batch, groups)

    def read_gradients(some_model: PreTrainedModel) -> list[Tensor]:
        found = gradients(read(some_model).square().sum(), some_model)
        return [torch.cat([gradient.flatten() for gradient in found])]

    expected, allowed = read(exact_copy(model)), rounding_bound(model, read, length=20)
    exact, allowed_share = relative_bound(model, read_gradients, length=20)
    assert expected.abs().max() > 1
    assert (got - expected).abs().max() <= allowed < 1e-3
    whole = torch.cat([gradient.flatten() for gradient in got_gradients])
    assert relative_distance([whole], exact) <= allowed_share < 1e-3


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_row_gives_the_numbers_of_separate_rows(name: str) -> None:
    model = random_model(PACKED[name](), scale=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        packed = PackedModel(model)
    assert packed.shared_prefix
    compare(model, packed)


@pytest.mark.parametrize("name", PADDED)
def test_the_padded_fallback_is_exact_and_announces_itself(name: str) -> None:
    model = random_model(PADDED[name](), scale=3)
    with pytest.warns(UserWarning, match="padded rows are used instead"):
        packed = PackedModel(model)
    assert not packed.shared_prefix
    compare(model, packed)


def test_packed_rows_and_padded_rows_read_the_same_heads() -> None:
    batch = collate(make_groups())
    outputs = []
    for shared_prefix in (True, False):
        model = random_model(hf.LlamaConfig(**BASE), scale=3)
        packed = PackedModel(model, head=ScalarHead(32, 2), shared_prefix=shared_prefix)
        with torch.no_grad():
            outputs.append(packed(batch, {"logprobs", "entropy", "scores", "values", "prompt_logprob"}))
    for name in ("logprobs", "entropy", "scores", "values", "prompt_logprob"):
        a, b = (getattr(output, name) for output in outputs)
        assert a.abs().max() > 0.1
        assert torch.allclose(a, b, atol=2e-6), name


def test_scores_values_and_prompt_logprob_are_read_at_the_right_places() -> None:
    model = random_model(hf.LlamaConfig(**BASE), scale=3)
    head = ScalarHead(32, 2)
    head.gain.copy_(torch.tensor([2.0, 1.0]))
    head.shift.copy_(torch.tensor([0.5, 0.0]))
    groups = make_groups()
    batch = collate(groups)
    packed = PackedModel(model, head=head)
    with torch.no_grad():
        out = packed(batch, {"logprobs", "scores", "values", "prompt_logprob"})
        packed.restore_attention()
        prompt, item = groups[0].prompt_ids, groups[0].completions[1]
        ids = torch.from_numpy(np.concatenate([prompt, item.ids])).long()
        inner = model(ids[None], output_hidden_states=True, use_cache=False)
        hidden = inner.hidden_states[-1][0]
        expected = (hidden @ head.weight.T + head.bias) * head.gain + head.shift
        logp = inner.logits[0].log_softmax(-1)
    assert torch.allclose(out.scores[1], expected[-1], atol=1e-5)
    assert torch.allclose(out.values[1, :9], expected[10:19, 0], atol=1e-5)
    prompt_logprob = logp[torch.arange(10), ids[1:11]].sum()
    assert torch.allclose(out.prompt_logprob, torch.tensor([prompt_logprob, 0.0, 0.0]), atol=1e-4)
    # nothing predicts the first token of a completion without a prompt
    assert out.logprobs[4, 0] == 0
    assert out.values[4, 0] == 0
    assert out.values[4, 1] != 0


def test_masked_tokens_are_zero_and_leave_the_others_alone() -> None:
    model = random_model(hf.LlamaConfig(**BASE), scale=3)
    rng = np.random.default_rng(1)
    ids, prompt = rng.integers(3, 97, 6), rng.integers(3, 97, 4).astype(np.int32)
    mask = [True, False, True, True, False, True]
    packed = PackedModel(model)
    with torch.no_grad():
        full = packed(collate([Group(prompt, (completion(ids),))])).logprobs
        part = packed(collate([Group(prompt, (completion(ids, mask),))])).logprobs
    assert torch.allclose(part, full * torch.tensor(mask), atol=1e-6)


def test_temperature_and_entropy_are_those_of_the_scaled_distribution() -> None:
    model = random_model(
        hf.Gemma2Config(**BASE, final_logit_softcapping=3.0, query_pre_attn_scalar=8), scale=3
    )
    group = make_groups()[1]
    packed = PackedModel(model)
    with torch.no_grad():
        out = packed(collate([group]), {"logprobs", "entropy"}, temperature=0.7)
        packed.restore_attention()
        ids = torch.from_numpy(np.concatenate([group.prompt_ids, group.completions[0].ids])).long()
        logp = (model(ids[None], use_cache=False).logits[0, :-1].double() / 0.7).log_softmax(-1)
    assert torch.allclose(out.logprobs[0].double(), logp[torch.arange(12), ids[1:]], atol=1e-5)
    assert torch.allclose(out.entropy[0].double(), -(logp.exp() * logp).sum(-1), atol=1e-5)


def test_restored_attention_generates_as_before() -> None:
    model = random_model(hf.LlamaConfig(**BASE), scale=3)
    ids = torch.randint(3, 97, (1, 7))
    before = model.generate(ids, max_new_tokens=5, do_sample=False)
    packed = PackedModel(model)
    packed(collate(make_groups()))
    packed.restore_attention()
    assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), before)
    # and a later packed forward switches back by itself
    assert packed(collate(make_groups())).logprobs.shape == (6, 12)


def test_two_roles_on_one_model() -> None:
    model, batch = random_model(hf.LlamaConfig(**BASE), scale=3), collate(make_groups())
    policy = PackedModel(model)
    critic = PackedModel(model, head=ScalarHead(32))
    padded = PackedModel(model, shared_prefix=False)
    expected = policy(batch).logprobs
    assert critic.shared_prefix
    assert torch.equal(critic(batch).logprobs, expected)
    assert torch.allclose(padded(batch).logprobs, expected, atol=1e-5)
    assert torch.equal(policy(batch).logprobs, expected)
    critic.restore_attention()
    assert model.config._attn_implementation == "sdpa"


def test_a_model_without_a_head_refuses_scores() -> None:
    packed = PackedModel(random_model(hf.LlamaConfig(**BASE), scale=3))
    with pytest.raises(ValueError, match="no scalar head"):
        packed(collate(make_groups()), {"logprobs", "scores"})


def test_what_no_pass_gives_is_refused() -> None:
    packed = PackedModel(random_model(hf.LlamaConfig(**BASE), scale=3))
    with pytest.raises(ValueError, match=r"gives no reference_logprobs, score$"):
        packed(collate(make_groups()), {"logprobs", "reference_logprobs", "score"})


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    model = random_model(hf.LlamaConfig(**BASE), scale=3).train()
    packed, batch = PackedModel(model), collate(make_groups())
    plain = gradients(packed(batch).logprobs.sum(), model)
    model.gradient_checkpointing_enable({"use_reentrant": False})  # recomputed outside of the forward pass
    assert relative(gradients(packed(batch).logprobs.sum(), model), plain) < 1e-6
