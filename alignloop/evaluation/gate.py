"""`require:` of an evaluation: sentences such as `dpo.win_rate.low > 0.5` that a pipeline stops at."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from alignloop.errors import AlignLoopError, ConfigError
from alignloop.runs.evaluation_results import RequirementRow

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


@dataclass(frozen=True, slots=True)
class CheckedRequirement:
    """A requirement with what was measured."""

    requirement: Requirement
    measured: float

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return _OPERATORS[self.requirement.relation](self.measured, self.requirement.bound)


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


def judge(requirements: Sequence[str], measured: Mapping[str, float]) -> list[CheckedRequirement]:
    """Every requirement with its measured value.

    Args:
        requirements: sentences of the recipe.
        measured: values by name.

    Returns:
        Checked ones in the same order.

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
        outcomes.append(CheckedRequirement(wanted, measured[wanted.name]))
    return outcomes


def enforce(outcomes: Sequence[CheckedRequirement]) -> None:
    """Stop where a requirement does not hold.

    Raises:
        RequirementError: with every failed requirement and its measured value.
    """
    failed = [o for o in outcomes if not o.met]
    if failed:
        shown = "; ".join(f"{o.requirement.text} (measured {o.measured:.4g})" for o in failed)
        count = f"{len(failed)} of {len(outcomes)} requirements" if len(outcomes) > 1 else "the requirement"
        verb = "are" if len(failed) > 1 else "is"
        raise RequirementError(f"{count} {verb} not met: {shown}")


def as_rows(outcomes: Sequence[CheckedRequirement]) -> tuple[RequirementRow, ...]:
    """The outcomes for run.json."""
    return tuple(
        RequirementRow(requirement=o.requirement.text, measured=o.measured, met=o.met) for o in outcomes
    )
