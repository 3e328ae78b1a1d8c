"""Any number of models on any number of sets: one table with intervals, win rates, ratings, a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

from alignloop.config import CompareConfig, EvaluateConfig
from alignloop.config.compare import ModelEntry, model_names, set_names
from alignloop.data.columns import read_records
from alignloop.evaluation import gate
from alignloop.evaluation.comparison import Measurement, ModelCell, measurement
from alignloop.evaluation.comparison import compare as compared
from alignloop.evaluation.comparisons import (
    ModelWinRate,
    PairJudge,
    Verdicts,
    all_pairs,
    ask,
    by_labels,
    by_score,
    ratings,
    win_rates,
)
from alignloop.judges.adviser import Adviser
from alignloop.judges.pairwise import judge_pairs_by
from alignloop.records import Preference, message_rows
from alignloop.rl.rewards import function
from alignloop.rl.verifiers import instruction_reward
from alignloop.runs import Run
from alignloop.runs.evaluation_results import CellRow, Compared, MetricRow, RatingRow, WinRow
from alignloop.runs.results import ends
from alignloop.runs.value_cache import ValueCache
from alignloop.stages import common
from alignloop.stages.candidates import (
    Candidate,
    Recorded,
    check_there,
    is_recorded,
    is_url,
    open_served,
)
from alignloop.stages.compare_sets import EvaluationSet, Raw, asked, collect, measure, read_set
from alignloop.stages.judging import account_row, open_comparing_judge
from alignloop.stages.local import Local
from alignloop.stages.reward_model import RewardModel, reward_folder
from alignloop.stages.sample import sampling_params
from alignloop.user_functions import load_function

_COMPARED = ("prompts", "instructions")
"""Kinds of sets whose answers are compared with one another."""


Won = dict[tuple[str, str], tuple[str, dict[int, float]]]
"""By set and model: the first judge's name and its score of each prompt, 1 where the baseline lost."""


class Comparing(NamedTuple):
    """A judge, and the model behind it for its account."""

    judge: PairJudge
    adviser: Adviser | None = None


def compare(config: CompareConfig, run: Run) -> dict[str, Any]:
    """Measure all models on all sets and compare them.

    Everything that can be wrong in the recipe is found before the first answer is sampled. Answers,
    log-probs and verdicts are kept as they come, so that the same command goes on.

    Args:
        config: the recipe.
        run: the run folder; receives samples of the baseline against the others.

    Returns:
        Results for run.json: `models`, `baseline`, `comparison` (metrics × models), `win_rates`,
        `ratings`, `requirements`, `num_prompts`, and a judge model's `account`.

    Raises:
        RequirementError: a requirement is not met; the results are in the run folder all the same.
    """
    check_recipe(config)
    judges = _judges(config, run)
    labels = _labels(config)
    names = model_names(config.models)
    baseline = config.baseline or names[0]
    candidates = [
        _candidate(config, entry, name, run) for entry, name in zip(config.models, names, strict=True)
    ]
    sets = [
        read_set(entry, name, function(entry["scorer"]) if "scorer" in entry else None, baseline)
        for entry, name in zip(config.sets, set_names(config.sets), strict=True)
    ]
    raw = _collect(candidates, sets)
    found = compare_answers(config, sets, raw, names, run, judges=judges, labels=labels)
    cells = cells_of(config, found.measured, baseline)
    accounts = [account_row(c.adviser.name, c.adviser.account) for c in judges.values() if c.adviser]
    account: dict[str, Any] = {"account": tuple(accounts)} if accounts else {}
    results = Compared(
        models=tuple(names),
        baseline=baseline,
        num_prompts={one.name: len(one.rows) for one in sets},
        confidence=config.confidence,
        comparison=tuple(metric_row(m, row) for m, row in cells),
        win_rates=tuple(found.wins),
        ratings=tuple(found.ratings),
        **account,
    )
    _write_samples(run, sets, raw, names, baseline, found.won)
    if len(names) == 1:
        common.tell(run, "there is one model only, so nothing is compared: its values are shown")
    return concluded(run, config.require, results, gate.named_figures(cells, found.wins))


def check_recipe(config: CompareConfig | EvaluateConfig) -> None:
    """Look at what the recipe requires and names before an answer is sampled; sets the threads.

    Raises:
        ConfigError: a requirement is no sentence of `require:`.
        ModelError: there is no reward model where the recipe names one; it is loaded later.
    """
    common.set_threads(config.num_threads)
    for text in config.require:
        gate.parse(text)
    if config.reward_model is not None:
        reward_folder(config.reward_model)


def concluded(
    run: Run, require: Sequence[str], results: Compared, named: Mapping[str, float]
) -> dict[str, Any]:
    """The results with the recipe's requirements, which they have to meet.

    Args:
        run: the run folder; receives the results before anything is required of them.
        require: sentences of the recipe.
        results: all but the requirements.
        named: values that a requirement may name.

    Returns:
        Results for run.json.

    Raises:
        ConfigError: a requirement names what was not measured.
        RequirementError: a requirement is not met.
    """
    run.set_results(results.row())
    outcomes = gate.judge(require, named)
    found = results.model_copy(update={"requirements": outcomes}).row()
    run.set_results(found)
    gate.enforce(outcomes)
    return found


def _collect(candidates: Sequence[Candidate], sets: Sequence[EvaluationSet]) -> dict[str, dict[str, Raw]]:
    """What every model gives for every set, model by model, so that one is in memory at a time."""
    raw: dict[str, dict[str, Raw]] = {one.name: {} for one in sets}
    for candidate in candidates:
        for one in sets:
            raw[one.name][candidate.name] = collect(candidate, one)
        candidate.close()
    return raw


class AnswersCompared(NamedTuple):
    """All metrics, rows of win rates and ratings, and who won on each prompt."""

    measured: list[Measurement]
    wins: list[WinRow]
    ratings: list[RatingRow]
    won: Won


def compare_answers(
    config: CompareConfig,
    sets: Sequence[EvaluationSet],
    raw: Mapping[str, Mapping[str, Raw]],
    names: Sequence[str],
    run: Run,
    *,
    judges: Mapping[str, Comparing] | None = None,
    labels: Sequence[Preference] | None = None,
) -> AnswersCompared:
    """Measure what the models gave, and compare their answers with one another.

    Args:
        config: the recipe; `evaluate` gives its preset.
        sets: what was asked.
        raw: what each model gave, by set and model.
        names: of the models.
        run: the run folder; receives warnings.
        judges: what compares answers besides scores and labels, by name.
        labels: people's judgements on the answers.

    Returns:
        What was found; metrics in the order of the sets, those that verdicts rest on last.
    """
    baseline = config.baseline or names[0]
    found = AnswersCompared([m for one in sets for m in measure(one, raw[one.name])], [], [], {})
    for one in sets:
        if one.entry["kind"] not in _COMPARED:
            continue
        answers = raw[one.name]
        more, verdicts = verdicts_on(config, one, answers, names, baseline, judges or {}, run, labels)
        found.measured.extend(more)
        for source, given in verdicts.items():
            against = [v for v in given if v.second == baseline]
            rates = win_rates(against, answers, level=config.confidence, seed=config.seed)
            found.wins.extend(win_row(one.name, source, rate) for rate in rates)
            found.ratings.extend(_rating_rows(one.name, source, given, config.confidence, baseline))
            for v in against:
                scores = dict(zip(v.prompts, v.scores, strict=True))
                found.won.setdefault((one.name, v.first), (source, scores))
    return found


def _candidate(config: CompareConfig, entry: ModelEntry | str, name: str, run: Run) -> Candidate:
    item: ModelEntry = {"model": entry} if isinstance(entry, str) else entry
    path, params = item["model"], sampling_params(config, config.seed)
    if is_url(path):
        served, key = item.get("served_name", ""), item.get("api_key_env", "")
        return open_served(name, path, served, key, params, run.path / "answers")
    if is_recorded(path):
        return Recorded(name, path)
    check_there(path)
    return Local(name, path, params, config.dtype, config.device, config.template, config.token_budget)


def _judges(config: CompareConfig, run: Run) -> dict[str, Comparing]:
    """What compares answers besides scores and labels, by its name in the results."""
    found = {}
    if config.judge is not None:
        cache = ValueCache(run.path / "verdicts.jsonl", scope=config.judge)
        found["judge"] = Comparing(partial(judge_pairs_by, load_function(config.judge, "judge"), cache=cache))
    if config.judge_model is not None:
        judge, adviser = open_comparing_judge(config.judge_model, config, config.token_budget)
        found["judge_model"] = Comparing(judge, adviser)
        if config.judge_model["certificate"] == "none":
            common.tell(run, f"judge '{adviser.name}' compares without having been examined")
    return found


def _labels(config: CompareConfig) -> list[Preference] | None:
    """People's judgements on the answers; None where the recipe names none."""
    if config.labels is None:
        return None
    return [r for r in read_records(config.labels, kind="preference").records if isinstance(r, Preference)]


def verdicts_on(
    config: CompareConfig,
    one: EvaluationSet,
    answers: Mapping[str, Sequence[str]],
    names: Sequence[str],
    baseline: str,
    judges: Mapping[str, Comparing],
    run: Run,
    labels: Sequence[Preference] | None = None,
) -> tuple[list[Measurement], dict[str, list[Verdicts]]]:
    """Verdicts on a set's answers by what compares them, and the scores they rest on as metrics."""
    prompts = [prompt.prompt for prompt in one.prompts]
    every = all_pairs(names, baseline)
    asked_pairs = every if config.pairs == "all" else [pair for pair in every if pair[1] == baseline]
    measured: list[Measurement] = []
    found: dict[str, list[Verdicts]] = {}
    if all(prompt.constraints for prompt in one.prompts):
        scores = {
            model: [
                instruction_reward(text, p.constraints, prompt=asked(p.prompt))
                for text, p in zip(texts, one.prompts, strict=True)
            ]
            for model, texts in answers.items()
        }
        found["gold"] = by_score(scores, every, answers)
    if config.reward_model is not None:
        model = RewardModel(config.reward_model, dtype=config.dtype, device=config.device)
        rows = model.score(prompts, [list(texts) for texts in zip(*answers.values(), strict=True)])
        scores = {name: [row[i] for row in rows] for i, name in enumerate(answers)}
        measured.append(measurement(f"{one.name}.reward", scores, unit="reward"))
        found["reward"] = by_score(scores, every, answers)
    if labels is not None:
        found["labels"] = by_labels(labels, prompts, answers, every)
        contradictory = sum(v.contradictory for v in found["labels"])
        if contradictory:
            common.tell(run, f"{one.name}: labels contradict one another on {contradictory} pairs of answers")
    for source, comparing in judges.items():
        found[source] = ask(comparing.judge, prompts, answers, asked_pairs)
        silent = sum(v.without_verdict for v in found[source])
        if silent:
            common.tell(run, f"{one.name}: the judge gave no verdict on {silent} pairs, which are left out")
    return measured, {source: verdicts for source, verdicts in found.items() if verdicts}


def cells_of(
    config: CompareConfig, measured: Sequence[Measurement], baseline: str
) -> list[tuple[Measurement, dict[str, ModelCell]]]:
    """Every metric with each model's value and difference from the baseline."""
    how = {"level": config.confidence, "replicates": config.bootstrap, "seed": config.seed}
    return [(one, compared(one, baseline, **how)) for one in measured]


def metric_row(measured: Measurement, cells: Mapping[str, ModelCell]) -> MetricRow:
    """A metric as results: every model's cell, and why the others were not measured."""
    models = {model: CellRow(missing=reason) for model, reason in measured.missing.items()}
    for model, cell in cells.items():
        more: dict[str, Any] = {}
        if (gap := cell.difference) is not None:
            more = {"difference": gap.value, "difference_interval": ends(gap), "p": cell.p}
            more |= {"verdict": cell.verdict}
        if cell.tax is not None:
            more |= {"tax": cell.tax, "prompts_to_decide": cell.more_prompts}
        models[model] = CellRow(value=cell.value.value, interval=ends(cell.value), **more)
    return MetricRow(
        name=measured.name,
        unit=measured.unit,
        higher_is_better=measured.higher_is_better,
        scale=measured.scale,
        margin=measured.margin,
        num_prompts=len(measured.sizes),
        note=measured.note,
        models=models,
    )


def win_row(name: str, source: str, rate: ModelWinRate) -> WinRow:
    """A win rate on a set by a judge, as results."""
    controlled = None if rate.length_controlled is None else rate.length_controlled.win_rate
    return WinRow(
        set=name,
        judge=source,
        model=rate.model,
        against=rate.against,
        value=rate.value.value,
        interval=ends(rate.value),
        p=rate.p,
        length_controlled=None if controlled is None else controlled.value,
        length_controlled_interval=ends(controlled),
        same_in_both_orders=rate.verdicts.consistency,
        contradictory=rate.verdicts.contradictory,
        without_verdict=rate.verdicts.without_verdict,
        num_prompts=rate.value.num_clusters,
        prompts_needed=rate.needed,
    )


def _rating_rows(
    name: str, source: str, verdicts: Sequence[Verdicts], level: float, baseline: str
) -> list[RatingRow]:
    """Ratings with the baseline at 1000; none for a single pair, whose win rate says it all."""
    models = {name for v in verdicts for name in (v.first, v.second)}
    if len(models) < 3 or len({place for v in verdicts for place in v.prompts}) < 2:
        return []
    found, swept = ratings(verdicts, level=level, anchor=baseline)
    return [RatingRow(set=name, judge=source, **asdict(one), with_virtual_ties=swept) for one in found]


def _write_samples(
    run: Run,
    sets: Sequence[EvaluationSet],
    raw: Mapping[str, Mapping[str, Sequence[str]]],
    names: Sequence[str],
    baseline: str,
    won: Won,
) -> None:
    run.rewind(-1)
    for one in sets:
        answers = raw[one.name]
        for i, prompt in enumerate(one.prompts):
            for name in names:
                if name != baseline or len(names) == 1:
                    row: dict[str, Any] = {
                        "step": 0,
                        "prompt": message_rows(prompt.prompt),
                        "completion": answers[name][i],
                        "model": f"{name} · {one.name}",
                    }
                    if len(names) > 1:
                        row["completion_before"] = answers[baseline][i]
                        judge, scores = won.get((one.name, name), ("", {}))
                        row |= {f"win_by_{judge}": scores[i]} if i in scores else {}
                    run.sample(**row)
