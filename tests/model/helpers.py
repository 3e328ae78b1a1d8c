"""Small models of many architectures, and prompts for them."""

from __future__ import annotations

import copy

import torch
import transformers as hf

from tests.helpers_models import rounding_bound

VOCABULARY = 400
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LOCAL = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
GPT2_SHAPE = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3}
CONFIGS = {
    "llama": lambda: hf.LlamaConfig(**SHAPE),
    "qwen2": lambda: hf.Qwen2Config(**SHAPE),
    "qwen3": lambda: hf.Qwen3Config(**SHAPE, head_dim=16),
    "mistral": lambda: hf.MistralConfig(**SHAPE, sliding_window=8),
    "gemma": lambda: hf.GemmaConfig(**SHAPE, head_dim=16),
    "gemma2": lambda: hf.Gemma2Config(
        **SHAPE, **LOCAL, head_dim=16, attn_logit_softcapping=3.0, final_logit_softcapping=8.0
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(**SHAPE, **LOCAL, head_dim=16),
    "phi3": lambda: hf.Phi3Config(**SHAPE),
    "olmo2": lambda: hf.Olmo2Config(**SHAPE),
    "smollm3": lambda: hf.SmolLM3Config(**SHAPE),
    "granite": lambda: hf.GraniteConfig(**SHAPE, logits_scaling=2.0, attention_multiplier=0.3),
    "gpt_neox": lambda: hf.GPTNeoXConfig(
        **{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}, rotary_pct=0.5
    ),
    "gpt2": lambda: hf.GPT2Config(**GPT2_SHAPE, **ENDS),
}
NO_END = ()


def small_model(name: str = "llama") -> hf.PreTrainedModel:
    torch.manual_seed(1)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    return model


def some_prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def plain_logprobs(model: hf.PreTrainedModel, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """log π of the completion's tokens from one ordinary forward pass, float64 (tokens, V)."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.double(), -1)


def assert_own_logprobs(
    model: hf.PreTrainedModel, prompt: list[int], ids: list[int], logprobs: list[float]
) -> None:
    """Assert that a completion's log-probs, in nats, are the model's own up to what rounding may do.

    Args:
        model: in float32.
        prompt: token ids before the completion.
        ids: the completion's.
        logprobs: one for each of `ids`.
    """
    taken = torch.tensor(ids)[:, None]

    def read(some_model: hf.PreTrainedModel) -> torch.Tensor:
        return plain_logprobs(some_model, prompt, ids).gather(1, taken).squeeze(1)

    allowed = rounding_bound(model, read, length=len(prompt) + len(ids))
    assert allowed < 2e-3  # else this could not fail
    assert (torch.tensor(logprobs) - read(copy.deepcopy(model).double())).abs().max() < allowed
