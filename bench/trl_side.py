"""TRL's side of a comparison: its own trainers, with only tokenization and data order replaced.

Run by bench/vs_trl.py as a process of its own, so that its peak memory is its own. TRL's defaults
bf16 = True and gradient_checkpointing = True are switched off, as they are on the other side.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForSequenceClassification, TrainerCallback
from transformers.utils import logging as hf_logging
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from alignloop.data.packing import Group
from alignloop.model.load import LoadedModel, load_model
from bench.measure import memory_gb
from bench.our_side import (
    BETA,
    KL_BETA,
    LORA,
    even_share,
    learning_rate_of,
    questions,
    reward_head,
    seed_adapter,
)
from bench.workload import PACKED_LENGTH, SHAPES, make_steps, packed_rows


class Recorded:
    """Mix-in for a trainer: rows are given as ids, in their order, and each step's loss is kept."""

    losses: list[float]

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self.losses = [*getattr(self, "losses", []), float(loss)]
        return loss


class SFT(Recorded, SFTTrainer): ...


class Reward(Recorded, RewardTrainer): ...


class DPO(Recorded, DPOTrainer): ...


class KTO(Recorded, KTOTrainer): ...


class ORPO(Recorded, ORPOTrainer):
    def tokenize_row(self, feature: dict[str, Any], model: object = None) -> dict[str, Any]:
        row = {"prompt_input_ids": feature["prompt_ids"]}
        for side in ("chosen", "rejected"):
            completion = feature[f"{side}_ids"]
            row[f"{side}_input_ids"] = feature["prompt_ids"] + completion
            row[f"{side}_labels"] = [-100] * len(feature["prompt_ids"]) + completion
            row[f"{side}_attention_mask"] = [1] * len(row[f"{side}_labels"])
        row["prompt_attention_mask"] = [1] * len(feature["prompt_ids"])
        return row


class GRPO(Recorded, GRPOTrainer):
    """Its update alone: samples and advantages are given, the reference runs in the step as in TRL."""

    samples: list[Group]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        groups = [self.samples[i] for i in dict.fromkeys(row["number"] for row in inputs)]
        pad = self.processing_class.pad_token_id
        rows = [(g.prompt_ids, c) for g in groups for c in g.completions]
        width, length = max(len(p) for p, _ in rows), max(len(c.ids) for _, c in rows)
        prompt_ids = torch.full((len(rows), width), pad)
        completion_ids = torch.full((len(rows), length), pad)
        prompt_mask, completion_mask = torch.zeros_like(prompt_ids), torch.zeros_like(completion_ids)
        for row, (prompt, completion) in enumerate(rows):
            prompt_ids[row, width - len(prompt) :] = torch.from_numpy(prompt)
            prompt_mask[row, width - len(prompt) :] = 1
            completion_ids[row, : len(completion.ids)] = torch.from_numpy(completion.ids)
            completion_mask[row, : len(completion.ids)] = 1
        with torch.no_grad():
            reference, _, _ = self._get_per_token_logps_and_entropies(
                self.ref_model,
                torch.cat([prompt_ids, completion_ids], 1),
                torch.cat([prompt_mask, completion_mask], 1),
                length,
                batch_size=self.args.per_device_train_batch_size,
            )
        advantages = torch.tensor([float(c.values["advantages"][0]) for _, c in rows])
        return {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": completion_ids,
            "completion_mask": completion_mask,
            "advantages": advantages,
            "ref_per_token_logps": reference,
            # the samples are the start model's, which is the reference
            "old_per_token_logps": reference,
        }


class WholeGRPO(Recorded, GRPOTrainer):
    """Its whole step: its own rollout, reward and reference, then the update."""


def even_shares(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [even_share(ids) for ids in completion_ids]


class StepTimes(TrainerCallback):
    """Wall and CPU seconds from the end of one optimizer step to the end of the next."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))


def common(method: str, rows_per_step: int, num_steps: int, seed: int, folder: str) -> dict[str, Any]:
    """Settings that all of TRL's configurations share, equal to the other side's."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": rows_per_step,
        "max_steps": num_steps,
        "learning_rate": learning_rate_of(method),
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "seed": seed,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _pair(group: Group, chosen: int = 0, rejected: int = 1) -> dict[str, Any]:
    ids = [c.ids.tolist() for c in group.completions]
    row = {"prompt_ids": group.prompt_ids.tolist(), "chosen_ids": ids[chosen], "rejected_ids": ids[rejected]}
    return row | {"prompt": "", "chosen": "", "rejected": ""}  # read by some set-up code, never trained on


def rows_of(method: str, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A step's rows in the columns of TRL's collators."""
    if method == "sft":
        return [_sequence([g]) for g in groups]
    if method == "sft-packed":
        limit = sum(g.num_tokens for g in groups) // 4
        return [_sequence(row) for row in packed_rows(groups, min(limit, PACKED_LENGTH))]
    if method in ("reward", "ranking"):
        pairs = [_pair(g, i, j) for g in groups for i, j in combinations(range(len(g.completions)), 2)]
        return [{f"{s}_ids": p["prompt_ids"] + p[f"{s}_ids"] for s in ("chosen", "rejected")} for p in pairs]
    if method.startswith("kto"):
        return [
            {
                "prompt_ids": g.prompt_ids.tolist(),
                "completion_ids": g.completions[0].ids.tolist(),
                "KL_completion_ids": g.completions[1].ids.tolist(),
                "label": bool(np.asarray(g.values["desirable"])[0]),
            }
            for g in groups
        ]
    if method == "grpo":
        return [{"prompt": "x", "number": g.index} for g in groups]
    if method == "grpo-step":
        texts = questions(groups[0].index // len(groups), len(groups))
        return [{"prompt": [{"role": "user", "content": text}]} for text in texts]
    return [_pair(g) for g in groups]


def _sequence(groups: Sequence[Group]) -> dict[str, Any]:
    """One row of consecutive demonstrations; -100 on prompt tokens."""
    ids, labels, lengths = [], [], []
    for group in groups:
        completion = group.completions[0].ids.tolist()
        ids += group.prompt_ids.tolist() + completion
        labels += [-100] * len(group.prompt_ids) + completion
        lengths.append(group.num_tokens)
    return {"input_ids": ids, "labels": labels} | ({"seq_lengths": lengths} if len(groups) > 1 else {})


def build(method: str, loaded: LoadedModel, steps: Sequence[Sequence[Group]], seed: int, folder: str) -> Any:
    """The trainer of a method, ready to train."""
    model, tokenizer = loaded.model, loaded.tokenizer
    rows = [row for groups in steps for row in rows_of(method, groups)]
    data = Dataset.from_list(rows)
    settings = common(method, len(rows) // len(steps), len(steps), seed, folder)
    shared = {"processing_class": tokenizer, "train_dataset": data}
    if method.startswith("sft"):
        packed = method == "sft-packed"
        config = SFTConfig(
            **settings,
            packing=packed,
            max_length=PACKED_LENGTH if packed else None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        return SFT(model, config, **shared)
    if method in ("reward", "ranking"):
        classifier = AutoModelForSequenceClassification.from_pretrained(
            loaded.path, num_labels=1, dtype=torch.float32, attn_implementation="sdpa"
        )
        classifier.score.weight.data.copy_(reward_head(classifier.config.hidden_size).weight)
        return Reward(classifier, RewardConfig(**settings, max_length=None), **shared)
    if method.startswith("kto"):
        cached = method == "kto-cached"
        return KTO(
            model,
            args=KTOConfig(**settings, beta=BETA, max_length=None, precompute_ref_log_probs=cached),
            **shared,
        )
    if method == "orpo":
        return ORPO(model, ORPOConfig(**settings, beta=BETA, max_length=4096), **shared)
    if method.startswith("grpo"):
        return _grpo(method, model, settings, shared, steps)
    config = DPOConfig(
        **settings,
        beta=BETA,
        loss_type=["ipo"] if method == "ipo" else ["sigmoid"],
        max_length=None,
        precompute_ref_log_probs=method == "dpo-precomputed",
    )
    lora = LoraConfig(r=LORA.r, lora_alpha=int(LORA.alpha), lora_dropout=0.0, target_modules="all-linear")
    trainer = DPO(model, args=config, peft_config=lora if method == "dpo-lora" else None, **shared)
    if method == "dpo-lora":
        seed_adapter(trainer.model)
    return trainer


def _grpo(
    method: str,
    model: Any,
    settings: dict[str, Any],
    shared: dict[str, Any],
    steps: Sequence[Sequence[Group]],
) -> Any:
    completions = SHAPES["grpo"].completions
    length = len(steps[0][0].completions[0].ids)
    settings = settings | {"per_device_train_batch_size": len(steps[0]) * completions}
    if method == "grpo-step":
        # the whole distribution, and completions of one length, as on the other side
        settings |= {"max_completion_length": length, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        settings |= {"generation_kwargs": {"min_new_tokens": length}}
    config = GRPOConfig(
        **settings,
        num_generations=completions,
        steps_per_generation=1,
        beta=KL_BETA,
        loss_type="grpo",
        epsilon=0.2,
        shuffle_dataset=False,
    )
    if method == "grpo-step":
        return WholeGRPO(model, reward_funcs=even_shares, args=config, **shared)
    trainer = GRPO(
        model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=config, **shared
    )
    trainer.samples = [group for groups in steps for group in groups]
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method")
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    hf_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(options.model, dtype="float32", device="cpu")
        steps = make_steps(
            options.method,
            options.steps,
            seed=options.seed,
            scale=options.scale,
            vocab_size=min(40_000, loaded.model.config.vocab_size),
        )
        trainer = build(options.method, loaded, steps, options.seed, folder)
        times = StepTimes()
        trainer.add_callback(times)
        trainer.train()
    marks = np.array(times.marks)
    result = {
        "side": "trl",
        "step_s": np.diff(marks[:, 0]).tolist(),
        "step_cpu_s": np.diff(marks[:, 1]).tolist(),
        "losses": trainer.losses,
        "peak_memory_gb": memory_gb(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
