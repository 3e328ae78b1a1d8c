"""What a stage found: one class for each family of stages, written by stages and read by everyone else.

The keys of `results` in run.json stand here and in `evaluation_results`, and nowhere else. A stage returns
`SomeResults(…).row()`; readers call `read_results`, or `results(…)` of a run, with the class of the family.
Reading never fails: a key that is missing, or holds another kind of value than it should, has its default,
because a report is wanted most when a run went wrong. Folders of earlier versions have the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Protocol, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from alignloop.runs.json_values import Json, Span, ends_of, mapping, number, text


def _items(value: Json) -> list[Json]:
    return list(value) if isinstance(value, list | tuple) else []


def _known(value: Json) -> dict[str, float] | None:
    """The numbers by name, None where one is no number."""
    found = {text(name): number(item) for name, item in mapping(value).items()}
    known = {name: item for name, item in found.items() if item is not None}
    return known if known and len(known) == len(found) else None


def _named(value: Json) -> dict[str, Json]:
    return {text(name): item for name, item in mapping(value).items()}


class ResultPart(BaseModel):
    """Keys that belong together in run.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _only_of_an_object(cls, value: Json) -> Json:
        return value if isinstance(value, dict | ResultPart) else {}

    def row(self) -> dict[str, Any]:
        """As JSON: the keys that were given, None where a given one is not known."""
        return self.model_dump(mode="json", exclude_unset=True)


T = TypeVar("T")
P = TypeVar("P", bound=ResultPart)
Number = Annotated[int | float | None, BeforeValidator(number)]
Known = Annotated[int | float, BeforeValidator(lambda value: number(value) or 0)]
Text = Annotated[str, BeforeValidator(text)]
Ends = Annotated[Span | None, BeforeValidator(ends_of)]
Flag = Annotated[bool | None, BeforeValidator(lambda value: value if isinstance(value, bool) else None)]
Many = Annotated[tuple[T, ...], BeforeValidator(_items)]
Named = Annotated[dict[str, T], BeforeValidator(_named)]
Maybe = Annotated[
    T | None, BeforeValidator(lambda value: value if isinstance(value, dict | ResultPart) else None)
]
Figures = Annotated[dict[str, int | float] | None, BeforeValidator(_known)]
Object = Annotated[Mapping[str, Any], PlainValidator(mapping)]


def read_results(results: Json, shape: type[P]) -> P:
    """The results of a run as one family of stages writes them.

    Args:
        results: `results` of run.json, whatever they are.
        shape: the family's class.

    Returns:
        The results; what is missing or odd has its default.
    """
    return shape.model_validate(results)


class IntervalLike(Protocol):
    """An estimate as `evaluation.bootstrap` makes it."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def ends(found: IntervalLike | None) -> Span | None:
    """Both ends of an estimate's interval, None without an estimate."""
    return None if found is None else (found.low, found.high)


class Estimate(ResultPart):
    """A figure with its interval; `n` is the number of prompts it rests on, `level` the interval's."""

    value: Number = None
    interval: Ends = None
    n: Number = None
    level: Number = None

    @property
    def against_half(self) -> str:
        """A share against a half by its whole interval: better, worse, undecided; "" without interval."""
        if self.interval is None:
            return ""
        return "better" if self.interval[0] > 0.5 else "worse" if self.interval[1] < 0.5 else "undecided"


def estimates(results: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, float, Span | None]]:
    """Every number in the results with its interval, in their order, each once; lists hold none.

    A number's interval stands where stages write it: {value, interval}, or `NAME_interval` beside NAME.

    Yields:
        (name with dots, value, interval or None); before and after of a metric are two numbers.
    """
    for name, item in results.items():
        key, found = f"{prefix}{name}", number(item)
        if isinstance(item, dict):
            own = read_results(item, Estimate)
            if own.value is None:
                yield from estimates(item, f"{key}.")
            else:
                yield key, own.value, own.interval
        elif found is not None:
            yield key, found, ends_of(results.get(f"{name}_interval"))


def numbers(results: Json, prefix: str = "") -> dict[str, float]:
    """Every number in the results under its dotted name, those beside a value too; lists are left out."""
    found: dict[str, float] = {}
    for name, value in mapping(results).items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = value
    return found


# Training


class DataRead(ResultPart):
    """An input file and what a stage counted in it."""

    path: Text = ""
    sha256: Text = ""
    kind: Json = None
    kinds: Json = None
    rows: Number = None
    used: Number = None
    dropped: Named[Number] = Field(default_factory=dict)
    truncated: Number = None
    prompt_tokens: Number = None
    completion_tokens: Number = None
    turns: Json = None
    left_out: Json = None
    origins: Json = None


class HeldOut(ResultPart):
    """Means over rows that were not trained on, by metric; `eval_NAME` in metrics.jsonl and in results."""

    means: Named[Estimate] = Field(default_factory=dict)
    rows: Number = None

    @classmethod
    def read(cls, results: Mapping[str, Json]) -> Self:
        """From results: `eval_NAME`, `eval_NAME_interval` and `eval_rows`."""
        return cls._found(results, lambda name: results.get(f"{name}_interval"))

    @classmethod
    def of_logged(cls, row: Mapping[str, Json]) -> Self:
        """From a row of metrics.jsonl: `eval_NAME`, and its interval as `eval_NAME_low` and `_high`."""
        return cls._found(row, lambda name: (row.get(f"{name}_low"), row.get(f"{name}_high")))

    @classmethod
    def _found(cls, row: Mapping[str, Json], interval: Any) -> Self:
        means = {
            name.removeprefix("eval_"): Estimate(value=value, interval=interval(name))
            for name, value in row.items()
            if name.startswith("eval_") and not name.endswith(("_low", "_high", "_interval", "_rows"))
        }
        known = {name: mean for name, mean in means.items() if mean.value is not None}
        return cls(means=known, rows=row.get("eval_rows"))

    def row(self) -> dict[str, Any]:
        """As results."""
        found: dict[str, Any] = {}
        for name, mean in self.means.items():
            found[f"eval_{name}"] = mean.value
            if mean.interval is not None:
                found[f"eval_{name}_interval"] = list(mean.interval)
        return found if self.rows is None else {**found, "eval_rows": self.rows}

    def mean(self, name: str) -> Estimate:
        """One of the means; its value is None where it was not measured."""
        return self.means.get(name, Estimate())


class BestOfPoint(ResultPart):
    """The best of `n` answers: its mean reward, the gold reward where it is known, its KL by formula."""

    n: Number = None
    kl: Number = None
    reward: Number = None
    gold: Number = None
    low: Number = None
    high: Number = None


class RoundReward(ResultPart):
    """One round of `iterate`: mean reward of the fresh answers, and the rows made of them."""

    reward: Number = None
    num_rows: Number = None


class Trained(ResultPart):
    """A stage that trains; beside these keys it writes the mean of every metric under the metric's name."""

    num_steps: Number = None
    best_of_n: Many[BestOfPoint] = ()
    rounds: Many[RoundReward] = ()
    round: Figures = None
    data: Object = Field(default_factory=dict)
    loss: Number = None
    kl: Number = None
    ended_by: Text = ""
    means_held_out: HeldOut = Field(default_factory=HeldOut, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _read_means(cls, value: Json) -> Json:
        if isinstance(value, dict):
            return {**value, "means_held_out": HeldOut.read(value)}
        return value if isinstance(value, ResultPart) else {}

    @property
    def data_by_input(self) -> Mapping[str, Any]:
        """What was counted, by key of the input; a stage that reads one data set writes it without a key."""
        return {"dataset": self.data} if "rows" in self.data or "kind" in self.data else self.data


class PairAccuracy(ResultPart):
    """How often the better one of two answers has the higher score, on held-out pairs."""

    accuracy: Number = None
    accuracy_interval: Ends = None
    at_equal_length: Number = None
    at_equal_length_interval: Ends = None
    pairs: Number = None
    accuracy_if_longer_wins: Number = None


class RewardTrained(Trained):
    """A reward model, alone or of several members."""

    held_out_accuracy: Number = None
    held_out_accuracy_interval: Ends = None
    held_out: Maybe[PairAccuracy] = None
    reward_mean: Number = None
    reward_std: Number = None
    normalized_on_rows: Number = None
    member_spread: Number = None


# Data that stages make


class Answered(ResultPart):
    """Stage `sample`."""

    num_prompts: Number = None
    num_answers: Number = None
    mean_words: Number = None
    mean_words_interval: Ends = None
    empty_answers: Number = None


class JudgementsMade(ResultPart):
    """Stages `feedback` and `judge`."""

    num_prompts: Number = None
    num_pairs: Number = None
    num_judgements: Number = None
    num_without_verdict: Number = None
    tie_share: Number = None
    consistent_share: Number = None
    mean_confidence: Number = None
    kind: Text = ""
    origin: Text = ""


class PairsSplit(ResultPart):
    """Stage `split`."""

    num_rows: Number = None
    num_held_out: Number = None
    num_held_out_prompts: Number = None
    chosen_longer: Number = None
