"""The order in which a data set's groups are visited: a pure function of seed and step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from alignloop.data.packing import Group


def rows_digest(groups: Iterable[Group]) -> str:
    """BLAKE2b over the tokens, counting masks and values of all groups, in their order.

    Per-token values are left out: what a model computed differs in rounding from machine to machine.
    """
    digest = hashlib.blake2b(digest_size=16)
    for group in groups:
        values = sorted((name, np.asarray(value).tolist()) for name, value in group.values.items())
        digest.update(repr((group.index, len(group.completions), values)).encode())
        for part in (group.prompt_ids, *(x for c in group.completions for x in (c.ids, c.mask))):
            digest.update(np.int64(len(part)).tobytes())
            digest.update(np.ascontiguousarray(part, dtype=np.int64).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class GroupStream:
    """Epochs over tokenized groups.

    Attributes:
        groups: the data set.
        groups_per_step: groups of one optimizer step (batch size × accumulation × ranks).
        num_epochs: passes over the data, fractions allowed.
        max_steps: optimizer steps, overrides `num_epochs` where positive.
        seed: of the permutation of each epoch.
        shuffle: False keeps the order of the file.
    """

    groups: Sequence[Group]
    groups_per_step: int
    num_epochs: float = 1.0
    max_steps: int = -1
    seed: int = 0
    shuffle: bool = True

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass; the last one may be smaller."""
        return max(1, -(-len(self.groups) // self.groups_per_step))

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        if self.max_steps > 0:
            return self.max_steps
        return max(1, round(self.num_epochs * self.steps_per_epoch))

    def epoch(self, step: int) -> float:
        """Passes completed before `step`."""
        return step / self.steps_per_epoch

    def step_groups(self, step: int) -> list[Group]:
        """The groups of optimizer step `step` (from 0)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.arange(len(self.groups))
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.groups))
        chosen = order[place * self.groups_per_step : (place + 1) * self.groups_per_step]
        return [self.groups[i] for i in chosen]
