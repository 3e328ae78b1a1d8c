"""Before against after, with intervals: what became better, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignloop.config import CompareConfig, EvaluateConfig
from alignloop.config.compare import model_names
from alignloop.data.columns import read_records
from alignloop.errors import DataError
from alignloop.evaluation.comparison import Measurement, ModelCell
from alignloop.evaluation.gate import with_ends
from alignloop.evaluation.likelihood import kl_on_samples
from alignloop.machine import release_memory
from alignloop.model.load import same_vocabulary
from alignloop.records import Conversation, Document, Prompt, message_rows
from alignloop.runs import Run
from alignloop.runs.evaluation_results import BeforeAfter, Evaluated, WinRow
from alignloop.runs.results import Estimate, ends
from alignloop.stages.compare import cells_of, check_recipe, compare_answers, concluded, metric_row
from alignloop.stages.compare_sets import EvaluationSet, measure
from alignloop.stages.local import Answer, Local
from alignloop.stages.sample import read_prompts, sampling_params
from alignloop.stages.summaries import before_after


@dataclass(slots=True)
class Side:
    """One of the two models with its answers, as text and as they were sampled."""

    model: Local
    sampled: list[Answer]

    @property
    def answers(self) -> list[str]:
        """The texts."""
        return [answer.text for answer in self.sampled]


def evaluate(config: EvaluateConfig, run: Run) -> dict[str, Any]:
    """Answer held-out prompts with both models and compare: `compare` of two models under short names.

    Metrics: gold pass rate (where prompts carry constraints), reward-model score, length in words, empty
    answers, perplexity of held-out text, each with its paired change; KL of the new model to the old one on
    its own answers; win rates of the new model by gold and by reward model, ties ½. Intervals resample
    prompts. Answers are kept as they come and shared with `compare`, so that the same command goes on and no
    answer is sampled twice.

    Args:
        config: the recipe.
        run: the run folder; receives samples with both answers.

    Returns:
        Results for run.json: those of `compare`, and by short names `metrics`, `win_rate` and
        `win_rate_reward`.

    Raises:
        DataError: fewer than 2 different prompts.
        RequirementError: a requirement is not met; the results are in the run folder all the same.
    """
    check_recipe(config)
    prompts = _prompts(config, run)
    texts = _texts(config)
    before, after = _answers(config, [prompt.prompt for prompt in prompts])
    names = _names(config)
    raw = dict(zip(names, (before.answers, after.answers), strict=True))
    shared = preset(config, names)
    measured, wins = _measured(shared, run, prompts, raw)
    if texts:
        measured += _perplexity(texts, dict(zip(names, (before, after), strict=True)))
    cells = cells_of(shared, measured, names[0])
    metrics = {m.name: _before_after(m, found, names) for m, found in cells}
    rates: dict[str, Any] = {_WIN_RATES[row.judge]: _short(row, config.confidence) for row in wins}
    results = Evaluated(
        num_prompts=len(prompts),
        metrics={**metrics, **_kl(config, prompts, before, after)},
        models=names,
        baseline=names[0],
        confidence=config.confidence,
        comparison=tuple(metric_row(m, found) for m, found in cells),
        win_rates=tuple(wins),
        **rates,
    )
    _write_samples(run, prompts, before, after, measured)
    return concluded(run, config.require, results, named_values(results))


_WIN_RATES = {"gold": "win_rate", "reward": "win_rate_reward"}
_SHORT = {
    "gold_pass_rate": "gold_pass_rate",
    "prompts.reward": "reward_model_score",
    "prompts.length": "length",
    "prompts.empty": "empty",
}
"""Short names of the metrics, in the order in which they are shown."""


def _prompts(config: EvaluateConfig, run: Run) -> list[Prompt]:
    prompts = read_prompts(config, config.num_prompts, run)
    if len({prompt.prompt for prompt in prompts}) < 2:
        raise DataError(
            "an interval needs at least 2 different prompts; this is one", file=str(config.dataset)
        )
    return prompts


def _names(config: EvaluateConfig) -> tuple[str, str]:
    """What the two models are called: as in a comparison, before and after where that is the same."""
    found = model_names((config.before, config.after))
    ends = tuple(
        Path(path).parent.name if Path(path).name == "model" else name
        for name, path in zip(found, (config.before, config.after), strict=True)
    )
    return (ends[0], ends[1]) if ends[0] != ends[1] else ("before", "after")


def preset(config: EvaluateConfig, names: tuple[str, str]) -> CompareConfig:
    """The comparison that an evaluation is: two models, the first one the baseline, on these prompts."""
    shared = ("seed", "device", "dtype", "num_threads", "reward_model", "bootstrap", "confidence")
    models = zip((config.before, config.after), names, strict=True)
    return CompareConfig.model_validate(
        {
            "models": [{"model": path, "name": name} for path, name in models],
            "sets": [{"kind": "prompts", "path": "prompts"}],
            **{key: getattr(config, key) for key in shared},
        }
    )


def _measured(
    shared: CompareConfig, run: Run, prompts: Sequence[Prompt], raw: Mapping[str, Sequence[str]]
) -> tuple[list[Measurement], list[WinRow]]:
    """Metrics of the answers under short names, and rows of win rates."""
    answers = EvaluationSet("prompts", {"kind": "prompts", "path": "prompts"}, prompts)
    found = compare_answers(shared, [answers], {"prompts": raw}, list(raw), run)
    release_memory()
    measured = list(found.measured)
    if all(prompt.constraints for prompt in prompts):
        gold = EvaluationSet("gold_pass_rate", {"kind": "instructions", "path": "prompts"}, prompts)
        measured += measure(gold, raw)
    measured.sort(key=lambda one: list(_SHORT).index(one.name))
    return [replace(one, name=_SHORT[one.name]) for one in measured], found.wins


def _texts(config: EvaluateConfig) -> list[Document]:
    """Held-out text for perplexity; none where the recipe names none."""
    if config.perplexity_dataset is None:
        return []
    read = read_records(config.perplexity_dataset, kind="document").records
    return [record for record in read if isinstance(record, Document)]


def _perplexity(texts: Sequence[Document], sides: Mapping[str, Side]) -> list[Measurement]:
    one = EvaluationSet("perplexity", {"kind": "perplexity", "path": "texts"}, texts)
    return measure(one, {name: side.model.likelihoods(texts) for name, side in sides.items()})


def _before_after(
    measured: Measurement, cells: Mapping[str, ModelCell], names: tuple[str, str]
) -> BeforeAfter:
    """A metric under short names, with its paired change, which alone says better or worse."""
    old, new = (cells.get(name) for name in names)
    if old is None or new is None:
        return BeforeAfter()
    change: dict[str, Any] = {}
    if (gap := new.difference) is not None:
        change = {"change": gap.value, "change_interval": ends(gap), "verdict": new.verdict}
        change |= {"change_is_relative": True} if measured.scale == "log" else {}
    values = (old.value, new.value)
    return before_after(values, measured.unit, higher=measured.higher_is_better, **change)


def _short(row: WinRow, level: float) -> Estimate:
    return Estimate(value=row.value, interval=row.interval, n=row.num_prompts, level=level)


def named_values(results: Evaluated) -> dict[str, float]:
    """What `require` may name: `win_rate`, `.low`, `.high`; of each metric `.before`, `.after`, `.change`
    and the ends of the first two's intervals, `.after_low` and so on."""
    named: dict[str, float] = {}
    for name, rate in (("win_rate", results.win_rate), ("win_rate_reward", results.win_rate_reward)):
        if rate is not None:
            named |= with_ends(name, rate.value, rate.interval, ".")
    for name, row in results.metrics.items():
        if row.before is None or row.after is None:
            continue
        named |= {f"{name}.{what}": value for what, value in (("before", row.before), ("after", row.after))}
        named[f"{name}.change"] = row.after - row.before
        named |= with_ends(f"{name}.before", row.before, row.before_interval, "_")
        named |= with_ends(f"{name}.after", row.after, row.after_interval, "_")
    return named


def _answers(config: EvaluateConfig, prompts: Sequence[Conversation]) -> tuple[Side, Side]:
    """Both sides' answers. The old model reads the new one's while it has the prompts at hand, for the KL."""
    params = sampling_params(config, config.seed)
    shared = (params, config.dtype, config.device, config.template, config.token_budget)
    before, after = Local("before", config.before, *shared), Local("after", config.after, *shared)
    comparable = same_vocabulary(before.opened()[0].tokenizer, after.opened()[0].tokenizer)
    new = after.sampled(prompts)
    old = before.sampled(prompts, [answer.ids for answer in new] if comparable else ())
    return Side(before, old), Side(after, new)


def _kl(
    config: EvaluateConfig, prompts: Sequence[Prompt], before: Side, after: Side
) -> dict[str, BeforeAfter]:
    """{"kl": …} of the new model to the old one on the new one's answers; {} for unlike vocabularies."""
    (old, _), (new, encoder) = before.model.opened(), after.model.opened()
    if not same_vocabulary(old.tokenizer, new.tokenizer):
        return {}
    asked = [encoder.prompt(prompt.prompt).tolist() for prompt in prompts]
    said = [answer.ids for answer in after.sampled]
    kl = kl_on_samples(
        after.model.logprobs(asked, said),
        before.model.logprobs(asked, said),
        level=config.confidence,
        replicates=config.bootstrap,
        seed=config.seed,
    )
    distance = {"after": kl.value, "after_interval": ends(kl)}
    return {"kl": BeforeAfter(before=0.0, **distance, unit="nats per answer", higher_is_better=None)}


def _write_samples(
    run: Run, prompts: Sequence[Prompt], before: Side, after: Side, measured: Sequence[Measurement]
) -> None:
    """Both answers to every prompt, with the scores that say which is better."""
    shown = {"gold_pass_rate": "gold", "reward_model_score": "reward"}
    scores = {shown[one.name]: one for one in measured if one.name in shown}
    run.rewind(-1)
    for i, prompt in enumerate(prompts):
        row: dict[str, Any] = {
            "step": 0,
            "prompt": message_rows(prompt.prompt),
            "completion": after.answers[i],
            "completion_before": before.answers[i],
            "model": after.model.path,
        }
        for name, score in scores.items():
            old, new = score.totals.values()
            row |= {f"{name}_before": float(old[i]), name: float(new[i])}
        run.sample(**row)
