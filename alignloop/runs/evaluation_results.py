"""What the stages that measure found: comparisons, audits, verdicts; see `results` for how they are read."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from alignloop.runs.json_values import Json, number
from alignloop.runs.results import (
    Ends,
    Estimate,
    Flag,
    Known,
    Many,
    Maybe,
    Named,
    Number,
    Object,
    PairAccuracy,
    ResultPart,
    Text,
)


class BeforeAfter(ResultPart):
    """A metric of two models on the same rows; a relative change is that of a perplexity."""

    before: Number = None
    before_interval: Ends = None
    after: Number = None
    after_interval: Ends = None
    unit: Text = ""
    higher_is_better: Flag = None
    change: Number = None
    change_interval: Ends = None
    verdict: Text = ""
    change_is_relative: Flag = None

    @model_validator(mode="before")
    @classmethod
    def _of_a_number(cls, value: Json) -> Json:
        if isinstance(value, dict | ResultPart):
            return value
        return {} if number(value) is None else {"after": value}


class MetricsCompared(ResultPart):
    """Metrics before and after by name: stages `evaluate`, `refusals`, `constitution`, `reward_bench`."""

    num_prompts: Json = None
    metrics: Named[BeforeAfter] = Field(default_factory=dict)


class Revised(MetricsCompared):
    """Stage `constitution`."""

    num_demonstrations: Number = None
    rounds_without_revision: Number = None


class ShortNames(MetricsCompared):
    """What a comparison of a model with its start found, under short names."""

    win_rate: Maybe[Estimate] = None
    win_rate_reward: Maybe[Estimate] = None
    rates: Named[Estimate] = Field(default_factory=dict, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _read_rates(cls, value: Json) -> Json:
        if not isinstance(value, dict):
            return value if isinstance(value, ResultPart) else {}
        prefix = "win_rate"
        rates = {
            name: item for name, item in value.items() if name.startswith(prefix) and isinstance(item, dict)
        }
        return {
            **value,
            "rates": {name.removeprefix(prefix).strip("_"): rate for name, rate in rates.items()},
        }

    @property
    def known_rates(self) -> dict[str, Estimate]:
        """Win rates of the new model over the old one by judge, "" for gold."""
        return {judge: rate for judge, rate in self.rates.items() if rate.value is not None}


class RewardExamined(MetricsCompared):
    """Stage `reward_bench`; beside these keys it writes tables."""

    num_rows: Number = None
    accuracy_if_longer_wins: Number = None
    temperature: Number = None


class CellRow(ResultPart):
    """One model on one metric; `missing` says why it was not measured."""

    value: Number = None
    interval: Ends = None
    difference: Number = None
    difference_interval: Ends = None
    p: Number = None
    verdict: Text = ""
    tax: Text = ""
    prompts_to_decide: Number = None
    missing: Text = ""


class MetricRow(ResultPart):
    """One metric of all models."""

    name: Text = ""
    unit: Text = ""
    higher_is_better: Flag = None
    scale: Text = ""
    margin: Number = None
    num_prompts: Number = None
    note: Text = ""
    models: Named[CellRow] = Field(default_factory=dict)


class WinRow(ResultPart):
    """How often one model's answers are better than another's, ties half, by one judge on one set."""

    set: Text = ""
    judge: Text = ""
    model: Text = ""
    against: Text = ""
    value: Number = None
    interval: Ends = None
    p: Number = None
    length_controlled: Number = None
    length_controlled_interval: Ends = None
    same_in_both_orders: Number = None
    contradictory: Number = None
    without_verdict: Number = None
    num_prompts: Number = None
    prompts_needed: Number = None


class RatingRow(ResultPart):
    """A model's rating; with virtual ties a model won or lost all comparisons."""

    set: Text = ""
    judge: Text = ""
    model: Text = ""
    rating: Number = None
    low: Number = None
    high: Number = None
    num_comparisons: Number = None
    with_virtual_ties: Flag = None


class RequirementRow(ResultPart):
    """A sentence of `require:` with what was measured."""

    requirement: Text = ""
    measured: Number = None
    met: Flag = None


class Compared(ResultPart):
    """Stage `compare`, and in full what `evaluate` found; `models` has the baseline in any place."""

    in_tables: ClassVar = frozenset(
        ("models", "baseline", "confidence", "comparison", "win_rates", "ratings", "requirements")
    )
    """Keys that a table of the comparison shows."""
    models: Many[Text] = ()
    baseline: Text = ""
    num_prompts: Json = None
    confidence: Number = None
    comparison: Many[MetricRow] = ()
    win_rates: Many[WinRow] = ()
    ratings: Many[RatingRow] = ()
    account: Many[Object] = ()
    requirements: Many[RequirementRow] = ()


class Evaluated(Compared, ShortNames):
    """Stage `evaluate`: a comparison of two models, under short names as well."""


class FindingRow(ResultPart):
    """What an audit looked at, how serious it is, and a sentence."""

    name: Text = ""
    level: Text = ""
    text: Text = ""


class CurvePoint(ResultPart):
    """Gains of an audited run at a distance from its start, and the two fits."""

    kl: Number = None
    sqrt_kl: Number = None
    proxy_gain: Number = None
    gold_gain: Number = None
    fit_best_of_n: Number = None
    fit_rl: Number = None


class Audited(ResultPart):
    """Stage `audit`; beside these keys it writes the tables `fits` and `variety`."""

    in_findings: ClassVar = frozenset(("verdict", "text", "findings", "curve"))
    """Keys that its verdict, findings and picture show."""
    run: Text = ""
    verdict: Text = ""
    text: Text = ""
    findings: Many[FindingRow] = ()
    curve: Many[CurvePoint] = ()
    num_disagreements: Number = None


class AnswersWon(ResultPart):
    """Win rate of new answers over old ones by a reward model that sees no names."""

    value: Known = 0
    low: Known = 0
    high: Known = 0
    at_equal_length: Number = None
    num_prompts: Known = 0
    verdict: Text = ""


class PairsVerdict(ResultPart):
    """Stage `verdict`."""

    text: Text = ""
    sentences: Many[Text] = ()
    policy: Maybe[PairAccuracy] = None
    reward: Maybe[PairAccuracy] = None
    answers: Maybe[AnswersWon] = None
    accuracy_if_longer_wins: Number = None
    num_to_judge: Number = None
