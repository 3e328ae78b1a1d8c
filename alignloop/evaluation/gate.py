"""`require:` of an evaluation: sentences such as `dpo.win_rate.low > 0.5` that a pipeline stops at."""

from __future__ import annotations

import difflib
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from alignloop.errors import AlignLoopError, ConfigError
from alignloop.evaluation.comparison import Measurement, ModelCell
from alignloop.runs.evaluation_results import RequirementRow, WinRow
from alignloop.runs.json_values import Span
from alignloop.runs.results import ends

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*(\S+)\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*", re.IGNORECASE)


class RequirementError(AlignLoopError):
    """An evaluation is not as good as the recipe requires; the pipeline stops with exit code 5."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Requirement:
    """A sentence of `require:`, taken apart; `name` is `metric.what` or `model.metric.what`."""

    text: str
    name: str
    relation: str
    bound: float


def parse(text: str) -> Requirement:
    """`dpo.gsm8k.change_low >= -0.02` taken apart.

    Raises:
        ConfigError: not of the form NAME RELATION NUMBER.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"require: '{text}' is not of the form NAME RELATION NUMBER, such as `dpo.win_rate.low > 0.5`"
        )
    return Requirement(" ".join(text.split()), match[1], match[2], float(match[3]))


def judge(requirements: Sequence[str], measured: Mapping[str, float]) -> tuple[RequirementRow, ...]:
    """Every requirement with its measured value.

    Args:
        requirements: sentences of the recipe.
        measured: values by name.

    Returns:
        Results for run.json in the same order.

    Raises:
        ConfigError: a name that was not measured; the nearest ones are suggested.
    """
    outcomes = []
    for text in requirements:
        wanted = parse(text)
        if wanted.name not in measured:
            near = difflib.get_close_matches(wanted.name, measured, n=3, cutoff=0.4)
            shown = ", ".join(near or sorted(measured)[:8])
            raise ConfigError(f"require: '{wanted.name}' was not measured; there are, for example, {shown}")
        value = measured[wanted.name]
        met = _OPERATORS[wanted.relation](value, wanted.bound)
        outcomes.append(RequirementRow(requirement=wanted.text, measured=value, met=met))
    return tuple(outcomes)


def enforce(outcomes: Sequence[RequirementRow]) -> None:
    """Stop where a requirement does not hold.

    Raises:
        RequirementError: with every failed requirement and its measured value.
    """
    failed = [o for o in outcomes if not o.met]
    if failed:
        shown = "; ".join(f"{o.requirement} (measured {o.measured:.4g})" for o in failed)
        count = f"{len(failed)} of {len(outcomes)} requirements" if len(outcomes) > 1 else "the requirement"
        verb = "are" if len(failed) > 1 else "is"
        raise RequirementError(f"{count} {verb} not met: {shown}")


def with_ends(name: str, value: float | None, interval: Span | None, joint: str) -> dict[str, float]:
    """A value and the ends of its interval under names such as `NAME.low`; {} where it is not known."""
    if value is None or interval is None:
        return {}
    return {name: value, f"{name}{joint}low": interval[0], f"{name}{joint}high": interval[1]}


def named_figures(
    cells: Sequence[tuple[Measurement, Mapping[str, ModelCell]]], wins: Sequence[WinRow]
) -> dict[str, float]:
    """Everything that `require` may name; a name that would mean several figures is left out."""
    named: dict[str, float] = {}
    for measured, row in cells:
        for model, cell in row.items():
            stem = f"{model}.{measured.name}"
            named |= with_ends(stem, cell.value.value, ends(cell.value), ".")
            if cell.difference is not None:
                named |= with_ends(f"{stem}.change", cell.difference.value, ends(cell.difference), "_")
    stems = [_stems(win, wins) for win in wins]
    times = Counter(stem for row in stems for stem in row)
    for win, row in zip(wins, stems, strict=True):
        for stem in row:
            if times[stem] == 1:  # a name of several win rates would be the last one's
                named |= with_ends(stem, win.value, win.interval, ".")
    return named


def _stems(win: WinRow, wins: Sequence[WinRow]) -> list[str]:
    """Names of a win rate, the shorter ones first; the last one names its set."""
    model, judge = win.model, win.judge
    short = [f"{model}.win_rate"] if sum(w.model == model for w in wins) == 1 else []
    return [*short, f"{model}.win_rate_{judge}", f"{model}.{win.set}.win_rate_{judge}"]
