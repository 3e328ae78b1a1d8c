"""How far judgements can be trusted: gold items, repetitions, position and length bias, disagreement."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

from alignloop.labels.tasks import comparisons, units
from alignloop.labels.votes import Vote

UNIT_RANGE = {"pair": 2.0, "ranking": 2.0, "scores": 5.0, "thumbs": 1.0}
"""Largest difference of one unit of `tasks.units`, by task."""

DISAGREEMENT = 0.5
"""Items whose votes differ by at least this share of the range are queued: a tie against a preference."""


@dataclass(frozen=True, slots=True)
class Share:
    """A mean of values between 0 and 1 with its interval, over `n` judgements."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An item whose annotators differ; `severity` between 0 and 1."""

    item_id: int
    severity: float
    num_votes: int


def share(values: Sequence[float], *, level: float = 0.95) -> Share | None:
    """Mean of values in [0, 1] with Wilson's score interval (1927); None without values.

    For values that are not only 0 and 1 the interval is conservative: their variance is below p(1 − p).
    """
    n = len(values)
    if not n:
        return None
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = sum(values) / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Share(p, max(0.0, centre - half), min(1.0, centre + half), n)


HASTY_SHARE = 0.2
HASTY_LEAST = 5
"""An annotator is marked as too fast from this share and number of judgements on."""


def fast(votes: Iterable[Vote], fast_s: float) -> list[Vote]:
    """People's judgements made in less than `fast_s` seconds, too little to have read what was judged."""
    return [v for v in votes if v.seconds < fast_s and v.role != "simulated"]


def is_hasty(num_fast: int, num_votes: int) -> bool:
    """Whether so many fast judgements of all are a habit rather than a slip."""
    return num_fast >= max(HASTY_LEAST, HASTY_SHARE * num_votes)


def first_shown_wins(task: str, vote: Vote) -> float | None:
    """Share of the decided comparisons of this vote that the answer shown earlier won; None if none."""
    place = {index: k for k, index in enumerate(vote.order)}
    return _wins(task, vote, lambda i, j: place[j] - place[i])


def longer_wins(task: str, vote: Vote, lengths: Sequence[int]) -> float | None:
    """Share of the decided comparisons of answers of different length that the longer won; None if none."""
    return _wins(task, vote, lambda i, j: lengths[i] - lengths[j])


def _wins(task: str, vote: Vote, lead: Callable[[int, int], int]) -> float | None:
    won = [
        float((sign > 0) == (lead(i, j) > 0))
        for (i, j), sign in comparisons(task, vote.answer).items()
        if sign != 0 and lead(i, j) != 0
    ]
    return sum(won) / len(won) if won else None


def agrees(task: str, answer: Mapping, other: Mapping) -> float | None:
    """1 minus the mean difference of two answers over the range of their units; None if not comparable."""
    a, b = units(task, answer), units(task, other)
    shared = a.keys() & b.keys()
    if not shared:
        return None
    return 1.0 - sum(abs(a[u] - b[u]) for u in shared) / (len(shared) * UNIT_RANGE[task])


def gold_hits(task: str, votes: Iterable[Vote], golds: Mapping[int, Mapping]) -> list[float]:
    """For each vote on a hidden gold item: 1 if it says what the gold says, direction by direction."""
    hits = []
    for vote in votes:
        gold = golds.get(vote.item_id)
        if gold is None:
            continue
        said, expected = units(task, vote.answer), units(task, gold)
        if task == "scores":
            hits.append(float(all(abs(said[u] - expected[u]) <= 1 for u in expected if u in said)))
        else:
            hits.append(float(said == expected))
    return hits


def repeat_agreement(task: str, votes: Sequence[Vote]) -> list[float]:
    """For each item one annotator judged twice: how far both agree (1 the same, 0 the opposite)."""
    first = {(v.annotator_id, v.item_id): v for v in votes if v.kind == "item"}
    pairs = [(v, first.get((v.annotator_id, v.item_id))) for v in votes if v.kind == "repeat"]
    values = [agrees(task, again.answer, once.answer) for again, once in pairs if once is not None]
    return [value for value in values if value is not None]


def disagreements(task: str, votes: Iterable[Vote]) -> list[Disagreement]:
    """Items not yet adjudicated whose annotators differ by DISAGREEMENT or more, the worst first."""
    by_item: dict[int, list[Vote]] = defaultdict(list)
    decided = set()
    for vote in votes:
        if vote.kind == "adjudication":
            decided.add(vote.item_id)
        elif vote.kind == "item":
            by_item[vote.item_id].append(vote)
    found = []
    for item_id, cast in by_item.items():
        if len(cast) < 2 or item_id in decided or task not in UNIT_RANGE:
            continue
        severity = spread(task, cast)
        if severity >= DISAGREEMENT:
            found.append(Disagreement(item_id, severity, len(cast)))
    return sorted(found, key=lambda d: (-d.severity, d.item_id))


def spread(task: str, votes: Sequence[Vote]) -> float:
    """Largest over units of the mean difference between two annotators, as a share of the range."""
    values: dict[tuple, list[float]] = defaultdict(list)
    for vote in votes:
        for unit, value in units(task, vote.answer).items():
            values[unit].append(value)
    means = [
        sum(abs(a - b) for a, b in combinations(v, 2)) / math.comb(len(v), 2) / UNIT_RANGE[task]
        for v in values.values()
        if len(v) > 1
    ]
    return max(means, default=0.0)
