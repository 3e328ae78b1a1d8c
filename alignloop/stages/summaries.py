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


def data_summary(data: Dataset, result: Tokenized) -> Mapping[str, Any]:
    """What the report shows of the data."""
    return {
        "kind": data.kind,
        "rows": len(data.records) + len(data.dropped),
        "used": len(result.groups),
        "dropped": dict(result.reasons + Counter(data.reasons)),
        "truncated": result.truncated,
        "prompt_tokens": sum(g.num_tokens for g in result.groups) - counted_tokens(result.groups),
        "completion_tokens": counted_tokens(result.groups),
        **({"turns": result.turns} if result.turns else {}),
        **({"left_out": dict(result.left_out)} if result.left_out else {}),
        "origins": dict(Counter(record.provenance.origin for record in data.records)),
    }


def counted_tokens(groups: Sequence[Group]) -> int:
    """Tokens that count in the loss."""
    return sum(int(c.mask.sum()) for group in groups for c in group.completions)


def before_after(values: Sequence[Interval], unit: str, *, higher: bool | None) -> dict[str, Any]:
    """A metric's row in a run's results, from its interval before and after."""
    before, after = values
    return {
        "before": before.value,
        "before_interval": [before.low, before.high],
        "after": after.value,
        "after_interval": [after.low, after.high],
        "unit": unit,
        "higher_is_better": higher,
    }


_NO_RESULT = frozenset({"step", "time_s", "epoch", "learning_rate"})


def summary_of_steps(history: Sequence[Mapping[str, float]], num_steps: int) -> dict[str, Any]:
    """Means over the last tenth of the steps of `history`, and the last evaluation with its intervals.

    A metric that was not finite is null in metrics.jsonl and counts in no mean.
    """
    history = [{n: v for n, v in row.items() if isinstance(v, int | float)} for row in history]
    tail = history[-max(1, len(history) // 10) :]
    names = {name for metrics in tail for name in metrics if not name.startswith("eval_")}
    means = {n: float(np.mean([m[n] for m in tail if n in m])) for n in sorted(names - _NO_RESULT)}
    last = next((m for m in reversed(history) if "eval_loss" in m), {})
    return {"num_steps": num_steps, **means, **_evaluation(last)}


def _evaluation(last: Mapping[str, float]) -> dict[str, Any]:
    """The `eval_*` of a logged row; ends of an interval, `eval_NAME_low` and `_high`, become one list."""
    found: dict[str, Any] = {}
    for name, value in last.items():
        if name.startswith("eval_") and not name.endswith(("_low", "_high")):
            found[name] = value
            if f"{name}_low" in last:
                found[f"{name}_interval"] = [last[f"{name}_low"], last[f"{name}_high"]]
    return found
