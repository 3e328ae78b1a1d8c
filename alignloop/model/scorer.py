"""Rewards of packed groups: one scalar head, or an ensemble of adapters with heads on one base.

M members, K completions of a group, A outputs of a head (the first one is the reward).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignloop.data.packing import Batch, Group
from alignloop.errors import ModelError
from alignloop.io import new_file
from alignloop.model.adapters import using
from alignloop.model.infer import run_groups
from alignloop.model.loading import loading
from alignloop.model.packed import Forward, PackedModel, ScalarHead

HEAD_FILE = "scalar_head.safetensors"


@dataclass(frozen=True, slots=True)
class Scorer:
    """Reward models on one transformers model.

    Attributes:
        members: a packed model with its own head for each; all on the same transformers model.
        adapters: each member's adapter on it; none where its own weights are the reward model's.
        peft: the adapters, if there are any.
    """

    members: tuple[PackedModel, ...]
    adapters: tuple[str, ...] = ()
    peft: PeftModel | None = None

    def active(self, member: int) -> AbstractContextManager[None]:
        """While it lasts, the base computes this member; afterwards it is what it was."""
        return using(self.peft, self.adapters[member]) if self.peft is not None else nullcontext()

    def only(self, member: int) -> Scorer:
        """One of the members."""
        return Scorer((self.members[member],), self.adapters[member : member + 1], self.peft)

    def scores(self, groups: Sequence[Group], token_budget: int) -> list[Tensor]:
        """Rewards of every group's completions by every member, float32 (M, K) on the CPU, in order."""
        by_member = []
        for number, member in enumerate(self.members):
            with self.active(number):
                by_member.append([s[:, 0] for s in group_scores(member, groups, token_budget)])
        return [torch.stack(rows) for rows in zip(*by_member, strict=True)]


def group_scores(
    model: PackedModel, groups: Sequence[Group], token_budget: int, *, title: str = "rewards"
) -> list[Tensor]:
    """Scores of every group's completions, float32 (K, A) each on the CPU, in the order of the groups."""

    def read(out: Forward, batch: Batch, chunk: Sequence[Group]) -> Sequence[Tensor]:
        assert out.scores is not None
        return out.scores.cpu().split([len(group.completions) for group in chunk])

    def forward(batch: Batch) -> Forward:
        return model(batch, {"scores"})

    return run_groups(model, groups, token_budget, forward, read, title=title)


def normalize(model: PackedModel, groups: Sequence[Group], token_budget: int) -> tuple[Tensor, Tensor]:
    """Set gain and shift so that each output has mean 0 and std 1 on these groups; returns the old, (A,)."""
    rewards = torch.cat(group_scores(model, groups, token_budget, title="normalizing the rewards"))
    mean, std = rewards.mean(0), rewards.std(0).clamp(min=1e-6)
    assert model.head is not None
    device = model.head.gain.device
    model.head.shift.sub_(mean.to(device)).div_(std.to(device))
    model.head.gain.div_(std.to(device))
    return mean, std


def save_head(head: ScalarHead, folder: Path) -> None:
    """Write a scalar head into a model's folder.

    Raises:
        DiskError: disk full or not writable; the old head stays.
    """
    with new_file(folder / HEAD_FILE) as made:
        save_file({k: v.contiguous() for k, v in head.state_dict().items()}, made)


def load_head(folder: Path) -> ScalarHead:
    """The scalar head in a reward model's folder, its gain and shift included.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    if not (folder / HEAD_FILE).is_file():
        raise ModelError(
            f"'{folder}' is no reward model: {HEAD_FILE} is missing (train one with stage 'reward')"
        )
    with loading(f"reward model '{folder}': {HEAD_FILE}"):
        weights = load_file(folder / HEAD_FILE)
        head = ScalarHead(weights["weight"].shape[1], weights["weight"].shape[0])
        head.load_state_dict(weights)
    return head


def first_outputs(head: ScalarHead, count: int) -> ScalarHead:
    """The head without its later outputs: the quality head of one that was trained beside a length head."""
    kept = ScalarHead(head.weight.shape[1], count).to(device=head.weight.device, dtype=head.weight.dtype)
    kept.load_state_dict({name: tensor[:count] for name, tensor in head.state_dict().items()})
    return kept
