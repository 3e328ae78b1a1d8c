"""Keys of other tools that are understood with a notice, and those that are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


def _same(value: Any) -> Any:
    return value


class Alias(NamedTuple):
    """The key used here, and how the other tool's value becomes ours."""

    key: str
    convert: Callable[[Any], Any] = _same


def _inverted(value: Any) -> Any:
    return (not value) if isinstance(value, bool) else value


def _history(value: Any) -> Any:
    return ("last" if value else "all") if isinstance(value, bool) else value


def _bf16(value: Any) -> Any:
    return ("bfloat16" if value else "float32") if isinstance(value, bool) else value


def _overlength(value: Any) -> Any:
    return ("truncate" if value else "error") if isinstance(value, bool) else value


def _dtype(value: Any) -> Any:
    return {"bf16": "bfloat16", "fp32": "float32"}.get(value, value) if isinstance(value, str) else value


_SYNONYMS = {
    "model_name_or_path": "base_model model_id model model_name model_path pretrain actor_model_path",
    "dataset": "datasets train_file data_path dataset_name dataset_path data train_data prompt_data",
    "eval_dataset": "eval_file val_file validation_file eval_data test_datasets val_dataset",
    "eval_fraction": "val_size val_set_size split_dataset_ratio",
    "eval_steps": "eval_every eval_interval",
    "max_length": "cutoff_len sequence_len max_seq_length max_seq_len max_len seq_len block_size",
    "per_device_train_batch_size": "micro_batch_size batch_size train_batch_size micro_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation grad_accum accumulate_grad_batches",
    "num_train_epochs": "epochs num_epochs max_epochs n_epochs",
    "max_steps": "steps num_steps train_steps total_steps",
    "learning_rate": "lr actor_learning_rate",
    "lr_scheduler_type": "lr_scheduler lr_schedule scheduler",
    "warmup_ratio": "lr_warmup_ratio warmup_fraction",
    "warmup_steps": "lr_warmup_steps num_warmup_steps",
    "adam_epsilon": "adam_eps eps",
    "max_grad_norm": "grad_clip gradient_clipping max_norm clip_grad_norm gradient_clip_val",
    "gradient_checkpointing": "activation_checkpointing use_gradient_checkpointing",
    "lora_r": "lora_rank",
    "lora_target_modules": "lora_target lora_targets target_modules",
    "logging_steps": "log_every log_interval",
    "save_steps": "save_every save_interval checkpoint_every",
    "save_total_limit": "max_checkpoints keep_checkpoints",
    "chat_template": "template prompt_template",
    "max_new_tokens": "max_tokens max_completion_length generate_max_len response_length",
    "num_samples": "num_generations num_return_sequences n_samples n_samples_per_prompt",
    "reward_model": "reward_model_path reward_pretrain reward_model_name_or_path",
    "reference": "ref_model ref_model_path ref_model_name_or_path reference_model",
    "output_dir": "output save_path output_path save_dir out_dir",
    "seed": "random_seed data_seed",
    "precompute_ref_log_probs": "precompute_reference",
    "columns": "column_mapping",
    "num_threads": "threads",
    "n": "best_of best_of_n num_candidates",
}

ALIASES: Mapping[str, tuple[Alias, ...]] = {
    **{word: (Alias(key),) for key, words in _SYNONYMS.items() for word in words.split()},
    "kl_coef": (Alias("beta"),),
    "init_kl_coef": (Alias("kl_coef"), Alias("beta")),
    "kl_coeff": (Alias("kl_coef"), Alias("beta")),
    "bf16": (Alias("dtype", _bf16),),
    "torch_dtype": (Alias("dtype", _dtype),),
    "precision": (Alias("dtype", _dtype),),
    "truncate": (Alias("overlength", _overlength),),
    "train_on_inputs": (Alias("completion_only", _inverted),),
    "train_on_prompt": (Alias("completion_only", _inverted),),
    "mask_history": (Alias("train_on", _history),),
    "freeze_model": (Alias("freeze_base"),),
}
"""Other tools' keys → candidates here; the first that the stage has is taken."""

REFUSED: Mapping[str, str] = {
    "fp16": "float16 overflows in training; use dtype: bfloat16 or float32",
    "load_in_4bit": "weights are trained in float32 or bfloat16; use lora_r to save memory",
    "load_in_8bit": "weights are trained in float32 or bfloat16; use lora_r to save memory",
    "trust_remote_code": "code from a model's repository is never run",
    "deepspeed": "memory is saved by packing, lora_r and gradient_checkpointing",
    "flash_attention": "attention is chosen by the engine",
    "attn_implementation": "attention is chosen by the engine",
    "packing": "rows are always packed; token_budget sets the size",
    "sample_packing": "rows are always packed; token_budget sets the size",
    "pad_to_sequence_len": "rows are packed without padding",
    "padding_free": "rows are always packed without padding",
    "push_to_hub": "nothing is uploaded",
    "max_prompt_length": "set max_length; prompts are cut from the left with overlength: truncate",
    "optim": "the optimizer is AdamW",
    "optimizer": "the optimizer is AdamW",
}
"""Keys that are understood but cannot be honoured, with what to do instead."""
