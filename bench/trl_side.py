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
from collections.abc import Callable, Mapping, Sequence
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
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from alignloop.data.packing import Group
from alignloop.model.load import LoadedModel, load_model
from bench.measure import TRL_PLAIN, count_tokens, finish, peak_memory_gb
from bench.our_side import BETA, KL_BETA, LORA, learning_rate_of, reward_head, seed_adapter, shape_of
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


class IdsGiven(Recorded):
    """The experimental trainers tokenize row by row."""

    def tokenize_row(self, feature: dict[str, Any], model: object = None) -> dict[str, Any]:
        row = {"prompt_input_ids": feature["prompt_ids"]}
        for side in ("chosen", "rejected"):
            completion = feature[f"{side}_ids"]
            row[f"{side}_input_ids"] = feature["prompt_ids"] + completion
            row[f"{side}_labels"] = [-100] * len(feature["prompt_ids"]) + completion
            row[f"{side}_attention_mask"] = [1] * len(row[f"{side}_labels"])
        row["prompt_attention_mask"] = [1] * len(feature["prompt_ids"])
        return row


class ORPO(IdsGiven, ORPOTrainer): ...


class CPO(IdsGiven, CPOTrainer): ...


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


class StepTimes(TrainerCallback):
    """Wall and CPU seconds and tokens from the end of one optimizer step to the end of the next."""

    def __init__(self, count: Callable[[], int], device: str = "cpu") -> None:
        self.marks: list[tuple[float, float, int]] = []
        self.count = count
        self.device = device

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        finish(self.device)
        self.marks.append((time.perf_counter(), time.process_time(), self.count()))

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        finish(self.device)
        self.marks.append((time.perf_counter(), time.process_time(), self.count()))


def common(method: str, rows_per_step: int, num_steps: int, seed: int, folder: str) -> dict[str, Any]:
    """Settings that all of TRL's configurations share, equal to the other side's."""
    return {
        **TRL_PLAIN,
        "output_dir": folder,
        "per_device_train_batch_size": rows_per_step,
        "max_steps": num_steps,
        "learning_rate": learning_rate_of(method),
        "seed": seed,
        "train_sampling_strategy": "sequential",
    }


def _pair(group: Group, chosen: int = 0, rejected: int = 1) -> dict[str, Any]:
    ids = [c.ids.tolist() for c in group.completions]
    row = {"prompt_ids": group.prompt_ids.tolist(), "chosen_ids": ids[chosen], "rejected_ids": ids[rejected]}
    return row | {"prompt": "", "chosen": "", "rejected": ""}  # read by some set-up code, never trained on


def rows_of(method: str, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A step's rows in the columns of TRL's collators."""
    if method == "sft":
        return [{k: v for k, v in _sequence([g]).items() if k != "seq_lengths"} for g in groups]
    if method == "sft-packed":
        limit = sum(g.num_tokens for g in groups) // 4
        return [_sequence(row) for row in packed_rows(groups, min(limit, PACKED_LENGTH))]
    if method in ("reward", "ranking"):
        pairs = [_pair(g, i, j) for g in groups for i, j in combinations(range(len(g.completions)), 2)]
        rows = [{f"{s}_ids": p["prompt_ids"] + p[f"{s}_ids"] for s in ("chosen", "rejected")} for p in pairs]
        if "margin" in groups[0].values:
            rows = [{**row, "margin": g.values["margin"]} for row, g in zip(rows, groups, strict=True)]
        return rows
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
    return [_pair(g) for g in groups]


def _sequence(groups: Sequence[Group]) -> dict[str, Any]:
    """One row of consecutive demonstrations; -100 on prompt tokens."""
    ids, labels, lengths = [], [], []
    for group in groups:
        completion = group.completions[0].ids.tolist()
        ids += group.prompt_ids.tolist() + completion
        labels += [-100] * len(group.prompt_ids) + completion
        lengths.append(group.num_tokens)
    return {"input_ids": ids, "labels": labels, "seq_lengths": lengths}


def build(
    method: str,
    loaded: LoadedModel,
    steps: Sequence[Sequence[Group]],
    seed: int,
    folder: str,
    changes: Mapping[str, Any] | None = None,
) -> Any:
    """The trainer of a method, ready to train; `changes` replace settings of its configuration.

    `simpo` is TRL's experimental CPO trainer on the rows of DPO.
    """
    model = loaded.model
    rows = [row for groups in steps for row in rows_of(method, groups)]
    settings = {**common(method, len(rows) // len(steps), len(steps), seed, folder), **_settings(method)}
    if method == "grpo":
        settings["per_device_train_batch_size"] = len(steps[0]) * SHAPES["grpo"].completions
    settings |= changes or {}
    shared = {"processing_class": loaded.tokenizer, "train_dataset": Dataset.from_list(rows)}
    if method.startswith("sft"):
        return SFT(model, SFTConfig(**settings), **shared)
    if method in ("reward", "ranking"):
        return Reward(_classifier(loaded), RewardConfig(**settings), **shared)
    if method.startswith("kto"):
        return KTO(model, args=KTOConfig(**settings), **shared)
    if method == "orpo":
        return ORPO(model, ORPOConfig(**settings), **shared)
    if method == "simpo":
        return CPO(model, CPOConfig(**settings), **shared)
    if method == "grpo":
        trainer = GRPO(model, reward_funcs=_no_reward, args=GRPOConfig(**settings), **shared)
        trainer.samples = [group for groups in steps for group in groups]
        return trainer
    lora = LoraConfig(r=LORA.r, lora_alpha=int(LORA.alpha), lora_dropout=0.0, target_modules="all-linear")
    peft_config = lora if method == "dpo-lora" else None
    trainer = DPO(model, args=DPOConfig(**settings), peft_config=peft_config, **shared)
    if method == "dpo-lora":
        seed_adapter(trainer.model)
    return trainer


def _settings(method: str) -> dict[str, Any]:
    """What a method's configuration has beside the common settings."""
    if method.startswith("sft"):
        packed = method == "sft-packed"
        length = PACKED_LENGTH if packed else None
        return {
            "packing": packed,
            "max_length": length,
            "dataset_kwargs": {"skip_prepare_dataset": True},
        }
    if method in ("reward", "ranking"):
        return {"max_length": None}
    if method.startswith("kto"):
        return {"beta": BETA, "max_length": None, "precompute_ref_log_probs": method == "kto-cached"}
    if method == "orpo":
        return {"beta": BETA, "max_length": 4096}
    if method == "simpo":
        return {"loss_type": "simpo", "cpo_alpha": 0.0, "max_length": 4096}
    if method == "grpo":
        return {
            "num_generations": SHAPES["grpo"].completions,
            "steps_per_generation": 1,
            "beta": KL_BETA,
            "use_bias_correction_kl": True,  # AlignLoop's `unbiased_kl`
            "loss_type": "grpo",
            "epsilon": 0.2,
            "shuffle_dataset": False,
        }
    loss = ["ipo"] if method == "ipo" else ["sigmoid"]
    precompute = method == "dpo-precomputed"
    return {"beta": BETA, "loss_type": loss, "max_length": None, "precompute_ref_log_probs": precompute}


def _classifier(loaded: LoadedModel) -> Any:
    """A sequence classifier whose head starts as the other side's."""
    classifier = AutoModelForSequenceClassification.from_pretrained(
        loaded.path, num_labels=1, dtype=torch.float32, attn_implementation="sdpa"
    )
    classifier.score.weight.data.copy_(reward_head(classifier.config.hidden_size).weight)
    return classifier


def _no_reward(completions: Sequence[object], **_: object) -> list[float]:
    return [0.0] * len(completions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method")
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--shape", type=shape_of, help="instead of the method's own: see workload.Shape")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    changes = {} if options.device == "cpu" else {"bf16": True, "use_cpu": False}
    hf_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(options.model, dtype="float32", device=options.device)
        steps = make_steps(
            options.method,
            options.steps,
            seed=options.seed,
            scale=options.scale,
            vocab_size=min(40_000, loaded.model.config.vocab_size),
            shape=options.shape,
        )
        trainer = build(options.method, loaded, steps, options.seed, folder, changes)
        count = count_tokens(trainer.model.get_input_embeddings(), options.method)
        times = StepTimes(count, options.device)
        trainer.add_callback(times)
        trainer.train()
    marks = np.array(times.marks)
    result = {
        "side": "trl",
        "step_s": np.diff(marks[:, 0]).tolist(),
        "step_cpu_s": np.diff(marks[:, 1]).tolist(),
        "computed_tokens": np.diff(marks[:, 2]).tolist(),
        "losses": trainer.losses,
        "peak_memory_gb": peak_memory_gb(options.device),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
