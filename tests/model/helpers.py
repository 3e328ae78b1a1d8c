"""Small models of many architectures, and prompts for them."""

from __future__ import annotations

import torch
import transformers as hf

from tests.helpers_models import exact_copy, rounding_bound

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
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
OTHERS = {
    # attention that gets nothing of the model call's other arguments
    "stablelm": lambda: hf.StableLmConfig(**SHAPE, partial_rotary_factor=0.5),
    "nemotron": lambda: hf.NemotronConfig(**SHAPE),
    # attention whose heads are viewed as one
    "jetmoe": lambda: hf.JetMoeConfig(**SHAPE, kv_channels=8, num_local_experts=4),
    "afmoe": lambda: hf.AfmoeConfig(
        **SHAPE, **LOCAL, **EXPERTS, head_dim=8, num_experts=4, num_dense_layers=1
    ),
    # a part of each head is turned
    "glm4_moe": lambda: hf.Glm4MoeConfig(**SHAPE, **EXPERTS, head_dim=8, n_routed_experts=4),
    # two attention calls in a layer
    "diffllama": lambda: hf.DiffLlamaConfig(**SHAPE),
    # windows that only the mask tells of
    "qwen2_moe": lambda: hf.Qwen2MoeConfig(
        **SHAPE,
        **LOCAL,
        **EXPERTS,
        shared_expert_intermediate_size=16,
        num_experts=4,
        use_sliding_window=True,
    ),
    "phimoe": lambda: hf.PhimoeConfig(**SHAPE, num_local_experts=4, sliding_window=8),
    # logits that a factor of the configuration multiplies
    "hyperclovax": lambda: hf.HyperCLOVAXConfig(**SHAPE, logits_scaling=2.0, attention_multiplier=0.3),
    # positions that mean something else in a longer text
    "longrope": lambda: hf.Phi3Config(
        **SHAPE,
        original_max_position_embeddings=64,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [4.0, 5.0, 6.0, 7.0],
        },
    ),
    "dynamic": lambda: hf.LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    ),
}
"""Models with something that other engines of this form get wrong."""
REFUSED = {
    "doge": (lambda: hf.DogeConfig(**SHAPE, keep_window_size=8), "DogeAttention has a mask of its own"),
    "gpt_oss": (
        lambda: hf.GptOssConfig(**SHAPE, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
        "GptOssAttention has attention sinks",
    ),
    "llama4": (
        lambda: hf.Llama4TextConfig(
            **SHAPE, head_dim=8, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=8
        ),
        "Llama4ForCausalLM has layers of kind chunked_attention",
    ),
    "falcon_h1": (
        lambda: hf.FalconH1Config(
            **SHAPE, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1
        ),
        "FalconH1ForCausalLM has layers of kind hybrid",
    ),
    "recurrent_gemma": (
        lambda: hf.RecurrentGemmaConfig(**SHAPE, lru_width=32, attention_window_size=8),
        "RecurrentGemmaForCausalLM has layers of kind",
    ),
    "xlstm": (
        lambda: hf.xLSTMConfig(vocab_size=VOCABULARY, hidden_size=32, num_heads=4, num_hidden_layers=2),
        "not every layer of xLSTMForCausalLM keeps keys and values",
    ),
    "mamba": (
        lambda: hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2),
        "MambaForCausalLM has layers of kind linear_attention",
    ),
    "bloom": (
        lambda: hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2),
        "BloomForCausalLM has attention of its own",
    ),
    "mpt": (
        lambda: hf.MptConfig(vocab_size=VOCABULARY, d_model=16, n_layers=2, n_heads=2),
        "MptForCausalLM has attention of its own",
    ),
}
"""Configurations of models that the generation engine cannot run, and what it says of them."""
NO_END = ()


def small_model(name: str = "llama") -> hf.PreTrainedModel:
    torch.manual_seed(1)
    model = hf.AutoModelForCausalLM.from_config((CONFIGS | OTHERS)[name]()).eval()
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
    assert (torch.tensor(logprobs) - read(exact_copy(model))).abs().max() < allowed
