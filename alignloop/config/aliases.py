"""Other tools' keys, understood with a notice or refused with a reason; rewards by their shortest names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from alignloop.user_functions import REFERENCE


def _same(value: Any) -> Any:
    return value


class Alias(NamedTuple):
    """What another tool's key is called here.

    Attributes:
        key: the key used here.
        convert: makes the value used here out of the other tool's.
        beside: taken only where this key is set too; "" for anywhere.
        yields: whether it is left out where the key itself is set and the value is true.
    """

    key: str
    convert: Callable[[Any], Any] = _same
    beside: str = ""
    yields: bool = False


def _choice(**values: Any) -> Callable[[Any], Any]:
    """A conversion of single values; others stay, for the key's own check. Booleans are `true`, `false`."""

    def convert(value: Any) -> Any:
        return values.get(str(value).lower(), value)

    return convert


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
    "per_device_train_batch_size": "micro_batch_size train_batch_size micro_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation grad_accum accumulate_grad_batches",
    "num_train_epochs": "epochs num_epochs max_epochs n_epochs",
    "num_iterations": "ppo_epochs num_ppo_epochs mu",
    "kl_target": "target",
    "kl_horizon": "horizon",
    "epsilon": "cliprange clip_range clip_eps",
    "epsilon_low": "epsilon clip_ratio_low",
    "epsilon_high": "clip_ratio_high",
    "value_epsilon": "cliprange_value value_clip",
    "value_coefficient": "vf_coef vf_coeff",
    "entropy_coefficient": "entropy_coef ent_coef entropy_coeff",
    "reward_clip": "score_clip cliprange_reward reward_clip_range",
    "normalize_reward": "use_score_scaling",
    "critic_learning_rate": "critic_lr",
    "lam": "gae_lambda lambd",
    "ratio_level": "importance_sampling_level",
    "unbiased_kl": "use_bias_correction_kl",
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
    "batch_size": (
        Alias("rollout_prompts", beside="mini_batch_size"),
        Alias("per_device_train_batch_size"),
    ),
    "mini_batch_size": (Alias("per_device_train_batch_size"),),
    "adap_kl_ctrl": (Alias("kl_controller", _choice(true="adaptive", false="fixed")),),
    "use_peft": (Alias("lora_r", _choice(true=16, false=0), yields=True),),
    "mask_truncated_completions": (Alias("missing_eos", _choice(true="mask", false="keep")),),
    "scale_rewards": (
        Alias(
            "advantage",
            _choice(
                true="group_std",
                group="group_std",
                batch="group_mean_batch_std",
                false="group_mean",
                none="group_mean",
            ),
        ),
    ),
    "multi_objective_aggregation": (
        Alias("normalize_each_reward", _choice(normalize_then_sum=True, sum_then_normalize=False)),
    ),
    "loss_type": (
        Alias(
            "loss_aggregation",
            _choice(grpo="sequence_mean", dapo="token_mean", bnpo="token_mean", dr_grpo="constant"),
        ),
        Alias("loss"),
    ),
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
    "resume_from_checkpoint": "a run in the same output_dir goes on by itself, or from --resume PATH",
    "kl_penalty": "the KL in the reward is k1; kl_estimator chooses that of the loss",
    "whiten_rewards": "whiten_advantages makes the advantages' mean 0 and variance 1",
    "reward_funcs": "name the parts under rewards, for example `rewards: [{function: module:name}]`",
    "reward_weights": "each part of rewards has its weight",
    "early_stopping": "set target_kl: a rollout is left early above this approx_kl per token",
    "optim": "the optimizer is AdamW",
    "optimizer": "the optimizer is AdamW",
}
"""Keys that are understood but cannot be honoured, with what to do instead."""

ANYWAY: Mapping[str, Any] = {
    "resume_from_checkpoint": True,
    "packing": True,
    "sample_packing": True,
    "padding_free": True,
    "pad_to_sequence_len": False,
    "fp16": False,
    "load_in_4bit": False,
    "load_in_8bit": False,
    "trust_remote_code": False,
    "push_to_hub": False,
    "early_stopping": False,
}
"""Keys of `REFUSED` with the value that asks for what happens anyway; it is accepted with a notice."""

VerifierName = Literal["constraints", "math", "regex", "json_schema", "exact"]
PenaltyName = Literal["length", "repetition", "overlong"]


def named_reward(text: str) -> dict[str, Any]:
    """The part of `rewards` that a name means.

    Args:
        text: a verifier's or penalty's name, `module:function`, `file.py:function`, or a reward model's path.

    Returns:
        The part, with one key.
    """
    if text in get_args(VerifierName):
        return {"verifier": text}
    if text in get_args(PenaltyName):
        return {"penalty": text}
    if re.fullmatch(REFERENCE, text) and not Path(text).exists():
        return {"function": text}
    return {"model": text}
