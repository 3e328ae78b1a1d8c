"""Reward models: a language model whose output layer is replaced by a scalar head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from alignloop.config import RewardConfig
from alignloop.data.packing import Group, collate, pack
from alignloop.data.tokenize import attributes_of, with_attributes
from alignloop.errors import ModelError
from alignloop.model.load import load_model
from alignloop.model.packed import PackedModel, ScalarHead
from alignloop.objectives.base import Objective
from alignloop.run import Run
from alignloop.stages import common
from alignloop.stages.labels import label_table

HEAD_FILE = "scalar_head.safetensors"


def reward(config: RewardConfig, run: Run, objective: Objective) -> dict[str, Any]:
    """Train a reward model on comparisons (or rankings, or ratings with another objective).

    After training, gain and bias are set so that rewards of the training completions have mean 0 and
    standard deviation 1 (Stiennon et al. 2020): differences are all that is identified.

    Args:
        config: the recipe; all layers train unless `freeze_base`.
        run: the run folder; receives metrics, checkpoints and `model/` with `scalar_head.safetensors`.
        objective: for example `BradleyTerry()`.

    Returns:
        Results for run.json.
    """
    data, held = common.read_data(config, objective.records[0], run)
    attributes = attributes_of(data.records)
    data = replace(data, records=with_attributes(data.records, attributes))
    prepared = common.prepare(config, num_outputs=max(1, len(attributes)), freeze_base=config.freeze_base)
    result = common.tokenized(config, prepared, run, data)
    groups, held_out = common.hold_out(result.groups, config.eval_fraction, config.seed)
    if held is not None:
        held = replace(held, records=with_attributes(held.records, attributes))
        held_out = common.tokenized(config, prepared, run, held).groups
    common.check_rows(config, objective, run, prepared, groups, held_out)
    base = prepared.loaded.model
    if not base.config.tie_word_embeddings:  # the vocabulary head is replaced, so it does not train
        base.get_output_embeddings().requires_grad_(False)  # pyright: ignore[reportOptionalMemberAccess]
    summary = common.fit(config, objective, run, prepared, groups, held_out=held_out)
    mean, std = (
        normalize(prepared.model, groups[:512], config.token_budget) if config.normalize else (0.0, 1.0)
    )
    common.save_policy(prepared, run.path / "model")
    save_head(prepared.model, run.path / "model")
    numbers = {"reward_mean": mean, "reward_std": std, "data": common.data_summary(data, result)}
    numbers |= label_table(data.records)
    return {**summary, **numbers, **({"attributes": list(attributes)} if attributes else {})}


def normalize(model: PackedModel, groups: list[Group], token_budget: int) -> tuple[float, float]:
    """Set gain and shift so that these groups' rewards have mean 0 and std 1 in every output.

    Returns:
        Mean and standard deviation of the first output before.
    """
    rewards = torch.cat(group_scores(model, groups, token_budget))
    mean, std = rewards.mean(0), rewards.std(0).clamp(min=1e-6)
    assert model.head is not None
    model.head.shift.sub_(mean.to(model.head.shift)).div_(std.to(model.head.shift))
    model.head.gain.div_(std.to(model.head.gain))
    return float(mean[0]), float(std[0])


def group_scores(model: PackedModel, groups: list[Group], token_budget: int) -> list[torch.Tensor]:
    """Scores of every group's completions, (K, A) each, in the order of the groups."""
    model.eval()
    numbered = [Group(g.prompt_ids, g.completions, i) for i, g in enumerate(groups)]
    scores: list[torch.Tensor] = [torch.empty(0)] * len(groups)
    with torch.no_grad():
        for chunk in pack(numbered, token_budget):
            out = model(collate(chunk), logprobs=False, scores=True).scores
            assert out is not None
            for group, part in zip(chunk, out.cpu().split([len(g.completions) for g in chunk]), strict=True):
                scores[group.index] = part
    return scores


def save_head(model: PackedModel, folder: Path) -> None:
    """Write the scalar head beside the model's weights."""
    assert model.head is not None
    scratch = folder / f".{HEAD_FILE}"
    save_file({k: v.contiguous() for k, v in model.head.state_dict().items()}, scratch)
    scratch.replace(folder / HEAD_FILE)


class RewardModel:
    """A trained reward model that scores texts.

    Attributes:
        model: packed model with its head, in eval mode.
        encoder: text to tokens, with the template it was trained with.
    """

    def __init__(
        self, path: str | Path, *, dtype: str = "auto", device: str = "auto", token_budget: int = 4096
    ) -> None:
        loaded = load_model(path, dtype=dtype, device=device)
        file = (loaded.path or Path(path)) / HEAD_FILE
        if not file.exists():
            raise ModelError(
                f"'{path}' is no reward model: {HEAD_FILE} is missing (train one with stage 'reward')"
            )
        weights = load_file(file)
        head = ScalarHead(weights["weight"].shape[1], weights["weight"].shape[0])
        head.load_state_dict(weights)
        self.model = PackedModel(loaded.model, head=head.to(loaded.model.device)).eval()
        self.tokenizer = loaded.tokenizer
        self.encoder = common.inference_encoder(loaded)
        self.token_budget = token_budget

    def score(self, prompts: list[Any], completions: list[list[str]]) -> list[list[float]]:
        """Rewards of K completions for each prompt (a conversation), first output of the head."""
        groups = [
            Group(self.encoder.prompt(p), tuple(common.counted(self.encoder.completion(t)) for t in texts), i)
            for i, (p, texts) in enumerate(zip(prompts, completions, strict=True))
        ]
        return [s[:, 0].tolist() for s in group_scores(self.model, groups, self.token_budget)]
