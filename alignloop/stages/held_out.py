"""Which rows are held out for evaluation."""

from __future__ import annotations

import numpy as np

from alignloop.data.packing import Group
from alignloop.errors import DataError


def hold_out(groups: list[Group], fraction: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Split off a share of the prompts for evaluation; equal prompts stay on one side.

    Conversations that begin with the same question count as one prompt. One prompt at least is trained on.

    Raises:
        DataError: all rows have one prompt, so that none would be left to train on.
    """
    if fraction <= 0:
        return groups, []
    prompts = sorted({group.question for group in groups})
    if len(prompts) < 2:
        raise DataError(
            f"eval_fraction {fraction:g}: the {len(groups)} rows have one prompt, and rows of one prompt "
            "stay together: none would be left to train on; set eval_fraction: 0 or give an eval_dataset",
            reason="no_rows",
        )
    count = min(max(1, round(fraction * len(prompts))), len(prompts) - 1)
    chosen = {prompts[i] for i in np.random.default_rng(seed).permutation(len(prompts))[:count]}
    return (
        [g for g in groups if g.question not in chosen],
        [g for g in groups if g.question in chosen],
    )
