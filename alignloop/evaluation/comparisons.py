"""Win rates and ratings of any number of models from pairs of answers to the same prompts.

Rewards, people's labels and the verdicts of judges all become scores of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist

import numpy as np

from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import Interval, cluster_sums, score_z
from alignloop.evaluation.normals import agreeing, correlation_of, largest_normal, p_of_largest
from alignloop.evaluation.planner import prompts_for_win_rate
from alignloop.evaluation.ratings import Comparison, ModelRating, bradley_terry
from alignloop.evaluation.winrate import LengthControlled, length_controlled_win_rate, win_rate
from alignloop.judges.pairwise import AnswerPair, PairVerdict
from alignloop.records import Conversation, Preference

PairJudge = Callable[[Sequence[AnswerPair]], Sequence[PairVerdict]]
"""Judges pairs in both orders, as `judges.pairwise` does with a model or a function."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All verdicts on one pair of models.

    Attributes:
        first, second: names of the models.
        scores: 1 where the first won, ½, 0.
        prompts: number of the prompt of each score.
        consistency: share of pairs with the same verdict in both orders; None if asked in one.
        without_verdict: pairs on which the judge said nothing usable; they are left out.
        contradictory: prompts whose labels name both models as the better one.
    """

    first: str
    second: str
    scores: tuple[float, ...]
    prompts: tuple[int, ...]
    consistency: float | None = None
    without_verdict: int = 0
    contradictory: int = 0


@dataclass(frozen=True, slots=True)
class ModelWinRate:
    """A model against another, with intervals of all models holding at once.

    Attributes:
        model, against: names.
        value: win rate, ties ½.
        p: of a win rate of ½, for all pairs at once; below 1 − level where `value` excludes ½.
        length_controlled: predicted win rate at equal length; None where the fit is degenerate.
        verdicts: what it rests on.
        needed: prompts that would tell the measured win rate from ½ with 80 % power; None at exactly ½.
    """

    model: str
    against: str
    value: Interval
    p: float
    length_controlled: LengthControlled | None
    verdicts: Verdicts
    needed: int | None


def ask(
    judge: PairJudge,
    prompts: Sequence[Conversation],
    answers: Mapping[str, Sequence[str]],
    pairs: Sequence[tuple[str, str]],
) -> list[Verdicts]:
    """Verdicts of a judge on pairs of models.

    Args:
        judge: what compares each pair of answers, in both orders.
        prompts: P conversations.
        answers: (P,) by model.
        pairs: names of the models to compare.

    Returns:
        Verdicts by pair of models.

    Raises:
        DataError: models with unequal numbers of answers.
        EngineError: the judge fails.
    """
    for name, texts in answers.items():
        if len(texts) != len(prompts):
            raise DataError(f"{len(prompts)} prompts, but {name} answered {len(texts)}", field="answers")
    return [_ask_pair(judge, prompts, answers, first, second) for first, second in pairs]


def by_score(
    scores: Mapping[str, Sequence[float]],
    pairs: Sequence[tuple[str, str]],
    answers: Mapping[str, Sequence[str]],
) -> list[Verdicts]:
    """Verdicts from rewards or verifiers: the higher score wins, an empty answer loses to any other.

    Position cannot matter.

    Args:
        scores: (P,) by model.
        pairs: names of the models to compare.
        answers: (P,) by model; what a reward model gives for nothing is no judgement.

    Returns:
        Verdicts by pair of models.
    """
    known = {
        name: np.where([not text.strip() for text in answers[name]], -np.inf, np.asarray(row, np.float64))
        for name, row in scores.items()
    }
    found = []
    for first, second in pairs:
        wins = 0.5 + 0.5 * (known[first] > known[second]) - 0.5 * (known[first] < known[second])
        found.append(Verdicts(first, second, tuple(wins.tolist()), tuple(range(len(wins)))))
    return found


def by_labels(
    labels: Sequence[Preference],
    prompts: Sequence[Conversation],
    answers: Mapping[str, Sequence[str]],
    pairs: Sequence[tuple[str, str]],
) -> list[Verdicts]:
    """Verdicts of people, found by their texts: which models wrote the two answers of a label.

    Several labels on one pair are several scores of one prompt; contradictory ones stay as they are, so
    that they average to a tie, and are counted.

    Args:
        labels: preferences on these answers.
        prompts: P conversations.
        answers: (P,) by model.
        pairs: names of the models to compare.

    Returns:
        Verdicts of the pairs that were labelled.

    Raises:
        DataError: no label is about these models' answers.
    """
    number = {prompt: i for i, prompt in enumerate(prompts)}
    found: dict[tuple[str, str], list[tuple[int, float]]] = {pair: [] for pair in pairs}
    for label in labels:
        place = number.get(label.prompt)
        if place is None:
            continue
        for first, second in pairs:
            texts = (answers[first][place], answers[second][place])
            if texts[0] != texts[1] and set(texts) == {label.chosen, label.rejected}:
                won = label.chosen == texts[0]
                found[first, second].append((place, label.probability if won else 1 - label.probability))
    if not any(found.values()):
        raise DataError(
            f"none of {len(labels)} labels is about these models' answers to these prompts", field="labels"
        )
    verdicts = []
    for (first, second), rows in found.items():
        sides: dict[int, set[bool]] = {}
        for place, score in rows:
            if score != 0.5:
                sides.setdefault(place, set()).add(score > 0.5)
        contradictory = sum(len(side) == 2 for side in sides.values())
        if rows:
            places, scores = zip(*rows, strict=True)
            verdicts.append(Verdicts(first, second, scores, places, contradictory=contradictory))
    return verdicts


def win_rates(
    verdicts: Sequence[Verdicts],
    answers: Mapping[str, Sequence[str]],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> list[ModelWinRate]:
    """Win rates of all pairs with Wilson intervals and p-values that hold for all of them at once.

    Args:
        verdicts: of each pair of models.
        answers: (P,) by model, for their lengths in characters.
        level: nominal coverage of all intervals together.
        seed: of the critical value.

    Returns:
        One per pair that has verdicts on at least 2 prompts.
    """
    usable = [v for v in verdicts if len(set(v.prompts)) >= 2]
    found = simultaneous_win_rates(usable, level=level, seed=seed)
    return [
        ModelWinRate(
            v.first, v.second, interval, p, _length_controlled(v, answers, level), v, _needed(v, level)
        )
        for v, (interval, p) in zip(usable, found, strict=True)
    ]


def simultaneous_win_rates(
    verdicts: Sequence[Verdicts], *, level: float = 0.95, seed: int = 0
) -> list[tuple[Interval, float]]:
    """Clustered Wilson intervals that hold for all pairs at once, and the p-values that belong to them.

    The critical value is that of the largest of correlated normals, their correlation being that of the
    pairs' scores over prompts; for one pair it is Wilson's interval.

    Args:
        verdicts: of each pair, on at least 2 prompts.
        level: nominal coverage of all intervals together.
        seed: of the critical value.

    Returns:
        One interval and p-value per pair.
    """
    if not verdicts:
        return []
    count = 1 + max(place for v in verdicts for place in v.prompts)
    table = np.stack([_by_prompt(v, count) for v in verdicts], axis=1)
    correlation = correlation_of(table)
    each = 2 * NormalDist().cdf(largest_normal(correlation, level, seed=seed)) - 1
    found = [
        replace(win_rate(v.scores, v.prompts, level=each), level=level, method="wilson max-z")
        for v in verdicts
    ]
    z = np.array([score_z(*cluster_sums(v.scores, v.prompts)) for v in verdicts])
    excludes = np.array([not i.low <= 0.5 <= i.high for i in found])
    p = p_of_largest(correlation, z, seed=seed)
    return list(zip(found, agreeing(p, excludes, level), strict=True))


def ratings(
    verdicts: Sequence[Verdicts], *, level: float = 0.95, anchor: str | None = None
) -> tuple[list[ModelRating], bool]:
    """Bradley–Terry ratings; the flag says that ties were added because a model won or lost everything.

    Args:
        verdicts: of pairs of models that are connected.
        level: nominal coverage of each interval.
        anchor: model whose rating is exactly 1000.

    Returns:
        Ratings, best first, and the flag.

    Raises:
        DataError: models that no comparison connects, or fewer than 2 prompts.
    """
    games = [
        Comparison(v.first, v.second, score, place)
        for v in verdicts
        for score, place in zip(v.scores, v.prompts, strict=True)
    ]
    wins: dict[str, float] = {}
    for game in games:
        wins[game.first] = wins.get(game.first, 0.0) + game.score
        wins[game.second] = wins.get(game.second, 0.0) + 1 - game.score
    played = {name: sum(name in (g.first, g.second) for g in games) for name in wins}
    swept = any(total in (0.0, played[name]) for name, total in wins.items())
    try:
        return bradley_terry(games, level=level, anchor=anchor, virtual_ties=1.0 if swept else 0.0), swept
    except DataError:
        if swept:
            raise
        return bradley_terry(games, level=level, anchor=anchor, virtual_ties=1.0), True


def all_pairs(models: Sequence[str], baseline: str) -> list[tuple[str, str]]:
    """Every two models, each model against the baseline first; in a pair the baseline is the second."""
    others = [model for model in models if model != baseline]
    return [*((model, baseline) for model in others), *combinations(others, 2)]


def _ask_pair(
    judge: PairJudge,
    prompts: Sequence[Conversation],
    answers: Mapping[str, Sequence[str]],
    first: str,
    second: str,
) -> Verdicts:
    pairs = [AnswerPair(p, a, b) for p, a, b in zip(prompts, answers[first], answers[second], strict=True)]
    found = judge(pairs)
    given = [(place, verdict) for place, verdict in enumerate(found) if not verdict.fault]
    consistent = [verdict.consistent for _, verdict in given if verdict.asked]
    return Verdicts(
        first,
        second,
        tuple((verdict.side + 1) / 2 for _, verdict in given),
        tuple(place for place, _ in given),
        float(np.mean(consistent)) if consistent else None,
        len(found) - len(given),
    )


def _by_prompt(verdicts: Verdicts, count: int) -> np.ndarray:
    """Mean score of each prompt less the win rate, 0 where there is none."""
    totals, sizes = np.zeros(count), np.zeros(count)
    np.add.at(totals, list(verdicts.prompts), np.asarray(verdicts.scores) - np.mean(verdicts.scores))
    np.add.at(sizes, list(verdicts.prompts), 1.0)
    return totals / np.maximum(sizes, 1)


def _length_controlled(
    verdicts: Verdicts, answers: Mapping[str, Sequence[str]], level: float
) -> LengthControlled | None:
    if len(set(verdicts.scores)) < 2:  # all alike: the fit would claim a certainty it does not have
        return None
    lengths = [
        len(answers[verdicts.first][place]) - len(answers[verdicts.second][place])
        for place in verdicts.prompts
    ]
    try:
        return length_controlled_win_rate(verdicts.scores, lengths, verdicts.prompts, level=level)
    except DataError:  # degenerate: too few prompts, or lengths that decide everything
        return None


def _needed(verdicts: Verdicts, level: float) -> int | None:
    totals, sizes = cluster_sums(verdicts.scores, verdicts.prompts)
    per_prompt = totals / sizes
    rate = float(totals.sum() / sizes.sum())
    if rate in (0.0, 0.5, 1.0):
        return None
    ties = min(float(np.mean(per_prompt == 0.5)), 2 * min(rate, 1 - rate))
    return prompts_for_win_rate(rate, ties=ties, level=level)
