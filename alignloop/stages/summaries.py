"""Rows of a run's results: what was read of the data, and a metric before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignloop.data.columns import Dataset
from alignloop.data.packing import Group
from alignloop.data.tokenize import Tokenized
from alignloop.evaluation.bootstrap import Interval
from alignloop.runs.evaluation_results import BeforeAfter
from alignloop.runs.results import DataRead, HeldOut, Trained, ends


def data_summary(data: Dataset, result: Tokenized) -> Mapping[str, Any]:
    """What the report shows of the data."""
    more: dict[str, Any] = {"turns": result.turns} if result.turns else {}
    more |= {"left_out": dict(result.left_out)} if result.left_out else {}
    counted = DataRead(
        kind=data.kind,
        rows=len(data.records) + len(data.dropped),
        used=len(result.groups),
        dropped=dict(result.reasons + Counter(data.reasons)),
        truncated=result.truncated,
        prompt_tokens=sum(g.num_tokens for g in result.groups) - counted_tokens(result.groups),
        completion_tokens=counted_tokens(result.groups),
        origins=dict(Counter(record.provenance.origin for record in data.records)),
        **more,
    )
    return counted.row()


def counted_tokens(groups: Sequence[Group]) -> int:
    """Tokens that count in the loss."""
    return sum(int(c.mask.sum()) for group in groups for c in group.completions)


def before_after(values: Sequence[Interval], unit: str, *, higher: bool | None, **change: Any) -> BeforeAfter:
    """A metric from its interval before and after; `change` holds the keys of its paired change."""
    before, after = values
    return BeforeAfter(
        before=before.value,
        before_interval=ends(before),
        after=after.value,
        after_interval=ends(after),
        unit=unit,
        higher_is_better=higher,
        **change,
    )


_NO_RESULT = frozenset({"step", "time_s", "epoch", "learning_rate"})


def summary_of_steps(
    history: Sequence[Mapping[str, float]], num_steps: int, *, held_out_rows: int = 0
) -> dict[str, Any]:
    """Means over the last tenth of the steps of `history`, and the last evaluation with its intervals.

    A metric that was not finite is null in metrics.jsonl and counts in no mean.

    Args:
        history: rows of metrics.jsonl.
        num_steps: optimizer steps of the run.
        held_out_rows: rows of each evaluation, 0 for none.

    Returns:
        Results for run.json.
    """
    history = [{n: v for n, v in row.items() if isinstance(v, int | float)} for row in history]
    tail = history[-max(1, len(history) // 10) :]
    names = {name for metrics in tail for name in metrics if not name.startswith("eval_")}
    means = {n: float(np.mean([m[n] for m in tail if n in m])) for n in sorted(names - _NO_RESULT)}
    last = next((m for m in reversed(history) if "eval_loss" in m), {})
    held_out = HeldOut.of_logged(last)
    if held_out_rows:
        held_out = held_out.model_copy(update={"rows": held_out_rows})
    return {**Trained(num_steps=num_steps).row(), **means, **held_out.row()}
