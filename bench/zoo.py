"""A tiny random model of every text decoder in transformers, for benchmarks and tests.

Sizes are replaced by small ones by the names of the configuration's fields; windows become shorter than
the rows they are tried on, so that they bind. `FIELDS` holds what an architecture needs besides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from alignloop.model.cast import cast
from alignloop.model.load import read_weights

VOCABULARY = 128
WINDOW = 8
"""Tokens that a layer with a sliding window, chunks or an index sees."""
WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "attention_chunk_size",
    "attention_window_size",
    "window_size",
    "local_attention",
    "index_topk",
)
"""Fields of configurations that say how far a layer sees."""
LAYERS = 4


def _each(names: str, value: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


SIZES: Mapping[str, Any] = {
    **_each("vocab_size vocab_size_per_layer_input", VOCABULARY),
    **_each(
        "hidden_size n_embd d_model dim embedding_size embedding_dim lru_width attention_hidden_size", 32
    ),
    **_each("intermediate_size ffn_dim d_ff dim_ff dff ffn_hidden_size dense_intermediate_size", 48),
    **_each("intermediate_size_mlp", 48),
    **_each("num_hidden_layers n_layer n_layers num_layers num_blocks", LAYERS),
    **_each("num_attention_heads n_head n_heads num_heads attention_heads swa_num_attention_heads", 4),
    **_each("num_key_value_heads num_kv_heads swa_num_key_value_heads", 2),
    **_each("head_dim qk_nope_head_dim v_head_dim dim_head qk_rope_head_dim rotary_dim swa_head_dim", 8),
    **_each("swa_v_head_dim index_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim", 8),
    **_each("max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length", 256),
    **_each(" ".join(WINDOWS), WINDOW),
    **_each("num_experts num_local_experts n_routed_experts moe_num_experts", 4),
    **_each("num_experts_per_tok moe_topk moe_k num_experts_per_token", 2),
    **_each("n_group topk_group num_expert_group n_groups num_shared_experts n_shared_experts", 1),
    **_each("moe_num_shared_experts", 1),
    **_each("moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size", 16),
    **_each(
        "shared_intermediate_size moe_shared_expert_intermediate_size shared_experts_intermediate_size", 16
    ),
    **_each("q_lora_rank kv_lora_rank o_lora_rank", 16),
    **_each("linear_num_key_heads linear_num_value_heads linear_num_heads", 2),
    **_each("index_n_heads indexer_n_heads", 2),  # as few, so that their scores tie at 0
    **_each("floor_scale log_scaling_n_floor", WINDOW),
    **_each("mamba_d_state state_size ssm_state_size", 8),
    **_each("first_k_dense_replace num_dense_layers", 1),
    **_each("hidden_dropout attention_dropout resid_pdrop embd_pdrop attn_pdrop residual_dropout", 0.0),
    **_each("hidden_dropout_prob attention_probs_dropout_prob dropout activation_dropout layerdrop", 0.0),
    **_each("initializer_range init_std", 0.1),
    **_each("final_logit_softcapping logits_soft_cap output_logit_soft_cap attn_logit_softcapping", 1.0),
    **_each("logit_scale lm_head_multiplier", 1.5),
    **_each("logits_scaling", 0.5),
    **_each("mamba_chunk_size chunk_size", 16),
    **_each("mamba_n_heads mamba_num_heads n_mamba_heads", 4),
    **_each("mamba_d_head mamba_head_dim mamba_headdim", 16),
    **_each("num_kv_shared_layers", 2),
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""Small values by the name of a field, whatever the architecture."""

_LATENT = {"num_key_value_heads": 4, "head_dim": ..., "qk_nope_head_dim": 12}
FIELDS: Mapping[str, Mapping[str, Any]] = {
    **_each(
        "axk1 axk2 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa "
        "kimi_linear minicpm3 youtu",
        _LATENT,  # keys of every head out of one low-rank state
    ),
    **_each("zamba zamba2", {"attention_hidden_size": ..., "num_key_value_heads": 4}),
    "zaya": {"num_experts_per_tok": 1},
    "dots3_note_text": {
        **_LATENT,
        "head_dim": 20,
        **_each("swa_num_attention_heads swa_num_key_value_heads", 4),
        **_each("swa_q_lora_rank swa_kv_lora_rank", 16),
        **{"swa_head_dim": 20, "swa_qk_nope_head_dim": 12, "swa_v_head_dim": 8},
    },
    "longcat_flash": {**_LATENT, "head_dim": 8, "zero_expert_num": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "inkling_text": {"logits_mup_width_multiplier": 1.0, "unpadded_vocab_size": VOCABULARY - 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16},
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": WINDOW,
        "indexer_compress_ratio": 2,
    },
}
"""What an architecture needs besides the sizes, or instead of them."""

_SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": WINDOW}
_HALVES = 4
"""Frequencies of a head of 8 numbers."""
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * _HALVES,
    "long_factor": [2.0, 4.0, 8.0, 16.0],
    "original_max_position_embeddings": 16,
    "factor": 16.0,
}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
_GROWING = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "llama_4_scaling_beta": 0.5,
    "original_max_position_embeddings": WINDOW,
}
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "qwen2-sliding": ("qwen2", {**_SLIDING, "use_sliding_window": True}),
    "qwen2_moe-sliding": ("qwen2_moe", {**_SLIDING, "use_sliding_window": True}),
    "qwen3-sliding": ("qwen3", {**_SLIDING, "use_sliding_window": True}),
    "qwen3_moe-sliding": ("qwen3_moe", {"use_sliding_window": True, "sliding_window": WINDOW}),
    "phimoe-sliding": ("phimoe", {"sliding_window": WINDOW}),
    "doge-sliding": ("doge", {"sliding_window": WINDOW}),
    "doge-dynamic": ("doge", {"keep_window_size": WINDOW}),
    "doge-experts": ("doge", {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 2}),
    "mixtral-sliding": ("mixtral", {"sliding_window": WINDOW}),
    "phi3-longrope": ("phi3", {"rope_parameters": _LONG, "original_max_position_embeddings": 16}),
    "llama-dynamic": ("llama", {"rope_parameters": _DYNAMIC, "max_position_embeddings": 16}),
    "minimax_m3-sparse": (
        "minimax_m3_vl_text",
        {
            "layer_types": ["minimax_m3_sparse", "full_attention"] * 2,
            "index_block_size": WINDOW // 2,
            "index_topk_blocks": 2,
        },
    ),
    "deepseek_v32-heads": ("deepseek_v32", {"index_n_heads": 32}),
    "ministral3-scaled": ("ministral3", {"rope_parameters": _GROWING}),
    "gpt2-scaled": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
}
"""Further rows, with the part that binds made to: (model type, fields)."""

SKIPPED: Mapping[str, str] = {
    **_each(
        "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart prophetnet trocr "
        "whisper",
        "the decoder of an encoder-decoder",
    ),
    **_each(
        "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta "
        "roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod reformer xlm xlnet",
        "an encoder, or trained by masking",
    ),
    **_each(
        "gemma3 gemma3n gemma4 gemma4_unified fuyu git got_ocr2 emu3 mllama moss_transcribe_diarize "
        "phi4_multimodal llama4 qwen3_5 qwen3_5_moe qwen4_exp dots3_note",
        "a multimodal model; its text decoder has a line of its own",
    ),
    **_each("moshi musicgen musicgen_melody", "audio tokens of several books"),
    **_each("blt", "bytes in patches, with a second model that cuts them"),
    **_each("gemma4_assistant gemma4_unified_assistant", "drafts for another model, from its states"),
    **_each("gpt-sw3", "the class of gpt2"),
    **_each("internlm3 iquestcoder", "the class of llama"),
}
"""Entries of transformers' mapping that are no text decoders of their own, and why."""


def names() -> list[str]:
    """Every architecture of the zoo, then the variants."""
    return [*(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in SKIPPED), *VARIANTS]


def tiny_config(name: str, **fields: Any) -> PreTrainedConfig:
    """The configuration of a tiny model.

    Args:
        name: one of `names()`.
        fields: replace what the zoo chooses.
    """
    model_type, more = VARIANTS.get(name, (name, {}))
    default = _default(model_type)
    known = default.to_dict()
    chosen = {field: value for field, value in SIZES.items() if field in known}
    for field, kinds in known.items():
        if field.endswith(("layer_types", "layers_block_type")) and isinstance(kinds, list) and kinds:
            different = list(dict.fromkeys(kinds))
            chosen[field] = (different * LAYERS)[:LAYERS]
    chosen.update({**FIELDS.get(model_type, {}), **more, **fields})
    return CONFIG_MAPPING[model_type](**{k: v for k, v in chosen.items() if v is not ...})


@cache
def _default(model_type: str) -> PreTrainedConfig:
    return CONFIG_MAPPING[model_type]()


def tiny(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **fields: Any) -> PreTrainedModel:
    """A tiny model with random weights in eval mode; becomes deterministic by `seed`, which is global.

    Vectors (norms, biases, sinks) are moved off their initial values as well, so that a part left out shows.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(name, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    if dtype not in (torch.bfloat16, torch.float16):
        cast(model, dtype)
        return model
    with tempfile.TemporaryDirectory() as folder:  # as a checkpoint that was saved in float32 is loaded
        model.save_pretrained(folder)
        return read_weights(folder, dtype, name)
